//! The command line without any cluster: help, exit statuses, errors that say what to do, plans, data.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on panics")]

mod common;

use common::{Job, call, finish, rekindle};

const COMMANDS: &[&str] = &[
    "demo",
    "run",
    "coordinator",
    "worker",
    "submit",
    "plan",
    "jobs",
    "status",
    "events",
    "explain",
    "logs",
    "metrics",
    "wait",
    "cancel",
    "workers",
    "generate",
    "data",
    "data prepare",
    "data inspect",
    "data train-tokenizer",
    "chaos",
    "chaos run",
    "chaos targets",
    "sim",
    "sim run",
    "experiment",
    "experiment recovery",
    "doctor",
    "version",
    "completion",
];

#[test]
fn every_command_explains_itself() {
    let top = call(&["--help"]);
    assert_eq!(top.code, 0);
    for command in COMMANDS {
        let words: Vec<_> = command.split(' ').chain(["--help"]).collect();
        let help = call(&words);
        assert_eq!(help.code, 0, "{command}: {}", help.stderr);
        assert!(
            help.stdout.contains("Usage: rekindle"),
            "{command}: {}",
            help.stdout
        );
        if !command.contains(' ') {
            assert!(
                top.stdout.contains(&format!("  {command} ")),
                "{command} isn't in the overview"
            );
        }
    }
    assert!(
        !top.stdout.contains("trainer "),
        "trainers are started by workers only"
    );
}

#[test]
fn wrong_usage_is_status_2() {
    for args in [
        &["fly"][..],
        &["run"],
        &["run", "x.toml", "--workers", "0"],
        &["-o", "yaml", "jobs"],
        &["wait"],
        &["chaos", "run", "--rate", "6", "--duration", "1"],
        &[
            "chaos",
            "run",
            "--seed",
            "1",
            "--kinds",
            "flood",
            "--duration",
            "1",
        ],
        &["chaos", "run", "--seed", "1"],
    ] {
        let done = call(args);
        assert_eq!(done.code, 2, "{args:?}: {}", done.stderr);
        assert!(
            done.stdout.is_empty() && done.stderr.contains("error:"),
            "{args:?}"
        );
    }
}

