//! Where the chunks of a planned read go: straight into a caller's buffers where a whole chunk is wanted there,
//! otherwise through a thread's own.
//!
//! In: planned reads and buffers for spans. Out: a job for each read, whose segments carry the part of a buffer that
//! they fill, and the rest of the buffers. No element of a buffer is in two places; all of it is plain borrowing.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Mutex;

use super::plan::{Read, Wanted, What};
use crate::format::Span;

/// Part of a buffer, with the element of the layer at which it starts.
type Gap<'t> = (u64, &'t mut [f32]);
/// A read and a segment of it.
type Place = (usize, usize);

/// A read and where it goes; taken by the thread that carries it out.
pub(super) type Job<'t> = Mutex<Option<Vec<Segment<'t>>>>;

/// Neighbouring parts of a read that go to one place.
pub(super) struct Segment<'t> {
    /// Which parts of the read.
    pub parts: Range<usize>,
    /// The elements of a buffer that they fill; none: they are shown from a thread's own.
    pub target: Option<&'t mut [f32]>,
}

/// Jobs without buffers: everything is shown.
pub(super) fn to_show(reads: &[Read]) -> Vec<Job<'static>> {
    let whole = |read: &Read| {
        let parts = 0..read.parts.len();
        vec![Segment { parts, target: None }]
    };
    reads.iter().map(|read| Mutex::new(Some(whole(read)))).collect()
}

/// What of the buffers is filled from chunks that aren't wanted there as a whole.
pub(super) struct Rest<'t> {
    gaps: Vec<Vec<Gap<'t>>>,
}

impl Rest<'_> {
    /// Copies what is wanted of a chunk to where no segment puts it.
    pub(super) fn fill(&mut self, wanted: &Wanted<'_>, span: &Span, values: &[f32]) {
        for (number, range) in wanted.inside(span) {
            for (start, gap) in &mut self.gaps[number] {
                let end = *start + gap.len() as u64;
                let (from, to) = (range.start.max(*start), range.end.min(end));
                if from < to {
                    let at = |element: u64, first: u64| usize::try_from(element - first).unwrap_or(0);
                    let source = &values[at(from, span.start)..at(to, span.start)];
                    gap[at(from, *start)..at(to, *start)].copy_from_slice(source);
                }
            }
        }
    }
}

/// Jobs that fill `targets`, whose spans `wanted` was made of.
pub(super) fn to_fill<'t>(
    reads: &[Read],
    wanted: &Wanted<'_>,
    targets: Vec<Gap<'t>>,
) -> (Vec<Job<'t>>, Rest<'t>) {
    let mut found: BTreeMap<usize, Vec<(Range<u64>, Place)>> = BTreeMap::new();
    let mut jobs: Vec<Vec<Segment<'t>>> = Vec::new();
    for (number, read) in reads.iter().enumerate() {
        let mut segments = Vec::new();
        for (target, range, parts) in runs(read, wanted) {
            if let Some(target) = target {
                found
                    .entry(target)
                    .or_default()
                    .push((range, (number, segments.len())));
            }
            segments.push(Segment { parts, target: None });
        }
        jobs.push(segments);
    }
    let mut gaps = Vec::new();
    for (number, target) in targets.into_iter().enumerate() {
        gaps.push(split(
            target,
            found.remove(&number).unwrap_or_default(),
            &mut jobs,
        ));
    }
    (
        jobs.into_iter()
            .map(|segments| Mutex::new(Some(segments)))
            .collect(),
        Rest { gaps },
    )
}

/// The parts of a read in runs: the number of the one target that wants all of them, if there is one, and its elements.
fn runs(read: &Read, wanted: &Wanted<'_>) -> Vec<(Option<usize>, Range<u64>, Range<usize>)> {
    let mut runs: Vec<(Option<usize>, Range<u64>, Range<usize>)> = Vec::new();
    for (number, part) in read.parts.iter().enumerate() {
        let (target, range) = match &part.what {
            What::Header => (None, 0..0),
            What::Chunk { span, .. } => (only_target(wanted, span), span.range()),
        };
        match runs.last_mut() {
            Some((last, elements, parts))
                if *last == target && (target.is_none() || elements.end == range.start) =>
            {
                (elements.end, parts.end) = (range.end, number + 1);
            }
            _ => runs.push((target, range, number..number + 1)),
        }
    }
    runs
}

fn only_target(wanted: &Wanted<'_>, span: &Span) -> Option<usize> {
    let mut takers = wanted.inside(span);
    match (takers.next(), takers.next()) {
        (Some((number, range)), None) if range == span.range() => Some(number),
        _ => None,
    }
}

/// Gives the segments their parts of a buffer and returns what is left of it.
fn split<'t>(
    (mut at, mut rest): Gap<'t>,
    mut pieces: Vec<(Range<u64>, Place)>,
    jobs: &mut [Vec<Segment<'t>>],
) -> Vec<Gap<'t>> {
    pieces.sort_by_key(|(range, _)| range.start);
    let mut gaps = Vec::new();
    for (range, (read, segment)) in pieces {
        let length = |from: u64, to: u64| usize::try_from(to - from).unwrap_or(0);
        let (gap, behind) = rest.split_at_mut(length(at, range.start));
        let (piece, behind) = behind.split_at_mut(length(range.start, range.end));
        gaps.push((at, gap));
        jobs[read][segment].target = Some(piece);
        (at, rest) = (range.end, behind);
    }
    gaps.push((at, rest));
    gaps.retain(|(_, gap)| !gap.is_empty());
    gaps
}
