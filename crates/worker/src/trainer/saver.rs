//! Saving this rank's state while it trains on: when, and what becomes of it.
//!
//! ```text
//!   due (schedule, or asked) --commit point--> begin(step): handles on the state, no copy --> the writer's threads
//!   after every step: what became durable or failed, in the order of steps --> worker
//!   after the last step: waits until nothing is under way
//! ```
//!
//! Deliberately absent: how bytes reach storage (see `rekindle_checkpoint::writer`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use rekindle_checkpoint::writer::{Capture, Held, HeldPart, Outcome, Retry, Writer, WriterOptions};
use rekindle_checkpoint::{Location, Span, store};
use rekindle_compute::{AnyDevice, AnyFrozen, Frozen};
use rekindle_model::FrozenPart;
use rekindle_types::{CheckpointPart, ModelConfig};
use rekindle_worker_core::trainer_messages::FromTrainer;

use super::cadence::Schedule;
use super::context::Context;
use super::outcomes::Outcomes;
use super::pipe::Pipe;
use super::storage::{LIMIT, SIGN, Told};
use super::{Engine, TrainerError};

/// Saves the state of one rank.
pub struct Saver {
    writer: Writer,
    schedule: Schedule,
    model: Arc<ModelConfig>,
    /// What is under way, and what became of it.
    outcomes: Outcomes,
    /// How long training has stood still for checkpoints.
    stalled: Duration,
    /// The last step that couldn't be saved, and why.
    failed: Option<(u64, String)>,
}

/// Frozen state as the writer holds it.
struct State(AnyFrozen);

impl Held for State {
    fn bytes(&self) -> Result<&[u8], String> {
        self.0.bytes().map_err(|e| e.to_string())
    }
}

impl Saver {
    /// A saver for a job that saves its state; none for one that doesn't. Reserves the job's pool.
    ///
    /// # Errors
    /// [`TrainerError`] when the place for checkpoints or the memory can't be had.
    pub fn new(context: &Context, engine: &mut Engine) -> Result<Option<Self>, TrainerError> {
        let settings = &context.spec.checkpoint;
        if !settings.is_on() {
            return Ok(None);
        }
        let place = store::open(&Location::parse(&context.spec.checkpoint_url())?)?;
        let reserved = engine.reserve_for_checkpoints(settings.pool.0)?;
        engine.set_update_patience(SIGN);
        tracing::debug!(reserved, place = place.describe(), "saves its state");
        let (start, last) = (context.started_after(), context.spec.training.steps);
        let retry = Retry {
            seed: u64::from(context.id().0),
            budget: Duration::from_secs(u64::from(settings.retry_seconds)),
            ..Retry::default()
        };
        let options = WriterOptions {
            retry,
            ..WriterOptions::default()
        };
        Ok(Some(Self {
            writer: Writer::start(place, options)?,
            schedule: Schedule::new(settings.every, start, last, context.mtbf_seconds),
            model: Arc::new(context.spec.model.clone()),
            outcomes: Outcomes::default(),
            stalled: Duration::ZERO,
            failed: None,
        }))
    }

    /// Whether this rank wants the state after `step` to be saved: rank 0 by the schedule, any rank that was asked.
    #[must_use]
    pub fn wants(&self, context: &Context, step: u64, asked: bool) -> bool {
        asked || (context.id().0 == 0 && self.schedule.is_due(step))
    }

    /// Takes hold of the state after `step`. Waits only while too many checkpoints are under way already.
    ///
    /// # Errors
    /// [`TrainerError`] when the state can't be had; what the writer says is told after the step.
    pub fn begin(
        &mut self,
        step: u64,
        context: &Context,
        engine: &Engine,
        told: &Told,
    ) -> Result<(), TrainerError> {
        let started = Instant::now();
        // Before the state is frozen: what is frozen while it waits makes updates wait.
        while !self.writer.wait_for_room(SIGN) {
            if started.elapsed() >= LIMIT {
                tracing::warn!(step, "too many checkpoints are under way");
                break;
            }
            told(&FromTrainer::WaitsForStorage { step })?;
        }
        let lanes = context.plan.lanes;
        let capture = Capture {
            step,
            writer: context.writer.clone(),
            rank: context.id(),
            lane: (lanes > 1).then_some(context.rank.lane),
            model: Arc::clone(&self.model),
            parts: engine.freeze_state()?.into_iter().map(held).collect(),
        };
        self.outcomes.began(step);
        if let Err(refused) = self.writer.begin(capture) {
            self.outcomes.ended(Outcome::Failed {
                step,
                error: refused.to_string(),
                attempts: 0,
            });
        }
        self.schedule.began(step);
        self.stalled += started.elapsed();
        Ok(())
    }

