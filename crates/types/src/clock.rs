//! Time as the pure machines count it: never backwards, and not in leaps.
//!
//! In: the shell's wall clock, which may jump either way. Out: a monotonic count in milliseconds from the machine's
//! start.

/// Milliseconds of a wall clock, since the Unix epoch where it matters.
pub type Millis = u64;

/// Milliseconds since the machine started, by its own count.
pub type Mono = u64;

/// Turns wall-clock readings into a monotonic count.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    mono: Mono,
    wall: Option<Millis>,
}

impl Clock {
    /// Takes a reading. A step back counts as no time, a leap as `max_step`.
    pub fn advance(&mut self, wall: Millis, max_step: Millis) {
        let passed = self.wall.map_or(0, |last| wall.saturating_sub(last));
        self.mono += passed.min(max_step);
        self.wall = Some(wall);
    }

    /// The count.
    #[must_use]
    pub fn mono(&self) -> Mono {
        self.mono
    }

    /// The last reading.
    #[must_use]
    pub fn wall(&self) -> Millis {
        self.wall.unwrap_or(0)
    }

    /// When, by the wall clock of the last reading, `deadline` comes, but at most half a `max_step` ahead so that no
    /// time is taken for a leap. Before the first reading: at once.
    #[must_use]
    pub fn wall_of(&self, deadline: Mono, max_step: Millis) -> Millis {
        match self.wall {
            None => 0,
            Some(wall) => {
                let ahead = deadline.saturating_sub(self.mono).min((max_step / 2).max(1));
                wall.saturating_add(ahead)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_count_as_little_time() {
        let mut clock = Clock::default();
        clock.advance(1_000_000, 500);
        assert_eq!(clock.mono(), 0);
        clock.advance(1_000_100, 500);
        clock.advance(5, 500);
        assert_eq!(clock.mono(), 100, "going back counts as nothing");
        clock.advance(999_999_999, 500);
        assert_eq!(clock.mono(), 600, "a leap counts as one step");
    }

    #[test]
    fn deadlines_come_in_steps_that_are_no_leaps() {
        let mut clock = Clock::default();
        assert_eq!(clock.wall_of(70, 500), 0);
        clock.advance(1_000, 500);
        assert_eq!(clock.wall_of(70, 500), 1_070);
        assert_eq!(clock.wall_of(10_000, 500), 1_250);
    }
}
