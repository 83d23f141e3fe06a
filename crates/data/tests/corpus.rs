//! Corpora from files of every kind: the same tokens whichever way they come, and errors that name the input at fault.

#![allow(clippy::unwrap_used)] // The lint's exception for tests doesn't reach their helper functions.

use std::path::Path;

use rekindle_data::{
    Corpus, DataDigest, DataError, Sampler, Tokenizer, Width, inspect, prepare, train_bpe, unigram_entropy,
};
use rekindle_types::spec::{DataFormat, DataSpec};

fn spec(dir: &Path, train: &[&str], tokenizer: &str, seq_len: u32) -> DataSpec {
    DataSpec {
        train: train
            .iter()
            .map(|name| dir.join(name).display().to_string())
            .collect(),
        val: Vec::new(),
        format: DataFormat::Auto,
        tokenizer: tokenizer.to_owned(),
        text_field: "text".to_owned(),
        seq_len,
        shuffle: false,
    }
}

fn tokens(corpus: &Corpus) -> Vec<u32> {
    corpus
        .sample(0, u32::try_from(corpus.tokens() - 1).unwrap())
        .unwrap()
}

/// Text with repeated words, line breaks of all kinds and characters beyond ASCII.
fn prose(sentences: usize) -> String {
    let words = [
        "the",
        "ember",
        "glows",
        "naïve",
        "worker",
        "dies",
        "rekindled",
        "é",
        "step",
    ];
    let word = |i: usize| words[(i * i + i / 3) % words.len()];
    (0..sentences)
        .map(|i| {
            format!(
                "{} {} {}{}",
                word(i),
                word(i + 1),
                word(i * 7),
                [".\n", ".\n\n", "\r\n", " "][i % 4]
            )
        })
        .collect()
}

#[test]
fn samples_overlap_by_one_token() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.txt"), "0123456789").unwrap();
    let corpus = Corpus::open(&spec(dir.path(), &["a.txt"], "bytes", 3), 256).unwrap();
    assert_eq!(
        (corpus.tokens(), corpus.samples(3), corpus.documents()),
        (10, 3, Some(1))
    );
    let text =
        |k| String::from_utf8(corpus.sample(k, 3).unwrap().iter().map(|&id| id as u8).collect()).unwrap();
    assert_eq!([text(0), text(1), text(2)], ["0123", "3456", "6789"]);
    assert!(matches!(
        corpus.sample(3, 3),
        Err(DataError::NoSuchSample {
            sample: 3,
            samples: 3,
            ..
        })
    ));
    assert_eq!(corpus.samples(0), 0);
}

#[test]
fn files_and_token_files_join_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
    write("a.txt", b"ab");
    write(
        "b.jsonl",
        b"{\"text\":\"cd\"}\n{\"text\":\"\"}\n{\"text\":\"e\"}\n",
    );
    write("c.u16", &[1, 0, 2, 0]);
    write("d.u32", &[3, 0, 0, 0]);
    write("e.txt", b"f");
    write("empty.u16", b"");
    let corpus = Corpus::open(&spec(dir.path(), &["."], "bytes", 2), 256).unwrap();
    assert_eq!(tokens(&corpus), [97, 98, 99, 100, 101, 1, 2, 3, 102]);
    assert_eq!(corpus.documents(), None);
    // Samples that span three segments.
    assert_eq!(corpus.sample(0, 8).unwrap(), tokens(&corpus));
    assert_eq!(corpus.sample(1, 4).unwrap(), [101, 1, 2, 3, 102]);
}

