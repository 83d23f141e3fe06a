//! What shouldn't happen to a cluster and does: two workers of one name, a full disk under the journal.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on panics")]

mod common;
#[path = "../../store/tests/disk/mod.rs"]
mod disk;

use common::{Cluster, Job, children, final_digest, metrics, reaches, signal, train, until};
use disk::Disk;
use serde_json::Value;

const STEPS: u64 = 400;

#[test]
fn a_second_worker_of_a_living_ones_name_waits_and_takes_over_when_that_dies() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(folder.path(), 2);
    let run = folder.path().join("taken");
    let job = Job::new(STEPS).over(2, 1);
    let id = cluster.submit(&job.clone().saving(5).write(folder.path(), "taken"));
    reaches(&run, 3);
    let before = incarnations(&cluster);
    let trainers: Vec<u32> = cluster.trainers();
    let second = cluster.new_worker(0);
    let log = folder.path().join("w1.log");
    until("the refusal of the second", || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        text.contains("is registered and alive").then_some(())
    });
    assert_eq!(
        incarnations(&cluster),
        before,
        "the first one is still who it was"
    );
    let now: Vec<u32> = cluster.trainers();
    assert_eq!((now, children(second.pid())), (trainers, vec![]));
    signal(cluster.workers[0].pid(), "KILL");
    cluster.workers[0].ended();
    cluster.workers[0] = second;
    let waited = cluster.call(&["wait", &id]);
    assert_eq!(waited.code, 0, "{}", waited.stderr);
    let after = incarnations(&cluster);
    assert_eq!((after.len(), &after[1]), (2, &before[1]));
    assert_ne!(after[0], before[0], "the second took the name");
    let undisturbed = train(&job, folder.path(), "undisturbed", 1, 1);
    assert_eq!(metrics(&run), undisturbed);
}

/// Of each worker, by name.
fn incarnations(cluster: &Cluster) -> Vec<Value> {
    let done = cluster.call(&["workers", "-o", "json"]);
    let workers: Value = serde_json::from_str(&done.stdout).unwrap();
    let each = workers.as_array().unwrap().iter();
    each.map(|worker| worker["incarnation"].clone()).collect()
}

#[test]
fn a_full_disk_under_the_journal_ends_the_coordinator_by_name_and_not_the_training() {
    // So many that, however late the disk is filled, records are left that don't fit into what the journal's file has
    // free.
    const STEPS: u64 = 1500;
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("state")).unwrap();
    let Some(disk) = Disk::mount(&folder.path().join("state"), 4 << 10) else {
        return;
    };
    let mut cluster = Cluster::start(folder.path(), 2);
    let run = folder.path().join("full");
    let job = Job::new(STEPS).over(2, 1);
    // Every checkpoint is a record.
    let id = cluster.submit(&job.clone().saving(2).write(folder.path(), "full"));
    reaches(&run, 3);
    let trainers: Vec<u32> = cluster.trainers();
    disk.fill();
    assert_eq!(
        cluster.coordinator.ended(),
        1,
        "it doesn't go on without a journal"
    );
    let log = std::fs::read_to_string(folder.path().join("coordinator.log")).unwrap();
    for part in ["the journal can't be written", "check the disk's space"] {
        assert!(log.contains(part), "{part}: {log}");
    }
    let (at_end, _) = metrics(&run).pop_last().unwrap();
    assert!(at_end < STEPS / 2, "it ended too late to matter: {at_end}");
    disk.make_room();
    cluster.new_coordinator();
    reaches(&run, at_end + 1);
    let now: Vec<u32> = cluster.trainers();
    assert_eq!(now, trainers, "nobody was started again");
    let waited = cluster.call(&["wait", &id]);
    assert_eq!(waited.code, 0, "{}", waited.stderr);
    let undisturbed = train(&job, folder.path(), "undisturbed", 1, 1);
    assert_eq!(metrics(&run), undisturbed);
    assert_eq!(
        final_digest(&run),
        final_digest(&folder.path().join("undisturbed"))
    );
    drop(cluster);
}
