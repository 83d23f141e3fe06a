//! A whole tiny experiment: the same every time (EX-3), the same failures for all (EX-4), and written to files.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on panics")]

mod support;

use rekindle_experiment::{Config, ExperimentError, Method, Outcome, Results, RunResult, run, write};
use support::{config, losses, text};

fn experiment(config: &Config) -> Results {
    let inputs = ["the project's own text".to_owned()];
    run(config, &text(config), &inputs, &mut |_| Ok(())).unwrap()
}

/// A run without its times.
type Bare<'a> = (
    Method,
    u64,
    Vec<(u64, f64)>,
    &'a [f64],
    Vec<(u64, String)>,
    String,
    u64,
);

fn bare(run: &RunResult) -> Bare<'_> {
    let failures = run
        .failures
        .iter()
        .map(|f| (f.iteration, format!("{:?}", f.places)));
    (
        run.method,
        run.seed,
        losses(&run.points),
        &run.training_loss,
        failures.collect(),
        format!("{:?} {:?}", run.outcome, run.digest),
        run.at_end.iterations,
    )
}

#[test]
fn the_same_config_gives_the_same_bits_and_all_methods_meet_the_same_failures() {
    let mut config = config();
    config.seeds = vec![1, 2];
    config.longest = 1.5;
    let (once, twice) = (experiment(&config), experiment(&config));
    let all = |r: &Results| format!("{:?}", r.runs.iter().map(bare).collect::<Vec<_>>());
    assert_eq!(all(&once), all(&twice));
    assert_eq!(once.runs.len(), 2 * config.methods.len());

    for seed in [1, 2] {
        let lossy = |name: &str| {
            let method: Method = name.parse().unwrap();
            let run = once
                .runs
                .iter()
                .find(|r| r.method == method && r.seed == seed)
                .unwrap();
            run.failures
                .iter()
                .take_while(|f| f.iteration <= 18)
                .map(|f| (f.iteration, f.places.clone()))
                .collect::<Vec<_>>()
        };
        let want = lossy("shadow");
        assert!(!want.is_empty());
        for name in [
            "random",
            "copy",
            "average",
            "checkfree",
            "checkfree+",
            "loss-aware",
            "checkpoint-10",
        ] {
            assert_eq!(lossy(name), want, "{name}");
        }
    }
}

#[test]
fn threads_do_not_show() {
    let mut config = config();
    config.methods = ["none", "checkfree"].map(|m| m.parse().unwrap()).to_vec();
    let one = experiment(&config);
    config.threads = 2;
    let two = experiment(&config);
    assert!(one.runs.iter().zip(&two.runs).all(|(a, b)| bare(a) == bare(b)));
}

#[test]
fn results_are_written_as_files_that_can_be_read() {
    let mut config = config();
    config.methods = ["none", "redundant", "checkpoint-10", "shadow", "checkfree"]
        .map(|m| m.parse().unwrap())
        .to_vec();
    let results = experiment(&config);
    let folder = tempfile::tempdir().unwrap();
    write(&results, &folder.path().join("new/folder")).unwrap();
    let read = |name: &str| std::fs::read_to_string(folder.path().join("new/folder").join(name)).unwrap();
    let json: serde_json::Value = serde_json::from_str(&read("results.json")).unwrap();
    assert_eq!(json["runs"].as_array().unwrap().len(), 5);
    assert_eq!(json["rows"][1]["method"], "redundant");
    let table = read("table.md");
    for row in &results.rows {
        assert!(table.contains(&format!("| {} |", row.title)), "{}", row.title);
    }
    for name in ["loss.svg", "time-to-target.svg"] {
        well_formed(&read(name));
    }
    let ratios: Vec<_> = results
        .rows
        .iter()
        .map(|r| r.seconds_ratio.unwrap().mean)
        .collect();
    assert_eq!(ratios[0], 1.0);
    assert!(ratios[1] > 1.6, "{ratios:?}");
}

/// Every element is closed, in order, and every attribute quoted.
fn well_formed(svg: &str) {
    let mut open = Vec::new();
    for tag in svg.split('<').skip(1) {
        let (tag, _) = tag.split_once('>').unwrap();
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name));
        } else if !tag.ends_with('/') {
            open.push(tag.split_whitespace().next().unwrap().to_owned());
        }
        assert!(!tag.contains("NaN") && !tag.contains("inf"), "{tag}");
    }
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn a_config_that_cannot_be_run_is_refused_by_its_option() {
    let refused = |change: fn(&mut Config)| {
        let mut config = config();
        let text = text(&config);
        change(&mut config);
        match run(&config, &text, &[], &mut |_| Ok(())) {
            Err(ExperimentError::Config { option, .. }) => option,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refused(|c| c.shape.heads = 3), "--heads");
    assert_eq!(refused(|c| c.shape.stages = 3), "--stages");
    assert_eq!(refused(|c| c.shape.micro_batches = 3), "--micro-batches");
    assert_eq!(refused(|c| c.shape.seq_len = 0), "--seq-len");
    assert_eq!(refused(|c| c.rates = vec![1.0]), "--rates");
    assert_eq!(refused(|c| c.seeds.clear()), "--seeds");
    assert_eq!(refused(|c| c.eval_every = 0), "--steps");
    assert_eq!(refused(|c| c.lr = f64::NAN), "--lr");
    assert_eq!(refused(|c| c.costs.restore = -1.0), "--cost-restore");
}

#[test]
fn a_learning_rate_that_is_too_high_is_named() {
    let mut config = config();
    config.lr = 1e30;
    match run(&config, &text(&config), &[], &mut |_| Ok(())) {
        Err(ExperimentError::Config { option: "--lr", .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_method_that_is_refused_does_not_end_the_experiment() {
    let mut config = config();
    config.failing = rekindle_experiment::Failing::All;
    config.rates = vec![0.2];
    config.methods = ["checkfree", "shadow"].map(|m| m.parse().unwrap()).to_vec();
    let results = experiment(&config);
    let [_, checkfree, shadow] = &results.runs[..] else {
        panic!("{} runs", results.runs.len());
    };
    assert!(matches!(checkfree.outcome, Outcome::Refused { .. }));
    assert_eq!(
        (&shadow.outcome, shadow.digest),
        (&Outcome::Finished, results.runs[0].digest)
    );
    assert!(rekindle_experiment::table(&results).contains("embed"));
}
