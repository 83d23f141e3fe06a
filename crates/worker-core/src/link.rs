//! The connection to the coordinator: opening, backing off, heartbeats, giving up.
//!
//! ```text
//!   down(wait) --wait over--> opening --opened--> open --closed--> down(wait)
//!                               |  closed, refused, open_limit over
//!                               +--> down(longer wait)
//! ```

use crate::{Millis, WorkerConfig};
use rekindle_types::clock::Mono;

/// Where the connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// No connection; try again at this time.
    Down { until: Mono },
    /// An attempt runs until this time.
    Opening { until: Mono },
    /// Registered; say something at this time.
    Open { heartbeat_at: Mono, every: Millis },
}

/// The connection.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub(crate) state: State,
    attempts: u32,
    random: u64,
    /// Since when there is no coordinator.
    pub(crate) alone_since: Option<Mono>,
    /// Since when it refuses the worker.
    pub(crate) refused_since: Option<Mono>,
}

impl Link {
    /// No connection; the first attempt is due at once.
    pub(crate) fn new(config: &WorkerConfig) -> Self {
        Self {
            state: State::Down { until: 0 },
            attempts: 0,
            random: config.jitter_seed,
            alone_since: Some(0),
            refused_since: None,
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        matches!(self.state, State::Open { .. })
    }

    /// When something is due.
    pub(crate) fn deadline(&self) -> Mono {
        match self.state {
            State::Down { until } | State::Opening { until } => until,
            State::Open { heartbeat_at, .. } => heartbeat_at,
        }
    }

    pub(crate) fn opened(&mut self, now: Mono, every: Millis) {
        let every = every.max(1);
        self.state = State::Open {
            heartbeat_at: now + every,
            every,
        };
        self.attempts = 0;
        self.alone_since = None;
        self.refused_since = None;
    }

    /// The attempt failed or the connection broke: wait, longer every time (doubling, a random half to whole of it).
    pub(crate) fn broke(&mut self, now: Mono, config: &WorkerConfig) {
        self.alone_since.get_or_insert(now);
        let whole = config
            .backoff_first
            .saturating_mul(1 << self.attempts.min(16))
            .min(config.backoff_most)
            .max(1);
        self.attempts += 1;
        let half = whole / 2;
        let wait = half + self.draw() % (whole - half + 1);
        self.state = State::Down { until: now + wait };
    }

    /// The connection is dropped and not tried again for a while: an injected fault.
    pub(crate) fn cut(&mut self, now: Mono, hold: Millis) {
        self.alone_since.get_or_insert(now);
        self.state = State::Down { until: now + hold };
    }

    /// The next number of the seeded sequence (SplitMix64: Steele, Lea, Flood 2014, figure 18).
    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rekindle_types::WorkerId;

    #[test]
    fn waits_double_up_to_the_most_with_jitter_below() {
        let config = WorkerConfig::new(WorkerId::new("w").expect("a good id"), 7);
        let mut link = Link::new(&config);
        for attempt in 0..10 {
            link.broke(0, &config);
            let whole = (config.backoff_first << attempt).min(config.backoff_most);
            let wait = link.deadline();
            assert!(
                (whole / 2..=whole).contains(&wait),
                "attempt {attempt}: {wait} of {whole}"
            );
        }
        link.opened(5, 100);
        assert_eq!(link.deadline(), 105);
        link.broke(5, &config);
        assert!(
            link.deadline() <= 5 + config.backoff_first,
            "a good session resets the wait"
        );
    }
}
