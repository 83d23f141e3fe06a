//! Stages that nobody has the state of, made of the stages beside them before the first step of the new epoch (`rekindle_plan::average`).
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
    /// Sends what lost ranks are made of, and makes this rank's state if it is lost.
    ///
    /// # Errors
    /// [`TrainerError`] when a peer is lost, or what it has isn't finite.
    pub fn run(&self, engine: &mut Engine) -> Result<(), TrainerError> {
        let means = self.context.refills.iter();
        let means: Vec<(RankId, &[Share])> = means
            .filter_map(|(rank, refill)| match refill {
                Refill::Mean(shares) => Some((*rank, shares.as_slice())),
                Refill::Guard(_) | Refill::Parity(_) => None,
            })
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

    /// What is sent of a layer.
    fn kinds(&self) -> &'static [StateKind] {
        match self.context.spec.recovery.average_moments {
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
        let source = like(index, &self.stage(rank), &mine, &blocks(&context.plan));
        let source = source.ok_or_else(|| TrainerError::Protocol {
            what: format!(
                "no block of {} is the like of layer {index} of {rank}",
                context.id()
            ),
        })?;
        let (source, layer) = (self.layer_at(source)?, self.layer_at(index)?);
        for kind in self.kinds() {
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
            if !self.kinds().contains(&kind) {
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
        let kind = self.context.spec.recovery.average_moments;
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
    use rekindle_types::{DeviceId, Rank};

    use super::super::context::tests::context;
    use super::super::device::Computing;
    use super::super::setup;
    use super::*;

    const STEP: u64 = 7;

    /// A rank's state after another rank's was made of it, or its own was made.
    type State = BTreeMap<(LayerId, StateKind), Vec<f32>>;

    /// Three stages of two lanes; the middle one of both is lost. Blocks 1 and 2 of 0 to 5 are on stage 0, 3 and 4 in the middle.
    fn ranks(moments: Moments) -> Vec<State> {
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
                std::thread::spawn(move || {
                    let transport: SharedTransport = Arc::new(transport);
                    one(id, moments, &transport)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    }

    fn one(id: RankId, moments: Moments, transport: &SharedTransport) -> State {
        let mut context = context(2, 3, Rank::of(id, 3));
        context.plan.stages = vec![0..3, 3..5, 5..8];
        context.spec.recovery.average_moments = moments;
        let share = |rank, share| Share {
            rank: RankId(rank),
            share,
        };
        let mean = |a, b| Refill::Mean(vec![share(a, 0.25), share(b, 0.75)]);
        context.refills = [(RankId(1), mean(0, 2)), (RankId(4), mean(3, 5))].into();
        let computing = Computing {
            device: DeviceId::Cpu,
            threads: 1,
        };
        let mut engine = setup::engine(&context, computing, None).unwrap();
        if context.rank.stage != 1 {
            for (layer, kind) in held(&context) {
                let values: Vec<f32> = values(&context, layer, kind);
                let range = range(&context, layer, kind);
                engine
                    .set_state_bytes(layer, kind, range, bytemuck::cast_slice(&values))
                    .unwrap();
            }
        }
        Means {
            context: &context,
            transport,
            step: STEP,
        }
        .run(&mut engine)
        .unwrap();
        let read = |(layer, kind)| {
            let bytes = engine
                .state_bytes(layer, kind, range(&context, layer, kind))
                .unwrap();
            let (numbers, _) = bytes.as_chunks::<4>();
            (
                (layer, kind),
                numbers.iter().map(|n| f32::from_ne_bytes(*n)).collect(),
            )
        };
        held(&context).into_iter().map(read).collect()
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
}
