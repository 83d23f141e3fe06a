//! Machines whose workers keep state in shared memory: what lies there, whose it is, and how such a machine is lost.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Cluster, Job, assert_same_metrics, final_digest, metrics, signal, train, until};

/// What `explain` knows of a job.
pub fn incidents(cluster: &Cluster, id: &str) -> Vec<Value> {
    let done = cluster.call(&["explain", id, "-o", "json"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    serde_json::from_str(&done.stdout).unwrap()
}

/// Waits until the job has gone on after its loss number `n`.
pub fn recovered(cluster: &Cluster, id: &str, n: usize) -> Value {
    until("the end of an incident", || {
        let mut all = incidents(cluster, id);
        let through = all.len() >= n && all.last()?["state"] == "RECOVERED";
        through.then(|| all.pop()).flatten()
    })
}

/// A cluster whose workers keep state in `memory`, so that what other runs left there doesn't count.
pub fn start(folder: &Path, workers: u32, memory: &Path) -> Cluster {
    let memory = memory.display().to_string();
    Cluster::start_with(folder, workers, &[], &["--shared-memory", &memory])
}

/// Files that trainers of a job have in shared memory.
pub fn kept(memory: &Path, id: &str) -> usize {
    let folders = std::fs::read_dir(memory).unwrap().flatten();
    let ours = folders.filter(|entry| entry.file_name().to_string_lossy().starts_with("rekindle-"));
    let files = ours.flat_map(|entry| std::fs::read_dir(entry.path()).into_iter().flatten().flatten());
    let of_job = |name: &str| name.starts_with(&format!("{id}+"));
    files
        .filter(|file| of_job(&file.file_name().to_string_lossy()))
        .count()
}

/// The folders of workers that keep something of a job, with the names of its files.
pub fn folders(memory: &Path, id: &str) -> Vec<(PathBuf, Vec<String>)> {
    let of = |folder: PathBuf| {
        let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut names: Vec<String> = names.filter(|name| name.starts_with(&format!("{id}+"))).collect();
        names.sort();
        (folder, names)
    };
    let all = std::fs::read_dir(memory).unwrap().flatten();
    let all = all.map(|entry| of(entry.path()));
    all.filter(|(_, names)| !names.is_empty()).collect()
}

/// The worker (counted from 0) that runs a rank, and its folder.
pub fn home(memory: &Path, id: &str, rank: u32) -> (usize, PathBuf) {
    let runs = |names: &[String]| {
        names
            .iter()
            .any(|name| name.starts_with(&format!("{id}+r{rank}+")))
    };
    let found = folders(memory, id).into_iter().find(|(_, names)| runs(names));
    let (folder, _) = found.unwrap();
    let name = folder.display().to_string();
    let (_, number) = name.rsplit_once("-w").unwrap();
    (number.parse::<usize>().unwrap() - 1, folder)
}

/// Stops a worker, so that it passes on nothing, until another machine has lines of steps that the run's metrics lack
/// `behind` of.
pub fn fall_behind(cluster: &Cluster, worker: usize, memory: &Path, id: &str, run: &Path, behind: u64) {
    signal(cluster.workers[worker].pid(), "STOP");
    let own = format!("-w{}", worker + 1);
    let newest = |path: PathBuf| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let lines = text.lines().rev();
        let line = |line| {
            Some(
                serde_json::from_str::<Value>(line).ok()?["step"]
                    .as_u64()
                    .unwrap(),
            )
        };
        lines.filter_map(line).next()
    };
    until("steps that nobody hears of", || {
        let others = folders(memory, id).into_iter();
        let others = others.filter(|(folder, _)| !folder.display().to_string().ends_with(&own));
        let files = others.flat_map(|(folder, names)| names.into_iter().map(move |name| folder.join(name)));
        let lines = files.filter(|path| path.display().to_string().contains("+steps+e"));
        let told = metrics(run).pop_last().map_or(0, |(step, _)| step);
        (lines.filter_map(newest).max()? >= told + behind).then_some(())
    });
}

/// A machine is lost: its worker, and all that lay in its memory. It doesn't come back.
pub fn lose_machine(cluster: &mut Cluster, (worker, folder): (usize, PathBuf)) {
    signal(cluster.workers[worker].pid(), "KILL");
    cluster.workers[worker].ended();
    std::fs::remove_dir_all(&folder).unwrap();
}

/// The run has the lines and the final digest of one that nobody disturbed, on one worker.
pub fn assert_undisturbed(run: &Path, steps: u64, job: Job, folder: &Path) {
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
    assert_same_metrics(run, &alone, "disturbed");
    assert_eq!(metrics(run).len() as u64, steps);
    assert_eq!(final_digest(run), final_digest(&folder.join("undisturbed")));
}
