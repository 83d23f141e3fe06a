//! The point in time at which a wait gives up.
//!
//! In: a duration or an instant. Out: what is left of it. There is no "forever" on purpose: see TR-2.

use std::time::{Duration, Instant};

/// When to stop waiting. Copy it into every call of one operation, so that the operation as a whole is
/// bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// `wait` from now. More than a year is cut to a year, so that no sum overflows.
    #[must_use]
    pub fn after(wait: Duration) -> Self {
        const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
        Self(Instant::now() + wait.min(YEAR))
    }

    /// At `instant`.
    #[must_use]
    pub fn at(instant: Instant) -> Self {
        Self(instant)
    }

    /// The instant itself.
    #[must_use]
    pub fn instant(self) -> Instant {
        self.0
    }

    /// What is left, `None` once it has passed.
    #[must_use]
    pub fn remaining(self) -> Option<Duration> {
        let left = self.0.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    /// The earlier of the two.
    #[must_use]
    pub fn earlier(self, other: Self) -> Self {
        self.min(other)
    }
}

impl From<Duration> for Deadline {
    fn from(wait: Duration) -> Self {
        Self::after(wait)
    }
}
