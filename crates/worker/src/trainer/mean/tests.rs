//! Means over the in-memory transport: what every rank has after them.

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

/// Three stages of two lanes; the middle one of both is lost. Blocks 1 and 2 of 0 to 5 are on stage 0, 3 and 4 in the
/// middle.
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
