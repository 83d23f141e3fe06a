//! Jobs whose groups keep parities lose machines with their memory, one or several at once, and go on with the bits
//! of the undisturbed run.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on panics")]

mod common;

use std::path::Path;

use common::machines::{assert_undisturbed, folders, home, lose_machine, recovered, start};
use common::{Cluster, Job, metrics, reaches, signal, until};

const PARITY: &str = r#"["local", "parity"]"#;

/// Waits until a set of this epoch is all that is left of a rank's, and the job has gone some way since.
fn exchanged(memory: &Path, run: &Path, id: &str, epoch: u64) {
    until("the first exchange of an epoch", || {
        let sets = folders(memory, id).into_iter().flat_map(|(_, names)| names);
        let mut sets = sets.filter(|name| name.contains("+p")).peekable();
        sets.peek()?;
        sets.all(|name| name.ends_with(&format!("+e{epoch}")))
            .then_some(())
    });
    let reached = metrics(run).pop_last().map_or(0, |(step, _)| step);
    reaches(run, reached + 30);
}

/// Loses the machines of these ranks at once and waits until the job goes on: from parities.
fn lose(cluster: &mut Cluster, memory: &Path, run: &Path, id: &str, (loss, ranks): (usize, &[u32])) {
    let homes: Vec<_> = ranks.iter().map(|rank| home(memory, id, *rank)).collect();
    let reached = metrics(run).pop_last().unwrap().0;
    for home in homes {
        lose_machine(cluster, home);
    }
    let incident = recovered(cluster, id, loss);
    assert_eq!(incident["source"], "parity", "{incident}");
    let from = incident["resumed_step"].as_u64().unwrap();
    assert!(
        from > 0 && from <= reached + 1,
        "from {from}, reached {reached}: {incident}"
    );
}

#[test]
fn machine_after_machine_of_a_group_may_be_lost() {
    const STEPS: u64 = 600;
    let (folder, memory) = (
        tempfile::tempdir().unwrap(),
        tempfile::tempdir_in("/dev/shm").unwrap(),
    );
    let mut cluster = start(folder.path(), 6, memory.path());
    let run = folder.path().join("group");
    let job = || {
        let job = Job {
            tied: true,
            ..Job::new(STEPS)
        };
        job.over(2, 2).recovering(PARITY).exchanging(5, 1)
    };
    let id = cluster.submit(&job().write(folder.path(), "group"));
    reaches(&run, 40);
    // What a killed trainer leaves is newer than any exchange.
    let (worker, _) = home(memory.path(), &id, 2);
    signal(cluster.trainer(worker), "KILL");
    let incident = recovered(&cluster, &id, 1);
    assert_eq!(incident["source"], "local", "{incident}");
    // Rank 0 reports the steps.
    for (loss, rank) in [(2, 3), (3, 0)] {
        exchanged(memory.path(), &run, &id, loss as u64);
        lose(&mut cluster, memory.path(), &run, &id, (loss, &[rank]));
    }
    assert_eq!(cluster.call(&["wait", &id]).code, 0);
    until("memory to be free again", || {
        folders(memory.path(), &id).is_empty().then_some(())
    });
    assert_undisturbed(&run, STEPS, job(), folder.path());
}

#[test]
fn two_machines_of_a_group_may_be_lost_at_once_where_the_job_says_so() {
    const STEPS: u64 = 400;
    let (folder, memory) = (
        tempfile::tempdir().unwrap(),
        tempfile::tempdir_in("/dev/shm").unwrap(),
    );
    let mut cluster = start(folder.path(), 6, memory.path());
    let run = folder.path().join("two");
    let job = || Job::new(STEPS).over(4, 1).recovering(PARITY).exchanging(5, 2);
    let id = cluster.submit(&job().write(folder.path(), "two"));
    reaches(&run, 40);
    lose(&mut cluster, memory.path(), &run, &id, (1, &[1, 2]));
    assert_eq!(cluster.call(&["wait", &id]).code, 0);
    assert_undisturbed(&run, STEPS, job(), folder.path());
}

#[test]
fn a_machine_more_than_a_group_outlives_fails_the_job_by_name() {
    let (folder, memory) = (
        tempfile::tempdir().unwrap(),
        tempfile::tempdir_in("/dev/shm").unwrap(),
    );
    let mut cluster = start(folder.path(), 5, memory.path());
    let run = folder.path().join("too-many");
    let job = Job::new(1_000_000).over(3, 1).recovering(PARITY).exchanging(5, 1);
    let id = cluster.submit(&job.write(folder.path(), "too-many"));
    reaches(&run, 20);
    let homes = [home(memory.path(), &id, 1), home(memory.path(), &id, 2)];
    let name = format!("w{}", homes[0].0 + 1);
    for home in homes {
        lose_machine(&mut cluster, home);
    }
    let waited = cluster.call(&["wait", &id]);
    assert_eq!(waited.code, 100, "{}", waited.stderr);
    for part in [&name, "nobody's memory", "[checkpoint]"] {
        assert!(waited.stderr.contains(part), "{part}: {}", waited.stderr);
    }
}
