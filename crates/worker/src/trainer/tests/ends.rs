//! The ends of the pipeline in jobs that swap micro-batches: what the ranks beside them keep, and how a lost end
//! comes back.

use rekindle_types::{Refill, Share};

use super::super::Engine;
use super::super::context::Context;
use super::super::left::Whose;
use super::super::refill::Refill as Refilling;
use super::swap::{SWAP_STEPS, swapping};
use super::*;

/// What a rank holds.
type Held = BTreeMap<(LayerId, StateKind), Vec<u8>>;

fn held(context: &Context, engine: &Engine) -> Held {
    let layers = context.layers();
    let all = layers.flat_map(|layer| StateKind::ALL.map(|kind| (layer, kind)));
    all.map(|(layer, kind)| {
        let range = range(context, layer, kind);
        (
            (layer, kind),
            engine.state_bytes(layer, kind, range).unwrap().into_owned(),
        )
    })
    .collect()
}

fn range(context: &Context, layer: LayerId, kind: StateKind) -> Range<usize> {
    match kind {
        StateKind::Weights => 0..context.numel(layer),
        _ => context.owned(layer),
    }
}

/// In the next epoch: a rank that is lost has nothing, any other what it held; afterwards the refills.
fn refill(mut context: Context, transport: &SharedTransport, folder: &Path, before: Option<&Held>) -> Held {
    context.memory_step = Some(SWAP_STEPS);
    let computing = Computing {
        device: DeviceId::Cpu,
        threads: 1,
    };
    let mut engine = setup::engine(&context, computing, None).unwrap();
    for ((layer, kind), bytes) in before.into_iter().flatten() {
        engine
            .set_state_bytes(*layer, *kind, range(&context, *layer, *kind), bytes)
            .unwrap();
    }
    let memory = Memory::find(folder, &context, true);
    let refilling = Refilling {
        context: &context,
        transport,
        memory: &memory,
        step: SWAP_STEPS,
    };
    refilling.run(&mut engine).unwrap();
    held(&context, &engine)
}

