//! Another way for long payloads than the connection: a device's links, say.
//!
//! ```text
//!  sender's writer: header ............................ waits ......... sends the payload apart
//!  receiver's reader:       takes header, makes room, says ready, receives the payload apart
//! ```
//!
//! The connection keeps order, room, fences, ends and who is alive; the other way only moves bytes, between two ends
//! that are both there for it. So whatever hangs there hangs for no good reason, and is bounded.
//!
//! Deliberately absent: any such way ([`crate::nccl`] has one), and how the ends agree on it.

use crate::error::End;

/// One end of a link's other way. Each direction is used by one thread.
pub(crate) trait Apart: Send + Sync {
    /// Sends a payload that the peer is ready for. `hung_up` is asked now and then, as long as it takes: whether the
    /// peer's connection is at its end. It also gives the connection its turn, without which the other direction may
    /// not get on.
    fn send(&self, payload: &[u8], hung_up: &mut dyn FnMut() -> bool) -> Result<(), End>;

    /// Receives a payload that the peer was told to send.
    fn receive(&self, into: &mut [u8], hung_up: &mut dyn FnMut() -> bool) -> Result<(), End>;

    /// Ends what is under way, soon, without waiting for that.
    fn stop(&self);
}
