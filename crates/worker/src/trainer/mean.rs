//! Stages that nobody has the state of, made of the stages beside them before the first step of the new epoch, and ranks of whose state another
//! lane has the weights (`rekindle_plan::average`).
//!
//! ```text
//!   each rank of a mean: weights of its blocks, and moments where those are blended  --State-->  the lost rank: blends, and has a state
//! ```
//!
//! In: the coordinator's decision ([`Context::refills`]), an engine with its state at the step on every rank that sends. Out: a state on every
//! rank. One layer at a time, all ranks in the same order, so that a rank holds the frames of one layer.
//!
//! Invariant
//! - WK-8 What is read for a mean is finite, or the trainer fails: nothing is made of the state of a rank that is broken.

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
        self.run(engine, |rank, share| self.stage(rank) == self.stage(share.rank))?;
        for index in self.stage(self.context.id()) {
            if self.counts_anew(index) {
                self.forget_moments(self.layer_at(index)?, engine)?;
            }
        }
        Ok(())
    }

    /// Ranks whose stage nobody has are made of the stages beside it, all lanes alike.
    ///
    /// # Errors
    /// [`TrainerError`] when a peer is lost, or what it has isn't finite.
    pub fn of_neighbours(&self, engine: &mut Engine) -> Result<(), TrainerError> {
        self.run(engine, |rank, share| self.stage(rank) != self.stage(share.rank))
    }

    /// Sends what lost ranks are made of by such shares, and makes this rank's state if it is one of them.
    fn run(&self, engine: &mut Engine, by: impl Fn(RankId, &Share) -> bool) -> Result<(), TrainerError> {
        let means = self.context.refills.iter();
        let means: Vec<(RankId, &[Share])> = means
            .filter_map(|(rank, refill)| match refill {
                Refill::Mean(shares) => Some((*rank, shares.as_slice())),
                Refill::Guard(_) | Refill::Parity(_) => None,
            })
            .filter(|(rank, shares)| shares.iter().all(|share| by(*rank, share)))
            .collect();
        let me = self.context.id();
        let stage = |rank: &RankId| self.stage(*rank);
        let most = means.iter().map(|(rank, _)| stage(rank).len()).max().unwrap_or(0);
        for turn in 0..most {
            for (rank, shares) in &means {
                let Some(layer) = stage(rank).nth(turn) else {
                    continue;
                };
                if shares.iter().any(|share| share.rank == me) {
                    self.give(*rank, layer, engine)?;
                }
                if *rank == me {
                    self.make(layer, shares, engine)?;
                }
            }
        }
        Ok(())
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

    /// Layer `index` of this rank.
    fn make(&self, index: u32, shares: &[Share], engine: &mut Engine) -> Result<(), TrainerError> {
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
        let weights: Vec<_> = weights
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
        let weights = blend(&weights)?;
        let started = starting_moments(kind, self.context.owned(layer).len(), &moments)?;
        let state = [
            (StateKind::Weights, weights),
            (StateKind::ExpAvg, started.exp_avg),
            (StateKind::ExpAvgSq, started.exp_avg_sq),
        ];
        for (kind, values) in state {
            engine.set_state_bytes(
                layer,
                kind,
                self.range(layer, kind),
                bytemuck::cast_slice(&values),
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use rekindle_transport::{MemoryMesh, Options};
    use rekindle_types::{DeviceId, Rank, Rebuilt};

    use super::super::context::tests::context;
    use super::super::device::Computing;
    use super::super::setup;
    use super::*;

    const STEP: u64 = 7;

    /// A rank's state after another rank's was made of it, or its own was made.
    type State = BTreeMap<(LayerId, StateKind), Vec<f32>>;

    /// Three stages of two lanes; the middle one of both is lost. Blocks 1 and 2 of 0 to 5 are on stage 0, 3 and 4 in the middle.
    fn ranks(moments: Moments) -> Vec<State> {
        let mean = |a, b| Refill::Mean(vec![share(a, 0.25), share(b, 0.75)]);
        let refills = [(RankId(1), mean(0, 2)), (RankId(4), mean(3, 5))];
        refilled(moments, &refills.into(), &[])
    }

    fn share(rank: u32, share: f64) -> Share {
        Share {
            rank: RankId(rank),
            share,
        }
    }

    /// What all ranks have after the refills; those that get one have nothing before.
    fn refilled(moments: Moments, refills: &BTreeMap<RankId, Refill>, rebuilt: &[Rebuilt]) -> Vec<State> {
        let mesh = MemoryMesh::connect(
            &context(2, 3, Rank { lane: 0, stage: 0 }).plan.job,
            rekindle_types::Epoch(1),
            6,
            &Options::default(),
        );
        let threads: Vec<_> = (0..6)
            .map(RankId)
            .zip(mesh.unwrap())
            .map(|(id, transport)| {
                let mut context = context(2, 3, Rank::of(id, 3));
                context.plan.stages = vec![0..3, 3..5, 5..8];
                context.spec.recovery.average_moments = moments;
                (context.refills, context.rebuilt) = (refills.clone(), rebuilt.to_vec());
                std::thread::spawn(move || {
                    let transport: SharedTransport = Arc::new(transport);
                    one(&context, &transport)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    }

    fn one(context: &Context, transport: &SharedTransport) -> State {
        let computing = Computing {
            device: DeviceId::Cpu,
            threads: 1,
        };
        let mut engine = setup::engine(context, computing, None).unwrap();
        if !context.refills.contains_key(&context.id()) {
            for (layer, kind) in held(context) {
                let values: Vec<f32> = values(context, layer, kind);
                let range = range(context, layer, kind);
                engine
                    .set_state_bytes(layer, kind, range, bytemuck::cast_slice(&values))
                    .unwrap();
            }
        }
        let means = Means {
            context,
            transport,
            step: STEP,
        };
        means.of_lanes(&mut engine).unwrap();
        means.of_neighbours(&mut engine).unwrap();
        let read = |(layer, kind)| {
            let bytes = engine
                .state_bytes(layer, kind, range(context, layer, kind))
                .unwrap();
            let (numbers, _) = bytes.as_chunks::<4>();
            (
                (layer, kind),
                numbers.iter().map(|n| f32::from_ne_bytes(*n)).collect(),
            )
        };
        held(context).into_iter().map(read).collect()
    }

    fn held(context: &Context) -> Vec<(LayerId, StateKind)> {
        let layers = context.layers();
        layers
            .flat_map(|layer| StateKind::ALL.map(|kind| (layer, kind)))
            .collect()
    }

    fn range(context: &Context, layer: LayerId, kind: StateKind) -> Range<usize> {
        match kind {
            StateKind::Weights => 0..context.numel(layer),
            StateKind::ExpAvg | StateKind::ExpAvgSq => context.owned(layer),
        }
    }

    /// Numbers that say of which layer and kind they are, and where in it.
    fn values(context: &Context, layer: LayerId, kind: StateKind) -> Vec<f32> {
        let of = f64::from(context.index_of(layer)) + 10.0 * f64::from(kind as u8);
        range(context, layer, kind).map(|i| number(of, i)).collect()
    }

    fn number(of: f64, i: usize) -> f32 {
        (100.0 * of + i as f64 / 1024.0) as f32
    }

    /// Layers 3 and 4 are made of 1 and 5, and of 2 and 6. Layers this small are owned by the first lane alone.
    fn made(states: &[State], kind: StateKind) -> Vec<(f32, f32)> {
        let second = |rank: usize, block| states[rank][&(LayerId::Block(block), kind)].get(1).copied();
        let lanes = [1, 4].into_iter();
        lanes
            .filter_map(|rank| Some((second(rank, 2)?, second(rank, 3)?)))
            .collect()
    }

    fn close(made: &[(f32, f32)], of: f64) -> bool {
        let near = |value: f32, layer: f64| (f64::from(value) - 100.0 * (of + layer)).abs() < 2.0;
        made.iter()
            .all(|(third, fourth)| near(*third, 4.0) && near(*fourth, 5.0))
    }

    #[test]
    fn a_lost_stage_of_every_lane_is_the_mean_of_its_neighbours_blocks() {
        for moments in [Moments::Fresh, Moments::Second, Moments::Both] {
            let states = ranks(moments);
            assert!(close(&made(&states, StateKind::Weights), 0.0), "{moments:?}");
            let lanes = StateKind::ALL.map(|kind| made(&states, kind).len());
            assert_eq!(lanes, [2, 1, 1]);
            assert_eq!(
                states[1][&(LayerId::Block(2), StateKind::Weights)],
                states[4][&(LayerId::Block(2), StateKind::Weights)]
            );
            let zero = |kind| made(&states, kind).iter().all(|pair| *pair == (0.0, 0.0));
            assert_eq!(zero(StateKind::ExpAvg), moments != Moments::Both);
            assert_eq!(zero(StateKind::ExpAvgSq), moments == Moments::Fresh);
            assert!(moments != Moments::Both || close(&made(&states, StateKind::ExpAvg), 10.0));
            assert!(moments == Moments::Fresh || close(&made(&states, StateKind::ExpAvgSq), 20.0));
        }
    }

    #[test]
    fn another_lane_gives_its_weights_and_adam_counts_anew_in_both() {
        let refills = [(RankId(0), Refill::Mean(vec![share(3, 1.0)]))].into();
        let anew = |layer| Rebuilt {
            layer,
            after: STEP,
            count_from: STEP,
        };
        let states = refilled(Moments::Both, &refills, &[0, 1, 2].map(anew));
        for ((layer, kind), values) in &states[0] {
            let (twins, weights) = (&states[3][&(*layer, *kind)], *kind == StateKind::Weights);
            assert_eq!(
                values.iter().any(|value| *value != 0.0),
                weights,
                "{kind} of {layer}"
            );
            assert_eq!(
                twins.iter().any(|value| *value != 0.0),
                weights,
                "{kind} of {layer}, the other lane"
            );
            assert!(!weights || values == twins, "{layer}");
        }
        let untouched = &states[1][&(LayerId::Block(2), StateKind::ExpAvg)];
        assert!(untouched.iter().all(|value| *value != 0.0), "another stage");
    }
}
