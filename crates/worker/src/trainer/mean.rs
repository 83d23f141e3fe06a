//! Stages that nobody has the state of, made of the stages beside them before the first step of the new epoch, and
//! ranks of whose state another lane has the weights (`rekindle_plan::average`).
//!
//! ```text
//!   each rank of a mean: weights of its blocks, and moments where those are blended  --State-->  the lost rank: blends, and has a state
//! ```
//!
//! In: the coordinator's decision ([`Context::refills`]), an engine with its state at the step on every rank that
//! sends. Out: a state on every rank. One layer at a time, all ranks in the same order, so that a rank holds the
//! frames of one layer.
//!
//! Invariant
//! - WK-8 What is read for a mean is finite, or the trainer fails: nothing is made of the state of a rank that is
//!   broken.

use std::collections::BTreeMap;
use std::ops::Range;

use rekindle_plan::average::{MomentSlices, blend, blocks, like, starting_moments};
use rekindle_transport::{Frame, TagKind};
use rekindle_types::spec::Moments;
use rekindle_types::{LayerId, RankId, Refill, Share, StateKind};

use super::context::{Context, SharedTransport};
use super::shadow::piece_tag;
use super::{Engine, TrainerError};

/// Numbers of a frame.
fn floats(frame: &Frame) -> Result<Vec<f32>, TrainerError> {
    match frame.bytes().as_chunks::<4>() {
        (numbers, []) => Ok(numbers.iter().map(|bytes| f32::from_ne_bytes(*bytes)).collect()),
        (_, rest) => Err(TrainerError::Protocol {
            what: format!("a piece of state has {} bytes too much", rest.len()),
        }),
    }
}

/// What the neighbours of a lost rank have of each of its layers, in the order of its shares.
pub type Sources = BTreeMap<LayerId, Vec<Vec<f32>>>;

/// The way to the other ranks.
pub struct Means<'a> {
    /// Where this rank stands.
    pub context: &'a Context,
    /// The way to its peers.
    pub transport: &'a SharedTransport,
    /// The step whose state is made up.
    pub step: u64,
}

