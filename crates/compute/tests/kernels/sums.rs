//! Accumulators, norms of blocks, AdamW: the CPU's bits.

use rekindle_compute::conformance::Random;
use rekindle_compute::cuda::kernels::MODULES;
use rekindle_compute::{AdamPart, AdamSource, AdamStep, AdamTarget, CpuSums, Device, POISON, SumKind};

use crate::emulator::{Arg, Emulator, Launch, Session};
use crate::values::{
    Brain, Element, Single, all, all_mut, cpu, longs, read, same, to_doubles, to_longs, upload, value, words,
};

const SHIFT: u32 = 38;
/// Weight decay of the one part of an update that a launch is for.
pub const DECAY: f64 = 0.1;
const SPECIAL: [f32; 10] = [
    f32::NAN,
    f32::INFINITY,
    f32::NEG_INFINITY,
    1e30,
    -1e30,
    0.0,
    -0.0,
    1e-40,
    3e7,
    -3.355_443_2e7,
];

pub fn call(name: &str, grid: [usize; 3], args: Vec<Arg>) -> Launch {
    Launch {
        kernel: name.to_owned(),
        grid,
        threads: 256,
        memory: 0,
        args,
    }
}

pub fn blocks(len: usize) -> [usize; 3] {
    [len.div_ceil(4 * 256), 1, 1]
}

fn scale() -> Arg {
    value((1u64 << SHIFT) as f32)
}

/// Random accumulators, some of them at the ends of the range.
fn some_sums(r: &mut Random, len: usize) -> Vec<i64> {
    let ends = [POISON, i64::MAX, -i64::MAX, i64::MAX - 3, 0];
    let plain = r.values(len);
    let pick = |(i, v): (usize, &f64)| {
        if i % 9 == 4 {
            ends[i / 9 % 5]
        } else {
            (v * 1e13) as i64
        }
    };
    plain.iter().enumerate().map(pick).collect()
}

fn on_cpu(values: &[i64]) -> CpuSums<f32> {
    let mut sums = cpu()
        .alloc_sums(SumKind::Fixed { shift: SHIFT }, values.len())
        .unwrap();
    cpu()
        .add_sums_bytes(&mut sums, 0..values.len(), bytemuck::cast_slice(values))
        .unwrap();
    sums
}

fn read_sums(sums: &CpuSums<f32>) -> Vec<i64> {
    to_longs(&cpu().sums_bytes(sums, 0..sums.len()).unwrap())
}

fn gradient<E: Element>(r: &mut Random, len: usize) -> Vec<f32> {
    let mut values = E::random(r, len, 3.0);
    for (v, s) in values.iter_mut().skip(3).step_by(7).zip(SPECIAL.iter().cycle()) {
        *v = E::values(&E::bytes(&[*s]))[0];
    }
    values
}

fn accumulate<E: Element>(session: &mut Session, r: &mut Random, len: usize, skip: usize) {
    let (start, g) = (some_sums(r, len), gradient::<E>(r, len));
    let mut want = on_cpu(&start);
    cpu().accumulate(&mut want, 0, all(&upload(&cpu(), &g))).unwrap();
    let args = vec![
        longs(&start, skip),
        E::buffer(&g, skip),
        value(len as u64),
        scale(),
    ];
    let out = session
        .run(&call(&format!("accumulate_{}", E::NAME), blocks(len), args))
        .unwrap();
    assert_eq!(
        to_longs(&out[0]),
        read_sums(&want),
        "accumulate_{} of {len}",
        E::NAME
    );
}

/// Rows by token, and for each token where its rows begin and how many they are.
pub fn grouped(tokens: &[u32]) -> (Vec<u32>, Vec<u32>) {
    let mut rows: Vec<u32> = (0..tokens.len() as u32).collect();
    rows.sort_by_key(|&row| tokens[row as usize]);
    let mut groups: Vec<u32> = Vec::new();
    for (at, &row) in rows.iter().enumerate() {
        let token = tokens[row as usize];
        match groups.len() {
            n if n > 0 && groups[n - 3] == token => groups[n - 1] += 1,
            _ => groups.extend([token, at as u32, 1]),
        }
    }
    (rows, groups)
}

