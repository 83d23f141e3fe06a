//! Routes and programs of swapped micro-batches: what they visit, that they end, what they hold.

use super::*;
use crate::schedule::grid;

/// Runs the programs, each rank one operation after the other, as far as they get: the stops of each micro-batch in
/// the order in which they were made, forward and back.
fn run(stages: u32, micro_batches: &[u32]) -> Vec<[Vec<Stop>; 2]> {
    let programs: Vec<_> = (0..stages)
        .map(|stage| swapped_program(stage, stages, micro_batches))
        .collect();
    let mut at = vec![0; programs.len()];
    let mut made = vec![[Vec::new(), Vec::new()]; micro_batches.len()];
    loop {
        let before = at.clone();
        for (stage, program) in (0..).zip(&programs) {
            while let Some(op) = program.get(at[stage as usize]) {
                let (Op::Forward(m, part) | Op::Backward(m, part)) = *op;
                let index = micro_batches.iter().position(|other| *other == m).unwrap();
                let route = route(stages, is_swapped(m));
                let [forward, back] = &mut made[index];
                let (due, list) = match op {
                    Op::Forward(..) => (route.get(forward.len()), forward),
                    Op::Backward(..) if forward.len() < route.len() => break,
                    Op::Backward(..) => (route.iter().rev().nth(back.len()), back),
                };
                let here = Stop { stage, part };
                if due != Some(&here) {
                    break;
                }
                list.push(here);
                at[stage as usize] += 1;
            }
        }
        if at == before {
            let all: Vec<_> = programs.iter().map(Vec::len).collect();
            assert_eq!(at, all, "{stages} stages, {micro_batches:?}: a ring of waits");
            return made;
        }
    }
}

#[test]
fn t6_odd_micro_batches_make_the_stops_in_the_other_order_and_nobody_waits_in_a_ring() {
    for stages in 4..9 {
        for micro_batches in [
            vec![0],
            vec![1],
            vec![0, 2, 4, 6],
            vec![1, 3, 5, 7, 9],
            (0..23).collect(),
        ] {
            for (m, [forward, back]) in micro_batches.iter().zip(run(stages, &micro_batches)) {
                assert_eq!(forward, route(stages, m % 2 == 1), "micro-batch {m}");
                assert_eq!(back, forward.iter().rev().copied().collect::<Vec<_>>());
            }
            for stage in 0..stages {
                let most = most_in_flight(&swapped_program(stage, stages, &micro_batches));
                assert!(most <= stages + 2, "stage {stage} of {stages}: {most} in flight");
            }
        }
    }
}

#[test]
fn routes() {
    let of = |stages, swapped| -> Vec<_> {
        let stops = route(stages, swapped).into_iter();
        stops.map(|stop| (stop.stage, stop.part)).collect()
    };
    use Part::{Blocks, Embed, Head, Whole};
    assert_eq!(of(4, false), [(0, Whole), (1, Whole), (2, Whole), (3, Whole)]);
    let four = [
        (0, Embed),
        (1, Whole),
        (0, Blocks),
        (3, Blocks),
        (2, Whole),
        (3, Head),
    ];
    assert_eq!(of(4, true), four);
    let five = [
        (0, Embed),
        (1, Whole),
        (0, Blocks),
        (2, Whole),
        (4, Blocks),
        (3, Whole),
        (4, Head),
    ];
    assert_eq!(of(5, true), five);
    assert_eq!(of(3, true), of(3, false), "nothing to swap");
}

#[test]
fn golden_grid() {
    let expected = "\
stage 0 | F0  f1  F2  F1  f3  .   F3  .   .   .   B0  B0  .   .   B2  B2  B1  B1  .   .   b1  .   B3  B3  .   .   b3
stage 1 | .   F0  F1  F2  .   F3  .   .   B0  B0  .   .   B2  B2  .   .   .   .   B1  B1  .   .   .   .   B3  B3
stage 2 | .   .   F0  .   F2  .   B0  B0  F1  .   B2  B2  B1  B1  F3  .   .   .   B3  B3
stage 3 | .   .   .   F0  B0  B0  F1  F2  B2  B2  f1  b1  F3  .   B1  B1  f3  b3  .   .   B3  B3
";
    let drawn = grid(&timeline(4, &[0, 1, 2, 3]));
    assert_eq!(drawn, expected, "\n{drawn}");
}

/// Alone, usual micro-batches go as in 1F1B.
#[test]
fn without_swapped_micro_batches_it_takes_as_long_as_1f1b() {
    let usual: Vec<u32> = (0..16).map(|m| 2 * m).collect();
    let rows = timeline(4, &usual);
    let end = rows.iter().flatten().map(|(_, _, end)| *end).max();
    assert_eq!(end, Some(3 * (16 + 4 - 1)));
    let share = swapped_bubble_share(4, &(0..64).collect::<Vec<_>>());
    assert!((0.1..0.2).contains(&share), "{share}");
}
