//! What every [`Store`] must do, as a suite an implementation's tests run.

use rekindle_coordinator_core::{Change, Record, Seq};
use rekindle_types::JobId;

use crate::{Store, StoreError};

/// A record for tests, told from others by `number`.
///
/// # Panics
/// Never: its job id is a good one.
#[must_use]
pub fn sample(number: u64) -> Record {
    Record {
        at: number,
        change: Change::Noted {
            job: JobId::new("job").expect("a good id"),
            actor: "coordinator".to_owned(),
            kind: "sample".to_owned(),
            detail: format!("number {number}, \"quoted\", ümlaut"),
        },
    }
}

fn numbered(range: std::ops::RangeInclusive<u64>) -> Vec<(Seq, Record)> {
    range.map(|number| (Seq(number), sample(number))).collect()
}

/// Runs the suite. `reopen` is called with the store in use, ends its life as a crash would, and gives the one that
/// is found after; called with none it gives an empty one.
///
/// # Errors
/// The first rule that was broken, or what the store said.
pub fn check<S: Store>(reopen: &mut dyn FnMut(Option<S>) -> Result<S, StoreError>) -> Result<(), String> {
    let told = |error: StoreError| error.to_string();
    let must = |good: bool, rule: &str| if good { Ok(()) } else { Err(rule.to_owned()) };
    let mut store = reopen(None).map_err(told)?;
    must(store.load().map_err(told)?.is_empty(), "a new store is empty")?;
    store.append(&[]).map_err(told)?;
    store.append(&numbered(1..=1)).map_err(told)?;
    store.append(&numbered(2..=5)).map_err(told)?;
    must(
        store.load().map_err(told)? == numbered(1..=5),
        "what was appended is read",
    )?;
    let mut store = reopen(Some(store)).map_err(told)?;
    must(
        store.load().map_err(told)? == numbered(1..=5),
        "ST-1: appended records survive",
    )?;
    for wrong in [
        numbered(5..=5),
        numbered(7..=7),
        vec![(Seq(6), sample(6)), (Seq(8), sample(8))],
    ] {
        let refused = matches!(store.append(&wrong), Err(StoreError::OutOfOrder { .. }));
        must(refused, "ST-2: a gap or a repetition is refused")?;
    }
    must(
        store.load().map_err(told)? == numbered(1..=5),
        "ST-1: a refused append leaves nothing",
    )?;
    store.append(&numbered(6..=200)).map_err(told)?;
    let store = reopen(Some(store)).map_err(told)?;
    must(
        store.load().map_err(told)? == numbered(1..=200),
        "numbers go on after a restart",
    )
}
