//! The trainer: the process that computes one rank of one epoch of a job.
//!
//! ```text
//!   worker --Begin--> read the text, see what state is in memory, listen --Ready--> worker
//!   worker --Connect--> load the state, meet the peers, then steps s+1..n --Step, Progress, Saved--> worker
//!   a lost peer, or Halt: Halted --> the worker's Edit, and all of this again in the same process [standing]
//!   after the last step: export, Finished. At any other error: Failed.
//! ```
//!
//! The coordinator is not on this path: between Connect and Finished a trainer talks to its peers only.
//!
//! A trainer that goes over to another epoch has kept its process, its text, its endpoint and its connections. Its
//! state it finds as another process would: where it left it, in the worker's memory. So what an epoch that was given
//! up left half done can't matter.
//!
//! Deliberately absent: recovery. What the next epoch is, and from which step it goes on, is the coordinator's
//! decision.

mod batch;
mod cadence;
mod choose;
mod commit;
mod connect;
mod context;
mod device;
mod error;
mod evaluate;
mod export;
mod keep;
mod lanes;
pub(crate) mod left;
mod load;
mod local;
mod mean;
mod outcomes;
mod parity;
mod pipe;
mod pipeline;
mod progress;
mod reduction;
mod refill;
mod report;
mod reports;
mod room;
mod saver;
mod setup;
mod shadow;
mod standing;
mod step;
mod storage;
mod swap;
mod tied;
mod updater;
mod watch;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rekindle_compute::AnyDevice;
use rekindle_model::Stage;
use rekindle_types::spec::RecoverySource;
use rekindle_types::{Origin, RankId, Refill};
use rekindle_worker_core::trainer_messages::{FromTrainer, ToTrainer};

use context::Context;
use device::Computing;
pub use error::TrainerError;
use left::{Memory, Whose};
use local::Local;
use parity::Parity;
use pipe::Pipe;
use reports::Reports;
use room::Room;
use saver::Saver;
use shadow::Shadows;
use standing::Standing;
use step::Trainer;
use watch::Watch;

/// The stage engine of this process.
type Engine = Stage<AnyDevice>;

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
    let (pipe, mut known) = (Rc::new(pipe), None);
    match run(&pipe, &mut known) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let (rank, error) = match known {
                Some((rank, room)) => (Some(rank), room.explain(error)),
                None => (None, error),
            };
            tracing::error!(%error, class = %error.class(), "can't go on");
            if let Err(error) = pipe.tell(&FromTrainer::Failed(error.failure(rank))) {
                tracing::error!(%error, "can't tell the worker");
            }
            ExitCode::FAILURE
        }
    }
}

/// Says in `known` who this is and what it takes of its device, once it is told.
fn run(pipe: &Rc<Pipe>, known: &mut Option<(RankId, Room)>) -> Result<(), TrainerError> {
    let (mut context, mut standing) = begin(pipe)?;
    *known = Some((context.id(), Room::of(&context, standing.computing)));
    standing.computing.check(&context)?;
    while epoch(pipe, context, &mut standing)? == End::Halted {
        context = standing.next(pipe)?;
        *known = Some((context.id(), Room::of(&context, standing.computing)));
    }
    pipe.tell(&FromTrainer::Finished)
}

/// How an epoch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// All steps are committed.
    Through,
    /// The epoch was given up, and the worker was told: another one may follow.
    Halted,
}

/// One epoch, from looking for the state to the last step.
fn epoch(pipe: &Rc<Pipe>, context: Context, standing: &mut Standing) -> Result<End, TrainerError> {
    let (computing, vault) = (standing.computing, standing.vault.clone());
    let memory = in_memory(vault.as_deref(), &context);
    let local = Local::new(vault.as_deref(), &context, computing.device);
    let mut engine = setup::engine(&context, computing, local.as_ref().map(Local::memory))?;
    let shadows = Shadows::new(vault.as_deref(), &context)?;
    let sets = parity::reserve(vault.as_deref(), &context)?;
    if local.is_some() || sets.is_some() {
        engine.reserve_whole()?;
    }
    let text = standing.text(&context)?;
    let data_address = standing.data_address();
    let Computing { device, threads } = computing;
    tracing::info!(rank = %context.rank, %data_address, %device, threads, "ready");
    pipe.tell(&FromTrainer::Ready {
        data_address,
        in_memory: memory.offers(&context),
    })?;
    let (peers, from) = match pipe.next(CONNECT_WAIT)? {
        ToTrainer::Connect { peers, from } => (peers, from),
        other => return Err(unexpected("Connect", &other)),
    };
    let watch = Watch::start(Arc::clone(&context.progress), Box::new(pipe.teller()))?;
    let save = from.save;
    let context = load_state(context, &mut engine, &memory, from)?;
    let saver = Saver::new(&context, &mut engine)?;
    let transport = standing.meet(&context, peers)?;
    watch.sees(&transport);
    let parity = Parity::start(sets, vault.as_deref(), &context, &transport)?;
    let to_worker = Rc::clone(pipe);
    let goes_on = local.is_some() || !context.guards.is_empty() || parity.is_some();
    let reports = Reports::start(vault.as_deref().filter(|_| goes_on), &context);
    let mut trainer = Trainer {
        context,
        transport,
        engine,
        text,
        saver,
        told: Box::new(move |message| to_worker.tell(message)),
        reports,
        local,
        shadows,
        parity,
        last_commit: Instant::now(),
    };
    pipe.halts(&trainer.transport);
    let through = steps(pipe, &mut trainer, memory, save);
    pipe.over();
    let end = match through {
        Ok(()) => {
            Room::of(&trainer.context, computing).tell(trainer.engine.device());
            End::Through
        }
        Err(error) if error.gives_up() => {
            tracing::warn!(%error, "gives this epoch up");
            trainer.transport.abort(&error.to_string());
            let failure = error.failure(Some(trainer.context.id()));
            pipe.tell(&FromTrainer::Halted { failure })?;
            End::Halted
        }
        Err(error) => return Err(error),
    };
    standing.leave(end, &mut trainer);
    Ok(end)
}