    /// After a step of so many seconds: counts what checkpoints cost, tells the worker what became of them.
    ///
    /// # Errors
    /// [`TrainerError::Pipe`] when the worker no longer listens.
    pub fn after_step(
        &mut self,
        seconds: f64,
        context: &Context,
        engine: &mut Engine,
        pipe: &Pipe,
    ) -> Result<(), TrainerError> {
        self.stalled += engine.take_update_wait();
        self.schedule.took(seconds, self.outcomes.any());
        self.heard(self.writer.poll());
        self.tell(context, pipe)
    }

    /// After the last step: waits until nothing is under way.
    ///
    /// # Errors
    /// [`TrainerError::NotSaved`] when the state after the last step couldn't be saved.
    pub fn finish(&mut self, context: &Context, pipe: &Pipe) -> Result<(), TrainerError> {
        let (began, last) = (Instant::now(), context.spec.training.steps);
        while self.writer.unfinished() > 0 && began.elapsed() < LIMIT {
            let outcomes = self.writer.wait(SIGN);
            if outcomes.is_empty() {
                pipe.tell(&FromTrainer::WaitsForStorage { step: last })?;
            }
            self.heard(outcomes);
            self.tell(context, pipe)?;
        }
        self.heard(self.writer.finish(Duration::ZERO));
        self.tell(context, pipe)?;
        let failed = self.failed.take().filter(|(step, _)| *step == last);
        match (failed, self.outcomes.has(last)) {
            (None, false) => Ok(()),
            (Some((step, why)), _) => Err(TrainerError::NotSaved { step, why }),
            (None, true) => Err(TrainerError::NotSaved {
                step: last,
                why: format!("it didn't become durable within {} s", LIMIT.as_secs()),
            }),
        }
    }

    fn heard(&mut self, outcomes: Vec<Outcome>) {
        let each = outcomes.into_iter();
        each.for_each(|outcome| self.outcomes.ended(outcome));
    }

    fn tell(&mut self, context: &Context, pipe: &Pipe) -> Result<(), TrainerError> {
        while let Some(outcome) = self.outcomes.next() {
            let message = match outcome {
                Outcome::Durable(part) => self.durable(part, context),
                Outcome::Failed { step, error, .. } => self.gave_up(step, error),
            };
            pipe.tell(&message)?;
        }
        Ok(())
    }

    fn durable(&mut self, part: CheckpointPart, context: &Context) -> FromTrainer {
        let interval = self.schedule.durable(part.step, part.persist_seconds);
        let part = CheckpointPart {
            stall_seconds: std::mem::take(&mut self.stalled).as_secs_f64(),
            ..part
        };
        tracing::debug!(
            step = part.step,
            persist = part.persist_seconds,
            stall = part.stall_seconds,
            "state is durable"
        );
        FromTrainer::Saved {
            part: Box::new(part),
            interval: interval.filter(|_| context.id().0 == 0),
        }
    }

    fn gave_up(&mut self, step: u64, message: String) -> FromTrainer {
        tracing::error!(step, message, "state is not saved");
        self.failed = Some((step, message.clone()));
        FromTrainer::SaveFailed { step, message }
    }
}

fn held(part: FrozenPart<AnyDevice>) -> HeldPart {
    let range = part.range.start as u64..part.range.end as u64;
    HeldPart {
        span: Span::new(part.layer, part.kind, range),
        held: Arc::new(State(part.frozen)),
        digests: part.digests,
    }
}