fn accumulate_rows<E: Element>(session: &mut Session, r: &mut Random) {
    let (count, width, vocab) = (r.size(1..=60), r.size(1..=300), r.size(1..=12));
    let tokens: Vec<u32> = (0..count).map(|_| r.size(0..=vocab - 1) as u32).collect();
    let (start, g) = (some_sums(r, vocab * width), gradient::<E>(r, count * width));
    let mut want = on_cpu(&start);
    let mut indices = cpu().alloc_indices().unwrap();
    cpu().write_indices(&mut indices, &tokens).unwrap();
    cpu()
        .accumulate_rows(&mut want, width, &indices, all(&upload(&cpu(), &g)))
        .unwrap();
    let (rows, groups) = grouped(&tokens);
    let args = vec![
        longs(&start, 0),
        E::buffer(&g, 0),
        words(&rows),
        words(&groups),
        value(width as u32),
        scale(),
    ];
    let grid = [groups.len() / 3, width.div_ceil(256), 1];
    let out = session
        .run(&call(&format!("accumulate_rows_{}", E::NAME), grid, args))
        .unwrap();
    assert_eq!(to_longs(&out[0]), read_sums(&want), "rows of {}", E::NAME);
}

#[test]
fn accumulators_are_the_cpus_to_the_bit() {
    needs_compiler!();
    let emulator = Emulator::build(&MODULES[2], 0);
    let session = &mut emulator.start();
    let r = &mut Random::new(3);
    for (len, skip) in [(1, 0), (4, 0), (1023, 0), (1027, 1), (5000, 0)] {
        accumulate::<Single>(session, r, len, skip);
        accumulate::<Brain>(session, r, len, skip);
        let (a, b) = (some_sums(r, len), some_sums(r, len));
        let mut want = on_cpu(&a);
        cpu()
            .add_sums_bytes(&mut want, 0..len, bytemuck::cast_slice(&b))
            .unwrap();
        let args = vec![longs(&a, 0), longs(&b, skip), value(len as u64)];
        let out = session.run(&call("add_sums", blocks(len), args)).unwrap();
        assert_eq!(to_longs(&out[0]), read_sums(&want), "add_sums of {len}");
        accumulate_rows::<Single>(session, r);
        accumulate_rows::<Brain>(session, r);
    }
}

#[test]
fn means_and_squares_of_blocks_are_the_cpus_to_the_bit() {
    needs_compiler!();
    let emulator = Emulator::build(&MODULES[2], 0);
    let session = &mut emulator.start();
    let (r, unit, tokens) = (&mut Random::new(4), 1.0 / (1u64 << SHIFT) as f64, 24u64);
    for (len, block) in [(1, 64), (64, 64), (1000, 64), (4099, 256), (33, 4096)] {
        let values: Vec<i64> = r.values(len).iter().map(|v| (v * 1e12) as i64).collect();
        for poisoned in [false, true] {
            let mut values = values.clone();
            if poisoned {
                values[len / 2] = POISON;
            }
            let sums = on_cpu(&values);
            let args = vec![
                longs(&values, 0),
                Single::buffer(&vec![0.0; len], 0),
                value(len as u64),
            ];
            let args = [args, vec![value(unit), value(tokens as f64)]].concat();
            let out = session.run(&call("mean", blocks(len), args)).unwrap();
            let (have, want) = (
                Single::values(&out[1]),
                cpu().mean(&sums, 0..len, tokens).unwrap(),
            );
            assert!(
                have.iter()
                    .zip(&want)
                    .all(|(a, b)| a == b || a.is_nan() && b.is_nan()),
                "mean"
            );
            let count = len.div_ceil(block);
            let space = Arg::Buffer {
                skip: 0,
                bytes: vec![0xff; 8 * count],
            };
            let args = vec![
                longs(&values, 0),
                space,
                value(len as u64),
                value(block as u64),
                value(unit),
            ];
            let args = [args, vec![value(tokens as f64)]].concat();
            let out = session
                .run(&call("block_squares", [count.div_ceil(16), 1, 1], args))
                .unwrap();
            let (have, want) = (
                to_doubles(&out[1]),
                cpu().block_squares(&sums, 0..len, block, tokens).unwrap(),
            );
            assert_eq!(have.iter().filter(|v| v.is_nan()).count(), usize::from(poisoned));
            assert!(
                have.iter()
                    .zip(&want)
                    .all(|(a, b)| a == b || a.is_nan() && b.is_nan()),
                "{have:?} {want:?}"
            );
        }
    }
}

