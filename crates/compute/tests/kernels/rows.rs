//! Norms, SwiGLU, rotary embedding, rows of an embedding, sums, casts.

use rekindle_compute::conformance::Random;
use rekindle_compute::cuda::kernels::{MODULES, NORM_ROWS, PARTIAL_COLUMNS, PARTIAL_THREADS, norm_launch};
use rekindle_compute::{AttentionShape, Device};

use crate::emulator::{Arg, Emulator, Launch, Session};
use crate::values::{Brain, Element, Single, all, all_mut, close, cpu, read, same, upload, value, words};

const ROUNDS: u64 = 6;
const EPS: f32 = 1e-5;

pub fn call<E: Element>(name: &str, blocks: usize, threads: usize, args: Vec<Arg>) -> Launch {
    Launch {
        kernel: format!("{name}_{}", E::NAME),
        grid: [blocks, 1, 1],
        threads,
        memory: 0,
        args,
    }
}

/// Sizes that end anywhere, and sizes of whole packs; with a buffer that starts anywhere in the one case.
pub fn width(r: &mut Random, round: u64, most: usize) -> (usize, usize) {
    if round.is_multiple_of(2) {
        (r.size(1..=most), r.size(0..=1))
    } else {
        (r.size(1..=most / 8) * 8, 0)
    }
}

/// Exact where the type is the CPU's own, near otherwise.
fn agree<E: Element>(what: &str, have: &[u8], want: &[f32]) {
    if E::BYTES == 4 {
        same(what, &E::values(have), want);
    } else {
        close(what, &E::values(have), want, E::TOLERANCE);
    }
}

fn norms<E: Element>(session: &mut Session, round: u64) {
    let r = &mut Random::new(round);
    let (rows, (width, skip)) = (r.size(1..=70), width(r, round, 1400));
    let len = rows * width;
    let (x, delta, weight) = (
        E::random(r, len, 1.0),
        E::random(r, len, 1.0),
        E::random(r, width, 1.0),
    );
    let cpu = cpu();
    let (bx, bdelta, bweight) = (upload(&cpu, &x), upload(&cpu, &delta), upload(&cpu, &weight));
    let zeros = vec![0.0; len];
    for with_delta in [true, false] {
        let (mut sum, mut y, mut rstd) = (
            upload(&cpu, &zeros),
            upload(&cpu, &zeros),
            cpu.alloc(rows).unwrap(),
        );
        let pair = with_delta.then(|| (all(&bdelta), all_mut(&mut sum)));
        cpu.norm(
            all(&bx),
            pair,
            all(&bweight),
            f64::from(EPS),
            all_mut(&mut y),
            all_mut(&mut rstd),
        )
        .unwrap();
        let mut args = vec![E::buffer(&x, skip)];
        if with_delta {
            args.extend([E::buffer(&delta, skip), E::buffer(&zeros, skip)]);
        } else {
            args.extend([Arg::Null, Arg::Null]);
        }
        args.extend([
            E::buffer(&weight, skip),
            E::buffer(&zeros, skip),
            Single::buffer(&vec![0.0; rows], 0),
        ]);
        args.extend([value(width as u32), value(EPS)]);
        let mut out = session.run(&call::<E>("norm", rows, 128, args)).unwrap();
        close(
            "rstd",
            &Single::values(&out.pop().unwrap()),
            &read(&rstd),
            E::TOLERANCE,
        );
        close("y", &E::values(&out.pop().unwrap()), &read(&y), E::TOLERANCE);
        if with_delta {
            agree::<E>("sum", &out[2], &read(&sum));
        }
    }
    norm_backward::<E>(session, (rows, width, skip), &x, &weight);
}

