//! What a queue knows of payloads that go another way than the connection: which do, and who is ready for them.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::Outbox;

impl Outbox {
    /// Whether a payload of this length goes another way than the connection.
    pub(crate) fn goes_apart(&self, bytes: usize) -> bool {
        bytes >= self.apart_from.load(Ordering::Relaxed)
    }

    /// From now on payloads of `least` bytes and more go apart. Call it before anybody sends.
    pub(crate) fn set_apart_from(&self, least: usize) {
        self.apart_from.store(least.max(1), Ordering::Relaxed);
    }

    /// This rank is ready for a payload apart. False when the peer can't be told any more, and so won't send it.
    pub(crate) fn owe_ready(&self) -> bool {
        let mut state = self.lock();
        let open = state.end.is_none() && !state.said_goodbye;
        state.owed = open;
        drop(state);
        self.filled.notify_all();
        open
    }

    /// Whether this rank has still to say that it is ready, for a writer that is busy with a frame and says so then.
    pub(crate) fn take_owed(&self) -> bool {
        std::mem::take(&mut self.lock().owed)
    }

    /// What [`Next::Ready`] asked for is done.
    pub(crate) fn told_ready(&self) {
        self.lock().writing = false;
    }

    /// The writer is about to announce a payload apart.
    pub(crate) fn announce(&self) {
        self.lock().announced = true;
    }

    /// The peer is ready for the payload apart that was announced. False when none was, or it said so before.
    pub(crate) fn peer_is_ready(&self) -> bool {
        let mut state = self.lock();
        let awaited = std::mem::take(&mut state.announced);
        state.ready |= awaited;
        drop(state);
        self.filled.notify_all();
        awaited
    }

    /// The writer has announced a payload apart: waits until the peer is ready for it, and meanwhile says by `tell`
    /// what is owed to the peer, which may wait for that. False when the link has ended. What the peer was ready for
    /// before that still goes.
    pub(crate) fn await_ready(&self, mut tell: impl FnMut() -> std::io::Result<()>) -> std::io::Result<bool> {
        let mut state = self.lock();
        loop {
            if std::mem::take(&mut state.ready) {
                return Ok(true);
            }
            if state.end.is_some() {
                return Ok(false);
            }
            if std::mem::take(&mut state.owed) {
                drop(state);
                tell()?;
                state = self.lock();
            } else {
                state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}
