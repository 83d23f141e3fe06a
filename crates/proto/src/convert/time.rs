//! Milliseconds since the Unix epoch and `google.protobuf.Timestamp`; lengths of time and `google.protobuf.Duration`.

use prost_types::{Duration, Timestamp};

/// The timestamp of `ms` milliseconds since the Unix epoch.
#[must_use]
pub fn from_unix_ms(ms: u64) -> Timestamp {
    Timestamp {
        seconds: i64::try_from(ms / 1000).unwrap_or(i64::MAX),
        nanos: i32::try_from(ms % 1000 * 1_000_000).unwrap_or(0),
    }
}

/// Milliseconds since the Unix epoch, rounded down; a time before it is 0.
#[must_use]
pub fn to_unix_ms(time: &Timestamp) -> u64 {
    let seconds = u64::try_from(time.seconds).unwrap_or(0);
    let nanos = u64::try_from(time.nanos).unwrap_or(0);
    seconds.saturating_mul(1000).saturating_add(nanos / 1_000_000)
}

/// A length of time of `ms` milliseconds.
#[must_use]
pub fn duration_from_ms(ms: u64) -> Duration {
    Duration {
        seconds: i64::try_from(ms / 1000).unwrap_or(i64::MAX),
        nanos: i32::try_from(ms % 1000 * 1_000_000).unwrap_or(0),
    }
}

/// Milliseconds of a length of time, rounded down; a negative one is 0.
#[must_use]
pub fn duration_to_ms(duration: &Duration) -> u64 {
    let seconds = u64::try_from(duration.seconds).unwrap_or(0);
    let nanos = u64::try_from(duration.nanos).unwrap_or(0);
    seconds.saturating_mul(1000).saturating_add(nanos / 1_000_000)
}
