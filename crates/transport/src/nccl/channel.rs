//! The way of a link's payloads through NCCL: two communicators of two ranks, one for each direction, so that neither
//! waits for the other.
//!
//! Payloads come from the host's memory and go there, through a piece of the device's memory, in chunks. Both ends
//! cut alike. The pieces are had before anything moves and freed after: the driver may wait for all of a device's
//! work before it frees, and so for a transfer that waits for this very thread.
//!
//! Deliberately absent: payloads in the device's memory; two chunks at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use rekindle_compute::cuda::nccl::{Calls, Piece, UniqueId};

use super::agreement::Held;
use super::aside::Aborting;
use super::wait::Watch;
use super::{Communicator, Fault, NcclOptions};
use crate::Deadline;
use crate::apart::Apart;
use crate::error::End;

/// Bytes of the device's memory for each direction; both ends must have the same.
pub(crate) const CHUNK: usize = 8 << 20;

/// One direction.
struct Way {
    communicator: Communicator,
    peer: u32,
    piece: Piece,
    /// Payloads carried since the communicator stands.
    carried: u64,
}

/// One end of a link's way.
pub(crate) struct Channel {
    /// Says which communicators these are: both ends have the same number, and no others.
    birth: u64,
    out: Mutex<Way>,
    into: Mutex<Way>,
    stop: AtomicBool,
}

impl Channel {
    /// Begins to meet the peer: `ids` for what the first of the two sends, and for what it receives.
    pub(crate) fn meet(
        calls: &Arc<dyn Calls>,
        birth: u64,
        ids: &[UniqueId; 2],
        first: bool,
        options: &NcclOptions,
    ) -> Result<Self, Fault> {
        let rank = u32::from(!first);
        let way = |id: &UniqueId| -> Result<Way, Fault> {
            Ok(Way {
                communicator: Communicator::meet(calls, 2, rank, id, options)?,
                peer: 1 - rank,
                piece: calls.memory(CHUNK)?,
                carried: 0,
            })
        };
        // Both ends begin with the same one.
        let [of_first, of_second] = ids;
        let (a, b) = (way(of_first)?, way(of_second)?);
        let (out, into) = if first { (a, b) } else { (b, a) };
        Ok(Self {
            birth,
            out: Mutex::new(out),
            into: Mutex::new(into),
            stop: AtomicBool::new(false),
        })
    }

    /// Waits until both directions stand.
    pub(crate) fn ready(&self, deadline: Deadline) -> Result<(), Fault> {
        [&self.out, &self.into]
            .into_iter()
            .try_for_each(|way| lock(way).communicator.ready_by(deadline))
    }

    /// What can be said about it to the other end, if it is at rest (TR-11).
    pub(crate) fn held(&self) -> Option<Held> {
        let (out, into) = (self.out.try_lock().ok()?, self.into.try_lock().ok()?);
        let rest = out.communicator.is_at_rest() && into.communicator.is_at_rest();
        rest.then_some(Held {
            birth: self.birth,
            sent: out.carried,
            received: into.carried,
        })
    }

    /// Takes it up again under a new epoch.
    pub(crate) fn take_up(&self) {
        self.stop.store(false, Ordering::Relaxed);
    }

    /// Begins to abort both directions. Nobody uses them any more, but for a thread that was left behind inside NCCL;
    /// it aborts its own when it comes back.
    pub(crate) fn begin_abort(&self) -> Vec<Aborting> {
        self.stop.store(true, Ordering::Relaxed);
        [&self.out, &self.into]
            .into_iter()
            .filter_map(|way| match way.try_lock() {
                Err(TryLockError::WouldBlock) => None,
                Err(TryLockError::Poisoned(way)) => way.into_inner().communicator.begin_abort(),
                Ok(mut way) => way.communicator.begin_abort(),
            })
            .collect()
    }
}

fn lock(way: &Mutex<Way>) -> MutexGuard<'_, Way> {
    way.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Way {
    /// Does `each` with every chunk of a payload. After a fault the communicator is aborted, which frees the peer, too.
    fn carry(
        &mut self,
        bytes: usize,
        mut each: impl FnMut(&mut Communicator, &Piece, u32, std::ops::Range<usize>) -> Result<(), Fault>,
    ) -> Result<(), End> {
        let all = (0..bytes).step_by(CHUNK).try_for_each(|from| {
            let range = from..bytes.min(from + CHUNK);
            each(&mut self.communicator, &self.piece, self.peer, range)
        });
        match all {
            Ok(()) => {
                self.carried += 1;
                Ok(())
            }
            Err(fault) => {
                self.communicator.abort();
                Err(fault.end())
            }
        }
    }
}

impl Apart for Channel {
    fn send(&self, payload: &[u8], hung_up: &mut dyn FnMut() -> bool) -> Result<(), End> {
        let mut way = lock(&self.out);
        way.carry(payload.len(), |communicator, piece, peer, range| {
            communicator.copy_in(piece, &payload[range.clone()])?;
            let watch = &mut Watch {
                stop: &self.stop,
                hung_up: &mut *hung_up,
            };
            communicator.send_watched(piece, range.len(), peer, watch)
        })
    }

    fn receive(&self, into: &mut [u8], hung_up: &mut dyn FnMut() -> bool) -> Result<(), End> {
        let mut way = lock(&self.into);
        way.carry(into.len(), |communicator, piece, peer, range| {
            let watch = &mut Watch {
                stop: &self.stop,
                hung_up: &mut *hung_up,
            };
            communicator.recv_watched(piece, range.len(), peer, watch)?;
            communicator.copy_out(piece, &mut into[range])
        })
    }

    fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
