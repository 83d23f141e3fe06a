//! The worker's machine over hours and past the end of jobs.

use rekindle_types::{Command, Epoch, JobId};

use crate::Effect;
use crate::event::Event;
use crate::machine::tests::{exited, key, open_worker, start};

fn forgets(effects: &[Effect]) -> Vec<&JobId> {
    let mut jobs = Vec::new();
    for effect in effects {
        if let Effect::Forget { job } = effect {
            jobs.push(job);
        }
    }
    jobs
}

#[test]
fn what_an_ended_job_left_goes_when_its_last_trainer_is_gone() {
    let mut worker = open_worker();
    let job = key(1, 0).job;
    let forget = || Event::Command(Command::Forget { job: job.clone() });
    assert_eq!(forgets(&worker.handle(1, forget())), [&job], "nothing runs");
    worker.handle(2, start(1, 0));
    worker.handle(3, Event::Spawned { key: key(1, 0) });
    assert!(
        forgets(&worker.handle(4, forget())).is_empty(),
        "it may still write"
    );
    let stop = Command::Stop {
        job: job.clone(),
        epoch: Epoch(1),
        reason: "the job ended".to_owned(),
    };
    assert!(forgets(&worker.handle(5, Event::Command(stop))).is_empty());
    let gone = worker.handle(6, exited(key(1, 0), Some(0), None));
    assert_eq!(forgets(&gone), [&job]);
}

#[test]
fn a_clock_that_jumps_ends_nothing() {
    let mut worker = open_worker();
    worker.handle(1, start(1, 0));
    worker.handle(2, Event::Spawned { key: key(1, 0) });
    let harmless = |effects: Vec<Effect>| {
        let beats = effects.iter().all(|effect| matches!(effect, Effect::Heartbeat));
        assert!(beats, "{effects:?}");
    };
    let jump = 10 * 3_600_000;
    harmless(worker.handle(jump, Event::Tick));
    harmless(worker.handle(3, Event::Tick));
    // Nor does it keep what is due from coming: without a coordinator the bound counts from here, in steps.
    let closed = Event::SessionClosed {
        message: "gone".to_owned(),
    };
    worker.handle(4, closed);
    let terminates = |effects: &[Effect]| effects.iter().any(|e| matches!(e, Effect::Terminate { .. }));
    let effects = worker.handle(jump, Event::Tick);
    assert!(
        !terminates(&effects),
        "hours by the clock aren't hours: {effects:?}"
    );
}
