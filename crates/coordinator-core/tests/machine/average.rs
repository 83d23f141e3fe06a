//! Stages that nobody has the state of, made of the stages beside them.

use rekindle_coordinator_core::Change;
use rekindle_types::spec::{Moments, RecoverySource};
use rekindle_types::{
    Command, InMemory, JobId, JobSpec, JobState, Origin, RankId, Rebuilt, Refill, Report, Share, StateSource,
    StepReport,
};

use crate::desk::{Desk, spec, step};
use crate::memory::ready;

fn averaged(stages: u32) -> JobSpec {
    let mut spec = spec(stages, 9);
    // Blocks that outweigh the head, so that every stage has some.
    spec.model.intermediate_size = 512;
    spec.recovery.sources = vec![RecoverySource::Local, RecoverySource::NeighbourAverage];
    spec
}

/// The job on workers `a`, `b`, ... at step 5.
fn at_step_5(desk: &mut Desk, spec: JobSpec, workers: &[&str]) -> JobId {
    for name in workers {
        desk.register(name, 1, 1, Vec::new());
    }
    let job = desk.job(spec);
    for (name, rank) in workers.iter().zip(0..) {
        ready(desk, name, &job, 1, rank, &[]);
    }
    for at in 1..=5 {
        let report = StepReport {
            stage_norms: vec![0.5, 9.0, 1.5],
            ..step(at)
        };
        desk.report(workers[0], &job, 0, Report::Step(report));
    }
    desk.orders();
    job
}

/// What all ranks were told to start from, the same for each.
fn origin(desk: &mut Desk) -> Option<Origin> {
    let told = |(_, command)| match command {
        Command::Connect { from, .. } => Some(from),
        _ => None,
    };
    let mut told: Vec<_> = desk.commands().into_iter().filter_map(told).collect();
    let first = told.pop()?;
    assert!(told.iter().all(|other| *other == first));
    Some(first)
}

/// `b` of `a`, `b`, `c` is lost for good, `d` takes its place and finds nothing.
fn lose_b(desk: &mut Desk, job: &JobId) {
    desk.register("d", 1, 1, Vec::new());
    desk.lose("b");
    desk.wait(11_000, &["a", "c", "d"]);
    desk.report("a", job, 0, Report::Stopped);
    desk.report("c", job, 2, Report::Stopped);
    assert_eq!(desk.orders(), ["halt a", "halt c"], "b may come back yet");
    desk.wait(60_000, &["a", "c", "d"]);
    assert_eq!(desk.orders(), ["start a 0", "start d 1", "start c 2"]);
    for (name, rank, own) in [("a", 0, &[5, 4][..]), ("c", 2, &[6, 5]), ("d", 1, &[])] {
        ready(desk, name, job, 2, rank, own);
    }
}

fn share(rank: u32, share: f64) -> Share {
    Share {
        rank: RankId(rank),
        share,
    }
}

#[test]
fn an_inner_stage_that_nobody_has_is_made_of_its_neighbours() {
    let mut desk = Desk::new();
    let job = at_step_5(&mut desk, averaged(3), &["a", "b", "c"]);
    lose_b(&mut desk, &job);
    let origin = origin(&mut desk).expect("told to connect");
    let mean = Refill::Mean(vec![share(0, 0.25), share(2, 0.75)]);
    assert_eq!(origin.step, Some(5));
    assert_eq!(origin.refills, [(RankId(1), mean)].into());
    let stage = desk.view(&job).plan.expect("one").stages[1].clone();
    let layers: Vec<u32> = origin.rebuilt.iter().map(|rebuilt| rebuilt.layer).collect();
    assert_eq!(layers, stage.collect::<Vec<_>>());
    let anew = |rebuilt: &Rebuilt| (rebuilt.after, rebuilt.count_from) == (5, 5);
    assert!(origin.rebuilt.iter().all(anew), "Adam counts anew");
    desk.report_of("a", &job, 2, 0, Report::Step(step(6)));
    let incident = desk.machine.incidents(&job).expect("known").pop().expect("one");
    assert_eq!(incident.source, Some(StateSource::NeighbourAverage));
    assert!(!incident.exact);
    assert_eq!(desk.view(&job).rebuilt, origin.rebuilt, "the job is marked");
}

