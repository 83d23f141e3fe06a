//! `rekindle chaos` against real processes: each fault does what it says, only where it is allowed, and a run under
//! many of them ends with the bits of the undisturbed one.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on panics")]

mod common;

use std::path::Path;
use std::process::Stdio;

use common::{
    Cluster, Job, Service, assert_same_metrics, call, final_digest, metrics, reaches, rekindle, tagged,
    train, until,
};
use serde_json::Value;

const ALLOW: &[&str] = &["--allow-chaos"];
const KINDS: &str = "kill-trainer,kill-worker,stop-trainer,cut-session,kill-coordinator";

/// A job that saves its state often and may be disturbed often.
fn sturdy(steps: u64) -> Job {
    let mut job = Job::new(steps).over(2, 1).saving(2);
    job.more += "[recovery]\nmax_restarts = 1000\n";
    job
}

fn json_lines(stdout: &str) -> Vec<Value> {
    stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Seeds to go through: one by default.
fn seeds() -> u64 {
    let wanted = std::env::var("REKINDLE_CHAOS_SEEDS")
        .ok()
        .and_then(|n| n.parse().ok());
    wanted.unwrap_or(1)
}

/// `rekindle run --allow-chaos`, as a process of its own.
fn start_run(job: &Path, tag: &str) -> Service {
    let job = job.display().to_string();
    let mut command = rekindle(&["run", &job, "--workers", "2", "--threads", "1", "--allow-chaos"]);
    command
        .env("REKINDLE_TEST_TAG", tag)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    Service::start(command)
}

#[test]
fn a_run_under_seeded_chaos_ends_with_the_undisturbed_bits_and_every_second_accounted_for() {
    const STEPS: u64 = 600;
    let folder = tempfile::tempdir().unwrap();
    let undisturbed = train(&Job::new(STEPS), folder.path(), "undisturbed", 1, 2);
    for seed in 1..=seeds() {
        let name = format!("chaos-{seed}");
        let run = folder.path().join(&name);
        let tag = format!("{name}-{}", std::process::id());
        let mut service = start_run(&sturdy(STEPS).write(folder.path(), &name), &tag);
        reaches(&run, 2);
        let (place, seed, id) = (run.display().to_string(), seed.to_string(), format!("{name}-1"));
        let done = call(&[
            "chaos",
            "run",
            "--run",
            &place,
            "--seed",
            &seed,
            "--rate",
            "60",
            "--kinds",
            KINDS,
            "--hold",
            "2",
            "--until-job",
            &id,
            "-o",
            "json",
        ]);
        assert_eq!(done.code, 0, "seed {seed}: {} {}", done.stdout, done.stderr);
        assert_eq!(service.ended(), 0, "seed {seed}");
        until("the end of every process", || {
            tagged(&tag).is_empty().then_some(())
        });
        assert_same_metrics(&run, &undisturbed, &format!("seed {seed}"));
        assert_eq!(
            final_digest(&run),
            final_digest(&folder.path().join("undisturbed"))
        );
        assert!(!run.join("coordinator.address").exists(), "the run is over");
        check_report(&json_lines(&done.stdout), STEPS);
    }
}

fn check_report(lines: &[Value], steps: u64) {
    let (report, faults) = lines.split_last().unwrap();
    assert_eq!(report["type"], "report");
    assert!(faults.iter().all(|fault| fault["type"] == "fault"));
    let injected = faults
        .iter()
        .filter(|fault| fault["outcome"] == "injected")
        .count();
    assert!(injected >= 3, "{injected} faults disturb nobody: {report}");
    let counted = report["faults"].as_object().unwrap().values();
    let counted: u64 = counted.map(|counts| counts["injected"].as_u64().unwrap()).sum();
    assert_eq!(counted, injected as u64);
    let job = &report["jobs"][0];
    assert_eq!(job["state"], "SUCCEEDED");
    let account = &job["account"];
    assert_eq!(account["steps"], steps, "{account}");
    let seconds = account["seconds"].as_f64().unwrap();
    let labels = account["worker_seconds"].as_object().unwrap();
    let sum: f64 = labels.values().map(|label| label.as_f64().unwrap()).sum();
    assert!((sum - 2.0 * seconds).abs() < 1e-6 * sum, "two workers: {account}");
    let goodput = account["goodput"].as_f64().unwrap();
    assert!(goodput > 0.0 && goodput < 1.0, "{account}");
    assert!(
        (goodput - labels["productive"].as_f64().unwrap() / sum).abs() < 1e-9,
        "{account}"
    );
}

/// One fault of a kind now; its line.
fn inject(cluster: &Cluster, folder: &Path, line: &str) -> Value {
    let path = folder.join("schedule.csv");
    std::fs::write(&path, line).unwrap();
    let path = path.display().to_string();
    let done = cluster.call(&["chaos", "run", "--seed", "1", "--schedule", &path, "-o", "json"]);
    assert_eq!(done.code, 0, "{line}: {}", done.stderr);
    json_lines(&done.stdout).swap_remove(0)
}

/// The state letter of a process; none: it is gone.
fn state(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(") ").next()?.chars().next()
}

/// Whether every worker is connected.
fn connected(cluster: &Cluster) -> Vec<bool> {
    let done = cluster.call(&["workers", "-o", "json"]);
    let workers: Value = serde_json::from_str(&done.stdout).unwrap();
    let each = workers.as_array().unwrap().iter();
    each.map(|worker| worker["connected"] == true).collect()
}

#[test]
fn each_fault_does_what_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start_with(folder.path(), 2, ALLOW, ALLOW);
    let run = folder.path().join("hit");
    let _ = cluster.submit(&sturdy(1_000_000).write(folder.path(), "hit"));
    reaches(&run, 3);
    let before = cluster.trainers();
    assert_eq!(before.len(), 2);

    let line = inject(&cluster, folder.path(), "0,stop-trainer,3");
    assert_eq!(line["outcome"], "injected", "{line}");
    let still = until("a trainer that stands still", || {
        before.iter().copied().find(|pid| state(*pid) == Some('T'))
    });
    until("its going on", || (state(still) != Some('T')).then_some(()));
    assert_eq!(cluster.trainers(), before, "nobody was started again");

    let line = inject(&cluster, folder.path(), "0,cut-session,3");
    assert_eq!(line["outcome"], "injected", "{line}");
    until("a lost session", || {
        connected(&cluster).contains(&false).then_some(())
    });
    until("its return", || {
        (connected(&cluster) == [true, true]).then_some(())
    });
    assert_eq!(cluster.trainers(), before, "training went on without it");

    let line = inject(&cluster, folder.path(), "0,kill-trainer");
    assert_eq!(line["outcome"], "injected", "{line}");
    let lost = until("the end of a trainer", || {
        let ended = |pid: &u32| state(*pid).is_none_or(|s| s == 'Z');
        before.iter().copied().find(ended)
    });
    let (last, _) = metrics(&run).pop_last().unwrap();
    reaches(&run, last + 10);
    let after = cluster.trainers();
    let stays = |pid: &&u32| after.contains(pid);
    assert_eq!(
        before.iter().filter(stays).count(),
        1,
        "{before:?} without {lost}: {after:?}"
    );

    let line = inject(&cluster, folder.path(), "0,kill-worker");
    assert_eq!(line["outcome"], "injected", "{line}");
    let dead = until("the end of a worker", || {
        (0..2).find(|n| cluster.workers[*n].0.try_wait().unwrap().is_some())
    });
    assert_eq!(cluster.workers[dead].ended(), -1, "by a signal");
    assert_eq!(line["target"], format!("worker w{}", dead + 1));

    let line = inject(&cluster, folder.path(), "0,kill-coordinator");
    assert_eq!(line["outcome"], "injected", "{line}");
    assert_eq!(cluster.coordinator.ended(), -1, "by a signal");
}