fn norm_backward<E: Element>(
    session: &mut Session,
    (rows, width, skip): (usize, usize, usize),
    x: &[f32],
    weight: &[f32],
) {
    let (r, cpu) = (&mut Random::new(rows as u64), cpu());
    let (dy, dx) = (E::random(r, x.len(), 1.0), E::random(r, x.len(), 1.0));
    let rstd: Vec<f32> = (0..rows).map(|i| 0.5 + i as f32 / rows as f32).collect();
    let (bx, bweight, brstd) = (upload(&cpu, x), upload(&cpu, weight), upload(&cpu, &rstd));
    let (mut bdy, mut bdx, mut dweight) = (upload(&cpu, &dy), upload(&cpu, &dx), cpu.alloc(width).unwrap());
    cpu.norm_backward(
        all(&bx),
        all(&bweight),
        all(&brstd),
        all_mut(&mut bdy),
        all_mut(&mut bdx),
        all_mut(&mut dweight),
    )
    .unwrap();
    let groups = rows.div_ceil(NORM_ROWS);
    let args = vec![
        E::buffer(x, skip),
        E::buffer(weight, skip),
        Single::buffer(&rstd, 0),
        E::buffer(&dy, skip),
        E::buffer(&dx, skip),
        Single::buffer(&vec![f32::NAN; groups * width], 0),
        value(rows as u32),
        value(width as u32),
    ];
    let (threads, memory) = norm_launch(width, E::BYTES).unwrap();
    let launch = Launch {
        memory,
        ..call::<E>("norm_backward", groups, threads as usize, args)
    };
    let out = session.run(&launch).unwrap();
    close("y again", &E::values(&out[3]), &read(&bdy), E::TOLERANCE);
    close("dx", &E::values(&out[4]), &read(&bdx), E::TOLERANCE);
    let args = vec![
        Arg::Buffer {
            skip: 0,
            bytes: out[5].clone(),
        },
        E::buffer(&vec![0.0; width], skip),
        value(groups as u32),
        value(width as u32),
    ];
    let out = session
        .run(&call::<E>(
            "sum_partials",
            width.div_ceil(PARTIAL_COLUMNS),
            PARTIAL_THREADS as usize,
            args,
        ))
        .unwrap();
    close("dweight", &E::values(&out[1]), &read(&dweight), E::TOLERANCE);
}

fn swiglu<E: Element>(session: &mut Session, round: u64) {
    let (r, cpu) = (&mut Random::new(round + 100), cpu());
    let (rows, (width, skip)) = (r.size(1..=9), width(r, round, 1300));
    let len = rows * width;
    let (gate_up, dy) = (E::random(r, 2 * len, 9.0), E::random(r, len, 1.0));
    let (source, mut y) = (upload(&cpu, &gate_up), cpu.alloc(len).unwrap());
    cpu.swiglu(width, all(&source), all_mut(&mut y)).unwrap();
    let args = vec![
        E::buffer(&gate_up, skip),
        E::buffer(&vec![0.0; len], skip),
        value(width as u32),
    ];
    let out = session.run(&call::<E>("swiglu", rows, 128, args)).unwrap();
    agree::<E>("swiglu", &out[1], &read(&y));
    let (mut bdy, mut d) = (upload(&cpu, &dy), cpu.alloc(2 * len).unwrap());
    cpu.swiglu_backward(width, all(&source), all_mut(&mut bdy), all_mut(&mut d))
        .unwrap();
    let args = vec![
        E::buffer(&gate_up, skip),
        E::buffer(&dy, skip),
        E::buffer(&vec![0.0; 2 * len], skip),
        value(width as u32),
    ];
    let out = session
        .run(&call::<E>("swiglu_backward", rows, 128, args))
        .unwrap();
    agree::<E>("swiglu y again", &out[1], &read(&bdy));
    agree::<E>("swiglu gradient", &out[2], &read(&d));
}

fn rope<E: Element>(session: &mut Session, round: u64) {
    let (r, cpu) = (&mut Random::new(round + 200), cpu());
    let kv_heads = r.size(1..=3);
    let half = if round.is_multiple_of(2) {
        r.size(1..=20)
    } else {
        8 * r.size(1..=4)
    };
    let shape = AttentionShape {
        sequences: r.size(1..=2),
        seq_len: r.size(1..=9),
        heads: kv_heads * r.size(1..=3),
        kv_heads,
        head_dim: 2 * half,
        scale: 1.0,
    };
    let qkv = E::random(r, shape.rows() * shape.stride(), 1.0);
    let angles = r.values(shape.seq_len * half);
    let cos: Vec<f32> = angles.iter().map(|a| a.cos() as f32).collect();
    let sin: Vec<f32> = angles.iter().map(|a| a.sin() as f32).collect();
    let (bcos, bsin) = (upload(&cpu, &cos), upload(&cpu, &sin));
    for (inverse, sign) in [(false, 1.0f32), (true, -1.0)] {
        let mut want = upload(&cpu, &qkv);
        cpu.rope(shape, all_mut(&mut want), all(&bcos), all(&bsin), inverse)
            .unwrap();
        let numbers = [shape.seq_len, shape.stride(), shape.heads + kv_heads, half];
        let mut args = vec![
            E::buffer(&qkv, 0),
            Single::buffer(&cos, 0),
            Single::buffer(&sin, 0),
        ];
        args.extend(numbers.iter().map(|&n| value(n as u32)));
        args.push(value(sign));
        let out = session.run(&call::<E>("rope", shape.rows(), 128, args)).unwrap();
        agree::<E>("rope", &out[0], &read(&want));
    }
}

