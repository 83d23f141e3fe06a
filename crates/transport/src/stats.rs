//! Counters per peer. Cheap: relaxed atomics, read whenever somebody asks.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use rekindle_types::RankId;

/// What passed between this rank and one peer since the connection stood. Bytes are payload bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PeerStats {
    /// Payload bytes written.
    pub bytes_sent: u64,
    /// Frames written.
    pub frames_sent: u64,
    /// Payload bytes received.
    pub bytes_received: u64,
    /// Frames received.
    pub frames_received: u64,
    /// Frames of older epochs, dropped (TR-5).
    pub frames_dropped_old: u64,
    /// Time callers spent blocked in `send`, added over threads.
    pub send_blocked: Duration,
    /// Time callers spent blocked in `recv`, added over threads.
    pub recv_blocked: Duration,
    /// Most bytes (with headers) the inbox has held.
    pub inbox_peak_bytes: u64,
    /// Most bytes (with headers) the outbox has held.
    pub outbox_peak_bytes: u64,
}

/// Counters of all linked peers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// By peer.
    pub peers: BTreeMap<RankId, PeerStats>,
}

#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) bytes_sent: AtomicU64,
    pub(crate) frames_sent: AtomicU64,
    pub(crate) bytes_received: AtomicU64,
    pub(crate) frames_received: AtomicU64,
    pub(crate) frames_dropped_old: AtomicU64,
    pub(crate) send_blocked_nanos: AtomicU64,
    pub(crate) recv_blocked_nanos: AtomicU64,
    pub(crate) inbox_peak_bytes: AtomicU64,
    pub(crate) outbox_peak_bytes: AtomicU64,
}

pub(crate) fn add(counter: &AtomicU64, value: usize) {
    counter.fetch_add(value as u64, Relaxed);
}

pub(crate) fn add_time(counter: &AtomicU64, time: Duration) {
    counter.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Relaxed);
}

pub(crate) fn raise(peak: &AtomicU64, value: usize) {
    peak.fetch_max(value as u64, Relaxed);
}

impl Counters {
    pub(crate) fn read(&self) -> PeerStats {
        PeerStats {
            bytes_sent: self.bytes_sent.load(Relaxed),
            frames_sent: self.frames_sent.load(Relaxed),
            bytes_received: self.bytes_received.load(Relaxed),
            frames_received: self.frames_received.load(Relaxed),
            frames_dropped_old: self.frames_dropped_old.load(Relaxed),
            send_blocked: Duration::from_nanos(self.send_blocked_nanos.load(Relaxed)),
            recv_blocked: Duration::from_nanos(self.recv_blocked_nanos.load(Relaxed)),
            inbox_peak_bytes: self.inbox_peak_bytes.load(Relaxed),
            outbox_peak_bytes: self.outbox_peak_bytes.load(Relaxed),
        }
    }
}
