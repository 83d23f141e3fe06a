//! Jobs that lose trainers and workers and go on from what those left in memory, with the bits of the undisturbed run.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on panics")]

mod common;

use common::machines::{
    assert_undisturbed, fall_behind, folders, home, kept, lose_machine, recovered, start,
};
use common::{Job, metrics, reaches, signal, until};

const LOCAL: &str = r#"["local"]"#;
const SHADOW: &str = r#"["local", "shadow"]"#;
const REPLICA: &str = r#"["local", "shadow", "replica"]"#;
const TWO_GUARDS: &str = "[\"local\", \"shadow\"]\nguards = 2";

#[test]
fn killed_trainers_and_workers_cost_no_committed_step() {
    const STEPS: u64 = 1500;
    let (folder, memory) = (
        tempfile::tempdir().unwrap(),
        tempfile::tempdir_in("/dev/shm").unwrap(),
    );
    let mut cluster = start(folder.path(), 4, memory.path());
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
        let lost = cluster.trainer(victim);
        let mut survivors = cluster.trainers();
        survivors.retain(|pid| *pid != lost);
        assert_eq!(survivors.len(), 3);
        match loss {
            0..4 => signal(lost, "KILL"),
            _ => cluster.kill_worker(victim),
        }
        let incident = recovered(&cluster, &id, loss + 1);
        let living = cluster.trainers();
        let goes_on = |pid: &u32| living.contains(pid);
        assert!(
            survivors.iter().all(goes_on),
            "{survivors:?} of {living:?}: survivors keep their processes"
        );
        assert_eq!(incident["source"], "local", "{incident}");
        let again = incident["steps_again"].as_u64().unwrap();
        assert!(again <= 1, "at most the step in flight: {incident}");
    }
    assert_eq!(
        kept(memory.path(), &id),
        5,
        "one for each rank, and rank 0's reports"
    );
    assert_eq!(cluster.call(&["wait", &id]).code, 0);
    until("memory to be free again", || {
        (kept(memory.path(), &id) == 0).then_some(())
    });
    assert_undisturbed(&run, STEPS, job(), folder.path());
}

/// No worker here has a GPU, so all links agree on TCP, and agree once more after each loss.
#[test]
fn a_job_that_wants_nccl_runs_where_there_is_none_and_outlasts_losses() {
    const STEPS: u64 = 400;
    let (folder, memory) = (
        tempfile::tempdir().unwrap(),
        tempfile::tempdir_in("/dev/shm").unwrap(),
    );
    let cluster = start(folder.path(), 4, memory.path());
    let run = folder.path().join("nccl");
    let job = || {
        let more = "transport = \"nccl\"\n".to_owned();
        let job = Job {
            more,
            ..Job::new(STEPS)
        };
        job.over(2, 2).recovering(LOCAL)
    };
    let id = cluster.submit(&job().write(folder.path(), "nccl"));
    for loss in 0..2 {
        let reached = metrics(&run).pop_last().map_or(0, |(step, _)| step);
        reaches(&run, reached + 30);
        let lost = cluster.trainer(loss);
        let mut survivors = cluster.trainers();
        survivors.retain(|pid| *pid != lost);
        signal(lost, "KILL");
        let incident = recovered(&cluster, &id, loss + 1);
        assert_eq!(incident["source"], "local", "{incident}");
        let living = cluster.trainers();
        assert!(
            survivors.iter().all(|pid| living.contains(pid)),
            "{survivors:?} of {living:?}: survivors keep their processes"
        );
    }
    assert_eq!(cluster.call(&["wait", &id]).code, 0);
    assert_undisturbed(&run, STEPS, job(), folder.path());
}

#[test]
fn a_worker_that_takes_the_state_with_it_fails_the_job_by_name() {
    let (folder, memory) = (
        tempfile::tempdir().unwrap(),
        tempfile::tempdir_in("/dev/shm").unwrap(),
    );
    let mut cluster = start(folder.path(), 3, memory.path());
    let run = folder.path().join("gone");
    let job = Job::new(1_000_000).over(2, 1).recovering(LOCAL);
    let id = cluster.submit(&job.write(folder.path(), "gone"));
    reaches(&run, 5);
    // Whichever two were there first have the job.
    let busy = (0..3)
        .find(|n| !common::children(cluster.workers[*n].pid()).is_empty())
        .unwrap();
    signal(cluster.workers[busy].pid(), "KILL");
    cluster.workers[busy].ended();
    let waited = cluster.call(&["wait", &id]);
    assert_eq!(waited.code, 100, "{}", waited.stderr);
    let name = format!("w{}", busy + 1);
    for part in [name.as_str(), "nobody's memory", "[checkpoint]"] {
        assert!(waited.stderr.contains(part), "{part}: {}", waited.stderr);
    }
}

