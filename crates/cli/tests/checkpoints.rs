//! Checkpoints of real processes: a run that was stopped in any way goes on, in any shape, with the bits of an
//! undisturbed one.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on panics")]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use common::random::Random;
use common::{
    Cluster, Job, Line, Service, call, final_digest, metrics, reaches, rekindle, signal, tagged, train,
    try_signal, until,
};
use serde_json::Value;

/// (stages, lanes)
const SHAPES: [(u32, u32); 5] = [(1, 1), (4, 1), (2, 2), (3, 1), (1, 4)];

fn checkpoint(run: &Path, step: u64) -> PathBuf {
    run.join(format!("checkpoints/step-{step:08}"))
}

/// What a command says as JSON.
fn ask(args: &[&str]) -> Value {
    let done = call(&[args, &["-o", "json"]].concat());
    serde_json::from_str(&done.stdout)
        .unwrap_or_else(|e| panic!("{args:?}: {e}: {} {}", done.stdout, done.stderr))
}

fn ls(run: &Path) -> Vec<Value> {
    let found = ask(&["checkpoint", "ls", &run.display().to_string()]);
    found.as_array().unwrap().clone()
}

fn valid_steps(run: &Path) -> Vec<u64> {
    if !run.join("checkpoints").exists() {
        return Vec::new();
    }
    let valid = ls(run).into_iter().filter(|c| c["state"] == "valid");
    valid.map(|c| c["step"].as_u64().unwrap()).collect()
}

fn events(run: &Path) -> String {
    std::fs::read_to_string(run.join("events.jsonl")).unwrap_or_default()
}

fn same_from(step: u64, expected: &BTreeMap<u64, Line>, got: &BTreeMap<u64, Line>, name: &str) {
    assert_eq!(
        got.last_key_value().map(|(s, _)| *s),
        expected.last_key_value().map(|(s, _)| *s),
        "{name}"
    );
    for (step, line) in expected.range(step..) {
        assert_eq!(
            got.get(step),
            Some(line),
            "{name} differs from the undisturbed run at step {step}"
        );
    }
}

#[test]
fn every_shape_goes_on_from_every_shape() {
    for tied in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let job = Job { tied, ..Job::new(14) };
        let undisturbed = train(&job, folder.path(), "undisturbed", 1, 1);
        for (stages, lanes) in SHAPES {
            let name = format!("from-{stages}x{lanes}");
            let saving = job.clone().over(stages, lanes).saving(7);
            let saved = train(&saving, folder.path(), &name, stages * lanes, 1);
            same_from(1, &undisturbed, &saved, &name);
            let run = folder.path().join(&name);
            let at = checkpoint(&run, 7).display().to_string();
            let manifest = ask(&["checkpoint", "inspect", &at]);
            assert_eq!(
                manifest["state_digest"].as_str(),
                undisturbed[&7].state_digest.as_deref(),
                "{name}"
            );
            for (stages, lanes) in SHAPES {
                let to = format!("{name}-to-{stages}x{lanes}");
                let mut going_on = job.clone().over(stages, lanes);
                going_on.from = Some(at.clone());
                let path = going_on.write(folder.path(), &to).display().to_string();
                let done = call(&[
                    "run",
                    &path,
                    "--workers",
                    &(stages * lanes).to_string(),
                    "--threads",
                    "1",
                ]);
                assert_eq!(done.code, 0, "{to}: {}", done.stderr);
                let got = metrics(&folder.path().join(&to));
                assert_eq!(
                    got.first_key_value().map(|(s, _)| *s),
                    Some(8),
                    "{to} starts after the checkpoint"
                );
                same_from(8, &undisturbed, &got, &to);
            }
        }
    }
}

/// `rekindle run`, as a process of its own.
fn start_run(job: &Path, workers: u32, tag: &str) -> Service {
    let mut command = rekindle(&[
        "run",
        &job.display().to_string(),
        "--workers",
        &workers.to_string(),
        "--threads",
        "1",
    ]);
    command
        .env("REKINDLE_TEST_TAG", tag)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    Service::start(command)
}

fn nobody_is_left(tag: &str) {
    until("the end of every process", || {
        tagged(tag).is_empty().then_some(())
    });
}