#[test]
fn prepared_files_hold_the_tokens_of_their_text() {
    let dir = tempfile::tempdir().unwrap();
    let text = prose(70_000);
    assert!(text.len() > 1 << 20, "more than a piece");
    std::fs::write(dir.path().join("a.txt"), &text).unwrap();
    std::fs::write(dir.path().join("b.txt"), "second document").unwrap();
    let inputs = spec(dir.path(), &["a.txt", "b.txt"], "bytes", 1).train;
    let json = dir.path().join("out/tokenizer.json");
    let trained = train_bpe(&inputs, DataFormat::Auto, "text", 300, &json).unwrap();
    assert_eq!(trained.vocab_size, 300);
    let tokenizer = Tokenizer::open(json.to_str().unwrap()).unwrap();
    for width in [Width::U16, Width::U32] {
        let out = dir.path().join("out/train.bin");
        let prepared = prepare(&inputs, DataFormat::Auto, "text", &tokenizer, &out, width).unwrap();
        let from_text = Corpus::load(&inputs, DataFormat::Auto, "text", &tokenizer, 300).unwrap();
        // A .bin is understood by its sidecar.
        let mapped = Corpus::load(
            &[out.display().to_string()],
            DataFormat::Auto,
            "text",
            &tokenizer,
            300,
        )
        .unwrap();
        assert_eq!(tokens(&mapped), tokens(&from_text));
        assert_eq!((mapped.documents(), prepared.sidecar.documents), (Some(2), 2));
        assert_eq!(prepared.sidecar.tokens, mapped.tokens());
        assert_eq!(prepared.sidecar.sources[0].bytes, text.len() as u64);
        let ids = tokens(&mapped);
        let ends: Vec<usize> = (0..ids.len())
            .filter(|&i| ids[i] == tokenizer.end_of_text().unwrap())
            .collect();
        assert_eq!(ends.len(), 1, "one end of text between two documents, none after");
        assert_eq!(tokenizer.decode(&ids[..ends[0]]).unwrap(), text);
        assert_eq!(tokenizer.decode(&ids[ends[0] + 1..]).unwrap(), "second document");
    }
    // Cutting into pieces doesn't show in the tokens of a byte-level tokenizer.
    let whole = tokenizer.encode(&text).unwrap();
    let cut = Corpus::load(&inputs[..1], DataFormat::Auto, "text", &tokenizer, 300).unwrap();
    assert_eq!(tokens(&cut), whole);
}

#[test]
fn training_a_tokenizer_is_repeatable_and_covers_all_bytes() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.txt"), prose(3000)).unwrap();
    let inputs = spec(dir.path(), &["a.txt"], "bytes", 1).train;
    let train = |name: &str, vocab_size| {
        let out = dir.path().join(name);
        train_bpe(&inputs, DataFormat::Auto, "text", vocab_size, &out).map(|_| std::fs::read(out).unwrap())
    };
    assert_eq!(train("one.json", 400).unwrap(), train("two.json", 400).unwrap());
    let tokenizer = Tokenizer::open(dir.path().join("one.json").to_str().unwrap()).unwrap();
    let strange = "tabs\t\u{0}\u{1F525} 語 \u{FFFD}";
    assert_eq!(
        tokenizer.decode(&tokenizer.encode(strange).unwrap()).unwrap(),
        strange
    );
    assert!(
        tokenizer.encode("rekindled").unwrap().len() < 5,
        "merges were learned"
    );
    assert!(train("small.json", 256).unwrap_err().to_string().contains("257"));
    std::fs::write(dir.path().join("a.txt"), [b'a', 0xFF]).unwrap();
    assert!(matches!(
        train("bad.json", 400),
        Err(DataError::NotUtf8 { position: 1, .. })
    ));
    assert!(!dir.path().join("bad.json").exists());
}

#[test]
fn errors_come_before_training_and_name_the_input() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.txt"), "0123456789").unwrap();
    std::fs::write(dir.path().join("c.u16"), [1, 0, 44, 1]).unwrap();
    let open = |name: &str, seq_len, vocab| {
        Corpus::open(&spec(dir.path(), &[name], "bytes", seq_len), vocab).unwrap_err()
    };
    assert!(matches!(
        open("a.txt", 10, 256),
        DataError::TooLittle {
            tokens: 10,
            needed: 11,
            ..
        }
    ));
    assert!(matches!(open("a.txt", 0, 256), DataError::Zero { .. }));
    assert!(matches!(
        open("a.txt", 2, 255),
        DataError::VocabTooSmall {
            tokens: 256,
            vocab_size: 255,
            ..
        }
    ));
    let error = open("c.u16", 1, 256);
    assert!(
        matches!(
            error,
            DataError::TokenOutOfRange {
                position: 1,
                id: 300,
                ..
            }
        ) && error.to_string().contains("c.u16")
    );
    // A tokenizer that no text goes through needs no room in the vocabulary.
    std::fs::write(dir.path().join("small.u16"), [1, 0, 4, 0]).unwrap();
    let small = spec(dir.path(), &["small.u16"], "bytes", 1);
    assert_eq!(Corpus::open(&small, 5).unwrap().tokens(), 2);
    assert!(Tokenizer::for_model(&small, 5).is_ok());
    assert!(Tokenizer::for_model(&spec(dir.path(), &["small.u16", "a.txt"], "bytes", 1), 5).is_err());
    let out = dir.path().join("x.bin");
    let inputs = [dir.path().join("c.u16").display().to_string()];
    let error = prepare(
        &inputs,
        DataFormat::Auto,
        "text",
        &Tokenizer::bytes(),
        &out,
        Width::U16,
    )
    .unwrap_err();
    assert!(matches!(error, DataError::AlreadyTokens { .. }) && !out.exists());
}

