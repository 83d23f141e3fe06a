//! What guards keep of their wards, in whole trainers.

use rekindle_types::Refill;

use super::super::left::Whose;
use super::*;

/// Queues that hold less than a layer's gradient while their rank computes.
fn narrow() -> Options {
    Options {
        outbox_bytes: 1024,
        inbox_soft_bytes: 1024,
        ..Options::default()
    }
}

/// A shadow's update that fails is told before the guard adds its sums for the next step, and what was published stays.
#[test]
fn a_failed_update_of_a_shadow_reaches_its_guard_at_the_next_commit_point() {
    let (text, memory) = (folder(), tempfile::tempdir().unwrap());
    let mut spec = spec(text.path(), "", "");
    spec.recovery.sources = vec![RecoverySource::Local, RecoverySource::Shadow];
    let plan = plan(1, &[2, 5], &["a", "b"]);
    let transports = MemoryMesh::connect(&plan.job, plan.epoch, 2, &Options::default()).unwrap();
    let ranks: Vec<_> = plan.ranks().zip(transports).collect();
    let one = |(rank, transport)| {
        let context = setup::context(start(&spec, &plan, rank), Duration::from_secs(60)).unwrap();
        let computing = Computing {
            device: DeviceId::Cpu,
            threads: 1,
        };
        let folder = memory.path().join(rank.to_string());
        std::fs::create_dir_all(&folder).unwrap();
        let mut shadows = Shadows::new(Some(&folder), &context).unwrap();
        let mut engine = setup::engine(&context, computing, None).unwrap();
        setup::fill(&mut engine, &context).unwrap();
        let transport: SharedTransport = Arc::new(transport);
        shadows.begin(&context, &transport, &engine, 0).unwrap();
        // No gradient was taken, as if the ward had sent none.
        shadows.update(&context, 1, 1.0).unwrap();
        let error = shadows.take_gradients(&context, &transport, 1).unwrap_err();
        assert!(error.to_string().contains("gradient"), "{error}");
        drop(shadows);
        let next = Plan {
            epoch: Epoch(2),
            ..plan.clone()
        };
        let context = setup::context(start(&spec, &next, rank), Duration::from_secs(1)).unwrap();
        let left = Memory::find(&folder, &context, true).guarded();
        assert_eq!(left.into_values().collect::<Vec<_>>(), [[0]]);
    };
    std::thread::scope(|scope| {
        let ranks = ranks.into_iter().map(|rank| scope.spawn(|| one(rank)));
        ranks
            .collect::<Vec<_>>()
            .into_iter()
            .for_each(|rank| rank.join().unwrap());
    });
}

/// Where another lane has the weights guards keep moments alone, and a lost rank has all of its state from both.
#[test]
fn moments_of_a_guard_and_weights_of_a_lane_are_a_rank_s_state() {
    let text = folder();
    let mut spec = spec(text.path(), "tie_word_embeddings = true", "");
    spec.recovery.sources = vec![
        RecoverySource::Local,
        RecoverySource::Shadow,
        RecoverySource::Replica,
    ];
    let memory = tempfile::tempdir().unwrap();
    let mut plan = plan(2, &[3, 5], &["a", "b", "c", "d"]);
    for worker in &plan.workers {
        std::fs::create_dir_all(memory.path().join(worker.as_str())).unwrap();
    }
    let ranks = train_on(&spec, &plan, 1, Some(memory.path()), &Options::default()).unwrap();
    plan.epoch = plan.epoch.next();
    let (lost, guard) = (RankId(1), rekindle_plan::guards_of(&spec, &plan)[&RankId(1)][0]);
    let mesh = MemoryMesh::connect(&plan.job, plan.epoch, 4, &Options::default()).unwrap();
    let threads: Vec<_> = plan
        .ranks()
        .zip(mesh)
        .map(|(rank, transport)| {
            let mut context = setup::context(start(&spec, &plan, rank), Duration::from_secs(60)).unwrap();
            context.memory_step = Some(STEPS);
            context.refills = [(lost, Refill::Guard(guard))].into();
            let worker = memory.path().join(plan.worker_of(rank).unwrap().as_str());
            // A rank that isn't lost has its own state, here as it was at the end.
            let own = (rank != lost).then(|| {
                (
                    ranks[rank.0 as usize].1.clone(),
                    full_weights(&ranks, &plan, rank),
                )
            });
            std::thread::spawn(move || {
                let left = Memory::find(&worker, &context, true);
                let mut trainer = made(context, Arc::new(transport), 1, None).unwrap();
                for (layer, weights) in own.iter().flat_map(|(_, weights)| weights) {
                    trainer
                        .engine
                        .set_weight_bytes(*layer, 0..weights.len() / 4, weights)
                        .unwrap();
                }
                for ((layer, kind), bytes) in own.iter().flat_map(|(own, _)| own) {
                    let range = trainer.context.owned(*layer);
                    trainer
                        .engine
                        .set_state_bytes(*layer, *kind, range, bytes)
                        .unwrap();
                }
                let step = STEPS;
                let refill = super::super::refill::Refill {
                    context: &trainer.context,
                    transport: &trainer.transport,
                    memory: &left,
                    step,
                };
                refill.run(&mut trainer.engine).unwrap();
                owned(&trainer)
            })
        })
        .collect();
    let found: Vec<Owned> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    for (rank, (found, (_, wanted))) in found.iter().zip(&ranks).enumerate() {
        assert!(found == wanted, "rank {rank}");
    }
    let context = setup::context(start(&spec, &plan, guard), Duration::from_secs(1)).unwrap();
    let worker = memory.path().join(plan.worker_of(guard).unwrap().as_str());
    let left = Memory::find(&worker, &context, true);
    let state = left.at(Whose::Guarded(lost), STEPS).unwrap();
    assert!(state.piece(LayerId::Block(2), StateKind::ExpAvg).is_ok());
    assert!(
        state.piece(LayerId::Block(2), StateKind::Weights).is_err(),
        "it has none"
    );
}