#[test]
fn a_killed_run_goes_on_in_its_folder_and_an_interrupted_one_too() {
    let folder = tempfile::tempdir().unwrap();
    let job = Job::new(120).over(2, 1);
    let undisturbed = train(&job, folder.path(), "undisturbed", 2, 1);
    for how in ["KILL", "INT", "TERM"] {
        let name = format!("stopped-{}", how.to_lowercase());
        let path = job.clone().saving(5).write(folder.path(), &name);
        let run = folder.path().join(&name);
        let tag = format!("{name}-{}", std::process::id());
        let mut first = start_run(&path, 2, &tag);
        until("a checkpoint", || valid_steps(&run).first().copied());
        let reached = *metrics(&run).last_key_value().unwrap().0;
        signal(first.pid(), how);
        first.ended();
        nobody_is_left(&tag);
        assert!(
            metrics(&run).len() < 120,
            "{name}: it was stopped too late to matter"
        );
        let saved = *valid_steps(&run).last().unwrap();
        if how != "KILL" {
            assert!(
                saved > reached,
                "{name}: asked to stop at step {reached}, saved {saved}"
            );
        }
        let done = call(&[
            "run",
            &path.display().to_string(),
            "--workers",
            "1",
            "--threads",
            "2",
        ]);
        assert_eq!(done.code, 0, "{name}: {}", done.stderr);
        same_from(1, &undisturbed, &metrics(&run), &name);
        assert_eq!(
            final_digest(&run),
            final_digest(&folder.path().join("undisturbed"))
        );
        // Complete: there is nothing to go on with.
        let again = call(&["run", &path.display().to_string()]);
        assert_ne!(again.code, 0);
        assert!(again.stderr.contains("complete"), "{}", again.stderr);
    }
}

#[test]
fn a_second_run_in_the_same_folder_is_kept_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = Job::new(1_000_000).saving(50).write(folder.path(), "busy");
    let tag = format!("busy-{}", std::process::id());
    let mut first = start_run(&path, 1, &tag);
    reaches(&folder.path().join("busy"), 2);
    let second = call(&["run", &path.display().to_string()]);
    assert_eq!(second.code, 1);
    assert!(second.stderr.contains("going on"), "{}", second.stderr);
    signal(first.pid(), "KILL");
    first.ended();
    nobody_is_left(&tag);
}

#[test]
fn cancel_saves_and_submit_resume_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(folder.path(), 2);
    let job = Job::new(400).over(2, 1);
    let path = job.clone().saving(1_000).write(folder.path(), "cancelled");
    let run = folder.path().join("cancelled");
    let id = cluster.submit(&path);
    reaches(&run, 5);
    assert_eq!(cluster.call(&["cancel", &id]).code, 0);
    assert_eq!(cluster.call(&["wait", &id]).code, 103);
    let saved = valid_steps(&run);
    assert_eq!(saved.len(), 1, "it was saved once, on the way out: {saved:?}");
    assert!(saved[0] >= 5);
    let refused = cluster.call(&["submit", &path.display().to_string()]);
    assert_eq!(refused.code, 1, "a new run mustn't write into an old one");
    let id = cluster.submit_with(&path, &["--resume"]);
    assert_eq!(cluster.call(&["wait", &id]).code, 0, "{}", events(&run));
    let undisturbed = train(&job, folder.path(), "undisturbed", 1, 1);
    same_from(1, &undisturbed, &metrics(&run), "cancelled");
    let status = cluster.call(&["status", &id]);
    assert!(
        status.stdout.contains(&format!("step {}", saved[0])),
        "{}",
        status.stdout
    );
}

#[test]
fn cancel_without_saving_saves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(folder.path(), 1);
    let path = Job::new(1_000_000)
        .saving(1_000_000)
        .write(folder.path(), "dropped");
    let run = folder.path().join("dropped");
    let id = cluster.submit(&path);
    reaches(&run, 3);
    assert_eq!(cluster.call(&["cancel", &id, "--no-save"]).code, 0);
    assert_eq!(cluster.call(&["wait", &id]).code, 103);
    assert!(valid_steps(&run).is_empty());
}

#[test]
fn a_worker_that_is_asked_to_leave_hands_its_part_on() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(folder.path(), 3);
    let job = Job::new(500).over(2, 1);
    let path = job.clone().saving(1_000).write(folder.path(), "drained");
    let run = folder.path().join("drained");
    let id = cluster.submit(&path);
    reaches(&run, 5);
    let busy = (0..3)
        .find(|n| !common::children(cluster.workers[*n].pid()).is_empty())
        .unwrap();
    signal(cluster.workers[busy].pid(), "TERM");
    assert_eq!(cluster.call(&["wait", &id]).code, 0, "{}", events(&run));
    let undisturbed = train(&job, folder.path(), "undisturbed", 1, 1);
    same_from(1, &undisturbed, &metrics(&run), "drained");
    let told = events(&run);
    assert!(
        told.contains("worker.draining") && told.contains("job.recovering"),
        "{told}"
    );
    // It was saved when it was asked, and went on from there: no step up to the saved one was run twice.
    let saved = valid_steps(&run)
        .into_iter()
        .filter(|step| (5..500).contains(step))
        .max();
    let saved = saved.expect("the state was saved when the worker was asked to leave");
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let mut seen = BTreeMap::new();
    for line in text.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        *seen.entry(line["step"].as_u64().unwrap()).or_insert(0) += 1;
    }
    let twice: Vec<u64> = seen
        .iter()
        .filter(|(_, times)| **times > 1)
        .map(|(step, _)| *step)
        .collect();
    assert!(
        twice.iter().all(|step| *step > saved),
        "saved {saved}, run twice: {twice:?}"
    );
}

