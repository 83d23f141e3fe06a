//! The engine against PyTorch's runs: one with grouped queries (from the shared folder), one of our own with tied
//! embeddings and a head width of 6 (`scripts/make_fixture.py`).
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::path::Path;

use rekindle_types::Numerics;
use support::Fixture;

/// Single, with smaller micro-batches in fast mode, pipelined, and on two lanes.
fn check_all(fixture: &Fixture) {
    let end = fixture.model.num_hidden_layers + 2;
    let whole = || std::iter::once(0..end).collect();
    fixture.check(whole(), 1, 4, Numerics::Exact);
    fixture.check(whole(), 1, 2, Numerics::Fast);
    fixture.check(vec![0..2, 2..3, 3..end], 1, 1, Numerics::Exact);
    fixture.check(vec![0..2, 2..end], 2, 2, Numerics::Exact);
}

#[test]
fn pytorch_run_with_grouped_queries() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/fixtures/llama-gqa");
    if let Some(fixture) = Fixture::open(&folder) {
        check_all(&fixture);
    }
}

#[test]
fn pytorch_run_with_tied_embeddings_and_odd_heads() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/llama-tied");
    let fixture = Fixture::open(&folder).expect("this fixture is part of the repository");
    assert!(fixture.model.tie_word_embeddings);
    check_all(&fixture);
}
