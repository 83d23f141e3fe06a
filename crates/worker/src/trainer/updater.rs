//! The thread that keeps shadows up to date, beside this rank's own update and its next forward.
//!
//! ```text
//!   begin(step, gradients)  -> AdamW on each ward's shard, published in the worker's memory
//!   wait()                  <- when that is done, or why it failed
//! ```
//!
//! Owned by [`super::shadow::Shadows`]. One update is under way at most; who drops the owner waits for it, so that a
//! trainer which gives up leaves the last committed step. A process that is killed meanwhile leaves the step before,
//! which every rank still has then (WK-7).

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rekindle_checkpoint::priority::yield_to_others;
use rekindle_compute::AnyDevice;
use rekindle_model::{LayerStep, Shadow};
use rekindle_plan::LayerRate;
use rekindle_transport::Frame;
use rekindle_types::{LayerId, RankId};

use super::TrainerError;
use super::keep::Keep;

/// Added to the thread's niceness.
const NICE: i32 = 5;

/// A shadow and the memory it lies in.
pub struct Kept {
    /// Whose.
    pub ward: RankId,
    /// The state.
    pub shadow: Shadow<AnyDevice>,
    /// Where it lies.
    pub keep: Keep,
}

/// Final gradients of wards, as they came.
pub type Gradients = BTreeMap<RankId, BTreeMap<LayerId, Frame>>;

/// A committed step.
pub struct Update {
    /// Its number.
    pub step: u64,
    /// Factor on the gradient.
    pub clip: f64,
    /// Of the wards' layers.
    pub rates: BTreeMap<LayerId, LayerRate>,
    /// Those of all wards whose shadows are kept.
    pub gradients: Gradients,
}

/// The thread, see the module.
pub struct Updater {
    /// None only while it is dropped.
    work: Option<SyncSender<Update>>,
    done: Receiver<Result<(), TrainerError>>,
    under_way: bool,
    thread: Option<JoinHandle<()>>,
}

impl Kept {
    /// Offers the state after `step` to a successor.
    ///
    /// # Errors
    /// [`TrainerError`] when it can't be held.
    pub fn publish(&mut self, step: u64) -> Result<(), TrainerError> {
        self.keep.publish(step, self.shadow.freeze_state()?, Vec::new())
    }

    fn update(&mut self, update: &Update) -> Result<(), TrainerError> {
        let mut steps = BTreeMap::new();
        for (layer, frame) in update.gradients.get(&self.ward).into_iter().flatten() {
            if let Some(rate) = update.rates.get(layer) {
                let step = LayerStep {
                    gradient: frame.as_slice()?,
                    count: rate.count,
                    lr: rate.lr,
                };
                steps.insert(*layer, step);
            }
        }
        self.keep.make_room(update.step);
        self.shadow
            .update(update.clip, &|layer| steps.get(&layer).copied())?;
        self.publish(update.step)
    }
}

impl Updater {
    /// Starts it.
    ///
    /// # Errors
    /// [`TrainerError`] when the system gives no thread.
    pub fn start(mut kept: Vec<Kept>) -> Result<Self, TrainerError> {
        let (work, updates) = sync_channel::<Update>(1);
        let (tell, done) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("shadows".to_owned())
            .spawn(move || {
                // It has until the next commit point, and those that train are waited for now.
                yield_to_others(NICE);
                while let Ok(update) = updates.recv() {
                    let result = kept.iter_mut().try_for_each(|kept| kept.update(&update));
                    drop(update);
                    if tell.send(result).is_err() {
                        return;
                    }
                }
            })?;
        Ok(Self {
            work: Some(work),
            done,
            under_way: false,
            thread: Some(thread),
        })
    }

    /// Starts an update, after [`Updater::wait`] for the one before.
    ///
    /// # Errors
    /// [`TrainerError::Protocol`] when the thread is gone.
    pub fn begin(&mut self, update: Update) -> Result<(), TrainerError> {
        let sent = self.work.as_ref().map(|work| work.try_send(update));
        self.under_way = true;
        match sent {
            Some(Ok(())) => Ok(()),
            _ => Err(gone()),
        }
    }

    /// Waits for the update that is under way, if one is.
    ///
    /// # Errors
    /// What it met; [`TrainerError::Protocol`] when that takes longer than `patience`.
    pub fn wait(&mut self, patience: Duration) -> Result<(), TrainerError> {
        if !std::mem::take(&mut self.under_way) {
            return Ok(());
        }
        match self.done.recv_timeout(patience) {
            Ok(result) => result,
            Err(RecvTimeoutError::Disconnected) => Err(gone()),
            Err(RecvTimeoutError::Timeout) => Err(TrainerError::Protocol {
                what: format!("guarded state wasn't updated within {} s", patience.as_secs()),
            }),
        }
    }
}

impl Drop for Updater {
    fn drop(&mut self) {
        self.work = None;
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            tracing::error!("the thread that updates guarded state panicked (a defect of Rekindle)");
        }
    }
}

fn gone() -> TrainerError {
    TrainerError::defect("the thread that updates guarded state is gone")
}
