//! Jobs that swap micro-batches lose the ends of their pipeline, and go on.

use std::path::{Path, PathBuf};

use crate::common::machines::{home, lose_machine, recovered, start};
use crate::common::{Cluster, Job, assert_same_metrics, call, metrics, reaches};
use serde_json::Value;

const SWAP: &str = r#"["local", "neighbour_average", "swap"]"#;

/// Four stages of a block each.
fn swapping(steps: u64) -> Job {
    Job::new(steps).over(4, 1).recovering(SWAP)
}

fn write(job: &Job, folder: &Path, name: &str, rate: &str) -> PathBuf {
    let path = job.write(folder, name);
    let text = std::fs::read_to_string(&path).unwrap();
    let text = text.replace("num_hidden_layers = 3", "num_hidden_layers = 4");
    std::fs::write(&path, text.replace("lr = 1e-2", &format!("lr = {rate}"))).unwrap();
    path
}

/// The machine of a rank is lost, and the job goes on, marked.
fn lose(cluster: &mut Cluster, memory: &Path, id: &str, rank: u32, nth: usize) -> u64 {
    lose_machine(cluster, home(memory, id, rank));
    let incident = recovered(cluster, id, nth);
    assert_eq!(incident["source"], "neighbour_average", "{incident}");
    assert_eq!(incident["exact"], false, "{incident}");
    assert!(incident["steps_again"].as_u64().unwrap() <= 1, "{incident}");
    incident["resumed_step"].as_u64().unwrap()
}

/// The job goes on learning without its first stage and without its last one; an end lost with the stage beside it is
/// refused.
#[test]
fn ends_that_nobody_has_are_their_twins_and_two_together_are_refused() {
    let (folder, memory) = (
        tempfile::tempdir().unwrap(),
        tempfile::tempdir_in("/dev/shm").unwrap(),
    );
    let mut cluster = start(folder.path(), 8, memory.path());
    let run = folder.path().join("swapped");
    let id = cluster.submit(&write(&swapping(1_000_000), folder.path(), "swapped", "1e-2"));
    reaches(&run, 60);
    let learnt = |from: u64| {
        let all = metrics(&run);
        let loss = |step: u64| f64::from_bits(all[&step].loss);
        let (now, first) = (loss(from + 30), loss(1));
        assert!(now < 0.8 * first, "it still learns: {now} of {first}");
    };
    for (nth, rank) in [(1, 0), (2, 3)] {
        let from = lose(&mut cluster, memory.path(), &id, rank, nth);
        reaches(&run, from + 30);
        learnt(from);
    }
    let both = [home(memory.path(), &id, 0), home(memory.path(), &id, 1)];
    for machine in both {
        lose_machine(&mut cluster, machine);
    }
    let waited = cluster.call(&["wait", &id]);
    assert_eq!(waited.code, 100, "{}", waited.stderr);
    for part in [
        "nobody's memory",
        "places 0 and 1 of the pipeline were lost together",
    ] {
        assert!(waited.stderr.contains(part), "{part}: {}", waited.stderr);
    }
}

/// With a learning rate that moves nothing, a job that lost both ends, the stage that kept the embedding, and the
/// first again differs from one that lost nothing in the blocks that were made up, and nowhere else.
#[test]
fn of_lost_ends_the_embedding_and_the_head_come_back_exactly() {
    let (folder, memory) = (
        tempfile::tempdir().unwrap(),
        tempfile::tempdir_in("/dev/shm").unwrap(),
    );
    let mut cluster = start(folder.path(), 8, memory.path());
    let saving = |steps| Job::new(steps).over(4, 1).saving(1_000_000).recovering(SWAP);
    let undisturbed = write(&saving(9), folder.path(), "undisturbed", "1e-30");
    let id = cluster.submit(&undisturbed);
    assert_eq!(cluster.call(&["wait", &id]).code, 0);
    let id = cluster.submit(&write(&saving(1_000_000), folder.path(), "disturbed", "1e-30"));
    let run = folder.path().join("disturbed");
    reaches(&run, 30);
    for (nth, rank) in [(1, 0), (2, 3), (3, 1), (4, 0)] {
        let from = lose(&mut cluster, memory.path(), &id, rank, nth);
        reaches(&run, from + 3);
    }
    assert_eq!(cluster.call(&["cancel", &id]).code, 0);
    assert_eq!(cluster.call(&["wait", &id]).code, 103);
    let place = |name: &str| folder.path().join(name).join("checkpoints").display().to_string();
    let diff = call(&[
        "checkpoint",
        "diff",
        &place("disturbed"),
        &place("undisturbed"),
        "-o",
        "json",
    ]);
    let diff: Value = serde_json::from_str(&diff.stdout).unwrap();
    let layers = diff["layers"].as_array().unwrap().iter();
    let weights: Vec<_> = layers.filter(|layer| layer["kind"] == "weights").collect();
    assert_eq!(weights.len(), 6, "{weights:?}");
    let differing = weights.iter().filter(|layer| layer["same"] == false);
    let differing: Vec<_> = differing.map(|layer| layer["layer"].as_str().unwrap()).collect();
    assert_eq!(differing, ["block.0", "block.1", "block.3"]);
}

/// Lanes and threads don't show in what such a job computes; that it swaps does.
#[test]
fn lanes_and_threads_do_not_show_and_swapping_does() {
    let folder = tempfile::tempdir().unwrap();
    let run = |name: &str, (stages, lanes, threads): (u32, u32, u32), sources: &str| {
        let job = Job::new(21).over(stages, lanes).recovering(sources);
        let path = write(&job, folder.path(), name, "1e-2").display().to_string();
        let (workers, threads) = ((stages * lanes).to_string(), threads.to_string());
        let done = call(&["run", &path, "--workers", &workers, "--threads", &threads]);
        assert_eq!(done.code, 0, "{name}: {}", done.stderr);
        metrics(&folder.path().join(name))
    };
    let one = run("one", (4, 1, 1), SWAP);
    assert_eq!(one.len(), 21);
    run("two", (4, 2, 2), SWAP);
    assert_same_metrics(&folder.path().join("two"), &one, "two lanes, two threads");
    let plain = run("plain", (4, 1, 1), r#"["local"]"#);
    assert_ne!(plain[&21].loss, one[&21].loss);
}