/// The step's factors as the kernel takes them: as the CPU rounds them.
pub fn factors(step: &AdamStep) -> [f32; 10] {
    let [b1, b2] = step.betas;
    let power = |base: f64| (0..step.step).fold(1.0, |p, _| p * base);
    [
        1.0 - step.lr * DECAY,
        step.lr,
        b1,
        1.0 - b1,
        b2,
        1.0 - b2,
        1.0 / (1.0 - power(b1)),
        1.0 / (1.0 - power(b2)),
        step.eps,
        step.clip,
    ]
    .map(|v| v as f32)
}

#[test]
fn adamw_is_the_cpus_to_the_bit_in_place_and_out_of_place() {
    needs_compiler!();
    let emulator = Emulator::build(&MODULES[2], 0);
    let session = &mut emulator.start();
    let (r, cpu) = (&mut Random::new(6), cpu());
    let step = AdamStep {
        lr: 0.01,
        betas: [0.9, 0.95],
        eps: 1e-8,
        step: 3,
        tokens: 24,
        clip: 0.7,
    };
    for (len, skip) in [(1, 0), (1021, 0), (2048, 0), (1500, 1)] {
        let (w, m) = (Single::random(r, len, 1.0), Single::random(r, len, 1.0));
        let v: Vec<f32> = Single::random(r, len, 1.0).iter().map(|v| v.abs()).collect();
        let start: Vec<i64> = r.values(len).iter().map(|v| (v * 1e12) as i64).collect();
        let mut sums = on_cpu(&start);
        let (mut bw, mut bm, mut bv) = (upload(&cpu, &w), upload(&cpu, &m), upload(&cpu, &v));
        let target = AdamTarget {
            weights: all_mut(&mut bw),
            exp_avg: all_mut(&mut bm),
            exp_avg_sq: all_mut(&mut bv),
        };
        let parts = [AdamPart {
            end: len,
            weight_decay: DECAY,
        }];
        cpu.adamw(
            target,
            AdamSource::default(),
            &mut sums,
            0..len,
            &step,
            &parts,
            None,
        )
        .unwrap();
        for in_place in [true, false] {
            let mut args = vec![
                Single::buffer(&w, skip),
                Single::buffer(&m, 0),
                Single::buffer(&v, 0),
            ];
            if in_place {
                args.extend([0, 1, 2].map(Arg::Same));
            } else {
                args.extend([0; 3].map(|_| Single::buffer(&vec![f32::NAN; len], 0)));
            }
            let rounded = if in_place {
                Arg::Null
            } else {
                Brain::buffer(&vec![0.0; len], 0)
            };
            args.extend([rounded, longs(&start, skip), value(len as u64)]);
            args.extend([
                value(1.0 / (1u64 << SHIFT) as f64),
                value(step.tokens as f64),
                value(factors(&step)),
            ]);
            let mut out = session.run(&call("adamw", blocks(len), args)).unwrap();
            assert!(
                to_longs(&out.pop().unwrap()).iter().all(|&s| s == 0),
                "the gradient is left"
            );
            if !in_place {
                assert_eq!(out.pop().unwrap(), Brain::bytes(&read(&bw)), "rounded weights");
                same("old weights", &Single::values(&out[0]), &w);
            }
            let at = out.len() - 3;
            for (what, have, want) in [("weights", 0, &bw), ("exp_avg", 1, &bm), ("exp_avg_sq", 2, &bv)] {
                same(what, &Single::values(&out[at + have]), &read(want));
            }
        }
    }
}
