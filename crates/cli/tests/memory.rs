//! Jobs that lose trainers and workers and go on from what those left in memory, with the bits of the undisturbed run.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on panics")]

mod common;

use std::path::Path;

use common::{Cluster, Job, final_digest, metrics, reaches, signal, train, until};
use serde_json::Value;

const LOCAL: &str = r#"["local"]"#;

fn incidents(cluster: &Cluster, id: &str) -> Vec<Value> {
    let done = cluster.call(&["explain", id, "-o", "json"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    serde_json::from_str(&done.stdout).unwrap()
}

/// Waits until the job has gone on after its loss number `n`.
fn recovered(cluster: &Cluster, id: &str, n: usize) -> Value {
    until("the end of an incident", || {
        let mut all = incidents(cluster, id);
        let through = all.len() >= n && all.last()?["state"] == "RECOVERED";
        through.then(|| all.pop()).flatten()
    })
}

/// Files that trainers of a job have in shared memory.
fn kept(id: &str) -> usize {
    let folders = std::fs::read_dir("/dev/shm").unwrap().flatten();
    let ours = folders.filter(|entry| entry.file_name().to_string_lossy().starts_with("rekindle-"));
    let files = ours.flat_map(|entry| std::fs::read_dir(entry.path()).into_iter().flatten().flatten());
    let of_job = |name: &str| name.starts_with(&format!("{id}+"));
    files
        .filter(|file| of_job(&file.file_name().to_string_lossy()))
        .count()
}

fn assert_undisturbed(run: &Path, steps: u64, job: Job, folder: &Path) {
    let alone = train(
        &Job {
            pipeline: 1,
            data: 1,
            ..job
        },
        folder,
        "undisturbed",
        1,
        1,
    );
    assert_eq!(metrics(run), alone);
    assert_eq!(metrics(run).len() as u64, steps);
    assert_eq!(final_digest(run), final_digest(&folder.join("undisturbed")));
}

#[test]
fn killed_trainers_and_workers_cost_no_committed_step() {
    const STEPS: u64 = 1500;
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(folder.path(), 4);
    let run = folder.path().join("memory");
    let job = || {
        let job = Job {
            tied: true,
            ..Job::new(STEPS)
        };
        job.over(2, 2).recovering(LOCAL)
    };
    let id = cluster.submit(&job().write(folder.path(), "memory"));
    for loss in 0..6 {
        let reached = metrics(&run).pop_last().map_or(0, |(step, _)| step);
        reaches(&run, reached + 30);
        let victim = loss % 4;
        match loss {
            0..4 => signal(cluster.trainer(victim), "KILL"),
            _ => cluster.kill_worker(victim),
        }
        let incident = recovered(&cluster, &id, loss + 1);
        assert_eq!(incident["source"], "local", "{incident}");
        let again = incident["steps_again"].as_u64().unwrap();
        assert_eq!(again, 0, "{incident}");
    }
    assert_eq!(kept(&id), 4, "one for each rank");
    assert_eq!(cluster.call(&["wait", &id]).code, 0);
    until("memory to be free again", || (kept(&id) == 0).then_some(()));
    assert_undisturbed(&run, STEPS, job(), folder.path());
}

#[test]
fn a_worker_that_takes_the_state_with_it_fails_the_job_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(folder.path(), 3);
    let run = folder.path().join("gone");
    let job = Job::new(1_000_000).over(2, 1).recovering(LOCAL);
    let id = cluster.submit(&job.write(folder.path(), "gone"));
    reaches(&run, 5);
    signal(cluster.workers[1].pid(), "KILL");
    cluster.workers[1].ended();
    let waited = cluster.call(&["wait", &id]);
    assert_eq!(waited.code, 100, "{}", waited.stderr);
    for part in ["w2", "nobody's memory", "[checkpoint]"] {
        assert!(waited.stderr.contains(part), "{part}: {}", waited.stderr);
    }
}

#[test]
fn a_checkpoint_that_died_with_a_trainer_is_made_again() {
    const STEPS: u64 = 400;
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(folder.path(), 2);
    let run = folder.path().join("both");
    // Every step is saved, so a checkpoint is under way whenever a trainer dies.
    let job = || Job::new(STEPS).over(2, 1).saving(1);
    let id = cluster.submit(&job().write(folder.path(), "both"));
    for loss in 0..4 {
        let reached = metrics(&run).pop_last().map_or(0, |(step, _)| step);
        reaches(&run, reached + 20);
        signal(cluster.trainer(loss % 2), "KILL");
        let incident = recovered(&cluster, &id, loss + 1);
        assert_eq!(incident["source"], "local", "{incident}");
    }
    assert_eq!(cluster.call(&["wait", &id]).code, 0);
    let verified = common::call(&["checkpoint", "verify", &run.display().to_string()]);
    assert_eq!(verified.code, 0, "{}", verified.stderr);
    assert_undisturbed(&run, STEPS, job(), folder.path());
}