#[test]
fn a_checkpoint_that_died_with_a_trainer_is_made_again() {
    const STEPS: u64 = 400;
    let (folder, memory) = (
        tempfile::tempdir().unwrap(),
        tempfile::tempdir_in("/dev/shm").unwrap(),
    );
    let cluster = start(folder.path(), 2, memory.path());
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

#[test]
fn a_machine_that_takes_its_state_with_it_costs_no_committed_step() {
    const STEPS: u64 = 500;
    let (folder, memory) = (
        tempfile::tempdir().unwrap(),
        tempfile::tempdir_in("/dev/shm").unwrap(),
    );
    let mut cluster = start(folder.path(), 4, memory.path());
    let run = folder.path().join("machine");
    let job = || Job::new(STEPS).over(3, 1).recovering(SHADOW);
    let id = cluster.submit(&job().write(folder.path(), "machine"));
    reaches(&run, 20);
    assert_eq!(
        kept(memory.path(), &id),
        8,
        "its own and one that it guards on each worker, and the reports on two"
    );
    lose_machine(&mut cluster, home(memory.path(), &id, 1));
    let incident = recovered(&cluster, &id, 1);
    assert_eq!(incident["source"], "shadow", "{incident}");
    assert!(incident["steps_again"].as_u64().unwrap() <= 1, "{incident}");
    let reached = metrics(&run).pop_last().unwrap().0;
    reaches(&run, reached + 2);
    assert_eq!(
        kept(memory.path(), &id),
        8,
        "what older epochs left is gone: {:?}",
        folders(memory.path(), &id)
    );
    assert_eq!(cluster.call(&["wait", &id]).code, 0);
    until("memory to be free again", || {
        (kept(memory.path(), &id) == 0).then_some(())
    });
    assert_undisturbed(&run, STEPS, job(), folder.path());
}

#[test]
fn two_machines_lost_at_once_cost_no_committed_step_where_ranks_have_two_guards() {
    const STEPS: u64 = 500;
    let (folder, memory) = (
        tempfile::tempdir().unwrap(),
        tempfile::tempdir_in("/dev/shm").unwrap(),
    );
    let mut cluster = start(folder.path(), 6, memory.path());
    let run = folder.path().join("two");
    let job = Job::new(STEPS).over(4, 1).recovering(TWO_GUARDS);
    let id = cluster.submit(&job.write(folder.path(), "two"));
    reaches(&run, 20);
    assert_eq!(
        kept(memory.path(), &id),
        15,
        "its own and two that it guards on each worker, and the reports on three"
    );
    // Rank 1 and the first of its guards: the second has both.
    let lost = [1, 2].map(|rank| home(memory.path(), &id, rank));
    for (worker, _) in &lost {
        signal(cluster.workers[*worker].pid(), "KILL");
    }
    for (worker, folder) in &lost {
        cluster.workers[*worker].ended();
        std::fs::remove_dir_all(folder).unwrap();
    }
    let incident = recovered(&cluster, &id, 1);
    assert_eq!(incident["source"], "shadow", "{incident}");
    assert!(incident["steps_again"].as_u64().unwrap() <= 1, "{incident}");
    assert_eq!(cluster.call(&["wait", &id]).code, 0);
    // One worker alone can't have guards.
    assert_undisturbed(&run, STEPS, Job::new(STEPS).recovering(LOCAL), folder.path());
}

#[test]
fn lanes_and_tied_ends_survive_machine_after_machine() {
    const STEPS: u64 = 700;
    let (folder, memory) = (
        tempfile::tempdir().unwrap(),
        tempfile::tempdir_in("/dev/shm").unwrap(),
    );
    let mut cluster = start(folder.path(), 7, memory.path());
    let run = folder.path().join("lanes");
    let job = || Job {
        tied: true,
        ..Job::new(STEPS)
    };
    let lanes = job().over(2, 2).recovering(REPLICA);
    let id = cluster.submit(&lanes.write(folder.path(), "lanes"));
    // Rank 0 reports the steps, and isn't heard for a while before it is lost; rank 1 guards it and is the last
    // stage; rank 3 is the other lane's.
    for (n, rank) in [0, 1, 3].into_iter().enumerate() {
        let reached = metrics(&run).pop_last().map_or(0, |(step, _)| step);
        reaches(&run, reached + 20);
        let lost = home(memory.path(), &id, rank);
        if rank == 0 {
            fall_behind(&cluster, lost.0, memory.path(), &id, &run, 5);
        }
        lose_machine(&mut cluster, lost);
        let incident = recovered(&cluster, &id, n + 1);
        assert_eq!(incident["source"], "shadow", "{incident}");
        assert!(incident["steps_again"].as_u64().unwrap() <= 1, "{incident}");
    }
    assert_eq!(cluster.call(&["wait", &id]).code, 0);
    assert_undisturbed(&run, STEPS, job(), folder.path());
}

#[test]
fn a_machine_lost_together_with_its_guard_s_fails_the_job_by_name() {
    let (folder, memory) = (
        tempfile::tempdir().unwrap(),
        tempfile::tempdir_in("/dev/shm").unwrap(),
    );
    let mut cluster = start(folder.path(), 5, memory.path());
    let run = folder.path().join("both-gone");
    let job = Job::new(1_000_000).over(3, 1).recovering(SHADOW);
    let id = cluster.submit(&job.write(folder.path(), "both-gone"));
    reaches(&run, 5);
    let (rank, guard) = (home(memory.path(), &id, 1), home(memory.path(), &id, 2));
    let name = format!("w{}", rank.0 + 1);
    lose_machine(&mut cluster, rank);
    lose_machine(&mut cluster, guard);
    let waited = cluster.call(&["wait", &id]);
    assert_eq!(waited.code, 100, "{}", waited.stderr);
    for part in [&name, "nobody's memory", "[checkpoint]"] {
        assert!(waited.stderr.contains(part), "{part}: {}", waited.stderr);
    }
}