#[test]
fn version_is_json_where_asked() {
    let done = call(&["version", "-o", "json"]);
    let value: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!(value["version"], env!("CARGO_PKG_VERSION"));
    assert!(call(&["--version"]).stdout.contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_completion_script_knows_the_commands() {
    let script = call(&["completion", "bash"]);
    assert_eq!(script.code, 0);
    assert!(script.stdout.contains("train-tokenizer"));
}

#[test]
fn an_unknown_key_names_the_nearest_before_anything_starts() {
    let folder = tempfile::tempdir().unwrap();
    let path = Job::new(5).write(folder.path(), "typo");
    let text = std::fs::read_to_string(&path)
        .unwrap()
        .replace("micro_batch", "micro_bacth");
    std::fs::write(&path, text).unwrap();
    let path = path.display().to_string();
    for args in [
        &["run", &path, "--workers", "2"][..],
        &["plan", &path],
        &["submit", &path],
    ] {
        let done = call(args);
        assert_eq!(done.code, 1, "{args:?}");
        assert!(done.stderr.contains("training.micro_bacth"), "{}", done.stderr);
        assert!(
            done.stderr.contains("did you mean \"micro_batch\""),
            "{}",
            done.stderr
        );
        assert!(done.stderr.contains("fix:"), "{}", done.stderr);
    }
    assert!(!folder.path().join("typo").exists(), "nothing was started");
}

#[test]
fn missing_files_are_named() {
    let done = call(&["run", "/no/such/job.toml", "--workers", "1"]);
    assert_eq!(done.code, 1);
    assert!(done.stderr.contains("/no/such/job.toml"), "{}", done.stderr);

    let folder = tempfile::tempdir().unwrap();
    let path = Job::new(5).write(folder.path(), "nodata").display().to_string();
    std::fs::remove_file(folder.path().join("text.txt")).unwrap();
    let done = call(&["run", &path, "--workers", "1"]);
    assert_eq!(done.code, 1);
    assert!(done.stderr.contains("text.txt"), "{}", done.stderr);
    assert!(!folder.path().join("nodata").exists(), "nothing was started");
}

#[test]
fn tokens_outside_the_vocabulary_are_found_before_anything_starts() {
    let folder = tempfile::tempdir().unwrap();
    let path = Job::new(5).write(folder.path(), "wide");
    std::fs::write(folder.path().join("t.u16"), [7u8, 1].repeat(100)).unwrap();
    let text = std::fs::read_to_string(&path)
        .unwrap()
        .replace("train = [\"text.txt\"]", "train = [\"t.u16\"]");
    std::fs::write(&path, text).unwrap();
    let done = call(&["run", &path.display().to_string(), "--workers", "1"]);
    assert_eq!(done.code, 1);
    assert!(
        done.stderr.contains("id 263") && done.stderr.contains("vocabulary of 256"),
        "{}",
        done.stderr
    );
}

#[test]
fn a_plan_needs_no_coordinator() {
    let folder = tempfile::tempdir().unwrap();
    let path = Job::new(5)
        .over(2, 2)
        .write(folder.path(), "plan")
        .display()
        .to_string();
    let table = call(&["plan", &path]);
    assert_eq!(table.code, 0, "{}", table.stderr);
    assert!(table.stdout.contains("2 stages x 2 lanes"), "{}", table.stdout);
    let json = call(&["plan", &path, "-o", "json", "--workers", "4"]);
    let value: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(value["stages"].as_array().unwrap().len(), 2);
    assert_eq!(value["lanes"], 2);
    let few = call(&["plan", &path, "--workers", "3"]);
    assert_eq!(few.code, 1);
    assert!(few.stderr.contains("needs 4"), "{}", few.stderr);
}

#[test]
fn a_dead_coordinator_is_an_error_with_a_way_out() {
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let address = format!("http://127.0.0.1:{port}");
    for command in [&["jobs"][..], &["workers"], &["status", "x"], &["wait", "x"]] {
        let mut args = command.to_vec();
        args.extend(["--coordinator", &address]);
        let done = call(&args);
        assert_eq!(done.code, 1, "{command:?}: {}", done.stderr);
        assert!(
            done.stderr.contains(&address) && done.stderr.contains("start one with"),
            "{}",
            done.stderr
        );
    }
}

#[test]
fn a_bench_says_what_it_measured_and_refuses_what_a_cpu_cannot() {
    let small = [
        "bench", "train", "--device", "cpu", "--hidden", "16", "--inter", "16", "--layers", "1",
    ];
    let rest = ["--heads", "2", "--seq", "8", "-o", "json"];
    let bench = |more: &[&str]| call(&[&small[..], &rest, more].concat());
    let done = bench(&["--steps", "1"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    let value: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!(value["tokens_per_step"], 4 * 8 * 8, "{value}");
    assert!(value["tokens_per_second"].as_f64().unwrap() > 0.0 && value["loss"].as_f64().unwrap() > 1.0);
    for refused in [&["--kernels"][..], &["--capture"], &["--dtype", "bf16"]] {
        let done = bench(refused);
        assert!(
            done.code == 1 && done.stderr.contains("CUDA device"),
            "{refused:?}: {}",
            done.stderr
        );
    }
    assert_eq!(bench(&["--steps", "0"]).code, 2);
}

#[test]
fn data_is_inspected_and_prepared() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text.txt");
    std::fs::write(&text, "abababab".repeat(100)).unwrap();
    let (text, out) = (
        text.display().to_string(),
        folder.path().join("t.bin").display().to_string(),
    );
    let inspect = |path: &str| {
        let done = call(&["data", "inspect", path, "--seq-len", "10", "-o", "json"]);
        assert_eq!(done.code, 0, "{}", done.stderr);
        serde_json::from_str::<serde_json::Value>(&done.stdout).unwrap()
    };
    let value = inspect(&text);
    assert_eq!(
        (value["tokens"].as_u64(), value["used_ids"].as_u64()),
        (Some(800), Some(2))
    );
    assert!((value["unigram_entropy"].as_f64().unwrap() - 2f64.ln()).abs() < 1e-12);
    assert_eq!(call(&["data", "prepare", &text, "--out", &out]).code, 0);
    assert_eq!(inspect(&out)["samples"], value["samples"]);
    let tokenizer = folder.path().join("tokenizer.json").display().to_string();
    let made = call(&[
        "data",
        "train-tokenizer",
        &text,
        "--vocab-size",
        "260",
        "--out",
        &tokenizer,
    ]);
    assert_eq!(made.code, 0, "{}", made.stderr);
    assert_eq!(
        call(&["data", "inspect", &text, "--tokenizer", &tokenizer]).code,
        0
    );
}

#[test]
fn a_closed_pipe_is_no_panic() {
    let mut shell = std::process::Command::new("sh");
    shell.args([
        "-c",
        "\"$0\" completion bash | head -n 1; \"$0\" --help | head -n 1",
        env!("CARGO_BIN_EXE_rekindle"),
    ]);
    let done = finish(shell);
    assert!(!done.stderr.contains("panicked"), "{}", done.stderr);
}

#[test]
fn nothing_is_coloured_off_a_terminal() {
    let mut command = rekindle(&["run", "/no/such/job.toml", "--workers", "1"]);
    command.env("CLICOLOR_FORCE", "");
    assert!(!finish(command).stderr.contains('\x1b'));
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let simulate = |extra: &[&str]| {
        let mut args = vec!["sim", "run", "--seed", "3", "--seeds", "5", "-o", "json"];
        args.extend(extra);
        let done = call(&args);
        assert_eq!(done.code, 0, "{}", done.stderr);
        done.stdout
    };
    let once = simulate(&[]);
    assert_eq!(once.lines().count(), 5);
    assert_eq!(once, simulate(&[]));
    assert_ne!(once, simulate(&["--workers", "3"]));
}

#[test]
fn trainers_listen_on_loopback_unless_told_otherwise() {
    let refused = common::call(&["worker", "--data-host", "0.0.0.0", "--name", "w"]);
    assert_eq!(refused.code, 1, "{}", refused.stderr);
    assert!(refused.stderr.contains("--insecure"), "{}", refused.stderr);
}

#[test]
fn a_device_that_is_none_or_not_there_is_refused() {
    let none = common::call(&["worker", "--device", "gpu", "--name", "w"]);
    assert_eq!(none.code, 2, "{}", none.stderr);
    assert!(none.stderr.contains("auto, cpu, or cuda:0"), "{}", none.stderr);
    let absent = common::call(&["worker", "--device", "cuda:65535", "--name", "w"]);
    assert_eq!(absent.code, 1, "{}", absent.stderr);
    assert!(
        absent.stderr.contains("cuda:65535 can't be used"),
        "{}",
        absent.stderr
    );
    assert!(absent.stderr.contains("rekindle doctor"), "{}", absent.stderr);
}

#[test]
fn an_experiment_prints_its_rows_and_leaves_its_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("text.txt"), "words that follow words. ".repeat(200)).unwrap();
    let small = "experiment recovery --quick --hidden 16 --heads 2 --seq-len 16 --steps 6 --eval-every 3 --seeds 4 --rates 0.05";
    let (data, output) = (path("text.txt"), path("out"));
    let mut args: Vec<&str> = small.split(' ').collect();
    args.extend([
        "--methods",
        "none,shadow,checkfree:l2",
        "--data",
        &data,
        "--output",
        &output,
        "-o",
        "json",
    ]);
    let done = call(&args);
    assert_eq!(done.code, 0, "{}", done.stderr);
    let summary: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
    let methods: Vec<_> = (0..3)
        .map(|n| summary["rows"][n]["method"].as_str().unwrap())
        .collect();
    assert_eq!(methods, ["none", "shadow", "checkfree:l2"]);
    for name in ["results.json", "table.md", "loss.svg", "time-to-target.svg"] {
        assert!(folder.path().join("out").join(name).exists(), "{name}");
    }

    let again = call(&args);
    assert_eq!(again.code, 1);
    assert!(again.stderr.contains("holds results already"), "{}", again.stderr);

    let wrong = call(&[
        "experiment",
        "recovery",
        "--data",
        &data,
        "--stages",
        "3",
        "--output",
        &path("other"),
    ]);
    assert_eq!(wrong.code, 2);
    assert!(
        wrong.stderr.contains("--stages") && wrong.stderr.contains("fix:"),
        "{}",
        wrong.stderr
    );
    assert!(!folder.path().join("other").exists(), "nothing was started");
}
