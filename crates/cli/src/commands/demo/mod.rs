//! `rekindle demo`: a cluster, a small model, text this machine has, a sample of what was learned.

mod job;
mod text;

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use rekindle_data::Corpus;
use rekindle_model::generate::Sampling;
use rekindle_types::{JobSpec, JobState};
use serde::Serialize;

use crate::commands::run::{self, ChildArgs, Summary};
use crate::commands::{generate, plan};
use crate::exit::Exit;
use crate::local::RunFolder;
use crate::output::{self, Format};
use crate::problem::Problem;
use crate::progress::duration;
use crate::shutdown::Shutdown;
use crate::{job_file, local};
use job::DemoJob;

/// Chosen so that the demo takes less than two minutes on two processor cores.
const STEPS: u64 = 550;
const PROMPT: &str = "The ";
const SAMPLE: Sampling = Sampling {
    tokens: 320,
    temperature: 0.6,
    seed: 1,
};

/// Arguments of `rekindle demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Text to train on: files, folders or globs (default: this repository's, or text under the current directory)
    #[arg(long, value_name = "PATH", num_args = 1..)]
    data: Vec<PathBuf>,
    /// Print one JSON summary; the same as -o json
    #[arg(long)]
    json: bool,
    /// Worker processes, one pipeline stage each
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=6))]
    workers: u32,
    /// Steps to train
    #[arg(long, default_value_t = STEPS, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    steps: u64,
    /// The run's folder (default: a new one under ./runs)
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    #[command(flatten)]
    children: ChildArgs,
}

#[derive(Serialize)]
struct DemoSummary {
    #[serde(flatten)]
    run: Summary,
    parameters: u64,
    workers: u32,
    text_bytes: u64,
    /// Nats per byte, as is the loss.
    unigram_entropy: f64,
    trained_tokens: u64,
    sample: Option<String>,
}

/// Trains and shows.
///
/// # Errors
/// There is too little text, the folder is taken, or the cluster can't be started.
pub async fn run(args: DemoArgs, format: Format) -> Result<Exit, Problem> {
    let json = args.json || format == Format::Json;
    let spec = prepare(&args)?;
    let corpus = Corpus::open(&spec.data, spec.model.vocab_size)
        .map_err(|e| Problem::new("the text can't be used").cause(e))?;
    let entropy = rekindle_data::unigram_entropy(&corpus);
    output::say(&format!(
        "training {:.1} million parameters on {:.1} MB of text in {} files, {} workers, run folder {}",
        spec.model.parameters() as f64 / 1e6,
        corpus.tokens() as f64 / 1e6,
        spec.data.train.len(),
        args.workers,
        spec.job.folder().display()
    ));
    if !json {
        output::say(plan::report(&spec, args.workers)?.to_string().trim_end());
    }
    let run_folder = RunFolder::take(&spec)?;
    let options = run::cluster_options(&spec, &run_folder, args.workers, None, &args.children)?;
    let shutdown = Shutdown::listen()?;
    let outcome = local::train(spec.clone(), run_folder, options, &shutdown).await?;
    let run = run::summary(&spec, &outcome);
    let sample = run
        .hf
        .as_deref()
        .map(|hf| generate::text(hf, None, PROMPT, &SAMPLE, None))
        .transpose()?;
    let summary = DemoSummary {
        parameters: spec.model.parameters(),
        workers: args.workers,
        text_bytes: corpus.tokens(),
        unigram_entropy: entropy,
        trained_tokens: run.step * spec.tokens_per_step(),
        sample,
        run,
    };
    if json {
        output::json(&summary)?
    } else {
        print(&summary)?
    }
    Ok(run::exit(&outcome))
}

/// Writes the job file into the run's folder and reads it back as any job's.
fn prepare(args: &DemoArgs) -> Result<JobSpec, Problem> {
    let data = if args.data.is_empty() {
        text::find()?
    } else {
        absolute(&args.data)?
    };
    let folder = args
        .output
        .clone()
        .unwrap_or_else(|| Path::new("runs").join(format!("demo-{}", seconds())));
    let folder = absolute(&[folder])?.swap_remove(0);
    if folder.join("job.toml").exists() || folder.join("metrics.jsonl").exists() {
        return Err(Problem::new(format!("{} holds a run already", folder.display()))
            .fix("name another: --output DIR"));
    }
    let made = std::fs::create_dir_all(&folder);
    made.map_err(|e| Problem::new(format!("can't make the folder {}", folder.display())).cause(e))?;
    let path = folder.join("job.toml");
    let job = DemoJob {
        steps: args.steps,
        data: &data,
        output: &folder,
        stages: args.workers,
    };
    std::fs::write(&path, job.toml())
        .map_err(|e| Problem::new(format!("can't write {}", path.display())).cause(e))?;
    let spec = job_file::load(&path)?;
    job_file::check_data(&spec)?;
    Ok(spec)
}

fn absolute(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Problem> {
    let one = |path: &PathBuf| {
        std::path::absolute(path).map_err(|e| Problem::new(format!("can't use {}", path.display())).cause(e))
    };
    paths.iter().map(one).collect()
}

fn seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs())
}

fn print(summary: &DemoSummary) -> Result<(), Problem> {
    let run = &summary.run;
    let mut rows = Vec::new();
    let mut row = |name: &str, value: String| rows.push(vec![name.to_owned(), value]);
    row(
        "state",
        run.state.map_or_else(|| "stopped".to_owned(), |s| s.to_string()),
    );
    if let Some(failure) = &run.failure {
        row("failure", crate::follow::failure_text(failure));
    }
    row(
        "steps",
        format!(
            "{} of {}, {} tokens",
            run.step, run.total_steps, summary.trained_tokens
        ),
    );
    if let Some(loss) = run.final_loss {
        row("final loss", format!("{loss:.4} nats per byte"));
    }
    row(
        "unigram entropy",
        format!(
            "{:.4} nats per byte: what letter counts alone would reach",
            summary.unigram_entropy
        ),
    );
    row("took", duration(run.seconds));
    row("run", run.output.display().to_string());
    if let Some(hf) = &run.hf {
        row("model", hf.display().to_string());
    }
    output::table(&["WHAT", "VALUE"], rows)?;
    if let Some(sample) = &summary.sample {
        output::data(&format!("\na sample:\n\n{PROMPT}{sample}"))?;
    }
    if run.state == Some(JobState::Succeeded) {
        let hf = run.output.join("hf");
        output::say(&format!(
            "\nmore: rekindle generate --from {} --prompt 'fn '",
            hf.display()
        ));
    }
    Ok(())
}
