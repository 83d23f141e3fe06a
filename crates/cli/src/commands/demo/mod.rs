//! `rekindle demo`: a cluster, a small model, text this machine has, processes that are killed on the way, the
//! comparison with a run that nobody disturbed, a sample of what was learned.

mod job;
mod proof;
mod text;

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use rekindle_data::Corpus;
use rekindle_model::generate::Sampling;
use rekindle_types::{Incident, JobSpec, JobState};
use serde::Serialize;

use crate::commands::explain::{self, Explained};
use crate::commands::run::{self, ChildArgs, Summary};
use crate::commands::{generate, plan};
use crate::exit::Exit;
use crate::local::{Outcome, RunFolder};
use crate::output::{self, Format};
use crate::problem::Problem;
use crate::progress::duration;
use crate::shutdown::Shutdown;
use crate::{job_file, local};
use job::DemoJob;
use proof::Undisturbed;

/// Chosen so that the demo takes less than two minutes on two processor cores, the undisturbed run included.
const STEPS: u64 = 500;
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
    /// Kill nobody on the way, and leave out the undisturbed run that is compared with
    #[arg(long)]
    no_kill: bool,
    #[command(flatten)]
    children: ChildArgs,
}

#[derive(Serialize)]
struct DemoSummary<'a> {
    #[serde(flatten)]
    run: Summary,
    /// What was lost on the way, as `rekindle explain` tells it.
    incidents: Vec<Explained<'a>>,
    undisturbed: Option<Undisturbed>,
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
    let mut options = run::cluster_options(&spec, &run_folder, args.workers, None, &args.children)?;
    let shutdown = Shutdown::listen()?;
    let kills = if args.no_kill {
        Vec::new()
    } else {
        proof::kills(args.steps)
    };
    options.allow_chaos |= !kills.is_empty();
    let device = options.devices.first();
    let outcome = local::train(spec.clone(), run_folder, options, &kills, &shutdown).await?;
    let undisturbed = match args.no_kill {
        true => None,
        false => proof::compare(&spec, &outcome, &args.children, &shutdown).await?,
    };
    let run = run::summary(&spec, &outcome);
    let sample = run
        .hf
        .as_deref()
        .map(|hf| generate::text(hf, None, PROMPT, &SAMPLE, (device, None)))
        .transpose()?;
    let summary = DemoSummary {
        parameters: spec.model.parameters(),
        workers: args.workers,
        text_bytes: corpus.tokens(),
        unigram_entropy: entropy,
        trained_tokens: run.step * spec.tokens_per_step(),
        sample,
        run,
        incidents: outcome.incidents.iter().map(explain::explained).collect(),
        undisturbed,
    };
    if json {
        output::json(&summary)?
    } else {
        print(&summary, &outcome.incidents)?
    }
    exit(&outcome, summary.undisturbed.as_ref())
}

/// The exit status of the run, if the other run ended in the same state.
fn exit(outcome: &Outcome, undisturbed: Option<&Undisturbed>) -> Result<Exit, Problem> {
    match undisturbed {
        Some(other) if other.state_digest.is_none() => Ok(Exit::JobUnfinished),
        Some(other) if !other.same => Err(Problem::new(
            "the disturbed run ended in another state than the undisturbed one",
        )
        .cause("a defect of Rekindle: what was lost didn't come back exactly")
        .fix("compare metrics.jsonl of both runs; the first step that differs says where")),
        _ => Ok(run::exit(outcome)),
    }
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

fn told(other: &Undisturbed) -> String {
    let took = duration(other.seconds);
    match &other.state_digest {
        Some(digest) if other.same => {
            format!("{digest}, the same, from a run of {took} on one worker that was left alone")
        }
        Some(digest) => {
            format!("{digest}, which is ANOTHER, from a run of {took} on one worker that was left alone")
        }
        None => "not known, as that run was stopped".to_owned(),
    }
}

fn print(summary: &DemoSummary<'_>, incidents: &[Incident]) -> Result<(), Problem> {
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
    if incidents.is_empty() && summary.undisturbed.is_some() {
        row(
            "lost",
            "nothing: the run was over before anything was killed".to_owned(),
        );
    }
    for incident in incidents {
        row("lost", crate::follow::loss_text(incident));
    }
    if let Some(digest) = &run.state_digest {
        row("state digest", digest.clone());
    }
    if let Some(other) = &summary.undisturbed {
        row("undisturbed", told(other));
    }
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
