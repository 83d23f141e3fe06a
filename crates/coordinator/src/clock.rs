//! The wall clock, in the machine's unit.

use std::time::{SystemTime, UNIX_EPOCH};

use rekindle_coordinator_core::Millis;

/// Milliseconds since the Unix epoch; 0 when the clock is before it.
pub(crate) fn now() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
