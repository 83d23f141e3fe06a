//! A job from its submission to its end, over real sockets, with a worker that only speaks the protocol.

mod common;

use common::{FakeWorker, Running, job_file, lines, soon, step, trainer};
use rekindle_client::{Cancel, JobText, LogQuery, Submission, WatchUpdate};
use rekindle_types::{Command, FailureClass, JobEvent, JobState, Report, StepReport};

fn submission(text: String) -> Submission {
    Submission::new(JobText::Toml(text))
}

#[tokio::test]
async fn a_job_runs_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("run");
    let coordinator = Running::start(&folder.path().join("state")).await;
    let client = coordinator.client().await;
    let submitted = client.submit(submission(job_file(&output, 3))).await.unwrap();
    let id = submitted.job.clone().unwrap();
    assert_eq!(submitted.name, "demo");
    assert!(submitted.spec.is_some());
    let mut watch = client.watch(&id).await.unwrap();
    let Some(WatchUpdate::Snapshot(first)) = soon("a snapshot", watch.next()).await.unwrap() else {
        panic!("the first update is a snapshot");
    };
    assert_eq!(first.state, JobState::Queued);

    let mut worker = FakeWorker::connect(coordinator.address, "w1", 2).await;
    let (job, epoch) = worker.bring_up(2).await;
    assert_eq!(job, id);
    let mut last = 0;
    for number in 1..=3 {
        let report = Report::Step(step(number, epoch));
        last = worker.report(&job, epoch, 0, report).await;
    }
    worker.acknowledged(last).await;
    // CS-4: what is acknowledged is in the file.
    let written: Vec<StepReport> = lines(&output.join("metrics.jsonl"));
    assert_eq!(written, (1..=3).map(|n| step(n, epoch)).collect::<Vec<_>>());
    worker.report(&job, epoch, 0, Report::Finished).await;
    worker.report(&job, epoch, 1, Report::Finished).await;

    let (mut states, mut steps) = (Vec::new(), Vec::new());
    while let Some(update) = soon("the job's end", watch.next()).await.unwrap() {
        match update {
            WatchUpdate::Changed(job) => states.push(job.state),
            WatchUpdate::Step(step) => steps.push(step.step),
            WatchUpdate::Snapshot(_) => panic!("a gap"),
        }
    }
    states.dedup();
    assert_eq!(steps, [1, 2, 3]);
    let order = [JobState::Starting, JobState::Running, JobState::Succeeded];
    let seen: Vec<_> = states.into_iter().filter(|s| order.contains(s)).collect();
    assert_eq!(seen, order);

    let mut feed = client.metrics(&id, 1, true).await.unwrap();
    let mut told = Vec::new();
    while let Some(report) = soon("metrics", feed.next()).await.unwrap() {
        told.push(report);
    }
    assert_eq!(told, [step(2, epoch), step(3, epoch)]);
    let events = client.events(&id).await.unwrap();
    assert!(events.len() > 3);
    let mut feed = client.watch_events(&id, 2).await.unwrap();
    assert_eq!(soon("an event", feed.next()).await.unwrap().unwrap().seq, 3);
    assert_eq!(client.get(&id).await.unwrap().step(), 3);
    coordinator.stop().await;
    let written: Vec<JobEvent> = lines(&output.join("events.jsonl"));
    assert_eq!(written, events);
}

