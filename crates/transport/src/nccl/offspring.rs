//! Communicators that are made of another one: of parts of its ranks, of those that are left, or with others that join.
//!
//! Deliberately absent: who belongs to them (see [`Group`](super::Group)).

use std::sync::Arc;

use rekindle_compute::cuda::nccl::{Calls, Code, Comm, UniqueId};

use super::aside::within;
use super::life::{Act, Life};
use super::{Communicator, Fault};

impl Communicator {
    /// Makes another communicator out of this one by `make`, and waits for both.
    pub(crate) fn derive(
        &mut self,
        call: &'static str,
        make: impl FnOnce(&dyn Calls, Comm) -> (Comm, Code),
    ) -> Result<Self, Fault> {
        self.allow(Act::Use, call)?;
        let (comm, code) = make(&*self.calls, self.comm);
        self.child(Act::Use, call, comm, code)
    }

    /// The same where `make` may block and this communicator may be broken: it is called on a thread of its own,
    /// which is left behind when it doesn't come back.
    pub(crate) fn rescue(
        &mut self,
        call: &'static str,
        make: impl FnOnce(&dyn Calls, Comm) -> (Comm, Code) + Send + 'static,
    ) -> Result<Self, Fault> {
        self.allow(Act::Rescue, call)?;
        let (calls, comm) = (Arc::clone(&self.calls), self.comm);
        let made = within(self.options.abort, move || make(&*calls, comm));
        let Some((comm, code)) = made else {
            self.life = Life::Failed;
            let waited = self.options.abort;
            return Err(Fault::Hung { call, waited });
        };
        self.child(Act::Rescue, call, comm, code)
    }

    fn child(&mut self, act: Act, call: &'static str, comm: Comm, code: Code) -> Result<Self, Fault> {
        let mut child = Self::new(&self.calls, comm, &self.options);
        let begun = self.heard(act, call, code);
        if let Err(fault) = begun.and_then(|()| self.wait_over(call, self.options.meet)) {
            // The older one first: until it has stopped, NCCL may still be making the other one.
            self.abort();
            return Err(fault);
        }
        child.wait_over(call, self.options.meet)?;
        Ok(child)
    }

    /// An id under which others can join this one.
    pub(crate) fn grow_id(&self) -> Result<UniqueId, Fault> {
        const CALL: &str = "ncclCommGetUniqueId";
        self.allow(Act::Use, CALL)?;
        let (calls, comm) = (Arc::clone(&self.calls), self.comm);
        match within(self.options.abort, move || calls.grow_id(comm)) {
            Some(Ok(id)) => Ok(id),
            Some(Err(code)) => Err(self.failed(CALL, code)),
            None => Err(Fault::Hung {
                call: CALL,
                waited: self.options.abort,
            }),
        }
    }

    pub(crate) fn version(&self) -> i32 {
        self.calls.version()
    }
}
