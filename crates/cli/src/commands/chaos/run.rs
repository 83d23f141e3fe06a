//! `rekindle chaos run`: waits for the faults of a schedule, does them, follows jobs, reports.

use std::iter::Peekable;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{ArgGroup, Args};
use rekindle_client::{Client, ClientError, Reason};
use rekindle_types::{Fault, FaultKind, FaultTarget};

use super::follow::Followed;
use super::{Place, not_allowed};
use crate::chaos::report::{FaultLine, Outcome, Report};
use crate::chaos::schedule::{self, Draws, Planned};
use crate::exit::Exit;
use crate::output::{self, Format};
use crate::problem::Problem;
use crate::remote;
use crate::shutdown::Shutdown;

/// How often jobs are looked at.
const LOOK: Duration = Duration::from_millis(250);

/// Arguments of `rekindle chaos run`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("source").multiple(false))]
pub struct RunArgs {
    #[command(flatten)]
    place: Place,
    /// The same seed, kinds and source give the same faults at the same times
    #[arg(long, value_name = "N")]
    seed: u64,
    /// Faults a minute, on average [default: 6]
    #[arg(long, value_name = "PER_MINUTE", group = "source", value_parser = positive)]
    rate: Option<f64>,
    /// File of faults: lines of SECONDS,KIND or SECONDS,KIND,HOLD_SECONDS
    #[arg(long, value_name = "FILE", group = "source")]
    schedule: Option<PathBuf>,
    /// Recorded losses of machines: lines of MILLISECONDS,add|remove,NODE
    #[arg(long, value_name = "FILE", group = "source")]
    trace: Option<PathBuf>,
    /// How many times faster than it was recorded a trace goes by
    #[arg(long, value_name = "TIMES", default_value_t = 1.0, requires = "trace", value_parser = positive)]
    time_scale: f64,
    /// What goes wrong: kill-trainer, kill-worker, stop-trainer, cut-session, kill-coordinator [default: all but the
    /// last; with --trace kill-worker]
    #[arg(long, value_name = "KIND,...", value_delimiter = ',', value_parser = fault_kind, conflicts_with = "schedule")]
    kinds: Vec<FaultKind>,
    /// How long a stopped trainer or a cut session stays away at most
    #[arg(long, value_name = "SECONDS", default_value_t = 3.0, value_parser = positive)]
    hold: f64,
    /// No more faults after this time
    #[arg(long, value_name = "SECONDS")]
    duration: Option<u64>,
    /// Follow this job to its end, and report on it (may be given again)
    #[arg(long, value_name = "JOB")]
    until_job: Vec<String>,
}

fn positive(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| format!("{text:?} is no number"))?;
    if number > 0.0 && number <= 1e6 {
        Ok(number)
    } else {
        Err("it must be more than 0, and at most a million".to_owned())
    }
}

fn fault_kind(text: &str) -> Result<FaultKind, String> {
    let names: Vec<_> = FaultKind::ALL.iter().map(|kind| kind.as_str()).collect();
    FaultKind::parse(text).ok_or_else(|| format!("there are {}", names.join(", ")))
}

type Schedule = Peekable<Box<dyn Iterator<Item = Planned>>>;

/// The faults to come.
fn planned(args: &RunArgs) -> Result<Schedule, Problem> {
    let usual: &[FaultKind] = match args.trace {
        Some(_) => &[FaultKind::KillWorker],
        None => &[
            FaultKind::KillTrainer,
            FaultKind::StopTrainer,
            FaultKind::KillWorker,
            FaultKind::CutSession,
        ],
    };
    let kinds = if args.kinds.is_empty() { usual } else { &args.kinds };
    let longest = (args.hold.min(3_600.0) * 1e3) as u64;
    let draws = Draws::new(args.seed, kinds, longest);
    let all: Box<dyn Iterator<Item = Planned>> = if let Some(path) = &args.schedule {
        let read = |text: &str| schedule::from_file(text, draws);
        Box::new(from_path(path, read)?.into_iter())
    } else if let Some(path) = &args.trace {
        let read = |text: &str| schedule::from_trace(text, draws, args.time_scale);
        Box::new(from_path(path, read)?.into_iter())
    } else if args.duration.is_none() && args.until_job.is_empty() {
        return Err(Problem::new("these faults would never end")
            .fix("say when: --duration SECONDS, or --until-job JOB")
            .exit(Exit::Usage));
    } else {
        Box::new(schedule::at_rate(draws, args.rate.unwrap_or(6.0)))
    };
    Ok(all.peekable())
}

fn from_path(
    path: &Path,
    read: impl FnOnce(&str) -> Result<Vec<Planned>, String>,
) -> Result<Vec<Planned>, Problem> {
    let failed = |why: String| Problem::new(format!("can't use {}", path.display())).cause(why);
    let text = std::fs::read_to_string(path).map_err(|e| failed(e.to_string()))?;
    read(&text).map_err(failed)
}

