//! What happens when processes are killed: nothing hangs, nothing is left behind, and what can't go on says who is at
//! fault.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on panics")]

mod common;

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{
    Cluster, Job, Service, final_digest, metrics, reaches, rekindle, signal, tagged, ticks, train,
    try_signal, until,
};

#[test]
fn a_killed_coordinator_comes_back_and_the_run_is_undisturbed() {
    const STEPS: u64 = 800;
    let folder = tempfile::tempdir().unwrap();
    let job = Job::new(STEPS).over(2, 1);
    let mut cluster = Cluster::start(folder.path(), 2);
    let run = folder.path().join("killed");
    let id = cluster.submit(&job.write(folder.path(), "killed"));
    reaches(&run, 5);
    signal(cluster.coordinator.pid(), "KILL");
    cluster.coordinator.ended();
    let (at_death, _) = metrics(&run).pop_last().unwrap();
    assert!(
        at_death < STEPS / 2,
        "the coordinator died too late to matter: {at_death}"
    );
    // Training goes on without it: the same processes compute, though nobody writes their steps down now.
    let trainers = cluster.trainers();
    assert_eq!(trainers.len(), 2);
    for pid in &trainers {
        let before = ticks(*pid);
        until("a trainer that computes on", || {
            (ticks(*pid) >= before + 10).then_some(())
        });
    }
    cluster.new_coordinator();
    reaches(&run, at_death + 1);
    let after = cluster.trainers();
    assert_eq!(after, trainers, "nothing was started again");
    let waited = cluster.call(&["wait", &id]);
    assert_eq!(waited.code, 0, "{}", waited.stderr);
    let undisturbed = train(&Job::new(STEPS), folder.path(), "undisturbed", 1, 1);
    assert_eq!(metrics(&run), undisturbed);
    assert_eq!(
        final_digest(&run),
        final_digest(&folder.path().join("undisturbed"))
    );
}

#[test]
fn a_killed_trainer_fails_the_job_by_name_and_soon() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(folder.path(), 3);
    let run = folder.path().join("crash");
    let id = cluster.submit(
        &Job::new(1_000_000)
            .over(3, 1)
            .recovering("[]")
            .write(folder.path(), "crash"),
    );
    reaches(&run, 3);
    signal(cluster.trainer(1), "KILL");
    let since = Instant::now();
    let waited = cluster.call(&["wait", &id]);
    assert_eq!(waited.code, 100, "{}", waited.stderr);
    assert!(
        since.elapsed() < Duration::from_secs(60),
        "it took {:?} to notice",
        since.elapsed()
    );
    let status = cluster.call(&["status", &id, "-o", "json"]);
    let value: serde_json::Value = serde_json::from_str(&status.stdout).unwrap();
    assert_eq!(value["state"], "FAILED");
    let failure = &value["failure"];
    assert_eq!(failure["class"], "WORKER_CRASH", "{failure}");
    assert_eq!(failure["worker"], "w2", "{failure}");
    let holder = value["plan"]["workers"]
        .as_array()
        .unwrap()
        .iter()
        .position(|w| w == "w2")
        .unwrap();
    assert_eq!(failure["rank"], holder, "{failure}");
    assert!(waited.stderr.contains("w2"), "{}", waited.stderr);
    // The workers are free again.
    let next = cluster.submit(&Job::new(5).over(3, 1).write(folder.path(), "next"));
    assert_eq!(cluster.call(&["wait", &next]).code, 0);
}

#[test]
fn a_followed_job_says_how_it_ended_by_status() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(folder.path(), 1);
    assert_eq!(cluster.call(&["wait", "nobody"]).code, 102);
    let id = cluster.submit(&Job::new(1_000_000).write(folder.path(), "long"));
    assert_eq!(cluster.call(&["wait", &id, "--timeout", "1"]).code, 101);
    reaches(&folder.path().join("long"), 2);
    assert_eq!(cluster.call(&["cancel", &id]).code, 0);
    assert_eq!(cluster.call(&["wait", &id]).code, 103);
    for command in ["status", "events", "logs", "metrics"] {
        let done = cluster.call(&[command, &id]);
        assert_eq!(done.code, 0, "{command}: {}", done.stderr);
        assert!(!done.stdout.trim().is_empty(), "{command} printed nothing");
    }
    let jobs = cluster.call(&["jobs", "-o", "json"]);
    let value: serde_json::Value = serde_json::from_str(&jobs.stdout).unwrap();
    assert_eq!(value[0]["job"], id.as_str());
    assert!(cluster.call(&["workers"]).stdout.contains("w1"));
}

/// `rekindle run` of an endless job that has begun to train.
fn endless_run(folder: &Path, name: &str, tag: &str) -> Service {
    let job = Job::new(1_000_000)
        .over(2, 1)
        .write(folder, name)
        .display()
        .to_string();
    let mut command = rekindle(&["run", &job, "--workers", "2"]);
    command
        .env("REKINDLE_TEST_TAG", tag)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let service = Service::start(command);
    reaches(&folder.join(name), 2);
    assert!(
        tagged(tag).len() >= 6,
        "itself, a coordinator, two workers, two trainers: {:?}",
        tagged(tag)
    );
    service
}

fn nobody_is_left(tag: &str) {
    until("the end of every process", || {
        tagged(tag).is_empty().then_some(())
    });
}

#[test]
fn ctrl_c_cancels_and_leaves_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let tag = format!("ctrl-c-{}", std::process::id());
    let mut run = endless_run(folder.path(), "stopped", &tag);
    signal(run.pid(), "INT");
    assert_eq!(run.ended(), 103);
    nobody_is_left(&tag);
}

#[test]
fn ctrl_c_twice_ends_at_once_and_leaves_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let tag = format!("twice-{}", std::process::id());
    let mut run = endless_run(folder.path(), "twice", &tag);
    signal(run.pid(), "INT");
    std::thread::sleep(Duration::from_millis(5));
    let _ = try_signal(run.pid(), "INT");
    let code = run.ended();
    // The first may have been enough already.
    assert!([101, 103].contains(&code), "{code}");
    nobody_is_left(&tag);
}

#[test]
fn a_killed_run_takes_its_children_along() {
    let folder = tempfile::tempdir().unwrap();
    let tag = format!("orphans-{}", std::process::id());
    let mut run = endless_run(folder.path(), "orphans", &tag);
    signal(run.pid(), "KILL");
    assert_eq!(run.ended(), -1);
    nobody_is_left(&tag);
}
