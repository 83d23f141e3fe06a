//! Frozen state: copied to pinned memory by a stream of its own while training goes on, see [`crate::Frozen`].
//!
//! ```text
//!   freeze   the copy waits for the work given so far, then runs beside what comes; without a free place it doesn't begin yet
//!   thaw     begins copies that haven't begun, waiting for a place; the stream then waits for their ends
//!   bytes    waits for the copy; where it hasn't begun and no place is free, copies to plain memory that goes with the handle
//! ```

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::super::driver::{Event, Memory, Pinned, Stream};
use super::buffer::refused;
use super::pool::Pool;
use super::{Cuda, CudaBuffer, Precision};
use crate::operands::inside;
use crate::{ComputeError, Frozen, Result};

/// A handle on what a part of a buffer held.
pub struct CudaFrozen(Arc<Hold>);

enum State {
    /// Still on the device alone.
    Waiting,
    /// On the way.
    Copying { to: Pinned, done: Event },
    /// In `host`, or nowhere after an error.
    Ended,
}

enum Host {
    Pinned(Pinned),
    Plain(Vec<u8>),
}

/// What a handle and its buffer share.
pub(super) struct Hold {
    pool: Arc<Pool>,
    /// Stays allocated until the copy is done.
    _source: Arc<Memory>,
    at: u64,
    bytes: usize,
    /// When what was frozen is there.
    ready: Event,
    state: Mutex<State>,
    host: OnceLock<Host>,
}

impl Hold {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins the copy if it hasn't begun and there is a place. Returns whether it has begun.
    fn begin(&self, state: &mut State) -> Result<bool> {
        if !matches!(state, State::Waiting) {
            return Ok(true);
        }
        let Some(mut to) = self.pool.take(self.bytes) else {
            return Ok(false);
        };
        let stream = &self.pool.stream;
        let done = stream
            .wait_for(&self.ready)
            .and_then(|()| stream.copy_out_later(&mut to, self.at, self.bytes))
            .and_then(|()| stream.event());
        match done {
            Ok(done) => {
                *state = State::Copying { to, done };
                Ok(true)
            }
            Err(error) => {
                *state = State::Ended;
                Err(error)
            }
        }
    }

    /// Lets `stream` wait for the copy; false where it hasn't begun.
    pub fn settle(&self, stream: &Stream) -> Result<bool> {
        match &*self.state() {
            State::Waiting => Ok(false),
            State::Copying { done, .. } => stream.wait_for(done).map(|()| true),
            State::Ended => Ok(true),
        }
    }

    /// Waits for the bytes, once.
    fn fetch(&self) -> Result<()> {
        let mut state = self.state();
        if self.begin(&mut state)? {
            if let State::Copying { to, done } = std::mem::replace(&mut *state, State::Ended) {
                done.synchronize()?;
                let _ = self.host.set(Host::Pinned(to));
            }
            return Ok(());
        }
        let mut plain = vec![0; self.bytes];
        self.pool.stream.wait_for(&self.ready)?;
        self.pool.stream.copy_out(&mut plain, self.at)?;
        *state = State::Ended;
        let _ = self.host.set(Host::Plain(plain));
        Ok(())
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let State::Copying { to, done } = std::mem::replace(&mut *self.state(), State::Ended) {
            // A place comes back when nothing is written to it any more; after an error it is better lost.
            if done.synchronize().is_ok() {
                self.pool.give(to);
            }
        }
        if let Some(Host::Pinned(place)) = self.host.take() {
            self.pool.give(place);
        }
    }
}

impl Frozen for CudaFrozen {
    fn bytes(&self) -> Result<&[u8]> {
        if self.0.host.get().is_none() {
            self.0.fetch()?;
        }
        match self.0.host.get() {
            Some(Host::Pinned(place)) => Ok(&place.slice()[..self.0.bytes]),
            Some(Host::Plain(bytes)) => Ok(bytes),
            None => Err(ComputeError::Device {
                what: "CUDA: frozen state was lost with an earlier error of its copy".to_owned(),
            }),
        }
    }
}

impl Cuda {
    pub(super) fn hold(&self, buffer: &CudaBuffer, range: &Range<usize>) -> Result<CudaFrozen> {
        inside("freeze", range, buffer.len)?;
        if buffer.element != Precision::F32 {
            return Err(refused("freeze", "the buffer", buffer.element));
        }
        let element = buffer.element.bytes();
        let hold = Arc::new(Hold {
            pool: Arc::clone(&self.pool),
            _source: Arc::clone(&buffer.memory),
            at: buffer.memory.at() + (range.start * element) as u64,
            bytes: range.len() * element,
            ready: self.stream.event()?,
            state: Mutex::new(State::Waiting),
            host: OnceLock::new(),
        });
        hold.begin(&mut hold.state())?;
        let mut holds = buffer.holds.lock().unwrap_or_else(PoisonError::into_inner);
        holds.retain(|hold| hold.strong_count() > 0);
        holds.push(Arc::downgrade(&hold));
        Ok(CudaFrozen(hold))
    }

    /// Begins all copies of a buffer that haven't begun.
    pub(super) fn begin_copies(&self, buffer: &CudaBuffer, patience: Duration) -> Result<()> {
        let holds: Vec<Weak<Hold>> = buffer
            .holds
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let began = Instant::now();
        for hold in holds {
            // Looked up anew in each round: a handle that is dropped needs no copy.
            while let Some(hold) = hold.upgrade() {
                if hold.begin(&mut hold.state())? {
                    break;
                }
                drop(hold);
                let waited = began.elapsed();
                if waited >= patience {
                    let elements = buffer.len;
                    return Err(ComputeError::StillFrozen { elements, waited });
                }
                self.pool.wait();
            }
        }
        Ok(())
    }
}