/// Injects and reports.
///
/// # Errors
/// A schedule can't be read, the coordinator doesn't allow faults, or it is gone for good.
pub async fn run(args: RunArgs, format: Format) -> Result<Exit, Problem> {
    let schedule = planned(&args)?;
    let (client, _) = args.place.connect().await?;
    let mut jobs = Vec::new();
    for text in &args.until_job {
        jobs.push(Followed::begin(&client, remote::job_id(text)?).await?);
    }
    let mut chaos = Chaos {
        client,
        format,
        started: Instant::now(),
        duration: args.duration.map(Duration::from_secs),
        jobs,
        report: Report::new(args.seed),
    };
    let lost = chaos.go(schedule, &mut Shutdown::listen()?).await.err();
    chaos.finish().await?;
    if let Some(problem) = lost {
        return Err(problem);
    }
    let states = chaos.jobs.iter().map(|job| Exit::of_job(job.state()));
    Ok(states
        .into_iter()
        .find(|exit| *exit != Exit::Ok)
        .unwrap_or(Exit::Ok))
}

struct Chaos {
    client: Client,
    format: Format,
    started: Instant,
    duration: Option<Duration>,
    jobs: Vec<Followed>,
    report: Report,
}

impl Chaos {
    /// Does faults until there are no more and the jobs have ended, or the user wants it to end.
    async fn go(&mut self, mut schedule: Schedule, shutdown: &mut Shutdown) -> Result<(), Problem> {
        let mut looked: Option<Instant> = None;
        loop {
            if looked.is_none_or(|at| at.elapsed() >= LOOK) {
                for job in &mut self.jobs {
                    job.look(&self.client).await?;
                }
                looked = Some(Instant::now());
            }
            let due = schedule.peek().map(|fault| Duration::from_millis(fault.at_ms));
            let due = due.filter(|at| self.duration.is_none_or(|limit| *at < limit));
            let over = match &self.jobs[..] {
                [] => due.is_none() && self.duration.is_none_or(|limit| self.started.elapsed() >= limit),
                jobs => jobs.iter().all(|job| job.state().is_terminal()),
            };
            if over {
                return Ok(());
            }
            let elapsed = self.started.elapsed();
            if due.is_some_and(|at| at <= elapsed) {
                if let Some(fault) = schedule.next() {
                    self.inject(&fault).await?;
                }
                continue;
            }
            let wait = due.map_or(LOOK, |at| at - elapsed).min(LOOK);
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = shutdown.asked(1) => return Ok(()),
            }
        }
    }

    async fn inject(&mut self, planned: &Planned) -> Result<(), Problem> {
        let at = self.started.elapsed().as_secs_f64();
        let (target, outcome) = match self.client.fault_targets().await {
            Ok(targets) => match pick(&targets, planned) {
                Some(target) => (Some(target.clone()), self.ask(planned, target).await),
                None => {
                    let why = "there is nothing that it could be done to".to_owned();
                    (None, Err((Outcome::Missed, why)))
                }
            },
            // Started again without the flag.
            Err(error) if error.is_unimplemented() => return Err(not_allowed(&self.client, &error)),
            Err(error) => (None, Err(failed(&error))),
        };
        let line = FaultLine::new(planned, at, target.as_ref(), outcome);
        self.report.count(&line);
        match self.format {
            Format::Json => output::json(&line),
            Format::Table => output::data(&line.text()),
        }
    }

    async fn ask(&self, planned: &Planned, target: &FaultTarget) -> Result<(), (Outcome, String)> {
        let fault = Fault {
            kind: planned.kind,
            hold_ms: planned.hold_ms,
        };
        let done = self.client.inject_fault(&fault, target).await;
        done.map_err(|error| failed(&error))
    }

    /// Prints the report.
    async fn finish(&mut self) -> Result<(), Problem> {
        self.report.seconds = self.started.elapsed().as_secs_f64();
        for job in &self.jobs {
            self.report.jobs.push(job.report(&self.client).await);
        }
        if self.format == Format::Json {
            return output::json(&self.report);
        }
        output::data("")?;
        output::table(
            &["FAULT", "INJECTED", "REFUSED", "MISSED"],
            self.report.fault_rows(),
        )?;
        for job in &self.report.jobs {
            output::data("")?;
            output::table(&["WHAT", "VALUE"], job.rows())?;
        }
        Ok(())
    }
}

/// The target that a fault hits, among those that it can be done to.
fn pick<'a>(targets: &'a [FaultTarget], planned: &Planned) -> Option<&'a FaultTarget> {
    let suited: Vec<_> = targets
        .iter()
        .filter(|target| planned.kind.suits(target))
        .collect();
    let n = planned.pick.checked_rem(suited.len() as u64)?;
    suited.get(usize::try_from(n).ok()?).copied()
}

fn failed(error: &ClientError) -> (Outcome, String) {
    let outcome = match error.reason() {
        Some(Reason::FaultRefused) => Outcome::Refused,
        _ if error.is_unreachable() || error.is_retryable() => Outcome::Missed,
        _ => Outcome::Refused,
    };
    (outcome, error.to_string())
}
