//! Relations between the keys of a job file: each impossible one is refused under its own key, with a way out.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on panics")]

mod common;

use common::{JOB, spec, with};
use rekindle_types::SpecError;

fn refused(section: &str, key: &str, value: &str) -> SpecError {
    spec(&with(section, key, &format!("{key} = {value}"))).expect_err(&format!("{section}.{key} = {value}"))
}

#[test]
fn each_impossible_value_is_refused_under_its_own_key() {
    for (section, key, value) in [
        ("job", "name", "\"\""),
        ("job", "name", "\"Upper\""),
        ("job", "name", "\"-x\""),
        ("job", "name", "\"a/b\""),
        ("job", "output", "\"\""),
        ("job", "output", "\"s3://bucket/run\""),
        ("model", "hidden_size", "0"),
        ("model", "num_hidden_layers", "0"),
        ("model", "num_hidden_layers", "65537"),
        ("model", "head_dim", "16777216"),
        ("model", "vocab_size", "255"),
        ("model", "head_dim", "7"),
        ("model", "rms_norm_eps", "0.0"),
        ("model", "rope_theta", "nan"),
        ("model", "initializer_range", "-1.0"),
        ("data", "train", "[]"),
        ("data", "seq_len", "0"),
        ("training", "steps", "0"),
        ("training", "global_batch", "0"),
        ("training", "micro_batch", "0"),
        ("training", "max_grad_norm", "-1.0"),
        ("optimizer", "lr", "0.0"),
        ("optimizer", "lr", "inf"),
        ("optimizer", "eps", "0.0"),
        ("optimizer", "betas", "[0.9, 1.0]"),
        ("optimizer", "weight_decay", "-0.1"),
        ("lr_schedule", "min_lr_ratio", "1.5"),
        ("lr_schedule", "decay_steps", "2"),
        ("lr_schedule", "warmup_steps", "11"),
        ("evaluation", "every", "5"),
    ] {
        let error = refused(section, key, value);
        let field = format!("{section}.{key}");
        assert!(
            error.violations.iter().any(|v| v.field == field),
            "{field} = {value}: {error}"
        );
        assert!(error.violations.iter().all(|v| !v.description.is_empty()));
    }
}

/// Sizes that are in range one by one are refused together, and nothing overflows on the way.
#[test]
fn models_and_micro_batches_that_no_memory_holds_are_refused() {
    let huge = with("model", "hidden_size", "hidden_size = 16777216\nhead_dim = 2");
    let huge = huge.replace("intermediate_size = 128", "intermediate_size = 16777216");
    let error = spec(&huge).expect_err("a huge model").to_string();
    assert!(error.contains("parameters"), "{error}");
    let wide = with("model", "intermediate_size", "intermediate_size = 16777216");
    spec(&wide).expect("a wide model alone is fine");
    let both = wide
        .replace("micro_batch = 2", "micro_batch = 4194304")
        .replace("global_batch = 8", "global_batch = 4194304");
    let error = spec(&both).expect_err("too many tokens of it").to_string();
    assert!(error.contains("more than any memory holds"), "{error}");
    let most = u32::MAX;
    let absurd = JOB
        .replace(
            "num_attention_heads = 4",
            &format!("num_attention_heads = {most}\nhead_dim = {most}"),
        )
        .replace("num_hidden_layers = 4", &format!("num_hidden_layers = {most}"))
        .replace("seq_len = 32", &format!("seq_len = {most}"))
        .replace("micro_batch = 2", &format!("micro_batch = {most}"));
    let error = spec(&absurd).expect_err("everything out of range").to_string();
    assert!(
        error.contains("out of range") && error.contains("more than any memory holds"),
        "{error}"
    );
}

#[test]
fn heads_must_divide() {
    let error = refused("model", "num_attention_heads", "5").to_string();
    assert!(error.contains("5 heads don't divide hidden_size = 64"), "{error}");
    let error = refused("model", "num_key_value_heads", "3").to_string();
    assert!(
        error.contains("3 doesn't divide num_attention_heads = 4"),
        "{error}"
    );
    let wide = with(
        "model",
        "num_attention_heads",
        "num_attention_heads = 5\nhead_dim = 8",
    );
    assert_eq!(spec(&wide).unwrap().model.query_size(), 40);
}

#[test]
fn micro_batches_must_divide_the_batch() {
    let error = refused("training", "micro_batch", "3").to_string();
    assert!(
        error.contains("3 doesn't divide training.global_batch = 8"),
        "{error}"
    );
}

#[test]
fn sequences_must_fit_the_model() {
    let error = refused("model", "max_position_embeddings", "31").to_string();
    assert!(error.contains("data.seq_len") && error.contains("31"), "{error}");
}

