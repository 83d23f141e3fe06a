//! `rekindle experiment recovery`: what each way of getting a lost pipeline stage back costs, measured on this machine.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand, ValueEnum};
use rekindle_experiment::{
    Config, ExperimentError, Failing, Method, Outcome, Progress, Results, Row, Spread, StepTime, Text,
    run as make, write,
};
use serde::Serialize;

use crate::exit::Exit;
use crate::output::{self, Format};
use crate::problem::Problem;

/// Text that developers of this project have beside it.
const USUAL_DATA: &str = "../shared/data";

/// What `rekindle experiment` can do.
#[derive(Debug, Subcommand)]
pub enum ExperimentCommand {
    /// Compare recovery methods for a lost pipeline stage: real training, drawn failures, one process
    Recovery(Box<RecoveryArgs>),
}

/// Arguments of `rekindle experiment recovery`. What isn't given is taken from the quick or the long experiment.
#[derive(Debug, Args)]
pub struct RecoveryArgs {
    /// The small experiment of a few minutes instead of the long one of many hours
    #[arg(long)]
    quick: bool,
    /// Files, folders or globs of text (default: ../shared/data where it exists)
    #[arg(long, value_name = "PATH", num_args = 1..)]
    data: Vec<String>,
    /// Folder for results.json, table.md, loss.svg, time-to-target.svg (default: runs/recovery-SECONDS)
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    #[command(flatten, next_help_heading = "Grid")]
    grid: Grid,
    #[command(flatten, next_help_heading = "Model and training")]
    training: Training,
    #[command(
        flatten,
        next_help_heading = "What isn't measured, in steps (from arXiv 2506.15461)"
    )]
    costs: Costs,
}

#[derive(Debug, Args)]
struct Grid {
    /// Methods: none, none:boost, none:swap, checkpoint-N, redundant, shadow, random, copy, average, checkfree,
    /// checkfree+, loss-aware; the last six take :keep, :decay or :flat (learning rate), all of them but random
    /// :fresh, :second or :both (moments), checkfree and checkfree+ :l2, :squared or :uniform
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    methods: Option<Vec<Method>>,
    /// Seeds of weights, samples and failures
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    seeds: Option<Vec<u64>>,
    /// Probabilities that one stage is lost in one iteration
    #[arg(long, value_name = "P,…", value_delimiter = ',')]
    rates: Option<Vec<f64>>,
    /// Which stages can be lost
    #[arg(long, value_enum)]
    failing: Option<FailingStages>,
    /// Committed steps of a run
    #[arg(long, value_name = "N")]
    steps: Option<u64>,
    /// A run that hasn't met the target ends after this many times the steps
    #[arg(long, value_name = "FACTOR")]
    longest: Option<f64>,
    /// The target is the undisturbed run's held-out loss at this share of its steps
    #[arg(long, value_name = "SHARE")]
    target_share: Option<f64>,
    /// Steps between evaluations
    #[arg(long, value_name = "N")]
    eval_every: Option<u64>,
    /// Held-out sequences of an evaluation
    #[arg(long, value_name = "N")]
    eval_sequences: Option<u32>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum FailingStages {
    /// Block stages with two neighbours
    Inner,
    /// All block stages
    Blocks,
    /// All block stages, the embedding and the head
    All,
}

#[derive(Debug, Args)]
struct Training {
    /// Width of the model
    #[arg(long, value_name = "N")]
    hidden: Option<u32>,
    /// Attention heads
    #[arg(long, value_name = "N")]
    heads: Option<u32>,
    /// Block stages of the pipeline, besides the embedding and the head
    #[arg(long, value_name = "N")]
    stages: Option<u32>,
    /// Blocks of a stage
    #[arg(long, value_name = "N")]
    blocks_per_stage: Option<u32>,
    /// Bytes of a sequence
    #[arg(long, value_name = "N")]
    seq_len: Option<u32>,
    /// Sequences of a micro-batch
    #[arg(long, value_name = "N")]
    micro_batch: Option<u32>,
    /// Micro-batches of a step, an even number
    #[arg(long, value_name = "N")]
    micro_batches: Option<u32>,
    /// Learning rate
    #[arg(long, value_name = "RATE")]
    lr: Option<f64>,
    /// Factor on a rebuilt stage's learning rate
    #[arg(long, value_name = "FACTOR")]
    boost: Option<f64>,
    /// Steps until a factor that decays is gone
    #[arg(long, value_name = "N")]
    boost_decay: Option<u64>,
    /// Threads that compute
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: Option<u16>,
}

#[derive(Debug, Args)]
struct Costs {
    /// Detecting a loss and replacing the stage
    #[arg(long, value_name = "STEPS")]
    cost_recovery: Option<f64>,
    /// Writing a checkpoint
    #[arg(long, value_name = "STEPS")]
    cost_checkpoint: Option<f64>,
    /// Reading a checkpoint
    #[arg(long, value_name = "STEPS")]
    cost_restore: Option<f64>,
    /// A step with redundant computation
    #[arg(long, value_name = "STEPS")]
    cost_redundant: Option<f64>,
    /// What shadows' gradients on the network add to each step
    #[arg(long, value_name = "STEPS")]
    cost_shadow: Option<f64>,
    /// What CheckFree+'s copies of embedding and head add to each step
    #[arg(long, value_name = "STEPS")]
    cost_replica: Option<f64>,
}

/// What `-o json` prints: the table, and where the rest is.
#[derive(Serialize)]
struct Summary<'a> {
    output: &'a Path,
    parameters: u64,
    step_time: StepTime,
    rows: &'a [Row],
}