#[test]
fn a_sidecar_that_lies_is_found() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.txt"), "0123456789").unwrap();
    let inputs = spec(dir.path(), &["a.txt"], "bytes", 1).train;
    let out = dir.path().join("t.bin");
    prepare(
        &inputs,
        DataFormat::Auto,
        "text",
        &Tokenizer::bytes(),
        &out,
        Width::U16,
    )
    .unwrap();
    std::fs::OpenOptions::new()
        .write(true)
        .open(&out)
        .unwrap()
        .set_len(18)
        .unwrap();
    let error = Corpus::open(&spec(dir.path(), &["t.bin"], "bytes", 1), 256)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("t.bin.json") && error.contains("10 tokens"),
        "{error}"
    );
}

#[test]
fn entropy_and_inspection_count_right() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.txt"), "aabbccdd").unwrap();
    let corpus = Corpus::open(&spec(dir.path(), &["a.txt"], "bytes", 3), 256).unwrap();
    assert!((unigram_entropy(&corpus) - 4f64.ln()).abs() < 1e-12);
    let seen = inspect(&corpus, &Tokenizer::bytes(), 3).unwrap();
    assert_eq!(
        (seen.tokens, seen.samples, seen.used_ids, seen.vocab_size),
        (8, 2, 4, 256)
    );
    assert_eq!(seen.beginning, "aabbccdd");
    std::fs::write(dir.path().join("b.txt"), "aaa").unwrap();
    let flat = Corpus::open(&spec(dir.path(), &["b.txt"], "bytes", 2), 256).unwrap();
    assert_eq!(unigram_entropy(&flat).to_bits(), 0f64.to_bits());
}

#[test]
fn a_step_has_one_digest_however_lanes_share_it() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.txt"), prose(200)).unwrap();
    let corpus = Corpus::open(&spec(dir.path(), &["a.txt"], "bytes", 16), 256).unwrap();
    let sampler = Sampler::new(7, corpus.samples(16), 8, true).unwrap();
    let digest = |step: u64, places: std::ops::Range<u64>| {
        let mut digest = DataDigest::default();
        for place in places {
            digest.add(place, &corpus.sample(sampler.id(step, place), 16).unwrap());
        }
        digest
    };
    for step in 0..50 {
        let mut lanes = digest(step, 5..8);
        lanes.merge(digest(step, 0..5));
        assert_eq!(lanes, digest(step, 0..8));
        assert_ne!(lanes, digest(step + 1, 0..8));
    }
}

#[test]
fn held_out_data_is_separate_and_optional() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.txt"), "training").unwrap();
    std::fs::write(dir.path().join("v.txt"), "held out").unwrap();
    let mut spec = spec(dir.path(), &["a.txt"], "bytes", 3);
    assert!(Corpus::open_val(&spec, 256).unwrap().is_none());
    spec.val = vec![dir.path().join("v.txt").display().to_string()];
    let val = Corpus::open_val(&spec, 256).unwrap().unwrap();
    assert_eq!(val.sample(0, 3).unwrap(), b"held".map(u32::from));
}

#[test]
fn the_reference_run_reads_as_its_makers_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/fixtures/llama-gqa");
    if !path.is_dir() {
        eprintln!("skipped: {} is absent", path.display());
        return;
    }
    let mut spec = spec(&path, &["tokens.bin"], "bytes", 32);
    spec.format = DataFormat::TokensU16;
    let corpus = Corpus::open(&spec, 256).unwrap();
    // 10 steps of 4 sequences of 32 tokens, and the last target.
    assert_eq!(corpus.tokens(), 10 * 4 * 32 + 1);
    assert_eq!(
        Sampler::new(0, corpus.samples(32), 4, false).unwrap().ids(9),
        [36, 37, 38, 39]
    );
}
