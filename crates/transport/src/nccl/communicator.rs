//! One communicator: what is asked of it in the right order, waited for with bounds, and aborted in the end if it
//! doesn't go well.
//!
//! In: [`Calls`], who meets, pieces of memory. Out: transfers that have happened, or a [`Fault`]; after one the
//! communicator is broken. Dropping it aborts it, without a panic and within a bound. NCCL's own threads and the
//! device work meanwhile; this one looks now and then.
//!
//! Deliberately absent: several threads (a communicator is `&mut` for whoever uses it), and the plan's ranks (see
//! [`Group`](super::Group)).

use std::sync::Arc;
use std::time::Duration;

use rekindle_compute::cuda::nccl::{Calls, Code, Comm, Piece, UniqueId};

use super::aside::{Aborting, start, within};
use super::judge::Bounds;
use super::life::{Act, Life};
use super::wait::{Done, NEVER, Watch, look};
use super::{Fault, NcclOptions};
use crate::Deadline;

/// A communicator of some ranks, which are numbered from 0 on here.
pub struct Communicator {
    pub(super) calls: Arc<dyn Calls>,
    pub(super) comm: Comm,
    pub(super) life: Life,
    pub(super) options: NcclOptions,
}

impl Communicator {
    pub(super) fn new(calls: &Arc<dyn Calls>, comm: Comm, options: &NcclOptions) -> Self {
        Self {
            calls: Arc::clone(calls),
            comm,
            life: Life::Making,
            options: options.clone(),
        }
    }

    /// Begins to meet the `ranks` of `id` as `rank`. Doesn't wait: see [`Communicator::ready`].
    ///
    /// # Errors
    /// [`Fault::Code`].
    pub fn meet(
        calls: &Arc<dyn Calls>,
        ranks: u32,
        rank: u32,
        id: &UniqueId,
        options: &NcclOptions,
    ) -> Result<Self, Fault> {
        let (comm, code) = calls.init(ranks, rank, id);
        Self::begun(calls, comm, code, "ncclCommInitRankConfig", options)
    }

    /// As [`Communicator::meet`], as one that joins a communicator that grows.
    ///
    /// # Errors
    /// [`Fault::Code`].
    pub fn join(
        calls: &Arc<dyn Calls>,
        ranks: u32,
        rank: u32,
        id: &UniqueId,
        options: &NcclOptions,
    ) -> Result<Self, Fault> {
        let (comm, code) = calls.join(ranks, rank, id);
        Self::begun(calls, comm, code, "ncclCommGrow", options)
    }

    fn begun(
        calls: &Arc<dyn Calls>,
        comm: Comm,
        code: Code,
        call: &'static str,
        options: &NcclOptions,
    ) -> Result<Self, Fault> {
        let made = Self::new(calls, comm, options);
        match code {
            Code::SUCCESS | Code::IN_PROGRESS => Ok(made),
            code => Err(made.failed(call, code)),
        }
    }

    /// Changes the bounds from here on.
    pub fn set_options(&mut self, options: &NcclOptions) {
        self.options = options.clone();
    }

