//! How long to wait before trying again.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

/// The wait before attempt `attempt` (1 is the first repetition): doubled each time, up to 5 s, of which a random
/// half is left out so that many clients don't come back at the same moment.
pub(crate) fn backoff(attempt: u32) -> Duration {
    backoff_with(attempt, fraction())
}

fn backoff_with(attempt: u32, fraction: f64) -> Duration {
    let doubled = FIRST.saturating_mul(1 << attempt.saturating_sub(1).min(16));
    doubled.min(LONGEST).mul_f64(0.5 + 0.5 * fraction)
}

/// A random number from 0 to 1.
fn fraction() -> f64 {
    let random = uuid::Uuid::new_v4().as_u128() as u32;
    f64::from(random) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_vary_by_half() {
        assert_eq!(backoff_with(1, 1.0), FIRST);
        assert_eq!(backoff_with(1, 0.0), FIRST / 2);
        assert_eq!(backoff_with(2, 1.0), FIRST * 2);
        assert_eq!(backoff_with(u32::MAX, 1.0), LONGEST);
        assert!((0.0..=1.0).contains(&fraction()));
    }
}
