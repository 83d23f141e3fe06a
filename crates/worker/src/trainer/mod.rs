//! The trainer: the process that computes one rank of one epoch of a job.
//!
//! ```text
//!   worker --Begin--> load layers and text, listen --Ready--> worker
//!   worker --Connect--> meet the peers, then steps s+1..n --Step, Progress, Saved--> worker
//!   after the last step: export, Finished. At any error: Failed.
//! ```
//!
//! The coordinator is not on this path: between Connect and Finished a trainer talks to its peers only.
//!
//! Deliberately absent: recovery. A trainer that loses a peer says so and ends.

mod batch;
mod cadence;
mod commit;
mod connect;
mod context;
mod error;
mod evaluate;
mod export;
mod lanes;
mod load;
mod pipe;
mod pipeline;
mod report;
mod saver;
mod setup;
mod step;
mod storage;
mod tied;

use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rekindle_compute::Cpu;
use rekindle_model::Stage;
use rekindle_types::RankId;
use rekindle_worker_core::trainer_messages::{FromTrainer, ToTrainer};

use context::{Context, SharedTransport};
pub use error::TrainerError;
use pipe::Pipe;
use saver::Saver;
use step::Trainer;

/// The stage engine of this process.
type Engine = Stage<Cpu<f32>>;

/// The worker has to say `Begin` within this.
const BEGIN_WAIT: Duration = Duration::from_secs(60);
/// All trainers of the epoch have to be ready within this; the coordinator usually gives up earlier.
const CONNECT_WAIT: Duration = Duration::from_secs(3600);
/// Longest wait for a peer that is connected but silent; a lost connection is noticed at once.
const PATIENCE: Duration = Duration::from_secs(1800);

/// Runs this process as a trainer, spoken to over stdin and stdout. `tracing` should be set up to write to stderr.
#[must_use]
pub fn trainer_main() -> ExitCode {
    let pipe = match Pipe::open() {
        Ok(pipe) => pipe,
        Err(error) => {
            tracing::error!(%error, "can't talk to the worker");
            return ExitCode::FAILURE;
        }
    };
    let (pipe, mut rank) = (Rc::new(pipe), None);
    match run(&pipe, &mut rank) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, class = %error.class(), "can't go on");
            if let Err(error) = pipe.tell(&FromTrainer::Failed(error.failure(rank))) {
                tracing::error!(%error, "can't tell the worker");
            }
            ExitCode::FAILURE
        }
    }
}

fn run(pipe: &Rc<Pipe>, rank: &mut Option<RankId>) -> Result<(), TrainerError> {
    let (context, listen_host, threads) = begin(pipe)?;
    *rank = Some(context.id());
    let mut engine = setup::engine(&context, threads)?;
    let saver = Saver::new(&context, &mut engine)?;
    let text = setup::text(&context)?;
    let endpoint = connect::listen(&listen_host)?;
    let data_address = connect::advertised(&endpoint, &listen_host);
    tracing::info!(rank = %context.rank, %data_address, threads, "ready");
    pipe.tell(&FromTrainer::Ready { data_address })?;
    let peers = match pipe.next(CONNECT_WAIT)? {
        ToTrainer::Connect { peers } => peers,
        other => return Err(unexpected("Connect", &other)),
    };
    let transport: SharedTransport = Arc::new(connect::meet(&endpoint, &context, &peers)?);
    tracing::info!(links = context.links().len(), "connected");
    let to_worker = Rc::clone(pipe);
    let mut trainer = Trainer {
        context,
        transport,
        engine,
        text,
        saver,
        told: Box::new(move |message| to_worker.tell(message)),
        last_commit: Instant::now(),
    };
    train(pipe, &mut trainer)?;
    export::export(&trainer)?;
    // Says goodbye to the peers, so that they don't take the end of this process for a loss.
    drop(trainer);
    pipe.tell(&FromTrainer::Finished)
}

fn begin(pipe: &Pipe) -> Result<(Context, String, u32), TrainerError> {
    match pipe.next(BEGIN_WAIT)? {
        ToTrainer::Begin {
            start,
            listen_host,
            threads,
        } => Ok((setup::context(*start, PATIENCE)?, listen_host, threads.max(1))),
        other => Err(unexpected("Begin", &other)),
    }
}

fn train(pipe: &Pipe, trainer: &mut Trainer) -> Result<(), TrainerError> {
    for step in trainer.context.started_after() + 1..=trainer.context.spec.training.steps {
        let asked = pipe.take_save();
        let wants = |saver: &Saver| saver.wants(&trainer.context, step, asked);
        let save = trainer.saver.as_ref().is_some_and(wants);
        let began = Instant::now();
        match trainer.step(step, save)? {
            Some(report) => pipe.tell(&FromTrainer::Step(report))?,
            None => pipe.tell(&FromTrainer::Progress { step })?,
        }
        if let Some(saver) = &mut trainer.saver {
            let seconds = began.elapsed().as_secs_f64();
            saver.after_step(seconds, &trainer.context, &mut trainer.engine, pipe)?;
        }
    }
    match &mut trainer.saver {
        Some(saver) => saver.finish(&trainer.context, pipe),
        None => Ok(()),
    }
}

fn unexpected(wanted: &str, got: &ToTrainer) -> TrainerError {
    let got = match got {
        ToTrainer::Begin { .. } => "Begin",
        ToTrainer::Connect { .. } => "Connect",
        ToTrainer::Save => "Save",
        ToTrainer::Stop => "Stop",
    };
    TrainerError::Protocol {
        what: format!("the worker said {got} where {wanted} was due"),
    }
}

#[cfg(test)]
mod tests;