#[tokio::test]
async fn training_does_not_notice_that_the_coordinator_was_killed() {
    let folder = tempfile::tempdir().unwrap();
    let (state, output) = (folder.path().join("state"), folder.path().join("run"));
    let coordinator = Running::start(&state).await;
    let address = coordinator.address;
    let client = coordinator.client().await;
    let id = client
        .submit(submission(job_file(&output, 5)))
        .await
        .unwrap()
        .job
        .unwrap();
    let mut watch = client.watch(&id).await.unwrap();
    let mut worker = FakeWorker::connect(address, "w1", 2).await;
    let (job, epoch) = worker.bring_up(2).await;
    let second = {
        worker.report(&job, epoch, 0, Report::Step(step(1, epoch))).await;
        worker.report(&job, epoch, 0, Report::Step(step(2, epoch))).await
    };
    worker.acknowledged(second).await;
    coordinator.kill().await;

    let coordinator = Running::start_at(&state, address).await;
    let trainers = vec![trainer(&job, epoch, 0, 4), trainer(&job, epoch, 1, 4)];
    let mut worker = worker.reconnect(address, trainers).await;
    // The acknowledgement of step 2 may have been lost on the way: it is reported again.
    let report = Report::Step(step(2, epoch));
    worker.report_again(second, &job, epoch, 0, report).await;
    for number in 3..=5 {
        worker
            .report(&job, epoch, 0, Report::Step(step(number, epoch)))
            .await;
    }
    worker.report(&job, epoch, 0, Report::Finished).await;
    worker.report(&job, epoch, 1, Report::Finished).await;
    let mut snapshots = 0;
    let mut state = JobState::Queued;
    while let Some(update) = soon("the job's end", watch.next()).await.unwrap() {
        match update {
            WatchUpdate::Snapshot(job) => {
                snapshots += 1;
                state = job.state;
            }
            WatchUpdate::Changed(job) => state = job.state,
            WatchUpdate::Step(_) => {}
        }
    }
    assert_eq!((state, snapshots), (JobState::Succeeded, 2));
    coordinator.stop().await;
    let written: Vec<StepReport> = lines(&output.join("metrics.jsonl"));
    assert_eq!(written, (1..=5).map(|n| step(n, epoch)).collect::<Vec<_>>());
    let seqs: Vec<u64> = lines::<JobEvent>(&output.join("events.jsonl"))
        .iter()
        .map(|event| event.seq)
        .collect();
    assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_failed_trainer_fails_the_job_with_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let coordinator = Running::start(&folder.path().join("state")).await;
    let client = coordinator.client().await;
    let text = job_file(&folder.path().join("run"), 5);
    let id = client.submit(submission(text)).await.unwrap().job.unwrap();
    let mut watch = client.watch(&id).await.unwrap();
    let mut worker = FakeWorker::connect(coordinator.address, "w1", 2).await;
    let (job, epoch) = worker.bring_up(2).await;
    let failure = rekindle_types::Failure {
        class: FailureClass::NumericNan,
        rank: Some(rekindle_types::RankId(1)),
        worker: None,
        message: "the loss is NaN".to_owned(),
    };
    worker.report(&job, epoch, 1, Report::Failed(failure)).await;
    // Its peer is told to stop.
    while !matches!(worker.command().await, Command::Stop { .. }) {}
    worker.report(&job, epoch, 0, Report::Stopped).await;
    while soon("the job's end", watch.next()).await.unwrap().is_some() {}
    let failed = client.get(&id).await.unwrap();
    assert_eq!(failed.state, JobState::Failed);
    let failure = failed.failure.unwrap();
    assert_eq!(failure.class, FailureClass::NumericNan);
    assert!(failure.message.contains("NaN"));
    coordinator.stop().await;
}

#[tokio::test]
async fn a_run_that_cannot_be_written_fails() {
    let folder = tempfile::tempdir().unwrap();
    let coordinator = Running::start(&folder.path().join("state")).await;
    let client = coordinator.client().await;
    // Nobody can make a folder there.
    let text = job_file(std::path::Path::new("/proc/rekindle-test"), 5);
    let id = client.submit(submission(text)).await.unwrap().job.unwrap();
    let mut worker = FakeWorker::connect(coordinator.address, "w1", 2).await;
    let mut watch = client.watch(&id).await.unwrap();
    let heartbeats = tokio::spawn(async move {
        loop {
            worker.command().await;
        }
    });
    while soon("the job's end", watch.next()).await.unwrap().is_some() {}
    heartbeats.abort();
    let failure = client.get(&id).await.unwrap().failure.unwrap();
    assert_eq!(failure.class, FailureClass::OutputError);
    assert!(
        failure.message.contains("/proc/rekindle-test"),
        "{}",
        failure.message
    );
    coordinator.stop().await;
}

#[tokio::test]
async fn a_queued_job_is_cancelled_and_its_logs_are_followed_to_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("run");
    std::fs::create_dir_all(output.join("logs")).unwrap();
    std::fs::write(output.join("logs/worker-0.log"), "one\ntwo\n").unwrap();
    let coordinator = Running::start(&folder.path().join("state")).await;
    let client = coordinator.client().await;
    let id = client
        .submit(submission(job_file(&output, 5)))
        .await
        .unwrap()
        .job
        .unwrap();
    let query = LogQuery {
        tail_lines: Some(1),
        follow: true,
        ..LogQuery::default()
    };
    let mut logs = client.logs(&id, query).await.unwrap();
    let line = soon("a line", logs.next()).await.unwrap().unwrap();
    assert_eq!((line.process.as_str(), line.text.as_str()), ("worker-0", "two"));
    // Appended, as logs are: a file that is written anew is empty for a moment, and may be read from its beginning
    // again.
    let log = std::fs::File::options()
        .append(true)
        .open(output.join("logs/worker-0.log"));
    std::io::Write::write_all(&mut log.unwrap(), b"last").unwrap();
    let cancelled = client.cancel(&id, Cancel::Stop).await.unwrap();
    assert_eq!(cancelled.state, JobState::Cancelled);
    assert_eq!(soon("a line", logs.next()).await.unwrap().unwrap().text, "last");
    assert!(soon("the end", logs.next()).await.unwrap().is_none());
    let again = client.cancel(&id, Cancel::Stop).await.unwrap();
    assert_eq!(again.state, JobState::Cancelled);
    coordinator.stop().await;
}
