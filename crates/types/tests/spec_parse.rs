//! From the text of a job file to a [`JobSpec`]: defaults, helpful errors, paths, base models, round trips.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on panics")]

mod common;

use common::{JOB, spec, with};
use rekindle_types::spec::{Auto, DataFormat, LrKind};
use rekindle_types::{Dtype, FailureClass, JobFile, JobSpec, ModelConfig, Numerics};

#[test]
fn a_minimal_file_gets_the_documented_defaults() {
    let spec = spec(JOB).unwrap();
    assert_eq!(spec.job.seed, 0);
    assert_eq!(spec.model.num_key_value_heads, 4);
    assert_eq!(spec.model.head_dim, 16);
    assert_eq!(spec.model.vocab_size, 256);
    assert_eq!(spec.model.max_position_embeddings, 32);
    assert_eq!(spec.data.format, DataFormat::Auto);
    assert_eq!(spec.training.numerics, Numerics::Exact);
    assert_eq!(spec.training.dtype, Dtype::F32);
    assert_eq!(spec.lr_schedule.kind, LrKind::Constant);
    assert_eq!(spec.parallelism.pipeline, Auto::Auto);
    assert_eq!(spec.tokens_per_step(), 256);
    assert_eq!(spec.micro_batches(), 4);
}

#[test]
fn unknown_keys_and_sections_name_the_nearest_known_one() {
    for (section, line, field, hint) in [
        ("training", "step = 5", "training.step", "did you mean \"steps\""),
        (
            "model",
            "hiden_size = 5",
            "model.hiden_size",
            "did you mean \"hidden_size\"",
        ),
        (
            "optimizer",
            "weight_decy = 0.1",
            "optimizer.weight_decy",
            "did you mean \"weight_decay\"",
        ),
        ("trainig", "steps = 1", "[trainig]", "did you mean \"training\""),
        (
            "recovery.parity",
            "evry = 1",
            "recovery.parity.evry",
            "did you mean \"every\"",
        ),
        (
            "recovery",
            "paritty = 1",
            "recovery.paritty",
            "did you mean \"parity\"",
        ),
        ("data", "zzzzzz = 1", "data.zzzzzz", "known here: train, val"),
    ] {
        let error = spec(&with(section, "no such key", line)).unwrap_err();
        assert_eq!(error.violations[0].field, field, "{error}");
        assert!(error.to_string().contains(hint), "{error}");
    }
}

#[test]
fn budgets_of_failure_classes_are_read_and_unknown_classes_name_the_nearest() {
    let with_budgets = |line: &str| spec(&format!("{JOB}\n[recovery]\n{line}\n"));
    let inline = with_budgets("max_restarts_of = { WORKER_CRASH = 3, HANG = 0 }").unwrap();
    let table = with_budgets("[recovery.max_restarts_of]\nHANG = 0\nWORKER_CRASH = 3").unwrap();
    assert_eq!(inline, table);
    let budgets = [(FailureClass::WorkerCrash, 3), (FailureClass::Hang, 0)];
    assert_eq!(inline.recovery.max_restarts_of, budgets.into());
    for (line, field, hint) in [
        (
            "{ WORKER_CRSH = 1 }",
            "WORKER_CRSH",
            "did you mean \"WORKER_CRASH\"",
        ),
        (
            "{ worker_lost = 1 }",
            "worker_lost",
            "did you mean \"WORKER_LOST\"",
        ),
        (
            "{ POWER = 1 }",
            "POWER",
            "known here: WORKER_CRASH, WORKER_LOST, HANG",
        ),
        ("{ DATA_ERROR = 1 }", "DATA_ERROR", "never restarted after that"),
    ] {
        let error = with_budgets(&format!("max_restarts_of = {line}")).unwrap_err();
        assert_eq!(
            error.violations[0].field,
            format!("recovery.max_restarts_of.{field}")
        );
        assert!(error.to_string().contains(hint), "{error}");
    }
    assert!(with_budgets("max_restarts_of = { HANG = -1 }").is_err());
    // A resolved job of before has no such key.
    let mut old = serde_json::to_value(&inline).unwrap();
    old["recovery"].as_object_mut().unwrap().remove("max_restarts_of");
    let old: JobSpec = serde_json::from_value(old).unwrap();
    assert!(old.recovery.max_restarts_of.is_empty());
}

#[test]
fn every_unknown_key_is_named_at_once() {
    let text = with("training", "steps", "stepz = 3\nbatch = 4\nglobal_bach = 1");
    let error = JobFile::parse(&text).unwrap_err();
    assert_eq!(error.violations.len(), 3, "{error}");
}

#[test]
fn missing_keys_are_named() {
    for (section, key) in [
        ("job", "name"),
        ("job", "output"),
        ("model", "hidden_size"),
        ("model", "num_attention_heads"),
        ("data", "train"),
        ("data", "seq_len"),
        ("training", "steps"),
        ("training", "global_batch"),
        ("training", "micro_batch"),
        ("optimizer", "lr"),
    ] {
        let error = spec(&with(section, key, "")).unwrap_err().to_string();
        assert!(
            error.contains(section) && error.contains(key),
            "{section}.{key}: {error}"
        );
    }
    let tokenizer = with("data", "tokenizer", "tokenizer = \"t.json\"");
    let error = spec(&tokenizer).unwrap_err().to_string();
    assert!(error.contains("model.vocab_size"), "{error}");
}

