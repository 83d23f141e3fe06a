//! A device that failed: the job goes on on another one where there is one, and on the same one where there is none.

use rekindle_coordinator_core::SessionId;
use rekindle_types::{FailureClass, JobId, JobState, Report};

use crate::desk::{Desk, failure, memory_spec, spec};
use crate::incidents::start;

/// Rank 1 on worker b says that its device failed, rank 0 stops.
fn fail(desk: &mut Desk, job: &JobId) {
    desk.found = Ok(Some(start(1)));
    desk.report("b", job, 1, Report::Failed(failure(FailureClass::GpuXid)));
    desk.report("a", job, 0, Report::Stopped);
}

fn workers(desk: &Desk, job: &JobId) -> Vec<String> {
    let plan = desk.view(job).plan.expect("it has a plan");
    plan.workers.iter().map(ToString::to_string).collect()
}

fn register(desk: &mut Desk, name: &str) -> SessionId {
    desk.register(name, 1, 1, vec![])
}

#[test]
fn a_job_leaves_a_device_that_failed() {
    let mut desk = Desk::new();
    let job = desk.saving(9);
    register(&mut desk, "c");
    fail(&mut desk, &job);
    assert_eq!(desk.view(&job).state, JobState::Starting);
    assert_eq!(workers(&desk, &job), ["a", "c"]);
}

#[test]
fn a_crash_says_nothing_of_the_device() {
    let mut desk = Desk::new();
    let job = desk.saving(9);
    register(&mut desk, "c");
    desk.found = Ok(Some(start(1)));
    desk.report("b", &job, 1, Report::Failed(failure(FailureClass::WorkerCrash)));
    desk.report("a", &job, 0, Report::Stopped);
    assert_eq!(workers(&desk, &job), ["a", "b"], "the same again");
}

#[test]
fn without_another_device_the_same_is_tried_again() {
    let mut desk = Desk::new();
    let job = desk.saving(9);
    fail(&mut desk, &job);
    assert_eq!(desk.view(&job).state, JobState::Starting);
    assert_eq!(workers(&desk, &job), ["a", "b"]);
}

#[test]
fn what_only_a_workers_memory_has_is_not_left_behind() {
    let mut desk = Desk::new();
    let job = desk.training_of(memory_spec(9));
    register(&mut desk, "c");
    fail(&mut desk, &job);
    assert_eq!(workers(&desk, &job), ["a", "b"]);
}

#[test]
fn other_jobs_go_elsewhere_where_they_can() {
    let mut desk = Desk::new();
    let job = desk.saving(9);
    register(&mut desk, "c");
    fail(&mut desk, &job);
    let two = desk.submit("second", spec(1, 5)).expect("it is taken");
    let rekindle_coordinator_core::Answer::Submitted { job: two, .. } = two else {
        panic!("{two:?}");
    };
    assert_eq!(workers(&desk, &two), ["b"], "there is no other slot");
    register(&mut desk, "d");
    let three = desk.submit("third", spec(1, 5)).expect("it is taken");
    let rekindle_coordinator_core::Answer::Submitted { job: three, .. } = three else {
        panic!("{three:?}");
    };
    assert_eq!(workers(&desk, &three), ["d"]);
}
