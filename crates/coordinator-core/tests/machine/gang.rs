//! From the queue to the last step.

use rekindle_coordinator_core::{Change, Effect, Event, RankPhase, Update};
use rekindle_types::{Command, Epoch, JobState, RankId, Report};

use crate::desk::{Desk, spec, step};

#[test]
fn a_job_goes_all_the_way() {
    let mut desk = Desk::new();
    let job = desk.job(spec(2, 2));
    assert_eq!(desk.view(&job).state, JobState::Queued);
    assert!(
        desk.view(&job).reason.contains("needs 2 free trainer slots"),
        "{}",
        desk.view(&job).reason
    );
    desk.register("a", 1, 1, vec![]);
    assert_eq!(desk.orders(), [""; 0]);
    desk.register("b", 1, 1, vec![]);
    assert_eq!(desk.view(&job).state, JobState::Starting);
    assert_eq!(desk.view(&job).epoch, Epoch(1));
    assert_eq!(desk.orders(), ["start a 0", "start b 1"]);
    desk.ready("b", &job, 1);
    assert_eq!(desk.orders(), [""; 0], "not before all are ready");
    desk.ready("a", &job, 0);
    let commands = desk.commands();
    assert_eq!(commands.len(), 2);
    for (_, command) in commands {
        let Command::Connect { peers, epoch, .. } = command else {
            panic!("{command:?}")
        };
        assert_eq!(epoch, Epoch(1));
        let wanted = [(RankId(0), "h:0".to_owned()), (RankId(1), "h:1".to_owned())];
        assert_eq!(peers, wanted.into());
    }
    desk.report("a", &job, 0, Report::Step(step(1)));
    assert_eq!(desk.view(&job).state, JobState::Running);
    desk.report("a", &job, 0, Report::Step(step(2)));
    desk.report("a", &job, 0, Report::Finished);
    assert_eq!(desk.view(&job).ranks[0].phase, RankPhase::Finished);
    desk.report("b", &job, 1, Report::Finished);
    let view = desk.view(&job);
    assert_eq!(view.state, JobState::Succeeded);
    assert_eq!(view.last_step, Some(step(2)));
    assert_eq!(desk.machine.free_slots().len(), 2);
    let kinds: Vec<String> = desk
        .machine
        .events(&job, 0)
        .unwrap()
        .into_iter()
        .map(|event| event.kind)
        .collect();
    let wanted = [
        "job.submitted",
        "plan.durable",
        "trainer.ready",
        "trainer.ready",
        "plan.connected",
        "job.running",
        "trainer.finished",
        "trainer.finished",
        "job.succeeded",
    ];
    assert_eq!(kinds, wanted);
}

#[test]
fn nothing_leaves_before_its_plan_is_durable() {
    let mut desk = Desk::new();
    desk.prompt = false;
    desk.register("a", 1, 1, vec![]);
    desk.job(spec(1, 2));
    let planned = desk
        .journal
        .iter()
        .find(|(_, record)| matches!(record.change, Change::Planned { .. }));
    let seq = planned.expect("a plan").0;
    let sends = desk
        .effects
        .iter()
        .filter(|effect| matches!(effect, Effect::Send { .. }));
    let after: Vec<_> = sends.map(Effect::after).collect();
    assert_eq!(after, [Some(seq)]);
}

#[test]
fn every_report_is_acknowledged_after_its_record() {
    let mut desk = Desk::new();
    let job = desk.training(9);
    desk.prompt = false;
    desk.report("b", &job, 1, Report::Finished);
    let acknowledged = desk.effects.iter().find_map(|effect| match effect {
        Effect::Send {
            command: Command::Acknowledge { up_to },
            after,
            ..
        } => Some((*up_to, *after)),
        _ => None,
    });
    assert_eq!(acknowledged, Some((2, desk.journal.last().map(|(seq, _)| *seq))));
    // The same report once more: acknowledged again, without a second record.
    let records = desk.journal.len();
    desk.report_as("b", 2, &job, 1, 1, Report::Finished);
    assert_eq!(desk.journal.len(), records);
    assert_eq!(desk.machine.stats().repeated_reports, 1);
}

#[test]
fn steps_go_to_metrics_and_watchers_once() {
    let mut desk = Desk::new();
    let job = desk.training(9);
    desk.report("a", &job, 0, Report::Step(step(2)));
    desk.report("a", &job, 0, Report::Step(step(2)));
    let lines = desk
        .effects
        .iter()
        .filter(|effect| matches!(effect, Effect::AppendMetrics { .. }));
    assert_eq!(lines.count(), 1);
    let told = |effect: &&Effect| {
        let step = |update: &Update| matches!(update, Update::Step(step) if step.step == 2);
        matches!(effect, Effect::Publish { update, .. } if step(update))
    };
    assert_eq!(desk.effects.iter().filter(told).count(), 1);
    assert_eq!(desk.machine.stats().repeated_steps, 1);
}

#[test]
fn other_epochs_and_foreign_ranks_are_dropped() {
    let mut desk = Desk::new();
    let job = desk.training(9);
    desk.report_as("a", 50, &job, 0, 0, Report::Finished);
    desk.report_as("a", 51, &job, 2, 0, Report::Finished);
    desk.report_as("a", 52, &job, 1, 1, Report::Finished);
    assert_eq!(desk.machine.stats().stale_reports, 3);
    assert_eq!(
        desk.changes(|change| matches!(change, Change::RankFinished { .. })),
        0
    );
}

#[test]
fn the_queue_keeps_its_order() {
    let mut desk = Desk::new();
    desk.register("a", 1, 1, vec![]);
    let big = desk.job(spec(2, 2));
    let small = desk.job(spec(1, 2));
    assert_eq!(
        desk.view(&small).state,
        JobState::Queued,
        "a large job isn't passed over"
    );
    assert!(desk.view(&small).reason.contains(big.as_str()));
    desk.register("b", 1, 2, vec![]);
    assert_eq!(desk.view(&big).state, JobState::Starting);
    assert_eq!(desk.view(&small).state, JobState::Starting);
}

#[test]
fn an_output_that_cant_be_written_fails_the_job() {
    for running in [false, true] {
        let mut desk = Desk::new();
        let job = if running {
            desk.training(9)
        } else {
            desk.job(spec(2, 9))
        };
        let message = "runs/j: no space".to_owned();
        desk.tell(Event::OutputFailed {
            job: job.clone(),
            message,
        });
        let verdict = desk.verdict(&job);
        assert_eq!(verdict.class, rekindle_types::FailureClass::OutputError);
        assert!(verdict.message.contains("no space"));
    }
}