#[test]
fn shares_that_the_loss_decides_are_told_as_such() {
    let mut desk = Desk::new();
    let mut spec = averaged(3);
    spec.recovery.average_by_loss = true;
    let job = at_step_5(&mut desk, spec, &["a", "b", "c"]);
    lose_b(&mut desk, &job);
    let origin = origin(&mut desk).expect("told to connect");
    let best_of = vec![share(0, 0.25), share(2, 0.75)];
    assert_eq!(origin.refills, [(RankId(1), Refill::Best { best_of })].into());
    desk.report_of("a", &job, 2, 0, Report::Step(step(6)));
    let incident = desk.machine.incidents(&job).expect("known").pop().expect("one");
    assert_eq!(incident.source, Some(StateSource::NeighbourAverage));
    assert!(!incident.exact);
}

#[test]
fn blended_moments_keep_their_count_and_later_losses_remember() {
    let mut desk = Desk::new();
    let mut spec = averaged(3);
    spec.recovery.average_moments = Moments::Both;
    let job = at_step_5(&mut desk, spec, &["a", "b", "c"]);
    lose_b(&mut desk, &job);
    let first = origin(&mut desk).expect("told to connect");
    assert!(first.rebuilt.iter().all(|rebuilt| rebuilt.count_from == 0));
    desk.report_of("a", &job, 2, 0, Report::Step(step(6)));
    // The next loss is mended exactly, and the job still isn't the undisturbed one.
    desk.report_of(
        "d",
        &job,
        2,
        1,
        Report::Failed(crate::desk::failure(rekindle_types::FailureClass::WorkerCrash)),
    );
    desk.report_of("a", &job, 2, 0, Report::Stopped);
    desk.report_of("c", &job, 2, 2, Report::Stopped);
    for (name, rank) in [("a", 0), ("d", 1), ("c", 2)] {
        ready(&mut desk, name, &job, 3, rank, &[6, 5]);
    }
    let second = origin(&mut desk).expect("told to connect");
    assert_eq!((second.step, second.refills.len()), (Some(6), 0));
    assert_eq!(second.rebuilt, first.rebuilt);
    let incident = desk.machine.incidents(&job).expect("known").pop().expect("one");
    assert_eq!(
        (incident.source, incident.exact),
        (Some(StateSource::Local), false)
    );
}

#[test]
fn a_worker_that_comes_back_with_its_memory_is_better_than_a_mean() {
    let mut desk = Desk::new();
    let job = at_step_5(&mut desk, averaged(3), &["a", "b", "c"]);
    desk.register("d", 1, 1, Vec::new());
    desk.lose("b");
    desk.wait(11_000, &["a", "c", "d"]);
    desk.report("a", &job, 0, Report::Stopped);
    desk.report("c", &job, 2, Report::Stopped);
    desk.register_with("b", vec![job.clone()]);
    for (name, rank) in [("a", 0), ("b", 1), ("c", 2)] {
        ready(&mut desk, name, &job, 2, rank, &[5]);
    }
    let origin = origin(&mut desk).expect("told to connect");
    assert_eq!(
        (origin.step, origin.refills.len(), origin.rebuilt.len()),
        (Some(5), 0, 0)
    );
}

#[test]
fn an_end_of_the_pipeline_has_no_like_and_the_job_says_so() {
    let mut desk = Desk::new();
    let job = at_step_5(&mut desk, averaged(3), &["a", "b", "c"]);
    desk.register("d", 1, 1, Vec::new());
    desk.lose("a");
    desk.wait(11_000, &["b", "c", "d"]);
    desk.report("b", &job, 1, Report::Stopped);
    desk.report("c", &job, 2, Report::Stopped);
    desk.wait(60_000, &["b", "c", "d"]);
    let view = desk.view(&job);
    assert_eq!(view.state, JobState::Failed);
    let message = view.failure.expect("one").message;
    assert!(
        message.contains("no mean either") && message.contains("end of the pipeline"),
        "{message}"
    );
    assert_eq!(
        desk.changes(|change| matches!(change, Change::Connected { .. })),
        1
    );
}