#[test]
fn stages_and_lanes_have_limits_that_are_named() {
    for stages in 1..=6 {
        let text = with("parallelism", "pipeline", &format!("pipeline = {stages}"));
        assert!(spec(&text).is_ok(), "{stages} stages");
    }
    let error = refused("parallelism", "pipeline", "7").to_string();
    assert!(error.contains("7 stages for 6 layers"), "{error}");
    assert!(
        refused("parallelism", "pipeline", "0")
            .to_string()
            .contains("parallelism.pipeline")
    );
    assert!(spec(&with("parallelism", "data", "data = 4")).is_ok());
    let error = refused("parallelism", "data", "5").to_string();
    assert!(error.contains("5 lanes for 4 micro-batches"), "{error}");
}

#[test]
fn a_step_has_a_largest_size() {
    let text = JOB.replace("global_batch = 8", "global_batch = 268435456");
    let error = spec(&text).unwrap_err().to_string();
    assert!(error.contains("2^32 tokens"), "{error}");
}

#[test]
fn all_violations_are_reported_together() {
    let text = JOB
        .replace("steps = 10", "steps = 0")
        .replace("lr = 1e-3", "lr = -1.0");
    let error = spec(&text).unwrap_err();
    let fields: Vec<_> = error.violations.iter().map(|v| v.field.as_str()).collect();
    assert!(
        fields.contains(&"training.steps") && fields.contains(&"optimizer.lr"),
        "{error}"
    );
}

#[test]
fn token_files_may_have_any_vocabulary() {
    let small = with("model", "vocab_size", "vocab_size = 12");
    assert!(spec(&small).is_err());
    let tokens = small.replace("seq_len = 32", "seq_len = 32\nformat = \"tokens-u16\"");
    assert_eq!(spec(&tokens).unwrap().model.vocab_size, 12);
}