/// What is done with a gang that has met.
fn steps(pipe: &Pipe, trainer: &mut Trainer, memory: Memory, save: bool) -> Result<(), TrainerError> {
    trainer.begin(&memory, save)?;
    drop(memory);
    tell_again(pipe, trainer)?;
    train(pipe, trainer)?;
    export::export(trainer)
}

/// Reports that the worker of a dead rank 0 may never have passed on.
fn tell_again(pipe: &Pipe, trainer: &mut Trainer) -> Result<(), TrainerError> {
    let reports = trainer.reports.iter_mut();
    let left = reports.flat_map(|reports| reports.take_over(&trainer.context));
    left.map(FromTrainer::Step)
        .try_for_each(|report| pipe.tell(&report))
}

/// What trainers of this job that died left in the worker's memory.
fn in_memory(vault: Option<&Path>, context: &Context) -> Memory {
    let recovery = &context.spec.recovery;
    let shadows = recovery.allows(RecoverySource::Shadow) || recovery.swaps();
    vault.map_or_else(Memory::default, |folder| Memory::find(folder, context, shadows))
}

/// Fills the engine from the worker's memory, or with what the plan starts from. A rank that has nothing there gets
/// its state from another one once it has met it ([`Trainer::begin`]).
fn load_state(
    mut context: Context,
    engine: &mut Engine,
    memory: &Memory,
    from: Origin,
) -> Result<Context, TrainerError> {
    context.rebuilt = from.rebuilt;
    let Some(step) = from.step else {
        setup::fill(engine, &context)?;
        return Ok(context);
    };
    match from.refills.get(&context.id()) {
        None => memory.at(Whose::Own(context.id()), step)?.load(engine)?,
        Some(Refill::Guard(guard)) => tracing::info!(%guard, "takes its state from that rank"),
        Some(Refill::Parity(parities)) => {
            tracing::info!(epoch = %parities.epoch, "goes back to its group's exchange");
        }
        Some(Refill::Mean(shares) | Refill::Best { best_of: shares }) => {
            tracing::warn!(?shares, "its state is lost: takes a mean of its neighbours'")
        }
    }
    tracing::info!(step, "goes on from the workers' memory");
    (context.memory_step, context.refills) = (Some(step), from.refills);
    Ok(context)
}

fn begin(pipe: &Pipe) -> Result<(Context, Standing), TrainerError> {
    match pipe.next(BEGIN_WAIT)? {
        ToTrainer::Begin {
            start,
            listen_host,
            threads,
            device,
            vault,
        } => {
            let context = setup::context(*start, PATIENCE)?;
            let threads = threads.max(1);
            let computing = Computing { device, threads };
            let kind = context.spec.parallelism.transport;
            let standing = Standing::new(computing, kind, listen_host, vault.map(PathBuf::from))?;
            Ok((context, standing))
        }
        other => Err(unexpected("Begin", &other)),
    }
}

fn train(pipe: &Pipe, trainer: &mut Trainer) -> Result<(), TrainerError> {
    for step in trainer.context.started_after() + 1..=trainer.context.spec.training.steps {
        let asked = pipe.take_save();
        let wants = |saver: &Saver| saver.wants(&trainer.context, step, asked);
        let save = trainer.saver.as_ref().is_some_and(wants);
        let began = Instant::now();
        trainer.context.progress.begins(step);
        match trainer.step(step, save)? {
            Some(report) => pipe.tell(&FromTrainer::Step(report))?,
            None => pipe.tell(&FromTrainer::Progress { step })?,
        }
        if let Some(saver) = &mut trainer.saver {
            let seconds = began.elapsed().as_secs_f64();
            saver.after_step(seconds, &trainer.context, &mut trainer.engine, pipe)?;
        }
    }
    trainer.finish()?;
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
        ToTrainer::Halt => "Halt",
        ToTrainer::Edit { .. } => "Edit",
        ToTrainer::Stop => "Stop",
    };
    TrainerError::Protocol {
        what: format!("the worker said {got} where {wanted} was due"),
    }
}

#[cfg(test)]
mod parity_tests;
#[cfg(test)]
mod tests;
