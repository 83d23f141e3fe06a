//! What can be chosen about the writer, with what measurements say is good.

use std::time::Duration;

/// Numbers of a writer. The defaults come from `benches/persist.rs`.
#[derive(Debug, Clone, PartialEq)]
pub struct WriterOptions {
    /// Threads that each hash and write a file of a folder: enough that the disk has work while some of them hash.
    pub threads: usize,
    /// Files of an object store that are uploaded at once, each from a thread of its own.
    pub uploads: usize,
    /// Captures that may be unfinished at once.
    pub captures: usize,
    /// Weights that a file should hold at least: layers with fewer share files. The moments' files hold twice that.
    pub group_bytes: u64,
    /// Bytes that are hashed and then written to a folder at once, a multiple of 4096: large, because the system cuts
    /// them into requests that a disk works on side by side.
    pub chunk_bytes: usize,
    /// Bytes of one part of a multipart upload; files up to that size are put in one request. At least 5 MiB for S3.
    pub part_bytes: u64,
    /// Parts in flight at once, over all files.
    pub parts_at_once: usize,
    /// Whether to write past the page cache where the file system can.
    pub direct: bool,
    /// Added to the niceness of the writing threads, so that they give way to the threads that compute. With more
    /// than 0 they don't push aside who runs when they wake, either.
    pub nice: i32,
    /// When and how often a file is tried again.
    pub retry: Retry,
    /// A request to an object store that isn't answered by then has failed. Longer than the store's own retries.
    pub hang_timeout: Duration,
    /// How long closing waits for the threads.
    pub close_timeout: Duration,
}

impl Default for WriterOptions {
    fn default() -> Self {
        Self {
            threads: 3,
            uploads: 4,
            captures: 4,
            group_bytes: 32 << 20,
            chunk_bytes: 16 << 20,
            part_bytes: 16 << 20,
            parts_at_once: 8,
            direct: true,
            nice: 5,
            retry: Retry::default(),
            hang_timeout: Duration::from_secs(240),
            close_timeout: Duration::from_secs(10),
        }
    }
}

/// When a file that couldn't be written is tried again: after pauses that double, with jitter, as long as the budget
/// lasts.
#[derive(Debug, Clone, PartialEq)]
pub struct Retry {
    /// A capture is given up when nothing of it succeeded for so long after its first failure.
    pub budget: Duration,
    /// Before the second attempt.
    pub first_pause: Duration,
    /// Between attempts at most.
    pub longest_pause: Duration,
    /// Of the jitter; another one for every rank, so that they don't come back all at once.
    pub seed: u64,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            budget: Duration::from_secs(180),
            first_pause: Duration::from_millis(250),
            longest_pause: Duration::from_secs(10),
            seed: 0,
        }
    }
}

impl Retry {
    /// The pause after the `failures`-th failure (from 1) of the file number `file`: half to all of a pause that
    /// doubles.
    #[must_use]
    pub fn pause(&self, file: u64, failures: u32) -> Duration {
        let doubled = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
        let whole = self.first_pause.saturating_mul(doubled).min(self.longest_pause);
        let random = mix(self.seed ^ mix(file) ^ mix(u64::from(failures)).rotate_left(32));
        whole.mul_f64(0.5 + (random >> 11) as f64 / (1_u64 << 54) as f64)
    }
}

/// Steele, Lea & Flood 2014 (SplitMix64's output function).
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound_and_differ() {
        let retry = Retry::default();
        let mut whole = retry.first_pause;
        for failures in 1..100 {
            let pause = retry.pause(3, failures);
            assert!(pause >= whole / 2 && pause <= whole, "{failures}: {pause:?}");
            whole = (whole * 2).min(retry.longest_pause);
        }
        assert_eq!(retry.pause(3, 5), retry.pause(3, 5));
        let other = Retry {
            seed: 1,
            ..retry.clone()
        };
        assert_ne!(retry.pause(3, 5), other.pause(3, 5));
        assert_ne!(retry.pause(3, 5), retry.pause(4, 5));
    }

    #[test]
    fn the_budget_outlasts_a_minute_without_a_store() {
        let retry = Retry::default();
        let mut passed = Duration::ZERO;
        for failures in 1..1000 {
            passed += retry.pause(0, failures);
            if passed > retry.budget {
                assert!(
                    failures < 60,
                    "{failures} attempts are too many for a store that is down"
                );
                return;
            }
        }
        panic!("the budget is never used up");
    }
}