/// The weights of a rank's layers, put together of what its stage's lanes own.
fn full_weights(ranks: &[(Vec<StepReport>, Owned)], plan: &Plan, rank: RankId) -> Vec<(LayerId, Vec<u8>)> {
    let mut lanes: Vec<RankId> = rekindle_plan::twins(plan, rank).chain([rank]).collect();
    lanes.sort();
    let mut all = BTreeMap::<LayerId, Vec<u8>>::new();
    for lane in lanes {
        for ((layer, kind), bytes) in &ranks[lane.0 as usize].1 {
            if *kind == StateKind::Weights {
                all.entry(*layer).or_default().extend(bytes);
            }
        }
    }
    all.into_iter().collect()
}

/// What a guard's machine has after training is what the rank had, to the bit.
#[test]
fn what_guards_leave_is_the_state_of_their_ranks() {
    let cases: [(u32, &[u32], &[&str], u32); 5] = [
        (1, &[2, 5], &["a", "b"], 1),
        (1, &[1, 4, 5], &["a", "b", "a"], 1),
        (2, &[3, 5], &["a", "b", "c", "d"], 1),
        (3, &[4, 5], &["a", "a", "b", "b", "c", "a"], 2),
        (1, &[1, 2, 3, 5], &["a", "b", "c", "d"], 3),
    ];
    let text = folder();
    let mut spec = spec(text.path(), "tie_word_embeddings = true", "");
    let undisturbed = train(&spec, 1, &[5], 1).unwrap();
    spec.recovery.sources = vec![RecoverySource::Local, RecoverySource::Shadow];
    for (lanes, ends, workers, guards) in cases {
        spec.recovery.guards = guards;
        let memory = tempfile::tempdir().unwrap();
        for worker in workers {
            std::fs::create_dir_all(memory.path().join(worker)).unwrap();
        }
        let plan = plan(lanes, ends, workers);
        std::fs::remove_dir_all(text.path().join("run")).unwrap();
        // Queues with room for what a ward owns, as trainers have them, and such as make wards wait for their guards.
        let queues = match lanes {
            2 => narrow(),
            _ => Options::default(),
        };
        let ranks = train_on(&spec, &plan, 2, Some(memory.path()), &queues).unwrap();
        assert_eq!(essence(&ranks[0].0), essence(&undisturbed), "{workers:?}");
        let next = Plan {
            epoch: Epoch(2),
            ..plan.clone()
        };
        let guards = rekindle_plan::guards_of(&spec, &plan).into_iter();
        for (rank, guard) in guards.flat_map(|(rank, guards)| guards.into_iter().map(move |g| (rank, g))) {
            let context = setup::context(start(&spec, &next, guard), Duration::from_secs(1)).unwrap();
            let worker = memory.path().join(plan.worker_of(guard).unwrap().as_str());
            let left = Memory::find(&worker, &context, true);
            assert_eq!(left.guarded()[&rank], [STEPS, STEPS - 1], "{rank} of {workers:?}");
            let state = left.at(Whose::Guarded(rank), STEPS).unwrap();
            for ((layer, kind), bytes) in &ranks[rank.0 as usize].1 {
                let (range, kept) = state.piece(*layer, *kind).unwrap();
                assert_eq!(range, context.owned_by(rank, *layer));
                assert!(kept == bytes, "{kind} of {layer} of {rank} of {workers:?}");
            }
            assert_eq!(left.at(Whose::Guarded(rank), 1).is_err(), STEPS > 2);
        }
    }
}
