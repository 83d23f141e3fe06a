//! What `rekindle explain` tells of real losses, against what the run's files say.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on panics")]

mod common;

use std::path::Path;

use common::{Cluster, Job, children, final_digest, metrics, reaches, signal, train, try_signal, until};
use serde_json::Value;

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn of_kind(run: &Path, kind: &str) -> Vec<String> {
    let events = lines(&run.join("events.jsonl"));
    let wanted = events.iter().filter(|event| event["kind"] == kind);
    wanted
        .map(|event| event["detail"].as_str().unwrap().to_owned())
        .collect()
}

fn explain(cluster: &Cluster, id: &str) -> Vec<Value> {
    let done = cluster.call(&["explain", id, "-o", "json"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    let value: Value = serde_json::from_str(&done.stdout).unwrap();
    value.as_array().unwrap().clone()
}

/// The times of the phases, all of them, in order.
fn times(incident: &Value) -> Vec<u64> {
    let names = ["detected", "decided", "placed", "ready", "rejoined"];
    let at = |name: &&str| {
        incident["times"][*name]
            .as_u64()
            .unwrap_or_else(|| panic!("{name}: {incident}"))
    };
    names.iter().map(at).collect()
}

#[test]
fn a_killed_trainer_is_named_as_the_cause_though_its_peers_are_heard_first() {
    const STEPS: u64 = 600;
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(folder.path(), 3);
    let run = folder.path().join("explained");
    let job = Job::new(STEPS)
        .over(3, 1)
        .saving(20)
        .recovering(r#"["checkpoint"]"#);
    let id = cluster.submit(&job.write(folder.path(), "explained"));
    until("a checkpoint", || {
        (!of_kind(&run, "checkpoint.committed").is_empty()).then_some(())
    });
    let quiet = cluster.call(&["explain", &id]);
    assert!(quiet.stdout.contains("lost nothing"), "{}", quiet.stdout);

    // The worker of the killed trainer is held, so that the peers are heard first for sure.
    let victim = cluster.trainer(1);
    signal(cluster.workers[1].pid(), "STOP");
    signal(victim, "KILL");
    until("the peers' failures", || {
        (of_kind(&run, "failure.noted").len() == 2).then_some(())
    });
    signal(cluster.workers[1].pid(), "CONT");
    assert_eq!(
        cluster.call(&["wait", &id]).code,
        0,
        "{:?}",
        of_kind(&run, "job.failed")
    );

    let incidents = explain(&cluster, &id);
    assert_eq!(incidents.len(), 1, "{incidents:?}");
    let incident = &incidents[0];
    assert_eq!(incident["state"], "RECOVERED", "{incident}");
    assert_eq!(
        (&incident["epoch"], &incident["next_epoch"]),
        (&1.into(), &2.into())
    );
    let status: Value = serde_json::from_str(&cluster.call(&["status", &id, "-o", "json"]).stdout).unwrap();
    let workers = status["plan"]["workers"].as_array().unwrap();
    let failures = incident["failures"].as_array().unwrap();
    assert_eq!(failures.len(), 3, "{incident}");
    for (n, noted) in failures.iter().enumerate() {
        let (role, class) = match n {
            2 => ("INITIATING", "WORKER_CRASH"),
            _ => ("CASCADE", "NETWORK"),
        };
        let failure = &noted["failure"];
        assert_eq!(
            (&noted["role"], &failure["class"]),
            (&role.into(), &class.into()),
            "{incident}"
        );
        assert_eq!(failure["worker"] == "w2", n == 2, "{incident}");
        assert_eq!(noted["seen_by"], failure["worker"], "{incident}");
    }
    let guilty = &failures[2]["failure"];
    // Plans place ranks on workers by name, before and after.
    assert_eq!(
        workers[usize::try_from(guilty["rank"].as_u64().unwrap()).unwrap()],
        "w2"
    );

    let times = times(incident);
    assert!(times.is_sorted() && times[0] > 0, "{times:?}");
    assert_eq!(times[0], failures[0]["time_unix_ms"].as_u64().unwrap());
    assert_eq!(incident["durations"]["total"], times[4] - times[0]);

    // A step that was run again has two lines.
    let written = lines(&run.join("metrics.jsonl"));
    let first_of_new = written.iter().find(|line| line["epoch"] == 2).unwrap()["step"]
        .as_u64()
        .unwrap();
    let last_of_old = written.iter().rfind(|line| line["epoch"] == 1).unwrap()["step"]
        .as_u64()
        .unwrap();
    assert_eq!(incident["last_step"], last_of_old);
    assert_eq!(incident["resumed_step"], first_of_new - 1);
    assert_eq!(incident["steps_again"], written.len() as u64 - STEPS);
    let (source, url) = (&incident["source"], incident["source_url"].as_str().unwrap());
    assert_eq!((source, &incident["exact"]), (&"checkpoint".into(), &true.into()));
    assert!(url.ends_with(&format!("step-{:08}", first_of_new - 1)), "{url}");

    let closed = of_kind(&run, "incident.closed");
    assert_eq!(closed.len(), 1, "{closed:?}");
    let again = format!("{} step", incident["steps_again"]);
    for part in [
        "w2",
        "WORKER_CRASH",
        &format!("step {}", first_of_new - 1),
        &again,
    ] {
        assert!(closed[0].contains(part), "{part}: {}", closed[0]);
    }
    let told = cluster.call(&["explain", &id]);
    assert_eq!(told.code, 0, "{}", told.stderr);
    for part in [
        "INITIATING  WORKER_CRASH",
        "CASCADE     NETWORK",
        "rejoined",
        "run again",
    ] {
        assert!(told.stdout.contains(part), "{part}: {}", told.stdout);
    }
}

#[test]
fn a_trainer_that_stands_still_is_named_and_not_those_that_wait_for_it() {
    const STEPS: u64 = 300;
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(folder.path(), 4);
    let run = folder.path().join("stopped");
    let job = Job::new(STEPS).over(4, 1).saving(20);
    let id = cluster.submit(&job.write(folder.path(), "stopped"));
    reaches(&run, 30);
    let victim = cluster.trainer(1);
    signal(victim, "STOP");
    let noted = until("the failure", || of_kind(&run, "failure.noted").pop());
    for part in [
        "HANG",
        "rank 1 on worker w2",
        "waits for rank 1 (a frame",
        "rank 1 has said nothing for",
        "stands still",
    ] {
        assert!(noted.contains(part), "{part}: {noted}");
    }
    let waited = cluster.call(&["wait", &id]);
    assert_eq!(waited.code, 0, "{}", waited.stderr);
    assert!(!try_signal(victim, "0"), "what stood still was killed");
    let incidents = explain(&cluster, &id);
    assert_eq!(incidents.len(), 1, "{incidents:?}");
    let incident = &incidents[0];
    assert_eq!(incident["state"], "RECOVERED", "{incident}");
    let failures = incident["failures"].as_array().unwrap();
    assert_eq!(failures.len(), 1, "nobody that waited is named: {incident}");
    assert_eq!(failures[0]["role"], "INITIATING");
    let failure = &failures[0]["failure"];
    assert_eq!(
        (&failure["class"], &failure["rank"], &failure["worker"]),
        (&"HANG".into(), &1.into(), &"w2".into())
    );
    let undisturbed = train(&job, folder.path(), "undisturbed", 1, 1);
    assert_eq!(metrics(&run), undisturbed);
    assert_eq!(
        final_digest(&run),
        final_digest(&folder.path().join("undisturbed"))
    );
}

#[test]
fn a_worker_that_stands_still_is_lost_and_its_trainer_is_not_said_to_hang() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(folder.path(), 2);
    let run = folder.path().join("stopped");
    let job = Job::new(300).over(2, 1).saving(5);
    let id = cluster.submit(&job.write(folder.path(), "stopped"));
    reaches(&run, 10);
    // With its trainer, as a machine that is suspended: rank 0 waits for rank 1, and says so.
    let (worker, trainer) = (cluster.workers[1].pid(), cluster.trainer(1));
    for pid in [worker, trainer] {
        signal(pid, "STOP");
    }
    let noted = until("the failure", || of_kind(&run, "failure.noted").pop());
    assert!(noted.contains("WORKER_LOST") && noted.contains("w2"), "{noted}");
    for pid in [worker, trainer] {
        signal(pid, "CONT");
    }
    let waited = cluster.call(&["wait", &id]);
    assert_eq!(waited.code, 0, "{}", waited.stderr);
    let incidents = explain(&cluster, &id);
    assert!(
        !Value::from(incidents.clone()).to_string().contains("HANG"),
        "{incidents:?}"
    );
    assert_eq!(incidents.len(), 1, "{incidents:?}");
}

#[test]
fn a_budget_of_restarts_that_is_used_up_is_named_with_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(folder.path(), 2);
    let run = folder.path().join("crashes");
    // Restarts without a checkpoint in between: nothing lasts.
    let mut job = Job::new(100_000).over(2, 1).saving(50_000);
    job.more += "[recovery]\nsources = [\"checkpoint\"]\nmax_restarts_of = { WORKER_CRASH = 1 }\n";
    let id = cluster.submit(&job.write(folder.path(), "crashes"));
    reaches(&run, 2);
    signal(cluster.trainer(0), "KILL");
    until("the restart", || {
        (!of_kind(&run, "incident.closed").is_empty()).then_some(())
    });
    let status = cluster.call(&["status", &id]).stdout;
    assert!(
        status.contains("1 of 1 after a WORKER_CRASH without lasting progress"),
        "{status}"
    );
    assert!(status.contains("1 of 8 without lasting progress"), "{status}");
    signal(cluster.trainer(0), "KILL");
    let waited = cluster.call(&["wait", &id]);
    assert_eq!(waited.code, 100, "{}", waited.stderr);
    let ended = of_kind(&run, "job.failed").pop().unwrap();
    for part in [
        "WORKER_CRASH at rank",
        "restarted once after a WORKER_CRASH",
        "recovery.max_restarts_of.WORKER_CRASH = 1",
    ] {
        assert!(ended.contains(part), "{part}: {ended}");
    }
}

#[test]
fn a_job_that_cant_go_on_is_explained_also_after_the_coordinators_restart() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(folder.path(), 2);
    assert_eq!(cluster.call(&["explain", "nobody"]).code, 102);
    assert_eq!(cluster.call(&["explain", "No such id!"]).code, 2);
    let run = folder.path().join("ended");
    let id = cluster.submit(
        &Job::new(1_000_000)
            .over(2, 1)
            .recovering(r#"["checkpoint"]"#)
            .write(folder.path(), "ended"),
    );
    reaches(&run, 3);
    signal(*children(cluster.workers[0].pid()).first().unwrap(), "KILL");
    assert_eq!(cluster.call(&["wait", &id]).code, 100);
    let before = explain(&cluster, &id);
    assert_eq!(before.len(), 1);
    assert_eq!(
        (&before[0]["state"], &before[0]["source"]),
        (&"FAILED".into(), &Value::Null)
    );
    let decision = before[0]["decision"].as_str().unwrap();
    assert!(decision.contains("saves no checkpoints"), "{decision}");
    let last = lines(&run.join("metrics.jsonl")).pop().unwrap();
    assert_eq!(before[0]["last_step"], last["step"]);
    signal(cluster.coordinator.pid(), "KILL");
    cluster.coordinator.ended();
    cluster.new_coordinator();
    assert_eq!(explain(&cluster, &id), before);
}
