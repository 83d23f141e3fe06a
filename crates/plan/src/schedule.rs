//! The order of forwards and backwards of a stage: 1F1B (Narayanan et al. 2021, Megatron-LM, section 2.2.1;
//! PipeDream-Flush).

use std::collections::BTreeMap;
use std::fmt::Write as _;

use rekindle_types::Part;

/// One unit of a rank's step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Forward of a micro-batch through a part of the stage.
    Forward(u32, Part),
    /// Backward of a micro-batch through a part of the stage.
    Backward(u32, Part),
}

/// What a rank does and from when to when, in slots.
pub(crate) type Row = Vec<(Op, u32, u32)>;

/// What `stage` of `stages` does with `micro_batches` (in this order): warm-up forwards, then one forward one backward,
/// then the remaining backwards. At most `stages - stage` micro-batches are in flight, whatever their number.
#[must_use]
pub fn program(stage: u32, stages: u32, micro_batches: &[u32]) -> Vec<Op> {
    let ahead = stages.saturating_sub(stage + 1) as usize;
    let warmup = ahead.min(micro_batches.len());
    let (first, steady) = micro_batches.split_at(warmup);
    let mut ops: Vec<Op> = first.iter().map(|m| Op::Forward(*m, Part::Whole)).collect();
    let mut back = micro_batches.iter().map(|m| Op::Backward(*m, Part::Whole));
    for m in steady {
        ops.push(Op::Forward(*m, Part::Whole));
        ops.extend(back.next());
    }
    ops.extend(back);
    ops
}

/// Micro-batches whose activations a rank holds at most: from the first forward to the last backward of each.
#[must_use]
pub fn most_in_flight(ops: &[Op]) -> u32 {
    let (mut flying, mut most) = (BTreeMap::<u32, u32>::new(), 0);
    for op in ops {
        match op {
            Op::Forward(m, _) => *flying.entry(*m).or_default() += 1,
            Op::Backward(m, _) => {
                let parts = flying.entry(*m).or_default();
                *parts = parts.saturating_sub(1);
                flying.retain(|_, parts| *parts > 0);
            }
        }
        most = most.max(flying.len());
    }
    u32::try_from(most).unwrap_or(u32::MAX)
}

/// The schedule drawn as a rank-by-time grid, a forward one slot long, a backward two, with `.` for idle time.
#[must_use]
pub fn draw(stages: u32, micro_batches: u32) -> String {
    let all: Vec<u32> = (0..micro_batches).collect();
    grid(&simulate(stages, &all))
}

/// A rank-by-time grid; capitals for what holds blocks, small letters for an end alone.
pub(crate) fn grid(timeline: &[Row]) -> String {
    let ends = timeline.iter().flatten().map(|(_, _, end)| *end);
    let end = ends.max().unwrap_or(0);
    let mut out = String::new();
    for (stage, ops) in timeline.iter().enumerate() {
        let mut row = vec![".".to_owned(); end as usize];
        for (op, start, finish) in ops {
            let text = match op {
                Op::Forward(m, Part::Whole | Part::Blocks) => format!("F{m}"),
                Op::Forward(m, Part::Embed | Part::Head) => format!("f{m}"),
                Op::Backward(m, Part::Whole | Part::Blocks) => format!("B{m}"),
                Op::Backward(m, Part::Embed | Part::Head) => format!("b{m}"),
            };
            row[*start as usize..*finish as usize].fill(text);
        }
        let cells: String = row.iter().map(|c| format!("{c:<4}")).collect();
        let _ = writeln!(out, "stage {stage} | {}", cells.trim_end_matches([' ', '.']));
    }
    out
}

/// Share of rank-time in which a stage of equal stages waits: `(p - 1) / (m + p - 1)`.
#[must_use]
pub fn bubble_share(stages: u32, micro_batches: u32) -> f64 {
    let waiting = f64::from(stages.saturating_sub(1));
    waiting / (f64::from(micro_batches) + waiting).max(1.0)
}

/// Start and end of every operation, forwards one slot, backwards two, dependencies respected.
fn simulate(stages: u32, micro_batches: &[u32]) -> Vec<Row> {
    let programs: Vec<Vec<Op>> = (0..stages).map(|s| program(s, stages, micro_batches)).collect();
    let mut done: Vec<Row> = vec![Vec::new(); programs.len()];
    let finish = |done: &[Row], stage: usize, op: Op| {
        done[stage]
            .iter()
            .find(|(o, _, _)| *o == op)
            .map(|(_, _, end)| *end)
    };
    let total: usize = programs.iter().map(Vec::len).sum();
    while done.iter().map(Vec::len).sum::<usize>() < total {
        for stage in 0..programs.len() {
            while let Some(op) = programs[stage].get(done[stage].len()).copied() {
                let (needed, slots) = match op {
                    Op::Forward(..) => (stage.checked_sub(1).map(|s| (s, op)), 1),
                    Op::Backward(..) => ((stage + 1 < programs.len()).then_some((stage + 1, op)), 2),
                };
                let ready = match needed {
                    None => Some(0),
                    Some((other, op)) => finish(&done, other, op),
                };
                let Some(ready) = ready else { break };
                let start = ready.max(done[stage].last().map_or(0, |(_, _, end)| *end));
                done[stage].push((op, start, start + slots));
            }
        }
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stage_runs_each_micro_batch_once_each_way_and_in_bounded_memory() {
        for stages in 1..6 {
            for m in 1..9 {
                let all: Vec<u32> = (0..m).collect();
                for stage in 0..stages {
                    let ops = program(stage, stages, &all);
                    assert_eq!(ops.len(), 2 * m as usize);
                    let most = most_in_flight(&ops);
                    assert!(
                        most <= stages - stage,
                        "stage {stage}/{stages}, {m}: {most} in flight"
                    );
                }
                assert_eq!(
                    simulate(stages, &all).len(),
                    stages as usize,
                    "the programs never wait for each other in a ring"
                );
            }
        }
    }

    #[test]
    fn golden_grid() {
        let expected = "\
stage 0 | F0  F1  F2  .   .   .   .   B0  B0  F3  B1  B1  .   B2  B2  .   B3  B3
stage 1 | .   F0  F1  .   .   B0  B0  F2  B1  B1  F3  B2  B2  .   B3  B3
stage 2 | .   .   F0  B0  B0  F1  B1  B1  F2  B2  B2  F3  B3  B3
";
        let drawn = draw(3, 4);
        assert_eq!(drawn, expected, "\n{drawn}");
    }

    #[test]
    fn bubble_of_one_stage_is_none() {
        assert_eq!(bubble_share(1, 4), 0.0);
        assert!((bubble_share(4, 4) - 3.0 / 7.0).abs() < 1e-12);
    }
}