/// Runs the experiment.
///
/// # Errors
/// An option or text that can't be used, a folder that can't be written, an exact method that isn't.
pub fn run(command: &ExperimentCommand, format: Format) -> Result<Exit, Problem> {
    let ExperimentCommand::Recovery(args) = command;
    let (config, inputs, folder) = (config(args), inputs(args)?, folder(args)?);
    config.validate().map_err(|e| problem(&e))?;
    let text = Text::open(&inputs, config.shape.seq_len).map_err(|e| problem(&e))?;
    let results = make(&config, &text, &inputs, &mut |progress| {
        tell(progress);
        write(progress.results, &folder)
    })
    .map_err(|e| problem(&e))?;
    print(&results, &folder, format)?;
    Ok(Exit::Ok)
}

fn problem(error: &ExperimentError) -> Problem {
    let problem = Problem::new("the experiment can't be run").cause(error);
    match error {
        ExperimentError::Config { .. } => problem
            .exit(Exit::Usage)
            .fix("change the option; rekindle experiment recovery --help says what each means"),
        _ => problem,
    }
}

fn inputs(args: &RecoveryArgs) -> Result<Vec<String>, Problem> {
    if !args.data.is_empty() {
        return Ok(args.data.clone());
    }
    if Path::new(USUAL_DATA).is_dir() {
        return Ok(vec![USUAL_DATA.to_owned()]);
    }
    Err(Problem::new("there is no text to train on")
        .cause(format!("{USUAL_DATA} doesn't exist here"))
        .fix("name some, a few hundred kB at least: --data PATH…")
        .exit(Exit::Usage))
}

fn folder(args: &RecoveryArgs) -> Result<PathBuf, Problem> {
    let folder = args.output.clone().unwrap_or_else(|| {
        let seconds = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |t| t.as_secs());
        Path::new("runs").join(format!("recovery-{seconds}"))
    });
    if folder.join("results.json").exists() {
        return Err(
            Problem::new(format!("{} holds results already", folder.display()))
                .fix("name another: --output DIR"),
        );
    }
    Ok(folder)
}

