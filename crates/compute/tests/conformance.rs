//! The CPU device conforms, in both precisions and with any number of threads.
#![allow(clippy::unwrap_used, clippy::panic)]

use rekindle_compute::conformance::{check_all, fingerprint};
use rekindle_compute::{
    AttentionShape, ComputeError, Cpu, Device, Float, Product, part_mut, whole, whole_mut,
};

const SEED: u64 = 20;
const ROUNDS: usize = 6;

#[test]
fn single_precision() {
    let wrong = check_all(&Cpu::<f32>::new(2).unwrap(), 2e-5, SEED, ROUNDS).unwrap();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn double_precision() {
    let wrong = check_all(&Cpu::<f64>::new(1).unwrap(), 1e-11, SEED, ROUNDS).unwrap();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn same_bits<F: Float>() {
    let one = fingerprint(&Cpu::<F>::new(1).unwrap(), SEED, ROUNDS).unwrap();
    for threads in [2, 3, 5] {
        assert!(
            fingerprint(&Cpu::<F>::new(threads).unwrap(), SEED, ROUNDS).unwrap() == one,
            "{threads} threads"
        );
    }
}

#[test]
fn number_of_threads_does_not_show() {
    same_bits::<f32>();
    same_bits::<f64>();
}

/// Products large enough for the library to split them over threads and over k.
#[test]
fn large_products_and_attention_are_the_same_on_any_number_of_threads() {
    let run = |threads| {
        let cpu = Cpu::<f32>::new(threads).unwrap();
        let (m, n, k) = (515, 260, 777);
        let fill = |len: usize| {
            let mut buffer = cpu.alloc(len).unwrap();
            let values: Vec<f32> = (0..len)
                .map(|i| (i * 7919 % 10_007) as f32 / 5000.0 - 1.0)
                .collect();
            cpu.write(part_mut(&mut buffer, 0..len), &values).unwrap();
            buffer
        };
        let (a, b) = (fill(m * k), fill(k * n));
        let mut bits = Vec::new();
        for kind in 0..4 {
            let shape = Product {
                m,
                n,
                k,
                transpose_a: kind & 1 > 0,
                transpose_b: kind & 2 > 0,
                accumulate: false,
            };
            let mut c = cpu.alloc(m * n).unwrap();
            cpu.product(
                shape,
                whole_mut(&mut c, m * n),
                whole(&a, m * k),
                whole(&b, k * n),
            )
            .unwrap();
            bits.extend(cpu.bytes(whole(&c, m * n)).unwrap().iter().copied());
        }
        let shape = AttentionShape {
            sequences: 2,
            seq_len: 130,
            heads: 4,
            kv_heads: 2,
            head_dim: 32,
            scale: 0.2,
        };
        let (qkv, dout) = (
            fill(shape.rows() * shape.stride()),
            fill(shape.rows() * shape.width()),
        );
        let mut out = cpu.alloc(shape.rows() * shape.width()).unwrap();
        let mut lse = cpu.alloc(shape.rows() * shape.heads).unwrap();
        let mut dqkv = cpu.alloc(shape.rows() * shape.stride()).unwrap();
        let all = |buffer| whole(buffer, cpu.len(buffer));
        let (o, l) = (
            whole_mut(&mut out, shape.rows() * shape.width()),
            whole_mut(&mut lse, shape.rows() * 4),
        );
        cpu.attention(shape, all(&qkv), o, l).unwrap();
        let d = whole_mut(&mut dqkv, shape.rows() * shape.stride());
        cpu.attention_backward(shape, all(&qkv), all(&out), all(&lse), all(&dout), d)
            .unwrap();
        bits.extend(cpu.bytes(all(&dqkv)).unwrap().iter().copied());
        bits
    };
    let one = run(1);
    assert!(run(2) == one && run(3) == one);
}

#[test]
fn wrong_operands_are_named() {
    let cpu = Cpu::<f32>::new(1).unwrap();
    let (a, mut c) = (cpu.alloc(6).unwrap(), cpu.alloc(4).unwrap());
    let shape = Product {
        m: 2,
        n: 2,
        k: 3,
        transpose_a: false,
        transpose_b: false,
        accumulate: false,
    };
    let error = cpu
        .product(shape, whole_mut(&mut c, 4), whole(&a, 6), whole(&a, 5))
        .unwrap_err();
    assert_eq!(
        error,
        ComputeError::Shape {
            op: "product",
            what: "b",
            have: 5,
            want: 6
        }
    );
    let error = cpu
        .product(shape, whole_mut(&mut c, 5), whole(&a, 6), whole(&a, 6))
        .unwrap_err();
    assert_eq!(
        error,
        ComputeError::Range {
            op: "product",
            start: 0,
            end: 5,
            len: 4
        }
    );
    let error = cpu
        .gather(2, whole(&a, 6), &vec![1, 3], whole_mut(&mut c, 4))
        .unwrap_err();
    assert_eq!(
        error,
        ComputeError::Index {
            op: "gather",
            at: 1,
            index: 3,
            len: 3
        }
    );
    assert!(error.to_string().contains("vocabulary"));
}
