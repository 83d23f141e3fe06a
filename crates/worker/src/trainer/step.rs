//! One optimizer step, from tokens to the report.
//!
//! ```text
//!   tokens -> 1F1B, gradients over lanes (and ends of a tied matrix) and to the guard -> those of the wards -> sums of all ranks = COMMIT POINT
//!          -> AdamW on the own shard -> weights over lanes -> report -> state kept in shared memory -> the next step
//!          -> AdamW on the wards' shards, on another thread, until the next commit point
//! ```

use std::time::Instant;

use rekindle_model::ExactSum;
use rekindle_plan::learning_rate;
use rekindle_types::spec::RecoverySource;
use rekindle_types::{LayerId, RankId, StepReport};

use super::batch::Batch;
use super::choose::choose;
use super::commit::{Sums, clip_factor};
use super::context::{Context, SharedTransport};
use super::lanes::Lanes;
use super::left::Memory;
use super::local::Local;
use super::parity::Parity;
use super::pipeline::Pipeline;
use super::reduction::Reduction;
use super::refill::Refill;
use super::report::{Measured, sum_for};
use super::reports::Reports;
use super::saver::Saver;
use super::setup::Text;
use super::shadow::Shadows;
use super::storage::{Told, outlast};
use super::tied::Tied;
use super::{Engine, TrainerError};

/// A trainer that has met its peers.
pub struct Trainer {
    /// Where it stands.
    pub context: Context,
    /// The way to its peers.
    pub transport: SharedTransport,
    /// Its layers.
    pub engine: Engine,
    /// The job's text, on the ends of the pipeline.
    pub text: Option<Text>,
    /// Saves its state, if the job wants that.
    pub saver: Option<Saver>,
    /// Tells the worker that this rank waits for storage.
    pub told: Told,
    /// Keeps its state where a successor finds it, if the job wants that.
    pub local: Option<Local>,
    /// Keeps the newest reports there, too, if this rank does that for its worker.
    pub reports: Option<Reports>,
    /// Its guard's and its wards' part.
    pub shadows: Shadows,
    /// Its group's part, if the job wants that.
    pub parity: Option<Parity>,
    /// When the step before was committed.
    pub last_commit: Instant,
}

impl Trainer {
    /// Before the first step: ranks whose own state is lost get it from where it is in `memory`, the mirror of a tied
    /// matrix takes what isn't kept there, the state it starts from is kept, given to the guard, and saved where a
    /// checkpoint of it is owed.
    ///
    /// # Errors
    /// [`TrainerError`] when a peer is lost.
    pub fn begin(&mut self, memory: &Memory, save: bool) -> Result<(), TrainerError> {
        let step = self.context.started_after();
        let (context, transport) = (&self.context, &self.transport);
        if context.memory_step.is_some() {
            let refill = Refill {
                context,
                transport,
                memory,
                step,
            };
            let sources = refill.run(&mut self.engine)?;
            let tied = Tied { context, transport };
            tied.send_weights(&self.engine, step)?;
            tied.take_weights(&mut self.engine, step)?;
            choose(self, &sources)?;
        }
        let (context, transport) = (&self.context, &self.transport);
        if let Some(local) = &mut self.local {
            local.keep(step, &self.engine)?;
            local.forget_older(context);
        }
        self.shadows.begin(context, transport, &self.engine, step)?;
        if let Some(parity) = &mut self.parity {
            parity.begin(step, &self.engine)?;
        }
        match &mut self.saver {
            Some(saver) if save => saver.begin(step, &self.context, &self.engine, &self.told),
            _ => Ok(()),
        }
    }

    /// Runs and commits step `step` (1-based). `save`: this rank wants the state after it to be saved. Rank 0 returns
    /// the step's report.
    ///
    /// # Errors
    /// [`TrainerError`]; the step was then not committed by this rank.
    pub fn step(&mut self, step: u64, save: bool) -> Result<Option<StepReport>, TrainerError> {
        self.take_tied_weights(step)?;
        let sums = Sums {
            save: i128::from(save),
            parity: self.parity.as_ref().map_or(0, Parity::published),
            ..self.gradients(step)?
        };
        let sums = self.commit(sums, step)?;
        if step == self.context.started_after() + 1 {
            self.shadows.forget_older(&self.context);
        }
        if let Some(parity) = &mut self.parity {
            parity.committed(sums.parity, &self.context);
        }
        let norm = sums.squares.norm();
        let lr = learning_rate(&self.context.spec, step);
        let clip = clip_factor(norm, self.context.spec.training.max_grad_norm);
        self.shadows.update(&self.context, step, clip)?;
        if let Some(local) = &mut self.local {
            local.make_room(step);
        }
        // State that will be saved is hashed by the update that leaves it, while it is in the cache.
        self.engine.set_hashing(sums.save > 0 && self.saver.is_some());
        self.update(step, clip)?;
        if sums.save > 0
            && let Some(saver) = &mut self.saver
        {
            saver.begin(step, &self.context, &self.engine, &self.told)?;
        }
        if let Some(parity) = &mut self.parity {
            parity.begin_if_due(step, self.context.spec.training.steps, &self.engine)?;
        }
        let val_loss = self.evaluate_if_due(step)?;
        let state_digest = self.digest_if_due(step)?;
        let step_seconds = self.last_commit.elapsed().as_secs_f64();
        self.last_commit = Instant::now();
        tracing::debug!(
            step,
            loss = sums.loss.mean_loss(self.context.spec.tokens_per_step()),
            norm,
            "committed"
        );
        let measured = Measured {
            step,
            sums,
            lr,
            step_seconds,
            state_digest,
            val_loss,
        };
        let report = measured.report(&self.context);
        if let Some(reports) = &mut self.reports {
            reports.committed(&report);
        }
        // After its report, so that whoever goes on from this state can tell of it.
        if let Some(local) = &mut self.local {
            local.keep(step, &self.engine)?;
        }
        Ok((self.context.id() == RankId(0)).then_some(report))
    }

