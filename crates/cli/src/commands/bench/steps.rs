//! Steps of a whole model on one device, timed.

use std::sync::Arc;
use std::time::Instant;

use rekindle_compute::{Device, Product, part_mut, whole, whole_mut};
use rekindle_model::{
    EngineError, ExactSum, MemoryReport, Philox, Stage, StageInput, StageOutput, StageSpec,
};

use super::capture::Taker;
use crate::problem::Problem;

/// What the steps took.
pub struct Timed {
    /// Of each step after the warm-up.
    pub seconds: Vec<f64>,
    /// Of the last step.
    pub loss: f64,
    /// What the stage holds.
    pub memory: MemoryReport,
    /// Of captures: times of all, longest begin, bytes of one.
    pub captured: Option<(Vec<f64>, f64, u64)>,
}

/// How many steps of how many micro-batches, and what is done beside them.
#[derive(Clone, Copy)]
pub struct Run<'a> {
    /// Micro-batches of a step.
    pub micro_batches: u32,
    /// Steps before time is taken.
    pub warm: u32,
    /// Steps that are timed.
    pub steps: u32,
    /// Whether the state is captured after each step.
    pub capture: bool,
    /// Waits for the device.
    pub done: &'a dyn Fn() -> Result<(), Problem>,
    /// Called when the warm-up is over.
    pub measured: &'a dyn Fn(),
    /// Called after the last step, while the model is there.
    pub ended: &'a dyn Fn(),
}

/// Trains a model of random weights on random tokens.
///
/// # Errors
/// What the device or the engine couldn't do.
pub fn train<D: Device<Float = f32>>(
    device: &Arc<D>,
    spec: StageSpec,
    run: Run<'_>,
) -> Result<Timed, Problem> {
    let (rows, tokens) = (spec.rows(), spec.tokens_per_step);
    let (philox, vocab) = (Philox::new(1), spec.model.vocab_size);
    let token = |i: usize, m: u32| philox.words([i as u32, m, 0, 0])[0] % vocab;
    let batches: Vec<Vec<u32>> = (0..run.micro_batches)
        .map(|m| (0..=rows).map(|i| token(i, m)).collect())
        .collect();
    let mut stage = Stage::new(Arc::clone(device), spec).map_err(failed)?;
    stage.init_weights(0).map_err(failed)?;
    let mut taker = if run.capture {
        Some(Taker::new(&mut stage)?)
    } else {
        None
    };
    let (mut seconds, mut loss) = (Vec::new(), 0.0);
    for s in 0..run.warm + run.steps {
        if s == run.warm {
            (run.measured)();
        }
        let began = Instant::now();
        loss = step(&mut stage, &batches, u64::from(s) + 1, tokens).map_err(failed)?;
        if let Some(taker) = &mut taker {
            taker.capture(&stage)?;
        }
        (run.done)()?;
        if s >= run.warm {
            seconds.push(began.elapsed().as_secs_f64());
        }
    }
    (run.ended)();
    Ok(Timed {
        seconds,
        loss,
        memory: stage.memory(),
        captured: taker.map(Taker::end).transpose()?,
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
