//! Capturing the whole state after every step, as a checkpoint at every step would, without writing it anywhere.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rekindle_compute::{Device, Frozen, part_mut};
use rekindle_model::{FrozenPart, Stage};
use serde::Serialize;

use crate::problem::Problem;

/// States that wait for the thread at most; the memory reserved is that of one.
const WAITING: usize = 1;

/// What captures took.
#[derive(Serialize)]
pub struct Captured {
    /// Of one state.
    pub bytes: u64,
    /// Median time from the end of an update until all of it is on the host, beside the next step.
    pub seconds: f64,
    /// Greatest time that taking hold of it kept the step.
    pub begin_seconds: f64,
    /// Bytes a second of one large copy with nothing beside it.
    pub alone_bytes_per_second: f64,
    /// Median step with captures.
    pub step_seconds: f64,
}

/// A thread that takes hold of states one after the other, as a checkpoint's writer does.
pub struct Taker<D: Device> {
    to: SyncSender<(Instant, Vec<FrozenPart<D>>)>,
    thread: JoinHandle<Result<Vec<Duration>, Problem>>,
    begin: Duration,
    bytes: u64,
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> Problem {
    Problem::new("state can't be captured").cause(error)
}

impl<D: Device> Taker<D> {
    /// Reserves memory for the whole state of `stage`.
    ///
    /// # Errors
    /// When the host has too little.
    pub fn new(stage: &mut Stage<D>) -> Result<Self, Problem> {
        stage.reserve_for_checkpoints(u64::MAX).map_err(failed)?;
        let (to, from) = sync_channel(WAITING);
        Ok(Self {
            to,
            thread: std::thread::spawn(move || take(&from)),
            begin: Duration::ZERO,
            bytes: 0,
        })
    }

    /// Captures the state as it is now.
    ///
    /// # Errors
    /// When the device fails.
    pub fn capture(&mut self, stage: &Stage<D>) -> Result<(), Problem> {
        let began = Instant::now();
        let parts = stage.freeze_state().map_err(failed)?;
        self.begin = self.begin.max(began.elapsed());
        self.bytes = parts
            .iter()
            .map(|p| (p.range.len() * size_of::<D::Float>()) as u64)
            .sum();
        // A thread that ended says why in `end`.
        let _ = self.to.send((began, parts));
        Ok(())
    }

    /// Waits for the last capture: (times of all, longest begin, bytes of one).
    ///
    /// # Errors
    /// What the captures couldn't do.
    pub fn end(self) -> Result<(Vec<f64>, f64, u64), Problem> {
        drop(self.to);
        let times = self
            .thread
            .join()
            .map_err(|_| Problem::new("the thread that captures ended early"))??;
        let times = times.iter().map(Duration::as_secs_f64).collect();
        Ok((times, self.begin.as_secs_f64(), self.bytes))
    }
}

fn take<D: Device>(from: &Receiver<(Instant, Vec<FrozenPart<D>>)>) -> Result<Vec<Duration>, Problem> {
    let mut times = Vec::new();
    while let Ok((began, parts)) = from.recv() {
        for part in parts {
            part.frozen.bytes().map_err(failed)?;
        }
        times.push(began.elapsed());
    }
    Ok(times)
}

/// Bytes a second of a copy of 1 GiB to the host with nothing beside it, the best of three.
///
/// # Errors
/// What the device couldn't do.
pub fn alone<D: Device<Float = f32>>(device: &Arc<D>) -> Result<f64, Problem> {
    const LEN: usize = 1 << 28;
    let mut buffer = device.alloc_state(LEN).map_err(failed)?;
    device
        .write(part_mut(&mut buffer, 0..1), &[1.0])
        .map_err(failed)?;
    device.reserve_spares(&[LEN]).map_err(failed)?;
    let mut best = f64::INFINITY;
    for _ in 0..3 {
        let began = Instant::now();
        device
            .freeze(&buffer, 0..LEN)
            .map_err(failed)?
            .bytes()
            .map_err(failed)?;
        best = best.min(began.elapsed().as_secs_f64());
    }
    Ok((LEN * size_of::<f32>()) as f64 / best)
}
