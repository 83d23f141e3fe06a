//! A lost stage becomes the mean of its neighbours that has the lowest loss, in whole trainers.

use rekindle_plan::average::{Candidate, Mix, Source, blend, candidates, outputs};
use rekindle_transport::{Tag, TagKind};
use rekindle_types::{Refill, Share};

use super::super::batch::Batch;
use super::super::evaluate::forward;
use super::*;

const STEP: u64 = 4;

/// Weights by layer.
type Weights = BTreeMap<LayerId, Vec<f32>>;

fn weights(trainer: &Trainer) -> Weights {
    let read = |layer| {
        let all = 0..trainer.context.numel(layer);
        let engine = &trainer.engine;
        (layer, engine.export(layer, StateKind::Weights, all).unwrap())
    };
    trainer.engine.layers().into_iter().map(read).collect()
}

/// All ranks of three stages of so many lanes, the middle stage of which is lost; their weights afterwards.
fn recovered(spec: &JobSpec, lanes: u32, first: f64) -> Vec<Weights> {
    let plan = plan(lanes, &[2, 3, 5], &vec!["w"; 3 * lanes as usize]);
    let share = |rank, share| Share {
        rank: RankId(rank),
        share,
    };
    let best = |lane: u32| {
        let best_of = vec![share(3 * lane, first), share(3 * lane + 2, 1.0 - first)];
        (RankId(3 * lane + 1), Refill::Best { best_of })
    };
    let refills: BTreeMap<_, _> = (0..lanes).map(best).collect();
    let mesh = MemoryMesh::connect(&plan.job, plan.epoch, plan.world(), &Options::default());
    let ranks = plan.ranks().zip(mesh.unwrap()).map(|(rank, transport)| {
        let mut context = setup::context(start(spec, &plan, rank), Duration::from_secs(60)).unwrap();
        (context.memory_step, context.refills) = (Some(STEP), refills.clone());
        std::thread::spawn(move || {
            let mut trainer = made(context, Arc::new(transport), 1, None).unwrap();
            trainer.begin(&Memory::default(), false).unwrap();
            weights(&trainer)
        })
    });
    let ranks: Vec<_> = ranks.collect();
    ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
}

/// One engine with all layers; the middle block is made of those beside it.
fn alone(spec: &JobSpec) -> Trainer {
    let plan = plan(1, &[5], &["w"]);
    let mut mesh = MemoryMesh::connect(&plan.job, plan.epoch, 1, &Options::default()).unwrap();
    let context = setup::context(start(spec, &plan, RankId(0)), Duration::from_secs(60)).unwrap();
    made(context, Arc::new(mesh.remove(0)), 1, None).unwrap()
}

fn becomes(trainer: &mut Trainer, all: &Weights, candidate: &Candidate) -> Vec<f32> {
    let middle = LayerId::Block(1);
    let beside = [&all[&LayerId::Block(0)], &all[&LayerId::Block(2)]];
    let parts = candidate.mix.parts().iter();
    let parts: Vec<_> = parts
        .map(|part| (beside[part.stage].as_slice(), part.share))
        .collect();
    let mut made = blend(&parts).unwrap();
    if candidate.bypass {
        let layout = trainer.context.spec.model.layout(middle);
        outputs(&layout)
            .into_iter()
            .for_each(|range| made[range].fill(0.0));
    }
    let bytes = bytemuck::cast_slice(&made);
    let engine = &mut trainer.engine;
    engine
        .set_state_bytes(middle, StateKind::Weights, 0..made.len(), bytes)
        .unwrap();
    made
}

/// The oracle is one engine that tries every candidate on the same micro-batch.
#[test]
fn of_all_candidates_the_one_with_the_lowest_loss_stays_in_every_lane() {
    let text = folder();
    let mut spec = spec(text.path(), "initializer_range = 0.5", "");
    spec.recovery.sources = vec![RecoverySource::Local, RecoverySource::NeighbourAverage];
    let mut trainer = alone(&spec);
    let all = weights(&trainer);
    let batch = Batch::of_step(&trainer.context, trainer.text.as_ref(), STEP).unwrap();
    let mut not_the_rule_s = 0;
    for (lanes, first) in [(1, 0.5), (2, 0.9)] {
        let tried = candidates(Source::Blend(0, 1), &Mix::of(0, 1, first));
        let mut losses = Vec::new();
        for (n, candidate) in (0..).zip(&tried) {
            let made = becomes(&mut trainer, &all, candidate);
            let tag = Tag::new(TagKind::Eval, STEP, n);
            losses.push((forward(&mut trainer, &batch, 0, tag).unwrap().0, n, made));
        }
        let (_, best, wanted) = losses.into_iter().min_by_key(|(loss, n, _)| (*loss, *n)).unwrap();
        not_the_rule_s += u32::from(best != 0);
        let ranks = recovered(&spec, lanes, first);
        for lane in 0..lanes as usize {
            let found = &ranks[3 * lane + 1][&LayerId::Block(1)];
            assert!(
                *found == wanted,
                "lane {lane} has another one than {:?}",
                tried[best as usize]
            );
            assert_eq!(
                ranks[3 * lane][&LayerId::Block(0)],
                all[&LayerId::Block(0)],
                "untouched"
            );
        }
    }
    assert!(
        not_the_rule_s > 0,
        "the rule's own blend was always the best: this shows nothing"
    );
}