fn gather_and_add<E: Element>(session: &mut Session, round: u64) {
    let r = &mut Random::new(round + 300);
    let (rows, vocab, (width, skip)) = (r.size(1..=20), r.size(1..=30), width(r, round, 700));
    let tokens: Vec<u32> = (0..rows).map(|_| r.size(0..=vocab - 1) as u32).collect();
    let table = E::random(r, vocab * width, 1.0);
    let zeros = vec![0.0; rows * width];
    let args = vec![
        E::buffer(&table, skip),
        words(&tokens),
        E::buffer(&zeros, skip),
        value(width as u32),
    ];
    let out = session.run(&call::<E>("gather", rows, 128, args)).unwrap();
    let want: Vec<f32> = tokens
        .iter()
        .flat_map(|&t| &table[t as usize * width..][..width])
        .copied()
        .collect();
    same("gather", &E::values(&out[2]), &want);

    let (a, b) = (E::random(r, rows * width, 1.0), E::random(r, rows * width, 1.0));
    let blocks = (rows * width).div_ceil(128 * 16 / E::BYTES);
    let args = vec![
        E::buffer(&a, skip),
        E::buffer(&b, 0),
        value((rows * width) as u64),
    ];
    let out = session.run(&call::<E>("add", blocks, 128, args)).unwrap();
    let want: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
    same("add", &E::values(&out[0]), &E::values(&E::bytes(&want)));
}

fn all_rows<E: Element>() {
    let emulator = Emulator::build(&MODULES[0], 0);
    let session = &mut emulator.start();
    for round in 0..ROUNDS {
        norms::<E>(session, round);
        swiglu::<E>(session, round);
        rope::<E>(session, round);
        gather_and_add::<E>(session, round);
    }
}

#[test]
fn rows_of_floats() {
    needs_compiler!();
    all_rows::<Single>();
}

#[test]
fn rows_of_bf16() {
    needs_compiler!();
    all_rows::<Brain>();
}

#[test]
fn casts_round_to_the_nearest_and_keep_what_is_special() {
    needs_compiler!();
    let emulator = Emulator::build(&MODULES[0], 0);
    let session = &mut emulator.start();
    let special = [
        0.0,
        -0.0,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        1e-40,
        f32::MAX,
        -f32::MAX,
        1.003_906_2,
    ];
    let r = &mut Random::new(5);
    for (len, skip) in [(1, 0), (8, 0), (1029, 0), (3001, 1)] {
        let mut values: Vec<f32> = r
            .values(len)
            .iter()
            .map(|&v| f32::from_bits((v * 2e9) as i32 as u32))
            .collect();
        for (v, s) in values.iter_mut().zip(special) {
            *v = s;
        }
        let blocks = len.div_ceil(8 * 128);
        let cast = |name: &str, from: Arg, to: Arg| Launch {
            kernel: name.to_owned(),
            grid: [blocks, 1, 1],
            threads: 128,
            memory: 0,
            args: vec![from, to, value(len as u64)],
        };
        let zeros = vec![0.0; len];
        let launch = cast(
            "cast_f32_bf16",
            Single::buffer(&values, skip),
            Brain::buffer(&zeros, skip),
        );
        let narrow = session.run(&launch).unwrap().remove(1);
        assert_eq!(narrow, Brain::bytes(&values));
        let from = Arg::Buffer {
            skip: 2 * skip as u32,
            bytes: narrow.clone(),
        };
        let wide = session
            .run(&cast("cast_bf16_f32", from, Single::buffer(&zeros, skip)))
            .unwrap()
            .remove(1);
        same("cast back", &Single::values(&wide), &Brain::values(&narrow));
    }
}
