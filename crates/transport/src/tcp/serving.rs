//! Whose frames a connection carries: it may serve the links of several epochs, one after the other.
//!
//! ```text
//!   link of e --turn--> link of e+1;   writer: our fence, then frames of e+1     (what is queued of e is dropped, what was begun is finished)
//!                                      reader: drops frames of e until the peer's fence, then takes those of e+1
//! ```
//!
//! The peer may be ahead: its fence is then found while the link is still that of e, which it ends; the reader stands
//! still until its rank follows or closes the connection, and TCP holds the peer back. In: turns, fences, ends. Out:
//! the link that counts now. No waits of callers are here: the two threads that wait are owned by the connection and
//! end with [`Serving::close`] or [`Serving::is_over`].

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rekindle_types::Epoch;

use crate::ProtocolError;
use crate::error::End;
use crate::hub::Link;

/// What the two threads of a connection share.
pub(crate) struct Serving {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    link: Arc<Link>,
    /// The peer is at this link's epoch.
    met: bool,
    /// Nothing can be read or written any more.
    over: bool,
    /// No further epoch is wanted.
    closing: bool,
}

impl Serving {
    /// A connection whose ends have agreed on this link's epoch.
    pub(crate) fn new(link: &Arc<Link>) -> Self {
        Self {
            state: Mutex::new(State {
                link: Arc::clone(link),
                met: true,
                over: false,
                closing: false,
            }),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The link that counts now.
    pub(crate) fn link(&self) -> Arc<Link> {
        Arc::clone(&self.lock().link)
    }

    /// The same, and whether the peer is at its epoch.
    pub(crate) fn now(&self) -> (Arc<Link>, bool) {
        let state = self.lock();
        (Arc::clone(&state.link), state.met)
    }

    /// From now on the connection is for `link`, of a newer epoch. The link before has ended, and `link`'s outbox is
    /// held.
    pub(crate) fn turn(&self, link: Arc<Link>) {
        let mut state = self.lock();
        (state.link, state.met) = (link, false);
        drop(state);
        self.changed.notify_all();
    }

    /// The peer's fence of `epoch` was read. Returns once this rank is there, too, or further.
    ///
    /// # Errors
    /// The connection is closed meanwhile, or the peer was there before.
    pub(crate) fn fence(&self, epoch: Epoch) -> Result<(), End> {
        let mut state = self.lock();
        if state.link.gate.me.epoch < epoch {
            let behind = Arc::clone(&state.link);
            drop(state);
            behind.end(&End::PeerAborted(format!("it went over to {epoch}")));
            behind.stop_apart();
            state = self.lock();
        }
        while state.link.gate.me.epoch < epoch {
            if state.closing || state.over {
                return Err(End::Closed);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.link.gate.me.epoch > epoch {
            return Ok(());
        }
        match std::mem::replace(&mut state.met, true) {
            false => Ok(()),
            true => Err(End::Protocol(ProtocolError::Malformed {
                why: "a second fence of one epoch",
            })),
        }
    }

    /// The link after `before`; None when there will be none.
    pub(crate) fn next(&self, before: &Arc<Link>) -> Option<Arc<Link>> {
        let mut state = self.lock();
        while Arc::ptr_eq(&state.link, before) {
            if state.closing || state.over {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        Some(Arc::clone(&state.link))
    }

    /// Nothing can be read or written any more. Returns the link that it ended with.
    pub(crate) fn end(&self) -> Arc<Link> {
        let mut state = self.lock();
        state.over = true;
        let link = Arc::clone(&state.link);
        drop(state);
        self.changed.notify_all();
        link
    }

    pub(crate) fn is_over(&self) -> bool {
        self.lock().over
    }

    /// Whether the peer is at the link's epoch, and the connection stands.
    pub(crate) fn is_met(&self) -> bool {
        let state = self.lock();
        state.met && !state.over
    }

    /// No further epoch is wanted.
    pub(crate) fn close(&self) {
        self.lock().closing = true;
        self.changed.notify_all();
    }
}
