//! Parity: every few steps this rank keeps its state as of then, and its group's parities of it, in the worker's
//! memory.
//!
//! ```text
//!   training       update of step S --freeze, no copy--> thread         (goes on; asks nothing of the thread but whether it is through)
//!   thread         copies the state of S, exchanges pieces with the group, encodes, seals, publishes      [beside, exchange, sets]
//!   training       at every commit: how many ranks have published S. All: the set before S may go, the next exchange may begin
//!   after a loss   what is left gives the lost states back                                                              [rebuild]
//! ```
//!
//! Invariants
//! - WK-10 A set is let go only when a newer one is published by every rank of the plan: so there is always a step
//!   whose set all ranks have, but for the first exchange of a job.
//! - WK-11 Whether an exchange begins is decided from sums that all ranks have: so all do, or none.
//!
//! The commit point carries a count, and waits for nothing. Where a rank has no memory for its sets, which its log
//! says, no set is ever published by all of them, and nothing is exchanged after the first.
//!
//! Deliberately absent: spreading an exchange over the steps until the next. It goes on as fast as the group takes
//! it, a chunk at a time.

mod beside;
mod exchange;
mod found;
mod group;
mod rebuild;
mod sets;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use rekindle_types::spec::RecoverySource;

use super::context::{Context, SharedTransport};
use super::left::{Whose, forget_older};
use super::{Engine, TrainerError};
use beside::{Beside, Order};
pub use found::Set;
pub use group::Members;
pub use rebuild::rebuild;
pub use sets::Sets;

/// Orders that the thread hasn't looked at yet: a set's exchange, and that the one before it may go.
const ORDERS: usize = 4;

/// The training thread's side.
pub struct Parity {
    every: u64,
    folder: Option<PathBuf>,
    /// The last step whose set was begun.
    last: u64,
    /// Whether that isn't published by all ranks yet.
    making: bool,
    shared: Arc<Shared>,
    /// None: there is no memory for sets.
    orders: Option<SyncSender<Order>>,
    thread: Option<JoinHandle<()>>,
}

/// What both threads see.
#[derive(Default)]
struct Shared {
    /// One more than the step of the last set that this rank published; 0: none.
    published: AtomicU64,
    /// The trainer ends.
    stop: AtomicBool,
}

/// Room for this rank's sets; none where the job wants none, or it can't be had, which is logged.
///
/// # Errors
/// [`TrainerError`] when the plan makes no sense.
pub fn reserve(folder: Option<&Path>, context: &Context) -> Result<Option<Sets>, TrainerError> {
    let Some(folder) = folder.filter(|_| wanted(context)) else {
        return Ok(None);
    };
    let members = Members::of(context)?;
    let whose = Whose::Parity(context.id());
    match Sets::create(&whose.file(folder, context), context, members) {
        Ok(sets) => Ok(Some(sets)),
        Err(error) => {
            tracing::warn!(%error, "nothing can be worked out from parities: this rank's aren't kept");
            Ok(None)
        }
    }
}

/// Whether the job keeps parities.
fn wanted(context: &Context) -> bool {
    context.spec.recovery.allows(RecoverySource::Parity)
}

impl Shared {
    fn stops(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}

impl Parity {
    /// Starts the thread; none where the job wants no parities.
    ///
    /// # Errors
    /// [`TrainerError::Pipe`] when there is no thread to be had.
    pub fn start(
        sets: Option<Sets>,
        folder: Option<&Path>,
        context: &Context,
        transport: &SharedTransport,
    ) -> Result<Option<Self>, TrainerError> {
        if !wanted(context) {
            return Ok(None);
        }
        let shared = Arc::new(Shared::default());
        let mut parity = Self {
            every: context.spec.recovery.parity.every,
            folder: folder.map(Path::to_owned),
            last: 0,
            making: false,
            shared: Arc::clone(&shared),
            orders: None,
            thread: None,
        };
        if let Some(sets) = sets {
            let (sender, orders) = sync_channel(ORDERS);
            let beside = Beside::new(context, transport, sets, shared);
            let thread = std::thread::Builder::new().name("parity".to_owned());
            parity.thread = Some(thread.spawn(move || beside.run(&orders))?);
            parity.orders = Some(sender);
        }
        Ok(Some(parity))
    }

    /// The state after `step` is to be kept, by all ranks. Takes hold of it and goes on.
    ///
    /// # Errors
    /// [`TrainerError`] when the state can't be held.
    pub fn begin(&mut self, step: u64, engine: &Engine) -> Result<(), TrainerError> {
        (self.last, self.making) = (step, true);
        if self.orders.is_some() {
            let parts = engine.freeze_state()?;
            self.order(Order::Exchange { step, parts });
        }
        Ok(())
    }

    /// After the update of `step`: begins the next set if one is due and the last is through everywhere.
    ///
    /// # Errors
    /// As [`Parity::begin`].
    pub fn begin_if_due(&mut self, step: u64, last: u64, engine: &Engine) -> Result<(), TrainerError> {
        let due = step >= self.last + self.every && step < last;
        match due && !self.making {
            true => self.begin(step, engine),
            false => Ok(()),
        }
    }

    /// 1 if this rank has published the last set that was begun: what it adds at the commit point.
    #[must_use]
    pub fn published(&self) -> i128 {
        i128::from(self.shared.published.load(Ordering::Acquire) == self.last + 1)
    }

    /// After a commit: so many ranks had published that set before it.
    pub fn committed(&mut self, published: i128, context: &Context) {
        if !self.making || published < i128::from(context.plan.world()) {
            return;
        }
        self.making = false;
        tracing::debug!(step = self.last, "every rank has its parities");
        self.order(Order::Retire { before: self.last });
        // Once an epoch: what older ones left has been of use for the last time.
        if let Some(folder) = self.folder.take() {
            forget_older(&folder, context, |whose| matches!(whose, Whose::Parity(_)));
        }
    }

    /// There is always room: at most one set is in the making.
    fn order(&mut self, order: Order) {
        let refused = |orders: &SyncSender<Order>| orders.try_send(order).is_err();
        if self.orders.as_ref().is_some_and(refused) {
            tracing::warn!("parities aren't kept any more: their thread has ended");
            self.orders = None;
        }
    }
}

impl Drop for Parity {
    /// The thread ends within a look at the flag, or the copy it is at.
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
