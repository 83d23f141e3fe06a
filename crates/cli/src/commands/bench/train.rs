//! `rekindle bench train`

use std::cell::Cell;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use rekindle_compute::Cpu;
use rekindle_compute::cuda::{Cuda, Precision};
use rekindle_model::{AdamW, StageSpec};
use rekindle_types::{DeviceId, ModelConfig, Numerics, Recompute};

use super::capture::{Captured, alone};
use super::model::{ModelArgs, flops_per_token};
use super::report::{Kernel, Report};
use super::steps::{Run, Timed, peak, train};
use crate::device::DeviceArgs;
use crate::exit::Exit;
use crate::output::Format;
use crate::problem::Problem;

/// Steps before time is taken.
const WARM: u32 = 3;

/// Arguments of `rekindle bench train`.
#[derive(Debug, Args)]
pub struct TrainArgs {
    #[command(flatten)]
    device: DeviceArgs,
    /// Precision of activations and products
    #[arg(long, value_enum, default_value = "f32")]
    dtype: Dtype,
    /// How gradients are summed
    #[arg(long, value_enum, default_value = "exact")]
    numerics: Sums,
    /// Keep only each block's input for the backward pass
    #[arg(long)]
    recompute: bool,
    /// Tokens of a sequence
    #[arg(long, value_name = "N", default_value_t = 256)]
    seq: u32,
    /// Sequences of a micro-batch
    #[arg(long, value_name = "N", default_value_t = 8)]
    micro_batch: u32,
    /// Micro-batches of a step
    #[arg(long, value_name = "N", default_value_t = 4)]
    micro_batches: u32,
    /// Steps to measure, after a few to warm up
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// Threads of a CPU
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Say how long each kind of kernel takes, in steps of their own (CUDA)
    #[arg(long)]
    kernels: bool,
    /// Capture the whole state after each step, in steps of their own (CUDA): what a checkpoint at every step would
    /// cost without a store
    #[arg(long)]
    capture: bool,
    #[command(flatten, next_help_heading = "Model")]
    model: ModelArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Dtype {
    /// Single precision
    F32,
    /// bfloat16, on CUDA
    Bf16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Sums {
    /// In 64-bit fixed point: the order doesn't show
    Exact,
    /// In floats
    Fast,
}

impl TrainArgs {
    fn spec(&self, model: ModelConfig) -> StageSpec {
        StageSpec {
            layers: 0..model.num_hidden_layers + 2,
            micro_batch: self.micro_batch,
            seq_len: self.seq,
            numerics: match self.numerics {
                Sums::Exact => Numerics::Exact,
                Sums::Fast => Numerics::Fast,
            },
            recompute: if self.recompute {
                Recompute::Block
            } else {
                Recompute::None
            },
            tokens_per_step: self.tokens(),
            lane: 0,
            lanes: 1,
            optimizer: AdamW {
                betas: [0.9, 0.95],
                eps: 1e-8,
                weight_decay: 0.01,
            },
            model,
        }
    }

    fn tokens(&self) -> u64 {
        u64::from(self.micro_batches) * u64::from(self.micro_batch) * u64::from(self.seq)
    }

    fn steps<'a>(&self, done: &'a dyn Fn() -> Result<(), Problem>, measured: &'a dyn Fn()) -> Run<'a> {
        Run {
            micro_batches: self.micro_batches,
            warm: WARM,
            steps: self.steps,
            capture: false,
            done,
            measured,
            ended: &|| (),
        }
    }

    fn report(&self, device: String, model: &ModelConfig, timed: &Timed, peak: f64) -> Report {
        let name = |value: &dyn std::fmt::Debug| format!("{value:?}").to_lowercase();
        Report::new(
            (device, name(&self.dtype), name(&self.numerics)),
            (model.parameters(), self.tokens()),
            (timed, flops_per_token(model, self.seq), peak),
        )
    }
}

/// Runs the command.
///
/// # Errors
/// [`Problem`] for a device that isn't there, or a model it can't hold.
pub fn run(args: &TrainArgs, format: Format) -> Result<Exit, Problem> {
    let model = args.model.config(args.seq);
    let report = match args.device.choose()?.first() {
        DeviceId::Cpu => on_cpu(args, model)?,
        DeviceId::Cuda(number) => on_cuda(args, model, i32::from(number))?,
    };
    report.print(format)?;
    Ok(Exit::Ok)
}

fn on_cpu(args: &TrainArgs, model: ModelConfig) -> Result<Report, Problem> {
    if args.dtype == Dtype::Bf16 {
        return Err(Problem::new("bf16 wants a CUDA device; a CPU trains in f32"));
    }
    if args.kernels || args.capture {
        return Err(Problem::new("--kernels and --capture want a CUDA device"));
    }
    let threads = args
        .threads
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let device = Cpu::<f32>::new(threads).map_err(|e| Problem::new("the CPU can't be used").cause(e))?;
    let device = Arc::new(device);
    let done = || Ok(());
    let timed = train(&device, args.spec(model.clone()), args.steps(&done, &|| ()))?;
    let peak = peak(&*device, (1024, 5), &done)?;
    Ok(args.report(format!("cpu, {threads} threads"), &model, &timed, peak))
}

fn on_cuda(args: &TrainArgs, model: ModelConfig, ordinal: i32) -> Result<Report, Problem> {
    let failed = |error| Problem::new("the device can't be used").cause(error);
    let precision = match args.dtype {
        Dtype::F32 => Precision::F32,
        Dtype::Bf16 => Precision::Bf16,
    };
    let device = Arc::new(Cuda::open(ordinal, precision).map_err(failed)?);
    let done = || device.synchronize().map_err(failed);
    let peak = peak(&*device, (8192, 10), &done)?;
    let used = Cell::new(None);
    let look = || used.set(device.memory().ok().map(|(free, all)| (all - free) as u64));
    let run = Run {
        ended: &look,
        ..args.steps(&done, &|| ())
    };
    let timed = train(&device, args.spec(model.clone()), run)?;
    let mut report = args.report(device.name().to_owned(), &model, &timed, peak);
    report.device_memory_used = used.get();
    if args.kernels {
        // Events between kernels cost time, so these are other steps than those that were timed.
        let note = || device.note_spans(true);
        let run = Run {
            steps: 2,
            ..args.steps(&done, &note)
        };
        train(&device, args.spec(model.clone()), run)?;
        let spans = device.take_spans().map_err(failed)?;
        device.note_spans(false);
        let kernel = |(name, span)| Kernel::new(name, span, 2);
        report.kernels = spans.into_iter().map(kernel).collect();
        report.kernels.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    }
    if args.capture {
        let run = Run {
            capture: true,
            ..args.steps(&done, &|| ())
        };
        let mut timed = train(&device, args.spec(model), run)?;
        let (mut times, begin_seconds, bytes) = timed.captured.take().unwrap_or_default();
        report.captured = Some(Captured {
            bytes,
            seconds: median(&mut times),
            begin_seconds,
            alone_bytes_per_second: alone(&device)?,
            step_seconds: median(&mut timed.seconds),
        });
    }
    Ok(report)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
