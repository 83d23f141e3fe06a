//! Steps of a whole model on one device, timed.

use std::sync::Arc;
use std::time::Instant;

use rekindle_compute::{Device, Product, part_mut, whole, whole_mut};
use rekindle_model::{
    EngineError, ExactSum, MemoryReport, Philox, Stage, StageInput, StageOutput, StageSpec,
};

use crate::problem::Problem;

/// What the steps took.
pub struct Timed {
    /// Of each step after the warm-up.
    pub seconds: Vec<f64>,
    /// Of the last step.
    pub loss: f64,
    /// What the stage holds.
    pub memory: MemoryReport,
}

/// Trains `steps` steps of `micro_batches` after `warm` ones. `done` waits for the device; `measured` is called when the warm-up is over.
///
/// # Errors
/// What the device or the engine couldn't do.
pub fn train<D: Device<Float = f32>>(
    device: &Arc<D>,
    spec: StageSpec,
    (micro_batches, warm, steps): (u32, u32, u32),
    done: &dyn Fn() -> Result<(), Problem>,
    measured: &dyn Fn(),
) -> Result<Timed, Problem> {
    let (rows, tokens) = (spec.rows(), spec.tokens_per_step);
    let (philox, vocab) = (Philox::new(1), spec.model.vocab_size);
    let token = |i: usize, m: u32| philox.words([i as u32, m, 0, 0])[0] % vocab;
    let batches: Vec<Vec<u32>> = (0..micro_batches)
        .map(|m| (0..=rows).map(|i| token(i, m)).collect())
        .collect();
    let mut stage = Stage::new(Arc::clone(device), spec).map_err(failed)?;
    stage.init_weights(0).map_err(failed)?;
    let (mut seconds, mut loss) = (Vec::new(), 0.0);
    for s in 0..warm + steps {
        if s == warm {
            measured();
        }
        let began = Instant::now();
        loss = step(&mut stage, &batches, u64::from(s) + 1, tokens).map_err(failed)?;
        done()?;
        if s >= warm {
            seconds.push(began.elapsed().as_secs_f64());
        }
    }
    Ok(Timed {
        seconds,
        loss,
        memory: stage.memory(),
    })
}

fn failed(error: EngineError) -> Problem {
    Problem::new("the benchmark can't train").cause(error)
}

fn step<D: Device>(
    stage: &mut Stage<D>,
    batches: &[Vec<u32>],
    step: u64,
    tokens: u64,
) -> Result<f64, EngineError> {
    let mut total = Some(ExactSum::default());
    for tokens in batches {
        let (inputs, targets) = (&tokens[..tokens.len() - 1], &tokens[1..]);
        if let StageOutput::Loss { sum } = stage.forward(0, StageInput::Tokens(inputs), Some(targets))? {
            total = total.and_then(|total| total.add(ExactSum::of_loss(sum)?));
        }
        stage.backward(0, None, &mut |_, _| {})?;
    }
    let norm = stage.finish_gradients()?.sum_squares.norm();
    for layer in stage.layers() {
        stage.update(layer, step, 3e-4, (1.0 / (norm + 1e-6)).min(1.0))?;
    }
    Ok(total.map_or(f64::NAN, |total| total.mean_loss(tokens)))
}

/// Operations a second of a product of three square matrices of `size`, the best of `rounds`.
///
/// # Errors
/// What the device couldn't do.
pub fn peak<D: Device<Float = f32>>(
    device: &D,
    (size, rounds): (usize, usize),
    done: &dyn Fn() -> Result<(), Problem>,
) -> Result<f64, Problem> {
    let failed = |error| Problem::new("the device's peak can't be measured").cause(error);
    let len = size * size;
    // Not zeroes, on which a device is faster than on numbers.
    let values: Vec<f32> = (0..len)
        .map(|i| (i * 7919 % 10_007) as f32 / 5000.0 - 1.0)
        .collect();
    let filled = || {
        let mut buffer = device.alloc(len)?;
        device.write(part_mut(&mut buffer, 0..len), &values)?;
        Ok(buffer)
    };
    let (a, b) = (filled().map_err(failed)?, filled().map_err(failed)?);
    let mut c = device.alloc(len).map_err(failed)?;
    let shape = Product {
        m: size,
        n: size,
        k: size,
        transpose_a: false,
        transpose_b: true,
        accumulate: false,
    };
    let mut best = f64::INFINITY;
    for _ in 0..=rounds {
        done()?;
        let began = Instant::now();
        let c = whole_mut(&mut c, len);
        device
            .product(shape, c, whole(&a, len), whole(&b, len))
            .map_err(failed)?;
        done()?;
        best = best.min(began.elapsed().as_secs_f64());
    }
    Ok(2.0 * (size as f64).powi(3) / best)
}
