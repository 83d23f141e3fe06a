//! The bounds of NCCL, with their defaults in one place.

use std::time::Duration;

/// Limits. Members of one job should use the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NcclOptions {
    /// Whether a link that can't use NCCL is an error. Otherwise it uses TCP.
    pub required: bool,
    /// Payloads of this length and more go through NCCL, bytes.
    pub least_bytes: usize,
    /// Longest time until the communicators of a plan stand, or one made of another does.
    pub meet: Duration,
    /// Longest time a transfer may take once both ends are there for it, besides what its length takes at `slowest`.
    pub transfer: Duration,
    /// Bytes a second that no transfer is slower than.
    pub slowest: u64,
    /// How long a transfer may go on after the peer's connection has ended: what was sent before may still arrive.
    pub hang_up: Duration,
    /// How long an abort is waited for.
    pub abort: Duration,
}

impl Default for NcclOptions {
    fn default() -> Self {
        Self {
            required: false,
            least_bytes: 256 << 10,
            meet: Duration::from_secs(60),
            transfer: Duration::from_secs(20),
            slowest: 20_000_000,
            hang_up: Duration::from_secs(1),
            abort: Duration::from_secs(10),
        }
    }
}

impl NcclOptions {
    /// Longest time that a transfer of `bytes` may take; longer payloads go in several.
    #[must_use]
    pub fn bound(&self, bytes: usize) -> Duration {
        let millis = (bytes as u64).saturating_mul(1000) / self.slowest.max(1);
        self.transfer.saturating_add(Duration::from_millis(millis))
    }
}