    /// After the last step: the wards' states of it are published.
    ///
    /// # Errors
    /// [`TrainerError`] when they can't be.
    pub fn finish(&mut self) -> Result<(), TrainerError> {
        self.shadows.finish(&self.context)
    }

    /// Pipeline and reduction over lanes: afterwards the own shard's gradients are complete, and the wards' are here.
    fn gradients(&mut self, step: u64) -> Result<Sums, TrainerError> {
        let batch = Batch::of_step(&self.context, self.text.as_ref(), step)?;
        let (context, transport) = (&self.context, &self.transport);
        let mut reduction = Reduction::new(context, transport, step);
        let result = Pipeline {
            context,
            transport,
            step,
            batch: &batch,
        }
        .run(&mut self.engine, &mut reduction)?;
        if context.is_first_stage() && context.tied_peer().is_some() {
            Tied { context, transport }.add_gradient(&mut self.engine, step)?;
            reduction.is_final(self.engine.gradients_mut(), LayerId::Embed)?;
        }
        reduction.finish(self.engine.gradients_mut())?;
        let summary = self.engine.finish_gradients()?;
        self.shadows.take_gradients(context, transport, step)?;
        let non_finite = i128::from(result.non_finite || !summary.finite);
        Ok(Sums {
            loss: result.loss,
            squares: summary.sum_squares,
            non_finite,
            data_digest: batch.digest.value(),
            save: 0,
            parity: 0,
            stages: self.stage_squares(summary.sum_squares),
        })
    }

    /// This rank's squares as its stage's, where stages that are lost may be made of their neighbours.
    fn stage_squares(&self, own: ExactSum) -> Vec<ExactSum> {
        let recovery = &self.context.spec.recovery;
        if !recovery.allows(RecoverySource::NeighbourAverage) {
            return Vec::new();
        }
        let of = |stage| {
            if stage == self.context.rank.stage {
                own
            } else {
                ExactSum::default()
            }
        };
        (0..self.context.plan.stage_count()).map(of).collect()
    }

    fn commit(&self, own: Sums, step: u64) -> Result<Sums, TrainerError> {
        let sums = own.all_reduce(&self.context, &self.transport, step)?;
        if sums.non_finite > 0 {
            return Err(TrainerError::NonFinite {
                step,
                count: sums.non_finite,
            });
        }
        Ok(sums)
    }

    /// AdamW on the own shard; every layer's new weights leave for the other lanes as soon as they are there.
    fn update(&mut self, step: u64, clip: f64) -> Result<(), TrainerError> {
        let (context, transport) = (&self.context, &self.transport);
        let (lanes, tied) = (Lanes { context, transport }, Tied { context, transport });
        let layers = self.engine.layers();
        for layer in &layers {
            let engine = &mut self.engine;
            let rate = context.rate(*layer, step);
            outlast(step, &self.told, || {
                engine.update(*layer, rate.count, rate.lr, clip)
            })?;
            lanes.send_weights(&self.engine, step, *layer)?;
        }
        for layer in &layers {
            lanes.take_weights(&mut self.engine, step, *layer)?;
        }
        if step == context.spec.training.steps && !self.evaluated(step) {
            return Ok(());
        }
        tied.send_weights(&self.engine, step)
    }

    /// The mirror of a tied matrix takes over the weights of the step before.
    fn take_tied_weights(&mut self, step: u64) -> Result<(), TrainerError> {
        if step == self.context.started_after() + 1 || self.evaluated(step - 1) {
            return Ok(());
        }
        let (context, transport) = (&self.context, &self.transport);
        Tied { context, transport }.take_weights(&mut self.engine, step - 1)
    }

    fn evaluated(&self, step: u64) -> bool {
        self.context.spec.evaluation.every > 0
            && self.context.is_due(step, self.context.spec.evaluation.every)
    }

    fn evaluate_if_due(&mut self, step: u64) -> Result<Option<f64>, TrainerError> {
        if !self.evaluated(step) {
            return Ok(None);
        }
        let (context, transport) = (&self.context, &self.transport);
        Tied { context, transport }.take_weights(&mut self.engine, step)?;
        super::evaluate::evaluate(self, step)
    }

    /// On digest steps: the whole state's digest on the keepers of lines, none elsewhere.
    fn digest_if_due(&self, step: u64) -> Result<Option<u128>, TrainerError> {
        if !self.context.is_due(step, self.context.spec.training.digest_every) {
            return Ok(None);
        }
        let own = self.engine.digest()?.0;
        let (context, keepers) = (&self.context, self.context.line_keepers());
        let words = sum_for(&keepers, context, &self.transport, (step, 0), own.cast_signed())?;
        Ok(words.map(i128::cast_unsigned))
    }
}