fn swapping() -> JobSpec {
    let mut spec = averaged(4);
    spec.recovery.sources.push(RecoverySource::Swap);
    spec
}

/// `b` has steps of its own, and of the embedding that `a` had.
fn beside_the_first(desk: &mut Desk, job: &JobId, own: &[u64], embedding: &[u64]) {
    let in_memory = InMemory {
        guarded: [(RankId(0), embedding.to_vec())].into(),
        ..InMemory::own(own)
    };
    let report = Report::Ready {
        data_address: "h:1".to_owned(),
        in_memory,
    };
    desk.report_of("b", job, 2, 1, report);
}

/// `a` of `a` to `d` is lost for good, `e` takes its place and finds nothing.
fn lose_the_first(desk: &mut Desk, job: &JobId) {
    desk.register("e", 1, 1, Vec::new());
    desk.lose("a");
    desk.wait(11_000, &["b", "c", "d", "e"]);
    for (name, rank) in [("b", 1), ("c", 2), ("d", 3)] {
        desk.report(name, job, rank, Report::Stopped);
    }
    desk.wait(60_000, &["b", "c", "d", "e"]);
    for (name, rank, own) in [("c", 2, &[5, 4][..]), ("d", 3, &[5, 4]), ("e", 0, &[])] {
        ready(desk, name, job, 2, rank, own);
    }
}

#[test]
fn with_swapped_micro_batches_a_lost_end_is_its_twin_and_has_its_own_embedding() {
    // The newest step of the blocks, and one of which the embedding isn't there: then the step before.
    for (embedding, step) in [(&[5, 4][..], 5), (&[4, 3], 4)] {
        let mut desk = Desk::new();
        let job = at_step_5(&mut desk, swapping(), &["a", "b", "c", "d"]);
        lose_the_first(&mut desk, &job);
        beside_the_first(&mut desk, &job, &[5, 4], embedding);
        let origin = origin(&mut desk).expect("told to connect");
        assert_eq!(origin.step, Some(step));
        assert_eq!(
            origin.refills,
            [(RankId(0), Refill::Mean(vec![share(1, 1.0)]))].into()
        );
        let layers: Vec<u32> = origin.rebuilt.iter().map(|rebuilt| rebuilt.layer).collect();
        let stage = desk.view(&job).plan.expect("one").stages[0].clone();
        assert_eq!(
            layers,
            (1..stage.end).collect::<Vec<_>>(),
            "all but the embedding"
        );
        desk.report_of("e", &job, 2, 0, Report::Step(self::step(step + 1)));
        let incident = desk.machine.incidents(&job).expect("known").pop().expect("one");
        assert_eq!(
            (incident.source, incident.exact),
            (Some(StateSource::NeighbourAverage), false)
        );
    }
}

#[test]
fn without_its_embedding_an_end_is_not_made_up() {
    let mut desk = Desk::new();
    let job = at_step_5(&mut desk, swapping(), &["a", "b", "c", "d"]);
    lose_the_first(&mut desk, &job);
    beside_the_first(&mut desk, &job, &[5, 4], &[]);
    let view = desk.view(&job);
    assert_eq!(view.state, JobState::Failed);
    let message = view.failure.expect("one").message;
    assert!(message.contains("nor are the embedding or head"), "{message}");
}

#[test]
fn an_end_lost_with_the_stage_beside_it_is_refused_by_name() {
    let mut desk = Desk::new();
    let job = at_step_5(&mut desk, swapping(), &["a", "b", "c", "d"]);
    desk.register("e", 1, 1, Vec::new());
    desk.register("f", 1, 1, Vec::new());
    desk.lose("c");
    desk.lose("d");
    desk.wait(11_000, &["a", "b", "e", "f"]);
    desk.report("a", &job, 0, Report::Stopped);
    desk.report("b", &job, 1, Report::Stopped);
    desk.wait(60_000, &["a", "b", "e", "f"]);
    let view = desk.view(&job);
    assert_eq!(view.state, JobState::Failed);
    let message = view.failure.expect("one").message;
    assert!(message.contains("no mean either: places 2 and 3"), "{message}");
}
