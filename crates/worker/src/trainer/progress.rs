//! How far this trainer is, for whoever looks at it from another thread: counters that cost a store where work is done.
//!
//! In: the beginning and the end of a step, each pass of a micro-batch. Out: what [`super::watch`] makes a watermark
//! of.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Steps whose time counts.
const RECENT: usize = 8;

/// The counters.
#[derive(Debug)]
pub struct Progress {
    passes: AtomicU64,
    steps: Mutex<Steps>,
}

#[derive(Debug)]
struct Steps {
    at: u64,
    since: Instant,
    recent: VecDeque<Duration>,
}

/// A look at them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// The step it is at; 0 before the first.
    pub step: u64,
    /// Passes so far.
    pub passes: u64,
    /// How long it has been at this step (before the first: since the process began).
    pub lasts: Duration,
    /// The longest of the steps before; none was committed yet.
    pub longest: Option<Duration>,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            passes: AtomicU64::new(0),
            steps: Mutex::new(Steps {
                at: 0,
                since: Instant::now(),
                recent: VecDeque::with_capacity(RECENT + 1),
            }),
        }
    }
}

impl Progress {
    /// A forward or a backward of a micro-batch is through.
    pub fn pass(&self) {
        self.passes.fetch_add(1, Ordering::Relaxed);
    }

    /// Step `step` begins; the one before, if there is one, took until now.
    pub fn begins(&self, step: u64) {
        self.begins_at(step, Instant::now());
    }

    fn begins_at(&self, step: u64, now: Instant) {
        let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        if steps.at > 0 {
            let took = now.saturating_duration_since(steps.since);
            steps.recent.push_back(took);
            if steps.recent.len() > RECENT {
                steps.recent.pop_front();
            }
        }
        (steps.at, steps.since) = (step, now);
    }

    /// What can be said of it at `now`.
    #[must_use]
    pub fn seen(&self, now: Instant) -> Seen {
        let steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        Seen {
            step: steps.at,
            passes: self.passes.load(Ordering::Relaxed),
            lasts: now.saturating_duration_since(steps.since),
            longest: steps.recent.iter().max().copied(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_of_the_last_steps_is_known_and_older_ones_are_forgotten() {
        let (progress, start) = (Progress::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        progress.pass();
        let seen = progress.seen(at(10));
        assert_eq!((seen.step, seen.passes, seen.longest), (0, 1, None));
        progress.begins_at(5, at(1_000));
        let seen = progress.seen(at(1_300));
        assert_eq!(seen.longest, None, "what was before the first step is none");
        assert_eq!((seen.step, seen.lasts), (5, Duration::from_millis(300)));
        progress.begins_at(6, at(1_700));
        for (step, ms) in (7..).zip((1_800..).step_by(100)).take(RECENT - 1) {
            progress.begins_at(step, at(ms));
        }
        assert_eq!(progress.seen(at(9_000)).longest, Some(Duration::from_millis(700)));
        progress.begins_at(99, at(1_800 + 100 * (RECENT as u64 - 1)));
        assert_eq!(progress.seen(at(9_000)).longest, Some(Duration::from_millis(100)));
    }
}
