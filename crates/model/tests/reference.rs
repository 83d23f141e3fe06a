//! The engine against PyTorch's runs.

mod support;

use std::path::Path;

use rekindle_types::Numerics;
use support::Fixture;

fn check_all(fixture: &Fixture) {
    let end = fixture.model.num_hidden_layers + 2;
    fixture.check(vec![0..end], 1, 4, Numerics::Exact);
    fixture.check(vec![0..end], 1, 2, Numerics::Fast);
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
