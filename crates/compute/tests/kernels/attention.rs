//! Attention by tiles, forward and backward.

use rekindle_compute::conformance::Random;
use rekindle_compute::cuda::kernels::{
    ATTENTION_ROWS, AttentionPass, MODULES, attention_memory, compiled_head,
};
use rekindle_compute::{AttentionShape, Device};

use crate::emulator::{Arg, Emulator, Launch, Session};
use crate::values::{Brain, Element, Single, all, all_mut, close, cpu, read, upload, value};

/// Sequences that end inside a tile, one token, whole tiles; heads that share keys or don't.
pub fn shape(head_dim: usize, seq_len: usize, heads: usize, kv_heads: usize) -> AttentionShape {
    AttentionShape {
        sequences: 2,
        seq_len,
        heads,
        kv_heads,
        head_dim,
        scale: 1.0 / (head_dim as f64).sqrt(),
    }
}

/// The kernels' `Shape`.
fn numbers(s: &AttentionShape) -> Arg {
    let ints = [s.seq_len, s.heads, s.kv_heads, s.head_dim].map(|n| n as u32);
    let mut bytes = bytemuck::bytes_of(&ints).to_vec();
    bytes.extend_from_slice(&(s.scale as f32).to_le_bytes());
    Arg::Value(bytes)
}

fn launch<E: Element>(
    name: &str,
    pass: AttentionPass,
    s: &AttentionShape,
    heads: usize,
    args: Vec<Arg>,
) -> Launch {
    Launch {
        kernel: format!("attention_{name}_{}", E::NAME),
        grid: [s.seq_len.div_ceil(ATTENTION_ROWS), heads, s.sequences],
        threads: 128,
        memory: attention_memory(pass, compiled_head(s.head_dim).unwrap(), E::BYTES),
        args,
    }
}

/// Runs all four kernels against the CPU; the first launch that goes wrong ends it.
pub fn check<E: Element>(session: &mut Session, s: AttentionShape, seed: u64) -> Result<(), String> {
    let (r, cpu) = (&mut Random::new(seed), cpu());
    let (fused, wide, rows) = (s.rows() * s.stride(), s.rows() * s.width(), s.rows() * s.heads);
    let (qkv, dout) = (E::random(r, fused, 1.5), E::random(r, wide, 1.0));
    let (bqkv, bdout) = (upload(&cpu, &qkv), upload(&cpu, &dout));
    let (mut out, mut lse, mut dqkv) = (
        cpu.alloc(wide).unwrap(),
        cpu.alloc(rows).unwrap(),
        cpu.alloc(fused).unwrap(),
    );
    cpu.attention(s, all(&bqkv), all_mut(&mut out), all_mut(&mut lse))
        .unwrap();
    cpu.attention_backward(
        s,
        all(&bqkv),
        all(&out),
        all(&lse),
        all(&bdout),
        all_mut(&mut dqkv),
    )
    .unwrap();

    let tolerance = if E::BYTES == 4 { 3e-6 } else { 2e-2 };
    let nan = |len| vec![f32::NAN; len];
    let args = vec![
        E::buffer(&qkv, 0),
        E::buffer(&nan(wide), 0),
        Single::buffer(&nan(rows), 0),
        numbers(&s),
    ];
    let forward = session.run(&launch::<E>("forward", AttentionPass::Forward, &s, s.heads, args))?;
    close(
        &format!("out of {s:?}"),
        &E::values(&forward[1]),
        &read(&out),
        tolerance,
    );
    close(
        &format!("lse of {s:?}"),
        &Single::values(&forward[2]),
        &read(&lse),
        tolerance,
    );

    let buffer = |bytes: &[u8]| Arg::Buffer {
        skip: 0,
        bytes: bytes.to_vec(),
    };
    let args = vec![
        buffer(&forward[1]),
        E::buffer(&dout, 0),
        Single::buffer(&nan(rows), 0),
        numbers(&s),
    ];
    let row_sums = Launch {
        kernel: format!("attention_row_sums_{}", E::NAME),
        grid: [rows.div_ceil(4), 1, 1],
        threads: 128,
        memory: 0,
        args: [args, vec![value(s.rows() as u32)]].concat(),
    };
    let delta = session.run(&row_sums)?.remove(2);
    let mut d = E::bytes(&nan(fused));
    for (name, heads) in [("backward_keys", s.kv_heads), ("backward_queries", s.heads)] {
        let args = vec![
            E::buffer(&qkv, 0),
            E::buffer(&dout, 0),
            buffer(&forward[2]),
            buffer(&delta),
            buffer(&d),
            numbers(&s),
        ];
        d = session
            .run(&launch::<E>(name, AttentionPass::Backward, &s, heads, args))?
            .remove(4);
    }
    close(
        &format!("gradient of {s:?}"),
        &E::values(&d),
        &read(&dqkv),
        tolerance,
    );
    Ok(())
}

pub fn build(head_dim: usize) -> Emulator {
    Emulator::build(&MODULES[3], compiled_head(head_dim).unwrap())
}

fn both(head_dim: usize, shapes: &[(usize, usize, usize)]) {
    let emulator = build(head_dim);
    let session = &mut emulator.start();
    for (n, &(seq_len, heads, kv_heads)) in shapes.iter().enumerate() {
        let s = shape(head_dim, seq_len, heads, kv_heads);
        check::<Single>(session, s, n as u64).unwrap();
        check::<Brain>(session, s, n as u64).unwrap();
    }
}

#[test]
fn heads_of_16() {
    needs_compiler!();
    both(16, &[(1, 1, 1), (17, 2, 1), (64, 1, 1), (130, 4, 2)]);
}

/// Narrower than a tensor core's step, and rows at no multiple of 16 bytes.
#[test]
fn heads_of_10_and_7() {
    needs_compiler!();
    both(10, &[(33, 3, 3), (70, 4, 1)]);
    both(7, &[(19, 2, 2)]);
}

#[test]
fn heads_of_64() {
    needs_compiler!();
    both(64, &[(40, 2, 1), (97, 1, 1)]);
}

#[test]
fn heads_of_128_and_96() {
    needs_compiler!();
    both(128, &[(70, 1, 1)]);
    both(96, &[(35, 2, 1)]);
}
