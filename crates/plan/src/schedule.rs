//! The order of forwards and backwards of a stage: 1F1B (Narayanan et al. 2021, Megatron-LM, section 2.2.1; PipeDream-Flush).

use std::fmt::Write as _;

/// One unit of a rank's step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Forward of a micro-batch.
    Forward(u32),
    /// Backward of a micro-batch.
    Backward(u32),
}

/// What `stage` of `stages` does with `micro_batches` (in this order): warm-up forwards, then one forward one backward,
/// then the remaining backwards. At most `stages - stage` micro-batches are in flight, whatever their number.
#[must_use]
pub fn program(stage: u32, stages: u32, micro_batches: &[u32]) -> Vec<Op> {
    let ahead = stages.saturating_sub(stage + 1) as usize;
    let warmup = ahead.min(micro_batches.len());
    let (first, steady) = micro_batches.split_at(warmup);
    let mut ops: Vec<Op> = first.iter().map(|m| Op::Forward(*m)).collect();
    let mut back = micro_batches.iter().map(|m| Op::Backward(*m));
    for m in steady {
        ops.push(Op::Forward(*m));
        ops.extend(back.next());
    }
    ops.extend(back);
    ops
}

/// The schedule drawn as a rank-by-time grid, a forward one slot long, a backward two, with `.` for idle time.
#[must_use]
pub fn draw(stages: u32, micro_batches: u32) -> String {
    let all: Vec<u32> = (0..micro_batches).collect();
    let timeline = simulate(stages, &all);
    let end = timeline
        .iter()
        .flatten()
        .map(|(_, _, end)| *end)
        .max()
        .unwrap_or(0);
    let mut out = String::new();
    for (stage, ops) in timeline.iter().enumerate() {
        let mut row = vec![".".to_owned(); end as usize];
        for (op, start, finish) in ops {
            let text = match op {
                Op::Forward(m) => format!("F{m}"),
                Op::Backward(m) => format!("B{m}"),
            };
            row[*start as usize..*finish as usize].fill(text);
        }
        let cells: String = row.iter().map(|c| format!("{c:<4}")).collect();
        let _ = writeln!(out, "stage {stage} | {}", cells.trim_end());
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
fn simulate(stages: u32, micro_batches: &[u32]) -> Vec<Vec<(Op, u32, u32)>> {
    let programs: Vec<Vec<Op>> = (0..stages).map(|s| program(s, stages, micro_batches)).collect();
    let mut done: Vec<Vec<(Op, u32, u32)>> = vec![Vec::new(); programs.len()];
    let finish = |done: &[Vec<(Op, u32, u32)>], stage: usize, op: Op| {
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
                    Op::Forward(_) => (stage.checked_sub(1).map(|s| (s, op)), 1),
                    Op::Backward(_) => ((stage + 1 < programs.len()).then_some((stage + 1, op)), 2),
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
                    let (mut flying, mut most) = (0_u32, 0);
                    for op in &ops {
                        match op {
                            Op::Forward(_) => flying += 1,
                            Op::Backward(_) => flying -= 1,
                        }
                        most = most.max(flying);
                    }
                    assert_eq!(flying, 0);
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
        let drawn: String = draw(3, 4)
            .lines()
            .map(|l| format!("{}\n", l.trim_end_matches([' ', '.'])))
            .collect();
        assert_eq!(drawn, expected, "\n{}", draw(3, 4));
    }

    #[test]
    fn bubble_of_one_stage_is_none() {
        assert_eq!(bubble_share(1, 4), 0.0);
        assert!((bubble_share(4, 4) - 3.0 / 7.0).abs() < 1e-12);
    }
}