fn flip(path: &Path, at: u64) {
    let mut bytes = std::fs::read(path).unwrap();
    let at = usize::try_from(at).unwrap().min(bytes.len() - 1);
    bytes[at] ^= 0x10;
    std::fs::write(path, bytes).unwrap();
}

/// Every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[test]
fn a_damaged_checkpoint_is_passed_over_for_the_one_before_and_said() {
    let folder = tempfile::tempdir().unwrap();
    let job = Job::new(60).over(2, 1);
    let undisturbed = train(&job, folder.path(), "undisturbed", 1, 1);
    for what in ["manifest", "model", "optim", "missing", "short"] {
        let name = format!("damaged-{what}");
        let path = job.clone().saving(20).write(folder.path(), &name);
        let run = folder.path().join(&name);
        let tag = format!("{name}-{}", std::process::id());
        let mut first = start_run(&path, 2, &tag);
        until("two checkpoints", || (valid_steps(&run).len() >= 2).then_some(()));
        signal(first.pid(), "KILL");
        first.ended();
        nobody_is_left(&tag);
        let steps = valid_steps(&run);
        let newest = checkpoint(&run, *steps.last().unwrap());
        let all = files(&newest);
        let of = |part: &str| {
            all.iter()
                .find(|f| f.display().to_string().contains(part))
                .unwrap()
        };
        match what {
            "manifest" => flip(of("manifest"), 300),
            "missing" => std::fs::remove_file(of("/model/")).unwrap(),
            "short" => {
                let bytes = std::fs::read(of("/optim/")).unwrap();
                std::fs::write(of("/optim/"), &bytes[..bytes.len() - 100]).unwrap();
            }
            kind => flip(of(&format!("/{kind}/")), 5_000),
        }
        let verified = call(&["checkpoint", "verify", &newest.display().to_string()]);
        assert_ne!(verified.code, 0, "{what}");
        let done = call(&[
            "run",
            &path.display().to_string(),
            "--workers",
            "2",
            "--threads",
            "1",
        ]);
        assert_eq!(done.code, 0, "{what}: {}", done.stderr);
        same_from(1, &undisturbed, &metrics(&run), &name);
        let told = events(&run);
        assert!(
            told.contains("checkpoint.refused") || told.contains("CHECKPOINT_CORRUPT"),
            "{what}: {told}"
        );
        // The run came to the step once more, and its state is saved after all.
        assert!(told.contains("checkpoint.replaced"), "{what}: {told}");
        assert_eq!(
            call(&["checkpoint", "verify", &newest.display().to_string()]).code,
            0,
            "{what}"
        );
    }
}

#[test]
fn a_place_that_cant_be_written_is_told_and_never_ends_well() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), "in the way").unwrap();
    let mut job = Job::new(6).saving(2);
    job.more += "to = \"file\"\nretry_seconds = 1\n";
    let path = job.write(folder.path(), "nowhere").display().to_string();
    let done = call(&["run", &path]);
    assert_ne!(done.code, 0, "{}", done.stderr);
    assert!(done.stderr.contains("file"), "{}", done.stderr);
}

/// Moments at which something is killed: 200 and more with REKINDLE_KILLS=200.
fn kills() -> u64 {
    let wanted = std::env::var("REKINDLE_KILLS").ok().and_then(|n| n.parse().ok());
    wanted.unwrap_or(12)
}