#[test]
fn wrong_types_name_the_section() {
    for (section, key, line) in [
        ("training", "steps", "steps = \"many\""),
        ("training", "steps", "steps = -1"),
        ("data", "train", "train = \"a.txt\""),
        ("training", "numerics", "numerics = \"loose\""),
        ("training", "dtype", "dtype = \"f16\""),
        ("parallelism", "pipeline", "pipeline = \"most\""),
        ("parallelism", "data", "data = -2"),
    ] {
        let error = spec(&with(section, key, line)).unwrap_err().to_string();
        assert!(error.contains(&format!("[{section}]")), "{line}: {error}");
    }
    assert!(spec("job = 3").unwrap_err().to_string().contains("[job]"));
    assert!(spec("[job").unwrap_err().to_string().contains("not valid TOML"));
}

#[test]
fn dtype_is_read_and_a_job_from_before_it_is_f32() {
    let bf16 = spec(&with("training", "dtype", "dtype = \"bf16\"")).unwrap();
    assert_eq!(bf16.training.dtype, Dtype::Bf16);
    let mut json = serde_json::to_value(&bf16).unwrap();
    assert_eq!(json["training"]["dtype"], "bf16");
    json["training"].as_object_mut().unwrap().remove("dtype");
    let older: JobSpec = serde_json::from_value(json).unwrap();
    assert_eq!(older.training.dtype, Dtype::F32);
}

#[test]
fn a_base_model_fills_what_the_file_leaves_out_and_the_file_wins() {
    let base = ModelConfig {
        hidden_size: 48,
        intermediate_size: 96,
        num_hidden_layers: 3,
        num_attention_heads: 6,
        num_key_value_heads: 2,
        head_dim: 10,
        vocab_size: 1000,
        max_position_embeddings: 77,
        rms_norm_eps: 1e-6,
        rope_theta: 500_000.0,
        tie_word_embeddings: true,
        initializer_range: 0.01,
    };
    let text = JOB
        .replace("hidden_size = 64\n", "init_from = \"base\"\n")
        .replace("intermediate_size = 128\n", "")
        .replace("num_hidden_layers = 4\n", "num_hidden_layers = 2\n")
        .replace("num_attention_heads = 4\n", "");
    let file = JobFile::parse(&text).unwrap();
    assert_eq!(file.base_model(), Some("base"));
    let spec = file.into_spec(Some(&base)).unwrap();
    let expected = ModelConfig {
        num_hidden_layers: 2,
        ..base
    };
    assert_eq!(spec.model, expected);
    assert_eq!(spec.init_from.as_deref(), Some("base"));
}

#[test]
fn paths_are_rewritten_and_nothing_else_is() {
    let text = JOB
        .replace(
            "seq_len = 32",
            "seq_len = 32\nval = [\"v\"]\ntokenizer = \"t.json\"",
        )
        .replace(
            "[model]",
            "[model]\nvocab_size = 300\nconfig = \"c.json\"\ninit_from = \"f\"",
        );
    let file = JobFile::parse(&text).unwrap().map_paths(&|p| format!("/x/{p}"));
    assert_eq!(file.base_model(), Some("/x/f"));
    let spec = file.into_spec(None).unwrap();
    assert_eq!(spec.data.train, ["/x/a.txt"]);
    assert_eq!(spec.data.val, ["/x/v"]);
    assert_eq!(spec.data.tokenizer, "/x/t.json");
    assert_eq!(spec.job.output, "/x/run");
    let bytes = JobFile::parse(JOB).unwrap().map_paths(&|p| format!("/x/{p}"));
    assert_eq!(bytes.data.tokenizer, "bytes");
}

#[test]
fn a_spec_survives_json_unchanged() {
    let text = with("parallelism", "pipeline", "pipeline = 3\ndata = \"auto\"").replace(
        "lr = 1e-3",
        "lr = 0.1234567890123456789\nbetas = [0.1, 0.30000000000000004]",
    );
    for text in [JOB.to_owned(), text] {
        let spec = spec(&text).unwrap();
        let json = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<JobSpec>(&json).unwrap(), spec);
    }
    let extra = serde_json::to_string(&spec(JOB).unwrap())
        .unwrap()
        .replacen('{', "{\"extra\":1,", 1);
    assert!(serde_json::from_str::<JobSpec>(&extra).is_err());
}

#[test]
fn damaged_files_give_errors_and_never_a_panic() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let values = [
        "0",
        "-1",
        "4294967295",
        "\"\"",
        "[]",
        "1e999",
        "nan",
        "true",
        "{}",
        "9223372036854775807",
    ];
    for _ in 0..2000 {
        let mut lines: Vec<String> = JOB.lines().map(str::to_owned).collect();
        for _ in 0..=next() % 3 {
            let at = next() as usize % lines.len();
            let value = values[next() as usize % values.len()];
            let key = lines[at].split('=').next().unwrap_or_default().to_owned();
            lines[at] = match next() % 3 {
                0 => String::new(),
                1 => format!("{key}= {value}"),
                _ => lines[at].chars().filter(|_| next() % 8 != 0).collect(),
            };
        }
        if let Err(error) = spec(&lines.join("\n")) {
            assert!(!error.violations.is_empty());
        }
    }
}
