//! Cutting the layers into stages so that the slowest stage is as fast as possible.

use std::ops::Range;

/// Cuts `costs.len()` layers into `stages` contiguous, non-empty stages with the least maximal cost (minimax dynamic
/// program over cut points, O(stages * layers^2)). Among equals the earliest cuts win, so the result is unique.
///
/// Returns none when there are more stages than layers, or no stages.
#[must_use]
pub fn minimax(costs: &[u64], stages: usize) -> Option<Vec<Range<u32>>> {
    let layers = costs.len();
    if stages == 0 || stages > layers {
        return None;
    }
    let prefix: Vec<u64> = std::iter::once(0)
        .chain(costs.iter().scan(0, |sum, c| {
            *sum += c;
            Some(*sum)
        }))
        .collect();
    // best[k][l]: least maximal cost of the first l layers in k + 1 stages; from[k][l]: where the last stage begins.
    let mut best = vec![prefix.clone()];
    let mut from = vec![vec![0; layers + 1]];
    for k in 1..stages {
        let mut row = vec![u64::MAX; layers + 1];
        let mut cuts = vec![0; layers + 1];
        for l in k + 1..=layers {
            for j in k..l {
                let cost = best[k - 1][j].max(prefix[l] - prefix[j]);
                if cost < row[l] {
                    (row[l], cuts[l]) = (cost, j);
                }
            }
        }
        best.push(row);
        from.push(cuts);
    }
    Some(walk_back(&from, layers))
}

fn walk_back(from: &[Vec<usize>], layers: usize) -> Vec<Range<u32>> {
    let index = |l: usize| u32::try_from(l).expect("layer counts are far below 2^32");
    let mut end = layers;
    let mut cuts: Vec<_> = from
        .iter()
        .rev()
        .map(|row| {
            let start = row[end];
            let stage = index(start)..index(end);
            end = start;
            stage
        })
        .collect();
    cuts.reverse();
    cuts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worst(costs: &[u64], cuts: &[Range<u32>]) -> u64 {
        cuts.iter()
            .map(|r| costs[r.start as usize..r.end as usize].iter().sum())
            .max()
            .unwrap_or(0)
    }

    fn brute(costs: &[u64], stages: usize) -> u64 {
        if stages == 1 {
            return costs.iter().sum();
        }
        (1..=costs.len() + 1 - stages)
            .map(|first| {
                costs[..first]
                    .iter()
                    .sum::<u64>()
                    .max(brute(&costs[first..], stages - 1))
            })
            .min()
            .unwrap_or(u64::MAX)
    }

    #[test]
    fn minimax_equals_brute_force() {
        let mut state = 7_u64;
        for layers in 1..9_usize {
            for _ in 0..20 {
                let costs: Vec<u64> = (0..layers)
                    .map(|_| {
                        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        state >> 59
                    })
                    .collect();
                for stages in 1..=layers {
                    let cuts = minimax(&costs, stages).unwrap();
                    assert_eq!(cuts.len(), stages);
                    assert!(cuts.iter().all(|r| !r.is_empty()));
                    assert!(cuts.windows(2).all(|w| w[0].end == w[1].start));
                    assert_eq!((cuts[0].start, cuts[stages - 1].end as usize), (0, layers));
                    assert_eq!(
                        worst(&costs, &cuts),
                        brute(&costs, stages),
                        "{costs:?} into {stages}"
                    );
                }
            }
        }
    }

    #[test]
    fn impossible_cuts_are_none() {
        assert_eq!(minimax(&[1, 2], 3), None);
        assert_eq!(minimax(&[1, 2], 0), None);
    }
}