#[test]
fn who_wasnt_started_with_leave_refuses_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let closed = Cluster::start_with(&folder.path().join("closed"), 1, &[], ALLOW);
    for args in [
        &["chaos", "targets"][..],
        &["chaos", "run", "--seed", "1", "--duration", "5"],
    ] {
        let done = closed.call(args);
        assert_eq!(done.code, 1, "{}", done.stdout);
        assert!(done.stderr.contains("--allow-chaos"), "{}", done.stderr);
        assert!(done.stderr.contains(&closed.address), "{}", done.stderr);
    }

    let mut open = Cluster::start_with(&folder.path().join("open"), 1, ALLOW, &[]);
    until("a worker", || (connected(&open) == [true]).then_some(()));
    let targets = open.call(&["chaos", "targets", "-o", "json"]);
    let targets: Value = serde_json::from_str(&targets.stdout).unwrap();
    assert_eq!(targets[1]["worker"], "w1", "{targets}");
    for kind in ["kill-worker", "cut-session"] {
        let line = inject(&open, folder.path(), &format!("0,{kind}"));
        assert_eq!(line["outcome"], "refused", "{line}");
        let why = line["message"].as_str().unwrap();
        assert!(why.contains("w1") && why.contains("--allow-chaos"), "{why}");
    }
    let line = inject(&open, folder.path(), "0,kill-trainer");
    assert_eq!(line["outcome"], "missed", "nothing runs: {line}");
    assert!(open.workers[0].0.try_wait().unwrap().is_none(), "it lives");
}
