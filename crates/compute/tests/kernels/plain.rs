//! Accumulators that are floats: the CPU's bits, as those in fixed point.

use rekindle_compute::conformance::Random;
use rekindle_compute::cuda::kernels::MODULES;
use rekindle_compute::{AdamPart, AdamSource, AdamStep, AdamTarget, CpuSums, Device, SumKind};

use crate::emulator::{Emulator, Session};
use crate::sums::{DECAY, blocks, call, factors, grouped};
use crate::values::{
    Brain, Element, Single, all, all_mut, cpu, read, same, to_doubles, upload, value, words,
};

const TOKENS: u64 = 24;

fn on_cpu(values: &[f32]) -> CpuSums<f32> {
    let mut sums = cpu().alloc_sums(SumKind::Float, values.len()).unwrap();
    cpu()
        .add_sums_bytes(&mut sums, 0..values.len(), bytemuck::cast_slice(values))
        .unwrap();
    sums
}

fn read_sums(sums: &CpuSums<f32>) -> Vec<f32> {
    Single::values(&cpu().sums_bytes(sums, 0..sums.len()).unwrap())
}

fn accumulate<E: Element>(session: &mut Session, r: &mut Random, len: usize, skip: usize) {
    let (start, gradient) = (Single::random(r, len, 9.0), E::random(r, len, 3.0));
    let mut want = on_cpu(&start);
    cpu()
        .accumulate(&mut want, 0, all(&upload(&cpu(), &gradient)))
        .unwrap();
    let args = vec![
        Single::buffer(&start, skip),
        E::buffer(&gradient, skip),
        value(len as u64),
        value(1.0f32),
    ];
    let name = format!("accumulate_plain_{}", E::NAME);
    let out = session.run(&call(&name, blocks(len), args)).unwrap();
    same(&name, &Single::values(&out[0]), &read_sums(&want));
}

fn accumulate_rows<E: Element>(session: &mut Session, r: &mut Random) {
    let (count, width, vocab) = (r.size(1..=60), r.size(1..=300), r.size(1..=12));
    let tokens: Vec<u32> = (0..count).map(|_| r.size(0..=vocab - 1) as u32).collect();
    let (start, gradient) = (
        Single::random(r, vocab * width, 9.0),
        E::random(r, count * width, 3.0),
    );
    let mut want = on_cpu(&start);
    let mut indices = cpu().alloc_indices().unwrap();
    cpu().write_indices(&mut indices, &tokens).unwrap();
    cpu()
        .accumulate_rows(&mut want, width, &indices, all(&upload(&cpu(), &gradient)))
        .unwrap();
    let (rows, groups) = grouped(&tokens);
    let args = vec![
        Single::buffer(&start, 0),
        E::buffer(&gradient, 0),
        words(&rows),
        words(&groups),
        value(width as u32),
        value(1.0f32),
    ];
    let name = format!("accumulate_rows_plain_{}", E::NAME);
    let grid = [groups.len() / 3, width.div_ceil(256), 1];
    let out = session.run(&call(&name, grid, args)).unwrap();
    same(&name, &Single::values(&out[0]), &read_sums(&want));
}

#[test]
fn float_accumulators_are_the_cpus_to_the_bit() {
    needs_compiler!();
    let emulator = Emulator::build(&MODULES[2], 0);
    let session = &mut emulator.start();
    let r = &mut Random::new(13);
    for (len, skip) in [(1, 0), (4, 0), (1023, 0), (1027, 1), (5000, 0)] {
        accumulate::<Single>(session, r, len, skip);
        accumulate::<Brain>(session, r, len, skip);
        let (a, b) = (Single::random(r, len, 9.0), Single::random(r, len, 9.0));
        let mut want = on_cpu(&a);
        cpu()
            .add_sums_bytes(&mut want, 0..len, bytemuck::cast_slice(&b))
            .unwrap();
        let args = vec![Single::buffer(&a, 0), Single::buffer(&b, skip), value(len as u64)];
        let out = session.run(&call("add_sums_plain", blocks(len), args)).unwrap();
        same("add_sums_plain", &Single::values(&out[0]), &read_sums(&want));
        accumulate_rows::<Single>(session, r);
        accumulate_rows::<Brain>(session, r);
    }
}

#[test]
fn float_means_and_squares_are_the_cpus_to_the_bit() {
    needs_compiler!();
    let emulator = Emulator::build(&MODULES[2], 0);
    let session = &mut emulator.start();
    let r = &mut Random::new(14);
    for (len, block) in [(1, 64), (64, 64), (1000, 64), (4099, 256), (33, 4096)] {
        let values = Single::random(r, len, 50.0);
        let (sums, count) = (on_cpu(&values), len.div_ceil(block));
        let numbers = [value(1.0f64), value(TOKENS as f64)];
        let args = vec![
            Single::buffer(&values, 0),
            Single::buffer(&vec![0.0; len], 0),
            value(len as u64),
        ];
        let out = session
            .run(&call(
                "mean_plain",
                blocks(len),
                [args, numbers.to_vec()].concat(),
            ))
            .unwrap();
        same(
            "mean_plain",
            &Single::values(&out[1]),
            &cpu().mean(&sums, 0..len, TOKENS).unwrap(),
        );
        let args = vec![
            Single::buffer(&values, 0),
            Single::buffer(&vec![0.0; 2 * count], 0),
            value(len as u64),
            value(block as u64),
        ];
        let grid = [count.div_ceil(16), 1, 1];
        let out = session
            .run(&call(
                "block_squares_plain",
                grid,
                [args, numbers.to_vec()].concat(),
            ))
            .unwrap();
        assert_eq!(
            to_doubles(&out[1]),
            cpu().block_squares(&sums, 0..len, block, TOKENS).unwrap(),
            "squares of {len}"
        );
    }
}

#[test]
fn adamw_from_floats_is_the_cpus_to_the_bit() {
    needs_compiler!();
    let emulator = Emulator::build(&MODULES[2], 0);
    let session = &mut emulator.start();
    let (r, cpu) = (&mut Random::new(16), cpu());
    let step = AdamStep {
        lr: 0.01,
        betas: [0.9, 0.95],
        eps: 1e-8,
        step: 3,
        tokens: TOKENS,
        clip: 0.7,
    };
    for (len, skip) in [(1, 0), (1021, 0), (2048, 0), (1500, 1)] {
        let [w, m, v, start] = [0; 4].map(|_| Single::random(r, len, 1.0));
        let v: Vec<f32> = v.iter().map(|v| v.abs()).collect();
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
        let source = AdamSource::default();
        cpu.adamw(target, source, &mut sums, 0..len, &step, &parts, None)
            .unwrap();
        let zeros = || Single::buffer(&vec![0.0; len], 0);
        let args = vec![
            Single::buffer(&w, skip),
            Single::buffer(&m, 0),
            Single::buffer(&v, 0),
            zeros(),
            zeros(),
            zeros(),
            Brain::buffer(&vec![0.0; len], 0),
            Single::buffer(&start, skip),
            value(len as u64),
            value(1.0f64),
            value(TOKENS as f64),
            value(factors(&step)),
        ];
        let out = session.run(&call("adamw_plain", blocks(len), args)).unwrap();
        for (what, have, want) in [("weights", 3, &bw), ("exp_avg", 4, &bm), ("exp_avg_sq", 5, &bv)] {
            same(what, &Single::values(&out[have]), &read(want));
        }
        assert_eq!(out[6], Brain::bytes(&read(&bw)), "rounded weights");
        assert!(
            Single::values(&out[7]).iter().all(|&s| s == 0.0),
            "the gradient is left"
        );
    }
}