    /// Whether nothing is under way and nothing has gone wrong, as far as anybody has looked.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        self.life == Life::Ready
    }

    pub(super) fn failed(&self, call: &'static str, code: Code) -> Fault {
        Fault::of(&*self.calls, call, code)
    }

    pub(super) fn allow(&self, act: Act, call: &'static str) -> Result<(), Fault> {
        match self.life.allows(act) {
            true => Ok(()),
            false => Err(Fault::State {
                call,
                state: self.life.word(),
            }),
        }
    }

    /// Waits until all ranks have met.
    ///
    /// # Errors
    /// [`Fault::Code`], [`Fault::Hung`] after [`NcclOptions::meet`].
    pub fn ready(&mut self) -> Result<(), Fault> {
        self.ready_by(Deadline::after(self.options.meet))
    }

    /// The same, also when it was waited for already; at most until `deadline`.
    pub(crate) fn ready_by(&mut self, deadline: Deadline) -> Result<(), Fault> {
        let bound = deadline.remaining().unwrap_or_default().min(self.options.meet);
        self.wait_over("meeting the other ranks", bound)
    }

    /// Waits until nothing is under way, whatever the device does.
    pub(super) fn wait_over(&mut self, call: &'static str, bound: Duration) -> Result<(), Fault> {
        let watch = &mut Watch {
            stop: &NEVER,
            hung_up: &mut || false,
        };
        self.wait(call, bound, watch, &|_, _| Ok(true))
    }

    /// Sends the first `bytes` of `from` to rank `peer`, which receives as many; waits until they are gone.
    ///
    /// # Errors
    /// Any [`Fault`]; all but `State` break the communicator.
    pub fn send(&mut self, from: &Piece, bytes: usize, peer: u32) -> Result<(), Fault> {
        self.quietly(|me, watch| me.send_watched(from, bytes, peer, watch))
    }

    /// Receives `bytes` from rank `peer` into the beginning of `into`; waits until they are there.
    ///
    /// # Errors
    /// As [`Communicator::send`].
    pub fn recv(&mut self, into: &Piece, bytes: usize, peer: u32) -> Result<(), Fault> {
        self.quietly(|me, watch| me.recv_watched(into, bytes, peer, watch))
    }

    fn quietly(
        &mut self,
        act: impl FnOnce(&mut Self, &mut Watch<'_>) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let watch = &mut Watch {
            stop: &NEVER,
            hung_up: &mut || false,
        };
        act(self, watch)
    }

    pub(crate) fn send_watched(
        &mut self,
        from: &Piece,
        bytes: usize,
        peer: u32,
        watch: &mut Watch<'_>,
    ) -> Result<(), Fault> {
        self.allow(Act::Use, "ncclSend")?;
        self.still_well("ncclSend")?;
        let code = self.calls.send(self.comm, from, bytes, peer);
        self.transfer("ncclSend", code, bytes, watch)
    }

    pub(crate) fn recv_watched(
        &mut self,
        into: &Piece,
        bytes: usize,
        peer: u32,
        watch: &mut Watch<'_>,
    ) -> Result<(), Fault> {
        self.allow(Act::Use, "ncclRecv")?;
        self.still_well("ncclRecv")?;
        let code = self.calls.recv(self.comm, into, bytes, peer);
        self.transfer("ncclRecv", code, bytes, watch)
    }

    /// Copies to the device, with nothing else under way.
    ///
    /// # Errors
    /// [`Fault::State`], [`Fault::Device`].
    pub fn copy_in(&mut self, to: &Piece, from: &[u8]) -> Result<(), Fault> {
        self.allow(Act::Use, "a copy to the device")?;
        Ok(self.calls.copy_in(self.comm, to, from)?)
    }

    /// Copies from the device, with nothing else under way.
    ///
    /// # Errors
    /// As [`Communicator::copy_in`].
    pub fn copy_out(&mut self, from: &Piece, to: &mut [u8]) -> Result<(), Fault> {
        self.allow(Act::Use, "a copy from the device")?;
        Ok(self.calls.copy_out(self.comm, from, to)?)
    }

    fn transfer(
        &mut self,
        call: &'static str,
        code: Code,
        bytes: usize,
        watch: &mut Watch<'_>,
    ) -> Result<(), Fault> {
        self.heard(Act::Use, call, code)?;
        let idle = |calls: &dyn Calls, comm: Comm| calls.idle(comm);
        self.wait(call, self.options.bound(bytes), watch, &idle)
    }

    /// Something may have gone wrong since anybody looked.
    fn still_well(&mut self, call: &'static str) -> Result<(), Fault> {
        match self.calls.state(self.comm) {
            Code::SUCCESS => Ok(()),
            code => {
                self.life = Life::Failed;
                Err(self.failed(call, code))
            }
        }
    }

    pub(super) fn heard(&mut self, act: Act, call: &'static str, code: Code) -> Result<(), Fault> {
        self.life = self.life.after(act, code);
        match self.life {
            Life::Failed => Err(self.failed(call, code)),
            _ => Ok(()),
        }
    }

    /// Looks until what is under way is over. Whatever else ends the wait breaks the communicator.
    fn wait(
        &mut self,
        call: &'static str,
        bound: Duration,
        watch: &mut Watch<'_>,
        done: Done<'_>,
    ) -> Result<(), Fault> {
        let bounds = Bounds {
            wait: bound,
            hang_up: self.options.hang_up,
        };
        let result = look((&*self.calls, self.comm), call, bounds, watch, done);
        self.life = match result {
            Ok(()) => self.life.over(),
            Err(_) => Life::Failed,
        };
        result
    }

    /// Lets go of it in order, which all its ranks do at about the same time; of one that isn't at rest, by abort.
    ///
    /// # Errors
    /// Any [`Fault`]; it is gone in any case.
    pub fn finish(mut self) -> Result<(), Fault> {
        const CALL: &str = "ncclCommFinalize";
        self.allow(Act::Finalize, CALL)?;
        let code = self.calls.finalize(self.comm);
        self.heard(Act::Finalize, CALL, code)?;
        self.wait_over(CALL, self.options.transfer)?;
        self.allow(Act::Destroy, "ncclCommDestroy")?;
        let (calls, comm) = (Arc::clone(&self.calls), self.comm);
        self.life = Life::Ended;
        match within(self.options.abort, move || calls.destroy(comm)) {
            Some(Code::SUCCESS | Code::IN_PROGRESS) => Ok(()),
            Some(code) => Err(self.failed("ncclCommDestroy", code)),
            None => Err(Fault::Hung {
                call: "ncclCommDestroy",
                waited: self.options.abort,
            }),
        }
    }

    /// Begins to abort it, on a thread of its own, so that several are aborted at once: one that waits for another's
    /// end would hang.
    pub(crate) fn begin_abort(&mut self) -> Option<Aborting> {
        if !self.life.allows(Act::Abort) {
            return None;
        }
        self.life = Life::Ended;
        let (calls, comm) = (Arc::clone(&self.calls), self.comm);
        start(move || calls.abort(comm)).map(Aborting)
    }

    /// Aborts it, and waits for that within [`NcclOptions::abort`].
    pub fn abort(&mut self) {
        let deadline = Deadline::after(self.options.abort);
        if let Some(aborting) = self.begin_abort() {
            aborting.wait(deadline);
        }
    }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        self.abort();
    }
}
