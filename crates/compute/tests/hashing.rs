//! An update that makes hashes leaves the bits of one that doesn't, and the hashes are those of what it left: for
//! lengths around blocks and tasks, in place and out of place, wherever in memory.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::Duration;

use rekindle_compute::{
    AdamPart, AdamSource, AdamStep, AdamTarget, Cpu, CpuBuffer, Device, Hashing, SumKind, part, part_mut,
    whole,
};
use xxhash_rust::xxh3::xxh3_128_with_seed;

const LATE: Duration = Duration::from_secs(60);

const STEP: AdamStep = AdamStep {
    lr: 0.02,
    betas: [0.9, 0.99],
    eps: 1e-8,
    step: 3,
    tokens: 7,
    clip: 0.9,
};

/// What one update is like.
#[derive(Debug, Clone, Copy)]
struct Case {
    len: usize,
    /// Where the elements begin in their buffers.
    at: usize,
    /// Which of the three buffers are held meanwhile, as bits.
    held: u8,
    /// Elements of a block; none: no hashes.
    block: Option<usize>,
}

fn value(kind: usize, i: usize) -> f32 {
    let bits = ((kind * 7_919 + i) as u32).wrapping_mul(2_654_435_761) >> 8;
    // Second moments aren't negative.
    (bits as f32 / (1 << 23) as f32 - 1.0).abs() + kind as f32 * 0.1
}

fn hash(kind: usize, block: usize, bytes: &[u8]) -> u128 {
    xxh3_128_with_seed(bytes, (kind << 32 | block) as u64)
}

/// What the update left, and its hashes.
fn run(cpu: &Cpu<f32>, case: Case, kind: SumKind) -> ([Vec<u8>; 3], [Vec<u128>; 3]) {
    let Case { len, at, held, block } = case;
    let all = at + len;
    let mut state: [CpuBuffer<f32>; 3] = [0, 1, 2].map(|kind| {
        let mut buffer = cpu.alloc(all).unwrap();
        let values: Vec<f32> = (0..all).map(|i| value(kind, i)).collect();
        cpu.write(part_mut(&mut buffer, 0..all), &values).unwrap();
        buffer
    });
    let mut sums = cpu.alloc_sums(kind, len).unwrap();
    let mut gradient = cpu.alloc(len).unwrap();
    let values: Vec<f32> = (0..len).map(|i| value(3, i) - 0.5).collect();
    cpu.write(part_mut(&mut gradient, 0..len), &values).unwrap();
    cpu.accumulate(&mut sums, 0, whole(&gradient, len)).unwrap();
    cpu.reserve_spares(&[all; 3]).unwrap();
    let handles: Vec<_> = (0..3)
        .filter(|n| held >> n & 1 == 1)
        .map(|n| cpu.freeze(&state[n], 0..all).unwrap())
        .collect();
    let before = cpu.thaw(state.each_mut(), LATE).unwrap();
    assert_eq!(before.iter().flatten().count(), handles.len());
    let range = at..all;
    let [weights, exp_avg, exp_avg_sq] = before
        .each_ref()
        .map(|buffer| buffer.as_ref().map(|buffer| part(buffer, range.clone())));
    let source = AdamSource {
        weights,
        exp_avg,
        exp_avg_sq,
    };
    let [w, m, v] = state.each_mut().map(|buffer| part_mut(buffer, range.clone()));
    let target = AdamTarget {
        weights: w,
        exp_avg: m,
        exp_avg_sq: v,
    };
    // Parts that end inside blocks and lanes.
    let part_to = |end, weight_decay| AdamPart { end, weight_decay };
    let parts = [
        part_to(len / 3, 0.1),
        part_to(len - len / 7, 0.0),
        part_to(len, 0.2),
    ];
    let mut out: [Vec<u128>; 3] = [0; 3].map(|_: u8| vec![0; len.div_ceil(block.unwrap_or(len))]);
    let hashing = block.map(|block| Hashing {
        block,
        hash: &hash,
        out: out.each_mut().map(Vec::as_mut_slice),
    });
    let done = cpu.adamw(target, source, &mut sums, 0..len, &STEP, &parts, hashing);
    assert_eq!(done.unwrap(), block.is_some());
    assert!(cpu.mean(&sums, 0..len, 1).unwrap().iter().all(|sum| *sum == 0.0));
    let left = state.map(|buffer| cpu.bytes(part(&buffer, range.clone())).unwrap().into_owned());
    (left, out)
}

#[test]
fn hashes_change_no_bit_and_are_those_of_what_is_left() {
    let cpu = Cpu::new(2).unwrap();
    let lens = [1, 15, 16, 17, 255, 1023, 1024, 1025, 3000, 16_384, 16_400, 40_007];
    for (n, len) in lens.into_iter().enumerate() {
        let kind = [SumKind::Fixed { shift: 38 }, SumKind::Float][n % 2];
        let plain = Case {
            len,
            at: 0,
            held: 0,
            block: None,
        };
        for at in [0, 1, 4] {
            let (want, _) = run(&cpu, Case { at, ..plain }, kind);
            for (held, block) in [(0, 1024), (7, 1024), (5, 1024), (2, 256), (7, 4096), (7, 16_384)] {
                let case = Case {
                    at,
                    held,
                    block: Some(block),
                    ..plain
                };
                let (left, hashes) = run(&cpu, case, kind);
                assert!(left == want, "{case:?}, {kind:?}");
                for (kind, (left, hashes)) in left.iter().zip(&hashes).enumerate() {
                    let blocks = left.chunks(block * 4).enumerate();
                    let want: Vec<u128> = blocks.map(|(n, bytes)| hash(kind, n, bytes)).collect();
                    assert!(*hashes == want, "{case:?}, buffer {kind}");
                }
            }
        }
    }
}