/// Both ends of all lanes are lost after training: their blocks are those of the stages beside them, embedding and
/// head are back to the bit, with their moments.
#[test]
fn a_lost_end_is_a_copy_of_its_twin_with_its_own_embedding_or_head() {
    const ENDS: &[u32] = &[2, 4, 6, 8];
    let text = folder();
    for (model, lanes) in [("", 1), ("", 2), ("tie_word_embeddings = true", 2)] {
        let spec = swapping(text.path(), model, "");
        let memory = tempfile::tempdir().unwrap();
        let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
        let plan = plan(lanes, ENDS, &names[..4 * lanes as usize]);
        let home = |rank| memory.path().join(plan.worker_of(rank).unwrap().as_str());
        plan.ranks()
            .for_each(|rank| std::fs::create_dir_all(home(rank)).unwrap());
        let states = train_and_hold(&spec, &plan, memory.path());
        let next = Plan {
            epoch: Epoch(2),
            ..plan.clone()
        };
        let copy = |rank: u32| {
            Refill::Mean(vec![Share {
                rank: RankId(rank),
                share: 1.0,
            }])
        };
        let of_lane = |lane: u32| {
            [
                (RankId(4 * lane), copy(4 * lane + 1)),
                (RankId(4 * lane + 3), copy(4 * lane + 2)),
            ]
        };
        let refills: BTreeMap<_, _> = (0..lanes).flat_map(of_lane).collect();
        let transports =
            MemoryMesh::connect(&next.job, next.epoch, next.world(), &Options::default()).unwrap();
        let after: Vec<Held> = std::thread::scope(|scope| {
            let threads: Vec<_> = next
                .ranks()
                .zip(transports)
                .map(|(rank, transport)| {
                    let mut context =
                        setup::context(start(&spec, &next, rank), Duration::from_secs(60)).unwrap();
                    context.refills = refills.clone();
                    let before = (!refills.contains_key(&rank)).then(|| &states[rank.0 as usize]);
                    let folder = home(rank);
                    let transport: SharedTransport = Arc::new(transport);
                    scope.spawn(move || refill(context, &transport, &folder, before))
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        for rank in plan.ranks() {
            let (before, after) = (&states[rank.0 as usize], &after[rank.0 as usize]);
            for (&(layer, kind), bytes) in after {
                let what = format!("{kind} of {layer} of {rank}, {lanes} lanes {model}");
                let is_end = !matches!(layer, LayerId::Block(_));
                if is_end || !refills.contains_key(&rank) {
                    assert!(before[&(layer, kind)] == *bytes, "{what}");
                    // The other half of the embedding are bytes that the text hasn't: no gradient moves their moments.
                    let is_used = plan.rank(rank).lane == 0 || kind == StateKind::Weights;
                    assert!(
                        !is_used || bytes.is_empty() || bytes.iter().any(|byte| *byte != 0),
                        "{what}"
                    );
                } else if kind == StateKind::Weights {
                    let twin = Refill::senders(&refills[&rank])[0];
                    // Stage 0 has block 0 beside 1 and 2; stage 3 block 5 beside 3 and 4: the one at the same place,
                    // in the middle.
                    let like = if layer == LayerId::Block(0) {
                        LayerId::Block(2)
                    } else {
                        LayerId::Block(4)
                    };
                    assert!(states[twin.0 as usize][&(like, kind)] == *bytes, "{what}");
                } else {
                    assert!(bytes.iter().all(|byte| *byte == 0), "{what}: Adam begins anew");
                }
            }
        }
    }
}

/// Trains, with guards in `memory`; what every rank holds at the end.
fn train_and_hold(spec: &JobSpec, plan: &Plan, memory: &Path) -> Vec<Held> {
    let transports = MemoryMesh::connect(&plan.job, plan.epoch, plan.world(), &Options::default()).unwrap();
    let ranks: Vec<_> = plan
        .ranks()
        .zip(transports)
        .map(|(rank, transport)| {
            let start = start(spec, plan, rank);
            let folder = memory.join(plan.worker_of(rank).unwrap().as_str());
            std::thread::spawn(move || {
                let trainer = trained(start, Arc::new(transport), 1, Some(&folder)).unwrap().1;
                held(&trainer.context, &trainer.engine)
            })
        })
        .collect();
    ranks.into_iter().map(|thread| thread.join().unwrap()).collect()
}

/// What the neighbours keep of the ends has the bits that these have, and nothing else is kept.
#[test]
fn neighbours_keep_the_ends_alone() {
    let text = folder();
    let spec = swapping(text.path(), "", "");
    let memory = tempfile::tempdir().unwrap();
    let plan = plan(1, &[2, 4, 6, 8], &["a", "b", "c", "d"]);
    plan.ranks().for_each(|rank| {
        std::fs::create_dir_all(memory.path().join(plan.worker_of(rank).unwrap().as_str())).unwrap()
    });
    let states = train_and_hold(&spec, &plan, memory.path());
    let next = Plan {
        epoch: Epoch(2),
        ..plan.clone()
    };
    for (guard, end, layer, other) in [
        (1, 0, LayerId::Embed, LayerId::Block(0)),
        (2, 3, LayerId::Head, LayerId::Block(5)),
    ] {
        let context = setup::context(start(&spec, &next, RankId(guard)), Duration::from_secs(1)).unwrap();
        let left = Memory::find(
            &memory.path().join(plan.workers[guard as usize].as_str()),
            &context,
            true,
        );
        assert_eq!(
            left.guarded(),
            [(RankId(end), vec![SWAP_STEPS, SWAP_STEPS - 1])].into()
        );
        let state = left.at(Whose::Guarded(RankId(end)), SWAP_STEPS).unwrap();
        for kind in StateKind::ALL {
            let (_, kept) = state.piece(layer, kind).unwrap();
            assert!(kept == states[end as usize][&(layer, kind)], "{kind} of {layer}");
            assert!(state.piece(other, kind).is_err());
        }
    }
}
