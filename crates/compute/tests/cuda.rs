//! The CUDA device conforms, repeats its bits, and has the CPU's where it promises them.
//!
//! Where there is no device this says so; with REKINDLE_REQUIRE_CUDA=1 that is a failure.
#![allow(clippy::unwrap_used, clippy::panic)]

use rekindle_compute::conformance::{Random, check_all, fingerprint};
use rekindle_compute::cuda::{Cuda, Precision};
use rekindle_compute::{
    AdamPart, AdamSource, AdamStep, AdamTarget, AttentionShape, ComputeError, Cpu, Device, Product, SumKind,
    part, part_mut, whole, whole_mut,
};

const SEED: u64 = 20;
const ROUNDS: usize = 6;

/// The first device, if there is one; it must be there where it is required.
fn cuda(precision: Precision) -> Option<Cuda> {
    match Cuda::open(0, precision) {
        Ok(cuda) => Some(cuda),
        Err(error) => {
            assert!(std::env::var_os("REKINDLE_REQUIRE_CUDA").is_none(), "{error}");
            eprintln!("skipped: {error}");
            None
        }
    }
}

#[test]
fn single_precision_conforms() {
    let Some(cuda) = cuda(Precision::F32) else { return };
    let wrong = check_all(&cuda, 1e-4, SEED, ROUNDS).unwrap();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn bf16_conforms() {
    let Some(cuda) = cuda(Precision::Bf16) else { return };
    let wrong = check_all(&cuda, 2e-2, SEED, ROUNDS).unwrap();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn results_repeat_to_the_bit() {
    for precision in [Precision::F32, Precision::Bf16] {
        let (Some(a), Some(b)) = (cuda(precision), cuda(precision)) else {
            return;
        };
        let first = fingerprint(&a, SEED, ROUNDS).unwrap();
        assert!(
            fingerprint(&a, SEED, ROUNDS).unwrap() == first,
            "{precision:?}, the same device"
        );
        assert!(
            fingerprint(&b, SEED, ROUNDS).unwrap() == first,
            "{precision:?}, opened anew"
        );
    }
}

fn filled<D: Device<Float = f32>>(device: &D, values: &[f32]) -> D::Buffer {
    let mut buffer = device.alloc(values.len()).unwrap();
    device
        .write(part_mut(&mut buffer, 0..values.len()), values)
        .unwrap();
    buffer
}

fn state<D: Device<Float = f32>>(device: &D, mut buffer: D::Buffer, values: &[f32]) -> D::Buffer {
    device
        .write(part_mut(&mut buffer, 0..values.len()), values)
        .unwrap();
    buffer
}

fn random(r: &mut Random, len: usize) -> Vec<f32> {
    r.values(len).into_iter().map(|v| v as f32).collect()
}

fn read<D: Device<Float = f32>>(device: &D, buffer: &D::Buffer) -> Vec<f32> {
    device
        .read(whole(buffer, device.len(buffer)))
        .unwrap()
        .into_owned()
}

/// Sums of two micro-batches and of another rank, then three AdamW steps over parts that decay differently.
fn optimize<D: Device<Float = f32>>(device: &D, kind: SumKind) -> (Vec<u8>, Vec<f64>, Vec<f32>) {
    let r = &mut Random::new(77);
    let len = 70_003;
    let (w, m) = (random(r, len), random(r, len));
    let v: Vec<f32> = random(r, len).iter().map(|v| v.abs()).collect();
    let mut w = state(device, device.alloc_weights(len).unwrap(), &w);
    let mut m = state(device, device.alloc_state(len).unwrap(), &m);
    let mut v = state(device, device.alloc_state(len).unwrap(), &v);
    let mut sums = device.alloc_sums(kind, len).unwrap();
    let (mut squares, mut means) = (Vec::new(), Vec::new());
    for step in 1..4 {
        for _ in 0..2 {
            let gradient = state(device, device.alloc_wide(len).unwrap(), &random(r, len));
            device.accumulate(&mut sums, 0, whole(&gradient, len)).unwrap();
        }
        let bytes = device.sums_bytes(&sums, 5..len).unwrap().into_owned();
        device.add_sums_bytes(&mut sums, 5..len, &bytes).unwrap();
        squares.extend(device.block_squares(&sums, 0..len, 1024, 24).unwrap());
        means.extend(device.mean(&sums, 0..len, 24).unwrap());
        let numbers = AdamStep {
            lr: 0.01,
            betas: [0.9, 0.95],
            eps: 1e-8,
            step,
            tokens: 24,
            clip: 0.7,
        };
        let parts =
            [(3, 0.0), (40_001, 0.1), (len, 0.0)].map(|(end, weight_decay)| AdamPart { end, weight_decay });
        let target = AdamTarget {
            weights: whole_mut(&mut w, len),
            exp_avg: whole_mut(&mut m, len),
            exp_avg_sq: whole_mut(&mut v, len),
        };
        let source = AdamSource::default();
        device
            .adamw(target, source, &mut sums, 0..len, &numbers, &parts, None)
            .unwrap();
    }
    let mut bytes = Vec::new();
    for buffer in [&w, &m, &v] {
        bytes.extend_from_slice(&device.bytes(whole(buffer, len)).unwrap());
    }
    (bytes, squares, means)
}

/// What the exactness contract's shadow and checkpoints on other devices live on.
#[test]
fn sums_and_the_optimizer_have_the_cpus_bits() {
    let cpu = Cpu::<f32>::new(2).unwrap();
    for precision in [Precision::F32, Precision::Bf16] {
        let Some(cuda) = cuda(precision) else { return };
        for kind in [SumKind::Fixed { shift: 38 }, SumKind::Float] {
            let (want, have) = (optimize(&cpu, kind), optimize(&cuda, kind));
            assert!(want.0 == have.0, "state, {kind:?} {precision:?}");
            assert!(want.1 == have.1, "squares, {kind:?} {precision:?}");
            assert!(want.2 == have.2, "means, {kind:?} {precision:?}");
        }
    }
}

/// Largest difference, relative to the largest value.
fn far(what: &str, have: &[f32], want: &[f32], tolerance: f32) -> Option<String> {
    let size = want.iter().fold(1e-3f32, |a, b| a.max(b.abs()));
    let far = have.iter().zip(want).map(|(h, w)| (h - w).abs() / size);
    let worst = far.fold(0.0f32, |a, b| if b >= a || b.is_nan() { b } else { a });
    eprintln!("{what}: {worst:e}");
    // Written so that NaN counts as wrong.
    if worst <= tolerance {
        return None;
    }
    Some(format!("{what}: {worst:e}"))
}

fn products<D: Device<Float = f32>>(device: &D) -> Vec<(String, Vec<f32>)> {
    let r = &mut Random::new(5);
    let mut all = Vec::new();
    for (m, n, k) in [(1024, 768, 768), (515, 260, 777), (333, 2048, 96), (1, 1000, 64)] {
        let (a, b, c) = (random(r, m * k), random(r, k * n), random(r, m * n));
        for kind in 0..8 {
            let shape = Product {
                m,
                n,
                k,
                transpose_a: kind & 1 > 0,
                transpose_b: kind & 2 > 0,
                accumulate: kind & 4 > 0,
            };
            let (a, b, mut c) = (filled(device, &a), filled(device, &b), filled(device, &c));
            let c_view = whole_mut(&mut c, m * n);
            device
                .product(shape, c_view, whole(&a, m * k), whole(&b, k * n))
                .unwrap();
            all.push((format!("{shape:?}"), read(device, &c)));
        }
    }
    all
}

fn attentions<D: Device<Float = f32>>(device: &D) -> Vec<(String, Vec<f32>)> {
    let r = &mut Random::new(6);
    let mut all = Vec::new();
    for (sequences, seq_len, heads, kv_heads, head_dim) in [
        (2, 333, 8, 2, 64),
        (1, 256, 4, 4, 128),
        (1, 130, 3, 1, 96),
        (3, 64, 2, 2, 32),
        (1, 1024, 2, 1, 64),
    ] {
        let shape = AttentionShape {
            sequences,
            seq_len,
            heads,
            kv_heads,
            head_dim,
            scale: 1.0 / (head_dim as f64).sqrt(),
        };
        let (rows, fused) = (shape.rows(), shape.rows() * shape.stride());
        let (qkv, dout) = (random(r, fused), random(r, rows * shape.width()));
        let (qkv, dout) = (filled(device, &qkv), filled(device, &dout));
        let (mut out, mut dqkv) = (
            device.alloc(rows * shape.width()).unwrap(),
            device.alloc(fused).unwrap(),
        );
        let mut lse = device.alloc_wide(rows * heads).unwrap();
        let o = whole_mut(&mut out, rows * shape.width());
        device
            .attention(shape, whole(&qkv, fused), o, whole_mut(&mut lse, rows * heads))
            .unwrap();
        let all_of = |buffer| whole(buffer, device.len(buffer));
        let d = whole_mut(&mut dqkv, fused);
        device
            .attention_backward(shape, all_of(&qkv), all_of(&out), all_of(&lse), all_of(&dout), d)
            .unwrap();
        all.push((format!("out of {shape:?}"), read(device, &out)));
        all.push((format!("lse of {shape:?}"), read(device, &lse)));
        all.push((format!("gradient of {shape:?}"), read(device, &dqkv)));
    }
    all
}

fn rows<D: Device<Float = f32>>(device: &D) -> Vec<(String, Vec<f32>)> {
    let r = &mut Random::new(7);
    let mut all = Vec::new();
    let (count, width) = (530, 2048);
    let len = count * width;
    let (x, delta) = (filled(device, &random(r, len)), filled(device, &random(r, len)));
    let weight = state(device, device.alloc_weights(width).unwrap(), &random(r, width));
    let (mut sum, mut y) = (device.alloc(len).unwrap(), device.alloc(len).unwrap());
    let (mut rstd, mut dweight) = (
        device.alloc_wide(count).unwrap(),
        device.alloc_wide(width).unwrap(),
    );
    let pair = Some((whole(&delta, len), whole_mut(&mut sum, len)));
    let (to, root) = (whole_mut(&mut y, len), whole_mut(&mut rstd, count));
    device
        .norm(whole(&x, len), pair, whole(&weight, width), 1e-5, to, root)
        .unwrap();
    let (mut dy, mut dx) = (filled(device, &random(r, len)), filled(device, &random(r, len)));
    device
        .norm_backward(
            whole(&sum, len),
            whole(&weight, width),
            whole(&rstd, count),
            whole_mut(&mut dy, len),
            whole_mut(&mut dx, len),
            whole_mut(&mut dweight, width),
        )
        .unwrap();
    for (name, buffer) in [
        ("sum", &sum),
        ("normed", &y),
        ("rstd", &rstd),
        ("dx", &dx),
        ("dweight", &dweight),
        ("y again", &dy),
    ] {
        all.push((format!("norm {name}"), read(device, buffer)));
    }
    let (rows, vocab) = (70, 32_000);
    let logits: Vec<f32> = random(r, rows * vocab).iter().map(|v| v * 4.0).collect();
    let targets: Vec<u32> = (0..rows).map(|_| r.size(0..=vocab - 1) as u32).collect();
    let mut ids = device.alloc_indices().unwrap();
    device.write_indices(&mut ids, &targets).unwrap();
    let mut logits = filled(device, &logits);
    let loss = device
        .cross_entropy(whole_mut(&mut logits, rows * vocab), &ids, 0..rows, true)
        .unwrap();
    all.push(("loss".to_owned(), vec![loss as f32]));
    all.push(("loss gradient".to_owned(), read(device, &logits)));
    all
}

#[test]
fn shapes_of_real_models_agree_with_the_cpu() {
    let cpu = Cpu::<f32>::new(2).unwrap();
    let want = [products(&cpu), attentions(&cpu), rows(&cpu)].concat();
    let mut wrong = Vec::new();
    for (precision, tolerance) in [(Precision::F32, 1e-4), (Precision::Bf16, 2e-2)] {
        let Some(cuda) = cuda(precision) else { return };
        let have = [products(&cuda), attentions(&cuda), rows(&cuda)].concat();
        for ((what, have), (_, want)) in have.iter().zip(&want) {
            wrong.extend(far(&format!("{precision:?} {what}"), have, want, tolerance));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn weights_have_a_rounded_copy_that_products_read() {
    let Some(cuda) = cuda(Precision::Bf16) else { return };
    let mut weights = cuda.alloc_weights(4).unwrap();
    cuda.write(part_mut(&mut weights, 0..4), &[1.001, 2.0, 3.0, 4.0])
        .unwrap();
    assert_eq!(
        read(&cuda, &weights),
        [1.001, 2.0, 3.0, 4.0],
        "the master isn't rounded"
    );
    let (one, mut out) = (filled(&cuda, &[1.0]), cuda.alloc(4).unwrap());
    let shape = Product {
        m: 1,
        n: 4,
        k: 1,
        transpose_a: false,
        transpose_b: false,
        accumulate: false,
    };
    cuda.product(shape, whole_mut(&mut out, 4), whole(&one, 1), whole(&weights, 4))
        .unwrap();
    assert_eq!(read(&cuda, &out), [1.0, 2.0, 3.0, 4.0]);
    let refused = cuda.add(whole_mut(&mut weights, 4), whole(&out, 4));
    assert!(matches!(refused, Err(ComputeError::Device { .. })), "{refused:?}");
}

#[test]
fn wrong_operands_are_named() {
    let Some(cuda) = cuda(Precision::F32) else { return };
    let (a, mut c) = (cuda.alloc(6).unwrap(), cuda.alloc(4).unwrap());
    let error = cuda.add(whole_mut(&mut c, 4), part(&a, 1..4)).unwrap_err();
    let (op, what) = ("add", "source");
    assert_eq!(
        error,
        ComputeError::Shape {
            op,
            what,
            have: 3,
            want: 4
        }
    );
    let mut ids = cuda.alloc_indices().unwrap();
    cuda.write_indices(&mut ids, &[1, 3]).unwrap();
    let error = cuda
        .gather(2, whole(&a, 6), &ids, whole_mut(&mut c, 4))
        .unwrap_err();
    assert!(error.to_string().contains("vocabulary"), "{error}");
    let error = Cuda::open(99, Precision::F32).err().unwrap();
    assert!(error.to_string().contains("99"), "{error}");
}

#[test]
fn buffers_come_out_of_what_is_reserved_and_beside_it_when_that_is_full() {
    let Some(cuda) = cuda(Precision::F32) else { return };
    let opened = cuda.handed_out();
    let all = cuda.memory().unwrap().1;
    let error = cuda.reserve(all + 1, 0).unwrap_err();
    assert!(matches!(error, ComputeError::OutOfMemory { .. }), "{error:?}");
    cuda.reserve(8 << 20, 2 << 20).unwrap();
    let free = cuda.memory().unwrap().0;
    let six = |cuda: &Cuda| filled(cuda, &vec![1.5; 3 << 19]);
    let a = six(&cuda);
    assert_eq!((cuda.memory().unwrap().0, cuda.beside_reserved()), (free, 0));
    assert_eq!(cuda.handed_out().now - opened.now, 8 << 20);
    let b = six(&cuda);
    assert_eq!(cuda.beside_reserved(), 6 << 20);
    drop(a);
    let c = six(&cuda);
    assert_eq!(cuda.beside_reserved(), 6 << 20, "the place is used again");
    assert!(read(&cuda, &b).iter().chain(&read(&cuda, &c)).all(|x| *x == 1.5));
    assert_eq!(cuda.handed_out().peak - opened.now, 14 << 20);
}
