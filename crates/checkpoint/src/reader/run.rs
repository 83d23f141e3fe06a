//! Reading spans into a sink or buffers: what callers see.
//!
//! In: spans. Out: their values in pieces, and what it took.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use super::Checkpoint;
use super::plan::Wanted;
use crate::format::Span;
use crate::state_error::{Result, StateError};

/// Threads for a local folder: what two to four cores can hash and copy is more than disks give.
const LOCAL_THREADS: usize = 4;
/// Requests at once to a remote store, which answers each of them slowly but many together.
const REMOTE_THREADS: usize = 12;

/// Called with bytes done and bytes to do; from any of the reading threads, one at a time.
pub type Progress<'a> = &'a (dyn Fn(u64, u64) + Sync);

/// How to read.
#[derive(Clone, Copy, Default)]
pub struct Options<'a> {
    /// Reads at the same time; 0: as suits the store.
    pub parallelism: usize,
    /// Told after every read.
    pub progress: Option<Progress<'a>>,
}

impl fmt::Debug for Options<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("parallelism", &self.parallelism)
            .finish_non_exhaustive()
    }
}

/// What a read took.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct ReadReport {
    /// Bytes of the wanted elements.
    pub bytes_wanted: u64,
    /// Bytes read for them: whole chunks, and headers.
    pub bytes_read: u64,
    /// Requests made.
    pub reads: u64,
    /// Reads made again because the first answer was damaged on its way.
    pub rereads: u64,
    /// From start to end, seconds.
    pub seconds: f64,
}

impl ReadReport {
    /// Bytes read for each wanted one; 1 for nothing.
    #[must_use]
    pub fn amplification(&self) -> f64 {
        if self.bytes_wanted == 0 {
            1.0
        } else {
            self.bytes_read as f64 / self.bytes_wanted as f64
        }
    }
}

impl Checkpoint {
    /// Reads the elements of `spans`. The sink is given a span, the element (of the layer's flat buffer) at which the values start, and the
    /// values; pieces of a span come in any order, each element once. One call of the sink at a time, from several threads.
    ///
    /// Blocks. Call it from a thread that is not one of an async runtime's (`spawn_blocking`, or a program without one), while the
    /// runtime the checkpoint was opened in still runs.
    ///
    /// # Errors
    /// [`StateError::Request`] for elements that aren't there, [`StateError::Damaged`] for the first damage found, or what the store says. The
    /// sink may have been given part of the values by then.
    pub fn read_ranges(
        &self,
        spans: &[Span],
        options: &Options<'_>,
        sink: impl FnMut(&Span, u64, &[f32]) + Send,
    ) -> Result<ReadReport> {
        let (wanted, sink) = (Wanted::new(spans), Mutex::new(sink));
        let show = |span: &Span, values: &[f32]| {
            let mut sink = sink.lock().unwrap_or_else(PoisonError::into_inner);
            for (number, range) in wanted.inside(span) {
                let at = |element: u64| usize::try_from(element - span.start).unwrap_or(0);
                sink(
                    &spans[number],
                    range.start,
                    &values[at(range.start)..at(range.end)],
                );
            }
        };
        self.run_strictly(spans, options, &show)
    }

    /// As [`Checkpoint::read_ranges`], into a buffer for each span.
    ///
    /// # Errors
    /// As [`Checkpoint::read_ranges`]; [`StateError::Request`] for a buffer of another length than its span.
    pub fn read_into(&self, targets: &mut [(Span, &mut [f32])], options: &Options<'_>) -> Result<ReadReport> {
        if let Some((span, buffer)) = targets
            .iter()
            .find(|(span, buffer)| buffer.len() as u64 != span.len())
        {
            let why = format!(
                "a buffer of {} values was given for {} elements",
                buffer.len(),
                span.len()
            );
            return Err(StateError::Request { url: self.url(), why });
        }
        let spans: Vec<Span> = targets.iter().map(|(span, _)| span.clone()).collect();
        let (wanted, targets) = (Wanted::new(&spans), Mutex::new(targets));
        let show = |span: &Span, values: &[f32]| {
            let mut targets = targets.lock().unwrap_or_else(PoisonError::into_inner);
            for (number, range) in wanted.inside(span) {
                let at = |element: u64, from: u64| usize::try_from(element - from).unwrap_or(0);
                let first = spans[number].start;
                let to = &mut targets[number].1[at(range.start, first)..at(range.end, first)];
                to.copy_from_slice(&values[at(range.start, span.start)..at(range.end, span.start)]);
            }
        };
        self.run_strictly(&spans, options, &show)
    }

    /// Ends at the first damage.
    fn run_strictly(
        &self,
        spans: &[Span],
        options: &Options<'_>,
        show: &(dyn Fn(&Span, &[f32]) + Sync),
    ) -> Result<ReadReport> {
        let judge = |damage| Err(StateError::Damaged(damage));
        self.run(spans, options, show, &judge, false)
            .map(|outcome| outcome.report)
    }

    pub(super) fn threads(&self, options: &Options<'_>) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        match options.parallelism {
            0 if self.store().local_path("manifest.json").is_some() => cores.min(LOCAL_THREADS),
            0 => REMOTE_THREADS,
            n => n,
        }
    }
}