impl Means<'_> {
    /// Ranks of whose stage another lane lives get its weights. Adam counts anew in all lanes of the stage.
    ///
    /// # Errors
    /// [`TrainerError`] when a peer is lost, or what it has isn't finite.
    pub fn of_lanes(&self, engine: &mut Engine) -> Result<(), TrainerError> {
        self.run(engine, |rank, share| self.stage(rank) == self.stage(share.rank))
            .map(drop)?;
        for index in self.stage(self.context.id()) {
            if self.counts_anew(index) {
                self.forget_moments(self.layer_at(index)?, engine)?;
            }
        }
        Ok(())
    }

    /// Ranks whose stage nobody has are made of the stages beside it, all lanes alike; of an end the blocks. Returns
    /// the weights that this one was made of, if other shares of them are to be tried ([`super::choose`]).
    ///
    /// # Errors
    /// [`TrainerError`] when a peer is lost, or what it has isn't finite.
    pub fn of_neighbours(&self, engine: &mut Engine) -> Result<Sources, TrainerError> {
        self.run(engine, |rank, share| self.stage(rank) != self.stage(share.rank))
    }

    /// Sends what lost ranks are made of by such shares, and makes this rank's state if it is one of them.
    fn run(&self, engine: &mut Engine, by: impl Fn(RankId, &Share) -> bool) -> Result<Sources, TrainerError> {
        let means = self.context.refills.iter();
        let means: Vec<(RankId, &[Share])> = means
            .filter_map(|(rank, refill)| Some((*rank, refill.shares()?)))
            .filter(|(rank, shares)| shares.iter().all(|share| by(*rank, share)))
            .collect();
        let me = self.context.id();
        let tries = matches!(self.context.refills.get(&me), Some(Refill::Best { .. }));
        let mut sources = Sources::new();
        let stage = |rank: &RankId| self.stage(*rank);
        let most = means.iter().map(|(rank, _)| stage(rank).len()).max().unwrap_or(0);
        for turn in 0..most {
            for (rank, shares) in &means {
                let Some(layer) = stage(rank)
                    .nth(turn)
                    .filter(|layer| self.is_made(*rank, shares, *layer))
                else {
                    continue;
                };
                if shares.iter().any(|share| share.rank == me) {
                    self.give(*rank, layer, engine)?;
                }
                if *rank == me {
                    let weights = self.make(layer, shares, engine)?;
                    sources.extend(tries.then_some((self.layer_at(layer)?, weights)));
                }
            }
        }
        Ok(sources)
    }

    /// Whether layer `index` of a rank is made of the shares: another lane has all, other stages the like of blocks
    /// alone.
    fn is_made(&self, rank: RankId, shares: &[Share], index: u32) -> bool {
        let is_lane = |share: &Share| self.stage(share.rank) == self.stage(rank);
        shares.iter().all(is_lane) || blocks(&self.context.plan).contains(&index)
    }

    /// Whether the layer's Adam counts from this step on.
    fn counts_anew(&self, index: u32) -> bool {
        let mut all = self.context.rebuilt.iter();
        all.any(|rebuilt| rebuilt.layer == index && rebuilt.count_from == self.step)
    }

    fn forget_moments(&self, layer: LayerId, engine: &mut Engine) -> Result<(), TrainerError> {
        for kind in [StateKind::ExpAvg, StateKind::ExpAvgSq] {
            let range = self.range(layer, kind);
            if range.is_empty() {
                continue;
            }
            let zero = vec![0; range.len() * size_of::<f32>()];
            engine.set_state_bytes(layer, kind, range, &zero)?;
        }
        Ok(())
    }

    /// The layers of a rank, as places in the pipeline.
    fn stage(&self, rank: RankId) -> Range<u32> {
        let plan = &self.context.plan;
        let stages = plan.stages.get(plan.rank(rank).stage as usize);
        stages.cloned().unwrap_or(0..0)
    }

    fn layer_at(&self, index: u32) -> Result<LayerId, TrainerError> {
        self.context
            .layer_at(index)
            .ok_or_else(|| TrainerError::Protocol {
                what: format!("the model has no layer {index}"),
            })
    }

    /// How the moments of layer `index` start.
    fn moments(&self, index: u32) -> Moments {
        match self.counts_anew(index) {
            true => Moments::Fresh,
            false => self.context.spec.recovery.average_moments,
        }
    }

    /// What is sent of it.
    fn kinds(&self, index: u32) -> &'static [StateKind] {
        match self.moments(index) {
            Moments::Fresh => &[StateKind::Weights],
            Moments::Second => &[StateKind::Weights, StateKind::ExpAvgSq],
            Moments::Both => &StateKind::ALL,
        }
    }

    /// All weights; of the moments what both ranks, being of one lane, own.
    fn range(&self, layer: LayerId, kind: StateKind) -> Range<usize> {
        match kind {
            StateKind::Weights => 0..self.context.numel(layer),
            StateKind::ExpAvg | StateKind::ExpAvgSq => self.context.owned(layer),
        }
    }

    /// This rank's part in layer `index` of the lost rank `rank`.
    fn give(&self, rank: RankId, index: u32, engine: &Engine) -> Result<(), TrainerError> {
        let (context, mine) = (self.context, self.stage(self.context.id()));
        let source = match self.stage(rank) == mine {
            true => Some(index),
            false => like(index, &self.stage(rank), &mine, &blocks(&context.plan)),
        };
        let source = source.ok_or_else(|| TrainerError::Protocol {
            what: format!(
                "no block of {} is the like of layer {index} of {rank}",
                context.id()
            ),
        })?;
        let (source, layer) = (self.layer_at(source)?, self.layer_at(index)?);
        for kind in self.kinds(index) {
            let bytes = engine.state_bytes(source, *kind, self.range(source, *kind))?;
            let payload = self.transport.pool().copy_of(&bytes).into();
            let tag = piece_tag(TagKind::State, self.step, context, (layer, *kind));
            self.transport.send(rank, tag, payload, context.deadline())?;
        }
        Ok(())
    }

    /// Layer `index` of this rank; returns the weights that it was made of.
    fn make(&self, index: u32, shares: &[Share], engine: &mut Engine) -> Result<Vec<Vec<f32>>, TrainerError> {
        let layer = self.layer_at(index)?;
        let take = |share: &Share, kind: StateKind| -> Result<Vec<f32>, TrainerError> {
            if !self.kinds(index).contains(&kind) {
                return Ok(vec![0.0; self.range(layer, kind).len()]);
            }
            let tag = piece_tag(TagKind::State, self.step, self.context, (layer, kind));
            let frame: Frame = self.transport.recv(share.rank, tag, self.context.deadline())?;
            floats(&frame)
        };
        let (mut weights, mut moments) = (Vec::new(), Vec::new());
        for share in shares {
            weights.push((take(share, StateKind::Weights)?, share.share));
            moments.push((
                take(share, StateKind::ExpAvg)?,
                take(share, StateKind::ExpAvgSq)?,
                share.share,
            ));
        }
        let sources: Vec<_> = weights
            .iter()
            .map(|(slice, share)| (slice.as_slice(), *share))
            .collect();
        let moments: Vec<_> = moments
            .iter()
            .map(|(exp_avg, exp_avg_sq, share)| MomentSlices {
                exp_avg,
                exp_avg_sq,
                steps: 0,
                share: *share,
            })
            .collect();
        let kind = self.moments(index);
        let blended = blend(&sources)?;
        let started = starting_moments(kind, self.context.owned(layer).len(), &moments)?;
        let state = [
            (StateKind::Weights, blended),
            (StateKind::ExpAvg, started.exp_avg),
            (StateKind::ExpAvgSq, started.exp_avg_sq),
        ];
        for (kind, values) in state {
            let range = self.range(layer, kind);
            engine.set_state_bytes(layer, kind, range, bytemuck::cast_slice(&values))?;
        }
        Ok(weights.into_iter().map(|(values, _)| values).collect())
    }
}

#[cfg(test)]
mod tests;
