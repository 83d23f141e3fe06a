//! Losses as stories: what was seen, what it was, what was decided, when, and from where the job went on.

use rekindle_coordinator_core::{CancelMode, Change, Config, Durable, Event};
use rekindle_types::{
    CausalRole, Epoch, FailureClass, Incident, IncidentState, JobId, JobState, RankId, Report, StartPoint,
    StateSource, TrainerPhase,
};

use crate::desk::{Desk, failure, saved, saving_spec, status, step, worker};

pub fn start(step: u64) -> StartPoint {
    StartPoint {
        step,
        url: format!("runs/j/checkpoints/step-{step:08}"),
        rebuilt: Vec::new(),
    }
}

fn incidents(desk: &Desk, job: &JobId) -> Vec<Incident> {
    desk.machine.incidents(job).expect("the job is known")
}

fn only(desk: &Desk, job: &JobId) -> Incident {
    let mut all = incidents(desk, job);
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

/// Roles with rank and who saw it.
fn roles(incident: &Incident) -> Vec<(CausalRole, u32, Option<&str>)> {
    let mut all = Vec::new();
    for noted in &incident.failures {
        let rank = noted.failure.rank.map_or(99, |rank| rank.0);
        all.push((
            noted.role,
            rank,
            noted.seen_by.as_ref().map(|worker| worker.as_str()),
        ));
    }
    all
}

fn closing_lines(desk: &Desk, job: &JobId) -> Vec<String> {
    let events = desk.machine.events(job, 0).expect("the job is known");
    let closing = events.into_iter().filter(|event| event.kind == "incident.closed");
    closing.map(|event| event.detail).collect()
}

/// Reports of `epoch`, numbered from `number` on: ready, then the first step.
fn rejoin(desk: &mut Desk, job: &JobId, epoch: u64, number: u64, first: u64) {
    for (rank, name) in [(0, "a"), (1, "b")] {
        let data_address = format!("h:{rank}");
        desk.report_as(
            name,
            number,
            job,
            epoch,
            rank,
            Report::Ready {
                data_address,
                in_memory: rekindle_types::InMemory::default(),
            },
        );
        desk.now += 100;
    }
    desk.report_as("a", number + 1, job, epoch, 0, Report::Step(step(first)));
}

#[test]
fn a_crash_with_cascades_is_one_story() {
    let mut desk = Desk::new();
    let job = desk.saving(9);
    desk.found = Ok(Some(start(1)));
    for number in 2..5 {
        desk.report("a", &job, 0, Report::Step(step(number)));
    }
    let began = desk.now;
    desk.report("a", &job, 0, Report::Failed(failure(FailureClass::Network)));
    let traced = only(&desk, &job);
    assert_eq!(
        (traced.state, traced.decision.as_str()),
        (IncidentState::Tracing, "")
    );
    assert_eq!(roles(&traced), [(CausalRole::Unknown, 0, Some("a"))]);
    desk.now += 50;
    desk.report("b", &job, 1, Report::Failed(failure(FailureClass::WorkerCrash)));
    let placed = only(&desk, &job);
    assert_eq!(
        (placed.state, placed.next_epoch),
        (IncidentState::Recovering, Some(Epoch(2)))
    );
    desk.now += 1_000;
    rejoin(&mut desk, &job, 2, 50, 2);
    let incident = only(&desk, &job);
    assert_eq!(incident.state, IncidentState::Recovered);
    assert_eq!(
        roles(&incident),
        [
            (CausalRole::Cascade, 0, Some("a")),
            (CausalRole::Initiating, 1, Some("b"))
        ]
    );
    let verdict = incident.initiating().expect("it is decided");
    assert_eq!(verdict.failure.worker, Some(worker("b")));
    assert_eq!((incident.number, incident.epoch), (1, Epoch(1)));
    assert_eq!((incident.last_step, incident.resumed_step), (Some(4), Some(1)));
    assert_eq!(incident.steps_again(), Some(3));
    assert_eq!(
        (incident.source, incident.source_url),
        (Some(StateSource::Checkpoint), Some(start(1).url))
    );
    assert!(
        incident.exact && incident.decision.contains("checkpoint of step 1"),
        "{}",
        incident.decision
    );
    assert_eq!(incident.times.detected, began);
    assert_eq!(incident.times.decided, Some(began + 50));
    assert_eq!(incident.times.placed, Some(began + 50));
    assert_eq!(incident.times.ready, Some(began + 1_150));
    assert_eq!(incident.times.rejoined, Some(began + 1_250));
    let lines = closing_lines(&desk, &job);
    assert_eq!(lines.len(), 1, "{lines:?}");
    for part in [
        "rank 1 on worker b",
        "WORKER_CRASH",
        "checkpoint of step 1",
        "1250 ms",
        "3 steps were run again",
    ] {
        assert!(lines[0].contains(part), "{part}: {}", lines[0]);
    }
}

#[test]
fn peers_that_speak_after_the_verdict_belong_to_it() {
    let mut desk = Desk::new();
    let job = desk.saving(9);
    desk.report("b", &job, 1, Report::Failed(failure(FailureClass::WorkerCrash)));
    assert_eq!(desk.view(&job).state, JobState::Recovering);
    desk.now += 5;
    let before = desk.changes(|change| matches!(change, Change::Requeued { .. }));
    desk.report("a", &job, 0, Report::Failed(failure(FailureClass::Network)));
    let incident = only(&desk, &job);
    assert_eq!(
        roles(&incident),
        [
            (CausalRole::Initiating, 1, Some("b")),
            (CausalRole::Cascade, 0, Some("a"))
        ]
    );
    assert_eq!(
        desk.changes(|change| matches!(change, Change::Requeued { .. })),
        before,
        "it decides nothing"
    );
    assert_eq!(incident.source, Some(StateSource::Beginning), "nothing was found");
    assert_eq!(
        (incident.resumed_step, incident.steps_again()),
        (Some(0), Some(1))
    );
    assert!(
        incident.decision.contains("the beginning"),
        "{}",
        incident.decision
    );
}

#[test]
fn a_lost_worker_is_seen_by_the_coordinator() {
    let mut desk = Desk::new();
    let job = desk.saving(9);
    desk.report("a", &job, 0, Report::Failed(failure(FailureClass::Network)));
    desk.wait(11_000, &["a"]);
    let incident = only(&desk, &job);
    assert_eq!(
        roles(&incident),
        [
            (CausalRole::Cascade, 0, Some("a")),
            (CausalRole::Initiating, 1, None)
        ]
    );
    assert_eq!(
        incident.state,
        IncidentState::Recovering,
        "there is no second worker to go on with"
    );
    assert_eq!((incident.next_epoch, incident.source), (None, None));
    let durations = incident.durations();
    assert!(durations.decide.expect("it is decided") > 5_000, "{durations:?}");
    assert_eq!((durations.place, durations.total), (None, None));
    // The user has waited long enough.
    desk.cancel(&job, CancelMode::Graceful).expect("it is taken");
    assert_eq!(only(&desk, &job).state, IncidentState::Cancelled);
}

#[test]
fn a_damaged_checkpoint_then_an_older_one_are_two_stories() {
    let mut desk = Desk::new();
    let job = desk.saving(9);
    for number in 2..7 {
        desk.report("a", &job, 0, Report::Step(step(number)));
    }
    desk.found = Ok(Some(start(4)));
    desk.report("b", &job, 1, Report::Failed(failure(FailureClass::WorkerCrash)));
    desk.report("a", &job, 0, Report::Stopped);
    desk.found = Ok(Some(start(2)));
    desk.report_as(
        "a",
        50,
        &job,
        2,
        0,
        Report::Failed(failure(FailureClass::CheckpointCorrupt)),
    );
    desk.report_as("b", 50, &job, 2, 1, Report::Stopped);
    let both = incidents(&desk, &job);
    assert_eq!(both.len(), 2);
    assert_eq!(
        (both[0].state, both[1].state),
        (IncidentState::Overtaken, IncidentState::Recovering)
    );
    assert_eq!((both[0].epoch, both[0].next_epoch), (Epoch(1), Some(Epoch(2))));
    assert_eq!((both[1].epoch, both[1].next_epoch), (Epoch(2), Some(Epoch(3))));
    assert_eq!((both[0].last_step, both[0].resumed_step), (Some(6), Some(4)));
    assert_eq!(
        (both[1].last_step, both[1].resumed_step),
        (Some(4), Some(2)),
        "it had committed no step"
    );
    assert!(both[1].decision.contains("damaged"), "{}", both[1].decision);
    rejoin(&mut desk, &job, 3, 60, 3);
    let both = incidents(&desk, &job);
    assert_eq!(
        (both[0].state, both[1].state),
        (IncidentState::Overtaken, IncidentState::Recovered)
    );
    assert_eq!(both[0].times.rejoined, None);
    // Steps 3 to 6 are run again, each counted once.
    assert_eq!(both.iter().filter_map(Incident::steps_again).sum::<u64>(), 4);
    assert_eq!(closing_lines(&desk, &job).len(), 1);
}

#[test]
fn a_spent_budget_ends_the_story_with_its_reason() {
    let mut desk = Desk::new();
    let mut spec = saving_spec(9);
    spec.recovery.max_restarts = 1;
    let job = desk.training_of(spec);
    desk.report("b", &job, 1, Report::Failed(failure(FailureClass::WorkerCrash)));
    desk.report("a", &job, 0, Report::Stopped);
    desk.report_as(
        "a",
        50,
        &job,
        2,
        0,
        Report::Failed(failure(FailureClass::WorkerCrash)),
    );
    let both = incidents(&desk, &job);
    assert_eq!(
        (both[0].state, both[1].state),
        (IncidentState::Overtaken, IncidentState::Failed)
    );
    assert!(
        both[1].decision.contains("recovery.max_restarts"),
        "{}",
        both[1].decision
    );
    assert_eq!(roles(&both[1]), [(CausalRole::Initiating, 0, Some("a"))]);
    assert!(both[1].times.decided.is_some() && both[1].times.placed.is_none());
    assert!(closing_lines(&desk, &job).is_empty(), "nothing went on");
}

#[test]
fn a_job_that_saves_nothing_has_a_story_too() {
    let mut desk = Desk::new();
    let job = desk.training(9);
    desk.report("b", &job, 1, Report::Failed(failure(FailureClass::WorkerCrash)));
    let incident = only(&desk, &job);
    assert_eq!(
        (incident.state, incident.last_step),
        (IncidentState::Failed, Some(1))
    );
    assert!(
        incident.decision.contains("saves no checkpoints"),
        "{}",
        incident.decision
    );
    assert_eq!(roles(&incident), [(CausalRole::Initiating, 1, Some("b"))]);
}

#[test]
fn a_worker_that_leaves_is_a_story_without_steps_run_again() {
    let mut desk = Desk::new();
    let job = desk.saving(9);
    let session = desk.register("b", 1, 1, vec![status(&job, 1, 1, TrainerPhase::Training)]);
    desk.tell(Event::WorkerDraining {
        session,
        grace: 20_000,
    });
    desk.report("a", &job, 0, Report::Step(step(2)));
    desk.report("a", &job, 0, saved(2, 0));
    desk.report("b", &job, 1, saved(2, 1));
    desk.found = Ok(Some(start(2)));
    desk.written(&job, 1, 2, None);
    desk.report("a", &job, 0, Report::Stopped);
    desk.report("b", &job, 1, Report::Stopped);
    desk.register("c", 1, 1, vec![]);
    let incident = only(&desk, &job);
    let verdict = &incident.initiating().expect("it is decided").failure;
    assert_eq!(
        (verdict.class, verdict.rank),
        (FailureClass::WorkerLost, Some(RankId(1)))
    );
    assert!(verdict.message.contains("asked to leave"), "{}", verdict.message);
    assert_eq!(
        incident.failures.len(),
        1,
        "trainers that stop when told to are no failures"
    );
    assert_eq!(incident.steps_again(), Some(0));
}

#[test]
fn the_story_goes_on_when_the_coordinator_is_restarted() {
    // It dies while the loss is traced, while a place is waited for, and while the new trainers load.
    let mut desk = Desk::new();
    let job = desk.saving(9);
    desk.report("a", &job, 0, Report::Step(step(2)));
    desk.report("a", &job, 0, Report::Failed(failure(FailureClass::Network)));
    let detected = desk.now;
    let mut desk = desk.restart();
    desk.now += 20;
    desk.found = Ok(Some(start(1)));
    desk.register("a", 1, 1, vec![]);
    desk.register("b", 1, 1, vec![]);
    desk.report_as(
        "b",
        2,
        &job,
        1,
        1,
        Report::Failed(failure(FailureClass::WorkerCrash)),
    );
    let incident = only(&desk, &job);
    assert_eq!(incident.times.detected, detected);
    assert_eq!(incident.next_epoch, Some(Epoch(2)));
    assert_eq!(
        incident.last_step, None,
        "a coordinator that has just come back doesn't know"
    );
    assert_eq!(incident.steps_again(), None);
    let mut desk = desk.restart();
    assert_eq!(only(&desk, &job), incident);
    desk.now += 20;
    desk.register("a", 1, 1, vec![status(&job, 2, 0, TrainerPhase::Ready)]);
    desk.register("b", 1, 1, vec![status(&job, 2, 1, TrainerPhase::Ready)]);
    let ready = only(&desk, &job).times.ready;
    assert!(
        ready.is_some_and(|at| at > detected),
        "also when no report of it comes: {ready:?}"
    );
    let mut desk = desk.restart();
    desk.now += 20;
    desk.register("a", 1, 1, vec![status(&job, 2, 0, TrainerPhase::Training)]);
    desk.register("b", 1, 1, vec![status(&job, 2, 1, TrainerPhase::Training)]);
    desk.report_as("a", 70, &job, 2, 0, Report::Step(step(2)));
    let incident = only(&desk, &job);
    assert_eq!(
        (incident.state, incident.times.ready),
        (IncidentState::Recovered, ready)
    );
    assert_eq!(incident.times.rejoined, Some(desk.now));
    // It dies between the step's record and the line that closes the story.
    let closed = desk.journal.pop().expect("the closing record");
    assert!(matches!(
        closed.1.change,
        Change::IncidentClosed { number: 1, .. }
    ));
    let desk = desk.restart();
    assert_eq!(closing_lines(&desk, &job).len(), 1);
    assert_eq!(closing_lines(&desk.restart(), &job).len(), 1, "told once");
}

#[test]
fn a_loss_after_the_last_step_ends_with_the_job() {
    let mut desk = Desk::new();
    let job = desk.saving(1);
    desk.report("a", &job, 0, saved(1, 0));
    desk.report("b", &job, 1, saved(1, 1));
    desk.written(&job, 1, 1, None);
    desk.found = Ok(Some(start(1)));
    desk.report("b", &job, 1, Report::Failed(failure(FailureClass::WorkerCrash)));
    desk.report("a", &job, 0, Report::Stopped);
    desk.report_as("a", 50, &job, 2, 0, Report::Finished);
    desk.report_as("b", 50, &job, 2, 1, Report::Finished);
    assert_eq!(desk.view(&job).state, JobState::Succeeded);
    let incident = only(&desk, &job);
    assert_eq!(
        (incident.state, incident.steps_again()),
        (IncidentState::Recovered, Some(0))
    );
    assert!(incident.times.rejoined.is_some());
    assert_eq!(closing_lines(&desk, &job).len(), 1);
}

#[test]
fn failures_of_their_own_weight_beside_the_verdict_have_no_known_role() {
    let mut desk = Desk::new();
    let job = desk.saving(9);
    desk.report("b", &job, 1, Report::Failed(failure(FailureClass::WorkerCrash)));
    desk.report("a", &job, 0, Report::Failed(failure(FailureClass::WorkerCrash)));
    assert_eq!(
        roles(&only(&desk, &job)),
        [
            (CausalRole::Initiating, 1, Some("b")),
            (CausalRole::Unknown, 0, Some("a"))
        ]
    );
}

#[test]
fn the_newest_incidents_are_kept_and_all_are_counted() {
    let mut desk = Desk::with(Config {
        max_incidents: 2,
        ..Config::default()
    });
    let job = desk.saving(9);
    for epoch in 1..4 {
        desk.report_as(
            "b",
            epoch * 20,
            &job,
            epoch,
            1,
            Report::Failed(failure(FailureClass::WorkerCrash)),
        );
        desk.report_as("a", epoch * 20, &job, epoch, 0, Report::Stopped);
    }
    let numbers: Vec<u64> = incidents(&desk, &job)
        .iter()
        .map(|incident| incident.number)
        .collect();
    assert_eq!(numbers, [2, 3]);
    assert_eq!(
        desk.machine.durable().job(&job).expect("it is known").story.count,
        3
    );
}

#[test]
fn journals_written_before_there_were_incidents_fold() {
    let mut desk = Desk::new();
    let job = desk.saving(9);
    desk.found = Ok(Some(start(1)));
    desk.report("b", &job, 1, Report::Failed(failure(FailureClass::WorkerCrash)));
    desk.report("a", &job, 0, Report::Stopped);
    rejoin(&mut desk, &job, 2, 50, 2);
    let mut state = Durable::new(&Config::default());
    for (_, record) in &desk.journal {
        let mut value = serde_json::to_value(record).expect("it is finite");
        let change = value["change"].as_object_mut().expect("a change");
        if change.contains_key("reloaded") || change.contains_key("incident_closed") {
            continue;
        }
        for (kind, key) in [("failure_noted", "seen_by"), ("requeued", "last_step")] {
            if let Some(fields) = change.get_mut(kind).and_then(|fields| fields.as_object_mut()) {
                assert!(fields.remove(key).is_some(), "{kind} has {key}");
            }
        }
        let record = serde_json::from_value(value).expect("it reads back");
        state.apply(&record).expect("it folds");
    }
    let incident = &state.job(&job).expect("it is known").story.incidents[0];
    assert_eq!(incident.state, IncidentState::Recovered);
    assert_eq!(
        (incident.last_step, incident.times.ready),
        (None, None),
        "what isn't known isn't made up"
    );
    assert_eq!(incident.resumed_step, Some(1));
}