#[test]
fn shadows_need_the_ranks_that_were_not_lost() {
    let with_sources = |sources: &str| spec(&format!("{JOB}\n[recovery]\nsources = {sources}\n"));
    let error = with_sources(r#"["shadow", "checkpoint"]"#).unwrap_err();
    assert!(error.to_string().contains("add \"local\""), "{error}");
    with_sources(r#"["local", "shadow"]"#).unwrap();
}

#[test]
fn guards_are_other_ranks_of_the_job() {
    let of = |parallelism: &str, recovery: &str| {
        let text = JOB.replace(
            "[optimizer]",
            &format!("[parallelism]\n{parallelism}\n[optimizer]"),
        );
        spec(&format!("{text}\n[recovery]\n{recovery}\n"))
    };
    let shadow = |guards: u32| format!("sources = [\"local\", \"shadow\"]\nguards = {guards}");
    assert_eq!(
        of("pipeline = 2\ndata = 2", &shadow(3))
            .unwrap()
            .recovery
            .guards_wanted(),
        3
    );
    assert_eq!(
        of("pipeline = \"auto\"", &shadow(7))
            .unwrap()
            .recovery
            .guards_wanted(),
        7
    );
    assert_eq!(
        of("pipeline = 1", &shadow(1)).unwrap().recovery.guards_wanted(),
        1
    );
    assert_eq!(of("", "").unwrap().recovery.guards_wanted(), 0, "no shadows");
    for (parallelism, recovery, part) in [
        ("pipeline = 2\ndata = 2", shadow(4), "a rank has 3 others"),
        ("pipeline = 2", shadow(2), "a rank has 1 others"),
        ("", shadow(0), "at least 1"),
        ("", "guards = 2".to_owned(), "add \"shadow\""),
    ] {
        let error = of(parallelism, &recovery).unwrap_err().to_string();
        assert!(
            error.contains("recovery.guards") && error.contains(part),
            "{error}"
        );
    }
}

#[test]
fn parities_need_local_and_a_group_larger_than_its_losses() {
    let with = |sources: &str, parity: &str| {
        spec(&format!(
            "{JOB}\n[recovery]\nsources = {sources}\n[recovery.parity]\n{parity}\n"
        ))
    };
    let good = r#"["local", "parity"]"#;
    let settings = with(good, "every = 3\nlosses = 2").unwrap().recovery.parity;
    assert_eq!((settings.every, settings.losses, settings.group), (3, 2, 8));
    for (sources, parity, why) in [
        (r#"["parity"]"#, "", "add \"local\""),
        (good, "every = 0", "recovery.parity.every"),
        (good, "losses = 0", "recovery.parity.losses"),
        (good, "losses = 8", "recovery.parity.group"),
        (good, "group = 129", "at most 128"),
    ] {
        let error = with(sources, parity).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
    }
}

#[test]
fn warm_up_stable_decay_takes_its_decay() {
    let text = with(
        "lr_schedule",
        "kind",
        "kind = \"wsd\"\nwarmup_steps = 2\ndecay_steps = 3",
    );
    assert_eq!(spec(&text).unwrap().lr_schedule.decay_steps, Some(3));
    let long = with(
        "lr_schedule",
        "kind",
        "kind = \"wsd\"\nwarmup_steps = 8\ndecay_steps = 3",
    );
    assert!(
        spec(&long)
            .unwrap_err()
            .to_string()
            .contains("training.steps = 10")
    );
}

#[test]
fn averages_need_neighbours_or_lanes_and_a_rate_that_is_one() {
    let of = |parallelism: &str, recovery: &str| {
        let text = JOB.replace(
            "[optimizer]",
            &format!("[parallelism]\n{parallelism}\n[optimizer]"),
        );
        spec(&format!("{text}\n[recovery]\n{recovery}\n"))
    };
    let average = r#"sources = ["local", "neighbour_average", "checkpoint"]"#;
    let good = of("pipeline = 3", average).unwrap().recovery;
    assert!(good.rather_averages(), "it stands before checkpoint");
    let last = r#"sources = ["local", "checkpoint", "neighbour_average"]"#;
    assert!(!of("pipeline = 3", last).unwrap().recovery.rather_averages());
    assert!(
        of("pipeline = 1\ndata = 2", average).is_ok(),
        "another lane has the weights"
    );
    for (parallelism, recovery, part) in [
        (
            "pipeline = 2\ndata = 1",
            average.to_owned(),
            "parallelism.pipeline",
        ),
        (
            "",
            r#"sources = ["neighbour_average"]"#.to_owned(),
            "add \"local\"",
        ),
        (
            "data = 2",
            "sources = [\"local\", \"replica\"]".to_owned(),
            "add \"shadow\"",
        ),
        (
            "data = 1",
            "sources = [\"local\", \"shadow\", \"replica\"]".to_owned(),
            "1 lane(s) and 1 guard(s)",
        ),
        (
            "",
            "sources = [\"local\", \"shadow\", \"replica\"]".to_owned(),
            "1 lane(s) and 1 guard(s)",
        ),
        (
            "data = 2",
            "sources = [\"local\", \"shadow\", \"replica\"]\nguards = 2".to_owned(),
            "2 lane(s) and 2 guard(s)",
        ),
        (
            "pipeline = 3",
            format!("{average}\naverage_lr_factor = 0.0"),
            "average_lr_factor",
        ),
        (
            "pipeline = 3",
            format!("{average}\naverage_lr_factor = nan"),
            "average_lr_factor",
        ),
        (
            "pipeline = 3",
            format!("{average}\naverage_moments = \"third\""),
            "third",
        ),
        (
            "",
            "average_weights = \"uniform\"".to_owned(),
            "recovery.average_weights",
        ),
        (
            "",
            "average_by_loss = true".to_owned(),
            "recovery.average_by_loss",
        ),
        (
            "",
            "average_moments = \"both\"".to_owned(),
            "recovery.average_moments",
        ),
        (
            "",
            "average_lr_factor = 1.2".to_owned(),
            "recovery.average_lr_factor",
        ),
        (
            "",
            "average_lr_decay_steps = 9".to_owned(),
            "recovery.average_lr_decay_steps",
        ),
        (
            "",
            "[recovery.parity]\nevery = 3".to_owned(),
            "recovery.parity: is set without",
        ),
    ] {
        let error = of(parallelism, &recovery).unwrap_err().to_string();
        assert!(error.contains("recovery") && error.contains(part), "{error}");
    }
}

#[test]
fn swapped_micro_batches_need_a_cut_of_four_stages_with_blocks_and_every_other_micro_batch() {
    let of = |stages: &str, sources: &str, micro_batch: &str| {
        let text = with("training", "micro_batch", micro_batch)
            .replace("num_hidden_layers = 4", "num_hidden_layers = 6")
            .replace("[optimizer]", &format!("[parallelism]\n{stages}\n[optimizer]"));
        spec(&format!("{text}\n[recovery]\nsources = {sources}\n"))
    };
    let (four, two) = ("pipeline = 4", "micro_batch = 1");
    let swap = r#"["local", "neighbour_average", "swap"]"#;
    assert!(of(four, swap, two).unwrap().recovery.swaps());
    assert!(of("pipeline = 6\ndata = 2", swap, two).is_ok());
    for (stages, sources, micro_batch, part) in [
        (
            "pipeline = 3",
            swap,
            two,
            "parallelism.pipeline: must be a number from 4 to the model's 6 blocks",
        ),
        ("pipeline = 7", swap, two, "parallelism.pipeline"),
        ("data = 1", swap, two, "parallelism.pipeline"),
        (four, swap, "micro_batch = 8", "training.micro_batch"),
        (four, r#"["local", "swap"]"#, two, "without \"neighbour_average\""),
        (
            four,
            r#"["local", "neighbour_average", "shadow", "swap"]"#,
            two,
            "beside \"shadow\"",
        ),
        (
            four,
            r#"["local", "neighbour_average", "parity", "swap"]"#,
            two,
            "beside \"parity\"",
        ),
    ] {
        let error = of(stages, sources, micro_batch).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}