#[test]
fn whatever_is_killed_while_it_saves_the_run_ends_with_the_undisturbed_bits() {
    const STEPS: u64 = 1_500;
    let folder = tempfile::tempdir().unwrap();
    let job = Job::new(STEPS).over(2, 1);
    let undisturbed = train(&job, folder.path(), "undisturbed", 1, 2);
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let mut done = 0;
    for round in 0.. {
        if done >= kills() {
            break;
        }
        let name = format!("killed-{round}");
        let mut saving = job.clone().saving(2);
        saving.more += "[recovery]\nmax_restarts = 1000\n";
        let path = saving.write(folder.path(), &name);
        let run = folder.path().join(&name);
        let tag = format!("{name}-{}", std::process::id());
        let mut service = start_run(&path, 2, &tag);
        let mut here = 0;
        while service.0.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(20 + random.below(700)));
            if here >= 15 || done >= kills() {
                continue;
            }
            let mut victims = tagged(&tag);
            victims.retain(|(pid, line)| *pid != service.pid() && !line.is_empty());
            if victims.is_empty() {
                continue;
            }
            let pick = random.below(victims.len() as u64) as usize;
            let (pid, _) = victims[pick];
            if try_signal(pid, "KILL") {
                here += 1;
                done += 1;
            }
        }
        assert_eq!(service.ended(), 0, "{name}: {}", events(&run));
        nobody_is_left(&tag);
        same_from(1, &undisturbed, &metrics(&run), &name);
        for step in valid_steps(&run) {
            let at = checkpoint(&run, step).display().to_string();
            let verdict = ask(&["checkpoint", "verify", &at]);
            assert_eq!(verdict["good"], true, "{verdict}");
            if let Some(digest) = &undisturbed[&step].state_digest {
                assert_eq!(verdict["state_digest"], digest.as_str());
            }
        }
    }
}

#[test]
fn the_command_line_lists_checks_compares_converts_pins_and_cleans_up() {
    let folder = tempfile::tempdir().unwrap();
    let name = "kept";
    let mut job = Job::new(12).over(2, 1).saving(3);
    job.more += "keep_last = 10\n";
    let _ = train(&job, folder.path(), name, 2, 1);
    let run = folder.path().join(name);
    let place = run.display().to_string();
    assert_eq!(valid_steps(&run), [3, 6, 9, 12]);
    let (first, last) = (
        checkpoint(&run, 3).display().to_string(),
        checkpoint(&run, 12).display().to_string(),
    );
    let table = call(&["checkpoint", "ls", &place]);
    assert!(table.stdout.contains("valid"), "{}", table.stdout);
    assert_eq!(call(&["checkpoint", "verify", &place]).code, 0);
    assert_eq!(call(&["checkpoint", "diff", &first, &first]).code, 0);
    let differing = call(&["checkpoint", "diff", &first, &last, "--values"]);
    assert_eq!(differing.code, 1, "{}", differing.stdout);
    assert!(differing.stdout.contains("block.0"), "{}", differing.stdout);
    let hf = folder.path().join("hf").display().to_string();
    let exported = call(&["checkpoint", "export-hf", &last, "--out", &hf]);
    assert_eq!(exported.code, 0, "{}", exported.stderr);
    let read = |path: &str| std::fs::read(path).unwrap();
    assert_eq!(
        call(&[
            "generate", "--from", &hf, "--prompt", "the ", "--tokens", "8", "--seed", "1"
        ])
        .stdout,
        call(&[
            "generate",
            "--from",
            &format!("{place}/hf"),
            "--prompt",
            "the ",
            "--tokens",
            "8",
            "--seed",
            "1"
        ])
        .stdout,
    );
    assert_eq!(
        read(&format!("{hf}/config.json")),
        read(&format!("{place}/hf/config.json"))
    );
    let imported = folder.path().join("imported").display().to_string();
    let done = ask(&["checkpoint", "import-hf", &hf, &imported]);
    assert!(
        done["checkpoint"].as_str().unwrap().ends_with("step-00000000"),
        "{done}"
    );
    assert_eq!(
        call(&["checkpoint", "pin", &place, "--step", "3", "--name", "good"]).code,
        0
    );
    let dry = ask(&["checkpoint", "gc", &place, "--keep-last", "1", "--dry-run"]);
    assert_eq!(dry["deleted"], serde_json::json!([6, 9]), "{dry}");
    assert_eq!(valid_steps(&run), [3, 6, 9, 12], "a dry run deletes nothing");
    let _ = ask(&["checkpoint", "gc", &place, "--keep-last", "1"]);
    assert_eq!(valid_steps(&run), [3, 12]);
    assert_eq!(call(&["checkpoint", "unpin", &place, "good"]).code, 0);
    let _ = ask(&["checkpoint", "gc", &place, "--keep-last", "1"]);
    assert_eq!(valid_steps(&run), [12]);
    let nothing = call(&[
        "checkpoint",
        "ls",
        &folder.path().join("none").display().to_string(),
    ]);
    assert_eq!(nothing.code, 1);
    assert!(nothing.stderr.contains("none"), "{}", nothing.stderr);
}
