//! The bounds and socket settings of a transport, with their defaults in one place.

use std::time::Duration;

use crate::TransportError;

/// Limits and settings. Members of one job should use the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Longest payload of a frame, bytes. A longer one is refused on both ends.
    pub max_frame_bytes: usize,
    /// Bytes queued to one peer before `send` blocks. One frame may be larger than this when the queue is
    /// empty.
    pub outbox_bytes: usize,
    /// Frames queued to one peer before `send` blocks.
    pub outbox_frames: usize,
    /// Bytes held from one peer before its reader stops while nobody of this rank waits.
    /// One frame may be larger than this when the inbox is empty.
    pub inbox_soft_bytes: usize,
    /// Bytes held from one peer at most, while somebody waits (TR-4). At least `max_frame_bytes` and
    /// `inbox_soft_bytes`.
    pub inbox_hard_bytes: usize,
    /// Free buffers kept for reuse, bytes.
    pub pool_bytes: usize,
    /// Whether frames carry a checksum of their payload (receivers check it wherever it is present).
    pub payload_checksum: bool,
    /// How long closing waits for queued frames and for the peers' goodbyes.
    pub linger: Duration,
    /// Longest time one handshake may take.
    pub handshake: Duration,
    /// Socket send and receive buffers, bytes (the kernel may give less). `None` leaves them to the kernel's
    /// own tuning, which grows them with the path's delay; large fixed ones brought no consistent gain on loopback
    /// (docs/measurements/transport-loopback.md).
    pub socket_buffer_bytes: Option<usize>,
    /// Idle time before keep-alive probes, which find a machine that vanished without a word.
    pub keepalive_idle: Duration,
    /// Time between probes; four without an answer end the connection.
    pub keepalive_interval: Duration,
}

impl Default for Options {
    fn default() -> Self {
        const MIB: usize = 1 << 20;
        Self {
            max_frame_bytes: 512 * MIB,
            outbox_bytes: 64 * MIB,
            outbox_frames: 1024,
            inbox_soft_bytes: 64 * MIB,
            inbox_hard_bytes: 1024 * MIB,
            pool_bytes: 256 * MIB,
            payload_checksum: false,
            linger: Duration::from_secs(2),
            handshake: Duration::from_secs(5),
            socket_buffer_bytes: None,
            keepalive_idle: Duration::from_secs(5),
            keepalive_interval: Duration::from_secs(2),
        }
    }
}

impl Options {
    /// Checks the bounds against each other.
    ///
    /// # Errors
    /// [`TransportError::Options`] with the first option at fault.
    pub fn validate(&self) -> Result<(), TransportError> {
        let fail = |option, why: String| Err(TransportError::Options { option, why });
        let largest = self.max_frame_bytes.saturating_add(crate::wire::HEADER_BYTES);
        if self.max_frame_bytes > isize::MAX as usize / 4 {
            return fail("max_frame_bytes", "is larger than memory can be".to_owned());
        }
        if self.outbox_frames == 0 {
            return fail("outbox_frames", "must be at least 1".to_owned());
        }
        if self.inbox_hard_bytes < largest {
            return fail(
                "inbox_hard_bytes",
                format!("must hold one frame and its header ({largest} bytes)"),
            );
        }
        if self.inbox_hard_bytes < self.inbox_soft_bytes {
            return fail("inbox_hard_bytes", "must be at least inbox_soft_bytes".to_owned());
        }
        Ok(())
    }
}
