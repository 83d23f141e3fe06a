//! Cross entropy.

use rekindle_compute::Device;
use rekindle_compute::conformance::Random;
use rekindle_compute::cuda::kernels::{LOSS_THREADS, MODULES};

use crate::emulator::{Arg, Emulator, Launch, Session};
use crate::rows::{call, width};
use crate::values::{Brain, Element, Single, all_mut, close, cpu, read, to_doubles, upload, value, words};

fn cross_entropy<E: Element>(session: &mut Session, round: u64) {
    let (r, cpu) = (&mut Random::new(round), cpu());
    let (rows, (width, skip)) = (r.size(1..=12), width(r, round, 5000));
    let logits = E::random(r, rows * width, 20.0);
    let targets: Vec<u32> = (0..rows).map(|_| r.size(0..=width - 1) as u32).collect();
    let mut want = upload(&cpu, &logits);
    let mut indices = cpu.alloc_indices().unwrap();
    cpu.write_indices(&mut indices, &targets).unwrap();
    let loss = cpu
        .cross_entropy(all_mut(&mut want), &indices, 0..rows, true)
        .unwrap();
    let room = (width * E::BYTES).next_multiple_of(16);
    for (gradient, memory) in [(1u32, 0), (0, 0), (1, room), (0, room)] {
        let losses = Arg::Buffer {
            skip: 0,
            bytes: vec![0xff; 8 * rows],
        };
        let args = vec![
            E::buffer(&logits, skip),
            words(&targets),
            losses,
            value(width as u32),
            value(gradient),
            value(u32::from(memory > 0)),
        ];
        let launch = Launch {
            memory,
            ..call::<E>("cross_entropy", rows, LOSS_THREADS as usize, args)
        };
        let out = session.run(&launch).unwrap();
        let sum: f64 = to_doubles(&out[2]).iter().sum();
        assert!(
            (sum - loss).abs() <= 1e-5 * loss.max(1.0),
            "loss {sum} instead of {loss}"
        );
        let expected = if gradient == 1 {
            read(&want)
        } else {
            logits.clone()
        };
        close("gradient", &E::values(&out[0]), &expected, E::TOLERANCE);
    }
}

#[test]
fn losses_and_gradients() {
    needs_compiler!();
    let emulator = Emulator::build(&MODULES[1], 0);
    let session = &mut emulator.start();
    for round in 0..8 {
        cross_entropy::<Single>(session, round);
        cross_entropy::<Brain>(session, round);
    }
}

/// A logit that is no number makes its row's loss none; a row of one logit has no loss.
#[test]
fn edges() {
    needs_compiler!();
    let emulator = Emulator::build(&MODULES[1], 0);
    let session = &mut emulator.start();
    let run = |session: &mut Session, logits: &[f32], width: usize| {
        let rows = logits.len() / width;
        let losses = Arg::Buffer {
            skip: 0,
            bytes: vec![0; 8 * rows],
        };
        let args = vec![
            Single::buffer(logits, 0),
            words(&vec![0; rows]),
            losses,
            value(width as u32),
            value(1u32),
            value(0u32),
        ];
        to_doubles(
            &session
                .run(&call::<Single>(
                    "cross_entropy",
                    rows,
                    LOSS_THREADS as usize,
                    args,
                ))
                .unwrap()[2],
        )
    };
    assert_eq!(run(session, &[3.0, -1e30, 7.0], 1), [0.0; 3]);
    let mut logits = vec![1.0; 3000];
    logits[2222] = f32::NAN;
    let losses = run(session, &logits, 1500);
    assert!(
        (losses[0] - 1500f64.ln()).abs() < 1e-5 && losses[1].is_nan(),
        "{losses:?}"
    );
}
