//! `rekindle generate --from FOLDER --prompt TEXT`

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use rekindle_checkpoint::HfModel;
use rekindle_compute::cuda::{Cuda, Precision};
use rekindle_compute::{AnyDevice, Cpu};
use rekindle_data::Tokenizer;
use rekindle_model::generate::{Sampling, sample};
use rekindle_model::{AdamW, Stage, StageSpec, StateKind};
use rekindle_types::{DeviceId, Numerics, Recompute};
use serde::Serialize;

use crate::device::DeviceArgs;
use crate::exit::Exit;
use crate::output::{self, Format};
use crate::problem::Problem;

/// Longest context used, tokens: attention over more takes longer than a sample is worth.
const MOST_CONTEXT: u32 = 1024;

/// Arguments of `rekindle generate`.
#[derive(Debug, Args)]
pub struct GenerateArgs {
    /// A Hugging Face folder: config.json and safetensors
    #[arg(long, value_name = "FOLDER")]
    from: PathBuf,
    /// The text to continue
    #[arg(long, value_name = "TEXT")]
    prompt: String,
    /// Tokens to add
    #[arg(long, default_value_t = 200, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    tokens: u32,
    /// 0 takes the likeliest token each time; higher values give more variety
    #[arg(long, default_value_t = 0.8, value_name = "T")]
    temperature: f64,
    /// The same seed gives the same text
    #[arg(long, default_value_t = 0, value_name = "S")]
    seed: u64,
    /// `bytes` or the path of a tokenizer.json (default: the folder's own, or else bytes)
    #[arg(long, value_name = "TOKENIZER")]
    tokenizer: Option<String>,
    /// Processor threads (default: all)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: Option<u32>,
    #[command(flatten)]
    device: DeviceArgs,
}

#[derive(Serialize)]
struct Generated<'a> {
    prompt: &'a str,
    text: &'a str,
}

/// Prints the prompt and its continuation.
///
/// # Errors
/// The folder, the tokenizer or the prompt can't be used.
pub fn run(args: &GenerateArgs, format: Format) -> Result<Exit, Problem> {
    if !(args.temperature.is_finite() && args.temperature >= 0.0) {
        return Err(Problem::new(format!(
            "--temperature {} is not a number of at least 0",
            args.temperature
        ))
        .exit(Exit::Usage));
    }
    let sampling = Sampling {
        tokens: args.tokens as usize,
        temperature: args.temperature,
        seed: args.seed,
    };
    let text = text(
        &args.from,
        args.tokenizer.as_deref(),
        &args.prompt,
        &sampling,
        (args.device.choose()?.first(), args.threads),
    )?;
    match format {
        Format::Json => output::json(&Generated {
            prompt: &args.prompt,
            text: &text,
        })?,
        Format::Table => output::data(&format!("{}{text}", args.prompt))?,
    }
    Ok(Exit::Ok)
}

/// The continuation of `prompt` by the model in `folder`, computed on this device with so many processor threads.
///
/// # Errors
/// As [`run`].
pub fn text(
    folder: &Path,
    tokenizer: Option<&str>,
    prompt: &str,
    sampling: &Sampling,
    on: (DeviceId, Option<u32>),
) -> Result<String, Problem> {
    let failed = |cause: &dyn std::fmt::Display| {
        Problem::new(format!("can't generate from {}", folder.display())).cause(cause)
    };
    let model = HfModel::open(folder).map_err(|e| failed(&e))?;
    let own = folder.join("tokenizer.json");
    let own = own.exists().then(|| own.display().to_string());
    let tokenizer = tokenizer
        .map(str::to_owned)
        .or(own)
        .unwrap_or_else(|| "bytes".to_owned());
    let tokenizer = Tokenizer::open(&tokenizer).map_err(|e| failed(&e))?;
    let prompt = tokenizer.encode(prompt).map_err(|e| failed(&e))?;
    let vocab = model.config().vocab_size;
    if prompt.is_empty() {
        return Err(failed(&"the prompt has no tokens").fix("give at least one character: --prompt TEXT"));
    }
    if let Some(id) = prompt.iter().find(|id| **id >= vocab) {
        let cause = format!("the tokenizer gives id {id}, the model has {vocab}");
        return Err(failed(&cause).fix("name the tokenizer it was trained with: --tokenizer PATH"));
    }
    let mut stage = load(&model, on).map_err(|e| failed(&e))?;
    let ids = sample(&mut stage, &prompt, sampling).map_err(|e| failed(&e))?;
    tokenizer.decode(&ids).map_err(|e| failed(&e))
}

/// The whole model on one stage.
fn load(
    model: &HfModel,
    (device, threads): (DeviceId, Option<u32>),
) -> Result<Stage<AnyDevice>, Box<dyn std::error::Error>> {
    let threads = threads.map_or_else(crate::local::cores, |n| n as usize);
    let device: AnyDevice = match device {
        DeviceId::Cpu => Cpu::new(threads)?.into(),
        DeviceId::Cuda(number) => Cuda::open(i32::from(number), Precision::F32)?.into(),
    };
    let config = model.config();
    let seq_len = config.max_position_embeddings.min(MOST_CONTEXT);
    let spec = StageSpec {
        model: config.clone(),
        layers: 0..config.num_hidden_layers + 2,
        micro_batch: 1,
        seq_len,
        // Nothing is trained here; the smaller sums take less memory.
        numerics: Numerics::Fast,
        recompute: Recompute::None,
        tokens_per_step: u64::from(seq_len),
        lane: 0,
        lanes: 1,
        optimizer: AdamW {
            betas: [0.9, 0.95],
            eps: 1e-8,
            weight_decay: 0.0,
        },
    };
    let mut stage = Stage::new(Arc::new(device), spec)?;
    for layer in stage.layers() {
        stage.import(layer, StateKind::Weights, 0, &model.read_layer(layer)?)?;
    }
    Ok(stage)
}
