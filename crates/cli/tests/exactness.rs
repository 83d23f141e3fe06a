//! The exactness contract, over real processes: the weights after a step are a function of the job file and the data
//! alone. Stages, lanes, threads and placement don't enter, to the bit.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on panics")]

mod common;

use std::collections::BTreeMap;

use common::{Job, Line, train};

const STEPS: u64 = 50;

/// (name, stages, lanes, workers, threads)
const LAYOUTS: &[(&str, u32, u32, u32, u32)] = &[
    ("threads", 1, 1, 1, 3),
    ("stages", 4, 1, 4, 1),
    ("lanes", 1, 2, 2, 1),
    ("grid", 2, 2, 4, 1),
    ("uneven", 3, 1, 3, 2),
    ("packed", 2, 2, 2, 1),
];

fn same(name: &str, expected: &BTreeMap<u64, Line>, got: &BTreeMap<u64, Line>) {
    for (step, line) in expected {
        assert_eq!(&got[step], line, "{name} differs from one worker at step {step}");
    }
    assert_eq!(expected.len(), got.len());
}

fn all_layouts_agree(tied: bool) {
    let folder = tempfile::tempdir().unwrap();
    let job = Job {
        tied,
        ..Job::new(STEPS)
    };
    let reference = train(&job, folder.path(), "one", 1, 1);
    assert_learned(&reference);
    for &(name, pipeline, data, workers, threads) in LAYOUTS {
        let got = train(
            &job.clone().over(pipeline, data),
            folder.path(),
            name,
            workers,
            threads,
        );
        same(name, &reference, &got);
    }
}

/// A run that does nothing would be exact too.
fn assert_learned(lines: &BTreeMap<u64, Line>) {
    let loss = |step| f64::from_bits(lines[&step].loss);
    assert!(loss(STEPS) < loss(1) - 0.5, "{} to {}", loss(1), loss(STEPS));
    let digests: Vec<_> = lines.values().filter_map(|l| l.state_digest.as_ref()).collect();
    assert_eq!(digests.len(), 8, "every 7 steps, and the last");
    let distinct: std::collections::BTreeSet<_> = digests.iter().collect();
    assert_eq!(distinct.len(), digests.len());
    let evaluated: Vec<_> = lines
        .iter()
        .filter(|(_, l)| l.val_loss.is_some())
        .map(|(s, _)| *s)
        .collect();
    assert_eq!(evaluated, [20, 40, STEPS], "every 20 steps, and the last");
}

#[test]
fn every_layout_gives_the_same_bits_untied() {
    all_layouts_agree(false);
}

#[test]
fn every_layout_gives_the_same_bits_tied() {
    all_layouts_agree(true);
}

/// `fast` adds floats in lane order, so that lanes show. The comparison above must notice that.
#[test]
fn a_changed_order_of_addition_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let fast = Job {
        numerics: "fast",
        ..Job::new(10)
    };
    let one = train(&fast, folder.path(), "one", 1, 1);
    let two = train(&fast.clone().over(1, 2), folder.path(), "two", 2, 1);
    let last = |lines: &BTreeMap<u64, Line>| lines[&10].state_digest.clone().unwrap();
    assert_ne!(last(&one), last(&two));
    // The same layout twice is still the same.
    let again = train(&fast, folder.path(), "again", 1, 1);
    same("again", &one, &again);
}

#[test]
fn metrics_are_appended_whole_lines_that_parse_back_to_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let lines = train(&Job::new(12), folder.path(), "bits", 1, 1);
    let text = std::fs::read_to_string(folder.path().join("bits/metrics.jsonl")).unwrap();
    assert!(text.ends_with('\n'));
    for (text, line) in text.lines().zip(lines.values()) {
        let value: serde_json::Value = serde_json::from_str(text).unwrap();
        let printed = serde_json::to_string(&value["loss"]).unwrap();
        assert_eq!(printed.parse::<f64>().unwrap().to_bits(), line.loss);
        assert!(text.contains(&printed), "{text} doesn't hold {printed}");
        for key in [
            "step",
            "loss",
            "grad_norm",
            "lr",
            "tokens",
            "step_seconds",
            "epoch",
            "data_digest",
        ] {
            assert!(!value[key].is_null(), "{key} is missing in {text}");
        }
        assert_eq!(value["tokens"], 128);
    }
}
