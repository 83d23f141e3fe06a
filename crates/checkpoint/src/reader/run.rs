//! Reading spans into a sink or buffers: what callers see.
//!
//! In: spans. Out: their values in pieces, and what it took.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use super::Checkpoint;
use super::engine::{Show, Work};
use super::place::{Job, to_fill, to_show};
use super::plan::{Read, Wanted};
use crate::format::Span;
use crate::state_error::{Result, StateError};

/// Threads for a local folder, for each core: while one waits for the disk another one hashes.
const THREADS_A_CORE: usize = 2;
/// Threads for a local folder at most: more than disks need.
const LOCAL_THREADS: usize = 8;
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
    /// Reads the elements of `spans`. The sink is given a span, the element (of the layer's flat buffer) at which the
    /// values start, and the values; pieces of a span come in any order, each element once. One call of the sink at a
    /// time, from several threads.
    ///
    /// Blocks. Call it from a thread that is not one of an async runtime's (`spawn_blocking`, or a program without
    /// one), while the runtime the checkpoint was opened in still runs.
    ///
    /// # Errors
    /// [`StateError::Request`] for elements that aren't there, [`StateError::Damaged`] for the first damage found, or
    /// what the store says. The sink may have been given part of the values by then.
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
        let reads = self.plan(spans)?;
        self.run_strictly(spans, &reads, &to_show(&reads), &show, options)
    }

    /// As [`Checkpoint::read_ranges`], into a buffer for each span; from a local file without a copy in between.
    /// After an error the buffers hold anything, values that weren't verified among it.
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
        let wanted = Wanted::new(&spans);
        let reads = self.plan(&spans)?;
        let buffers = targets
            .iter_mut()
            .map(|(span, buffer)| (span.start, &mut **buffer));
        let (jobs, rest) = to_fill(&reads, &wanted, buffers.collect());
        let rest = Mutex::new(rest);
        let show = |span: &Span, values: &[f32]| {
            let mut rest = rest.lock().unwrap_or_else(PoisonError::into_inner);
            rest.fill(&wanted, span, values);
        };
        self.run_strictly(&spans, &reads, &jobs, &show, options)
    }

    /// Ends at the first damage.
    fn run_strictly(
        &self,
        spans: &[Span],
        reads: &[Read],
        jobs: &[Job<'_>],
        show: Show<'_>,
        options: &Options<'_>,
    ) -> Result<ReadReport> {
        let judge = |damage| Err(StateError::Damaged(damage));
        let work = Work {
            reads,
            jobs,
            show,
            judge: &judge,
            parse: false,
        };
        let mut report = self.run(&work, options)?.report;
        report.bytes_wanted = spans.iter().map(|span| span.len() * 4).sum();
        Ok(report)
    }

    pub(super) fn threads(&self, options: &Options<'_>) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        match options.parallelism {
            0 if self.store().local_path("manifest.json").is_some() => {
                (cores * THREADS_A_CORE).min(LOCAL_THREADS)
            }
            0 => REMOTE_THREADS,
            n => n,
        }
    }
}