fn config(args: &RecoveryArgs) -> Config {
    let mut config = if args.quick {
        Config::quick()
    } else {
        Config::full()
    };
    let (grid, training) = (&args.grid, &args.training);
    set(&mut config.methods, &grid.methods);
    set(&mut config.seeds, &grid.seeds);
    set(&mut config.rates, &grid.rates);
    set(&mut config.failing, &grid.failing.map(Failing::from));
    set(&mut config.steps, &grid.steps);
    set(&mut config.longest, &grid.longest);
    set(&mut config.target_share, &grid.target_share);
    set(&mut config.eval_every, &grid.eval_every);
    set(&mut config.eval_sequences, &grid.eval_sequences);
    set(&mut config.lr, &training.lr);
    set(&mut config.boost, &training.boost);
    set(&mut config.boost_decay, &training.boost_decay);
    set(&mut config.threads, &training.threads.map(usize::from));
    let shape = &mut config.shape;
    set(&mut shape.hidden, &training.hidden);
    set(&mut shape.heads, &training.heads);
    set(&mut shape.stages, &training.stages);
    set(&mut shape.blocks_per_stage, &training.blocks_per_stage);
    set(&mut shape.seq_len, &training.seq_len);
    set(&mut shape.micro_batch, &training.micro_batch);
    set(&mut shape.micro_batches, &training.micro_batches);
    let (costs, given) = (&mut config.costs, &args.costs);
    set(&mut costs.recovery, &given.cost_recovery);
    set(&mut costs.checkpoint, &given.cost_checkpoint);
    set(&mut costs.restore, &given.cost_restore);
    set(&mut costs.redundant, &given.cost_redundant);
    set(&mut costs.shadow, &given.cost_shadow);
    set(&mut costs.replica, &given.cost_replica);
    config
}

fn set<T: Clone>(value: &mut T, given: &Option<T>) {
    if let Some(given) = given {
        value.clone_from(given);
    }
}

impl From<FailingStages> for Failing {
    fn from(stages: FailingStages) -> Self {
        match stages {
            FailingStages::Inner => Self::Inner,
            FailingStages::Blocks => Self::Blocks,
            FailingStages::All => Self::All,
        }
    }
}

/// One line per run, on stderr.
fn tell(progress: &Progress<'_>) {
    let (results, planned) = (progress.results, progress.planned);
    let Some(run) = results.runs.last() else {
        return;
    };
    let rate = run.rate.map_or(String::new(), |r| format!(", rate {r}"));
    let end = match (&run.outcome, run.loss_at(results.config.steps)) {
        (Outcome::Refused { reason }, _) => {
            format!("ended after {} iterations: {reason}", run.at_end.iterations)
        }
        (_, Some(loss)) => format!(
            "held-out loss {loss:.3} after {} iterations",
            run.at_end.iterations
        ),
        (_, None) => format!("not finished after {} iterations", run.at_end.iterations),
    };
    let done = results.runs.len();
    output::say(&format!(
        "[{done}/{planned}] seed {}{rate}, {}: {end}, {} stages lost, {:.0} s",
        run.seed, run.method, run.at_end.stages_lost, run.compute_seconds
    ));
}

fn print(results: &Results, folder: &Path, format: Format) -> Result<(), Problem> {
    if format == Format::Json {
        return output::json(&Summary {
            output: folder,
            parameters: results.parameters,
            step_time: results.step_time,
            rows: &results.rows,
        });
    }
    let headers = [
        "RATE",
        "METHOD",
        "EXACT",
        "LOSS",
        "ITERATIONS",
        "RELATIVE",
        "TIME",
        "AGAIN",
    ];
    output::table(&headers, results.rows.iter().map(row).collect())?;
    output::say(&format!(
        "LOSS: held out, after all steps; ITERATIONS and TIME: to the target, RELATIVE to no failure; AGAIN: steps run again; (1/2): 1 of 2 seeds.\n\
         table.md in {} says more",
        folder.display()
    ));
    Ok(())
}

fn row(row: &Row) -> Vec<String> {
    // Some seeds may have got there and others not; a mean over the ones that did says less.
    let mean = |spread: Option<Spread>, digits: usize| match spread {
        Some(s) if s.count < row.runs => format!("{:.digits$} ({}/{})", s.mean, s.count, row.runs),
        Some(s) => format!("{:.digits$}", s.mean),
        None => "-".to_owned(),
    };
    vec![
        row.rate.to_string(),
        row.method.to_string(),
        match row.method {
            Method::Undisturbed(_) => "-",
            _ if row.exact => "yes",
            _ => "no",
        }
        .to_owned(),
        mean(row.final_loss, 3),
        mean(row.iterations, 0),
        mean(row.iterations_ratio, 2),
        mean(row.seconds_ratio, 2),
        mean(row.steps_again, 0),
    ]
}
