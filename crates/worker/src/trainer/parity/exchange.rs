//! Terms on their way from those who have them to those who add them up.
//!
//! ```text
//!   turn t:  to each partner the chunk number t of what it asks of me, then from each its chunk number t of what I ask of it, added up
//! ```
//!
//! Two members are partners as long as either still has a chunk for the other; then both send a frame every turn, if
//! an empty one. So nobody is more than a turn ahead of a partner, and what waits for a member that is slow is at
//! most two chunks from each of the others.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use rekindle_transport::{ByteOwner, Deadline, Frame, Payload, Tag, TransportError};
use rekindle_types::RankId;
use rekindle_vault::parity::{Part, Term, add_scaled};

use super::group::Members;
use crate::trainer::TrainerError;
use crate::trainer::context::SharedTransport;

/// Bytes of a frame: short, as frames of the step in flight wait behind it. Much shorter in tests, whose states are
/// small.
const CHUNK: u64 = if cfg!(test) { 1000 } else { 256 << 10 };

/// What members add up, by their numbers.
pub type Asks = BTreeMap<usize, Vec<Term>>;

/// Between two looks whether the member ends.
const LOOK: Duration = Duration::from_millis(20);

/// What a member gives.
#[derive(Clone, Copy, Default)]
pub struct Own<'a> {
    /// Its state.
    pub state: &'a [u8],
    /// Its parities.
    pub parities: &'a [u8],
}

impl<'a> Own<'a> {
    fn part(&self, part: &Part) -> &'a [u8] {
        let (bytes, range) = match part {
            Part::State(range) => (self.state, range),
            Part::Parity(range) => (self.parities, range),
        };
        bytes.get(at(range)).unwrap_or_default()
    }
}

/// One member's side of an exchange.
pub struct Exchange<'a> {
    /// Who takes part.
    pub members: &'a Members,
    /// The way to them.
    pub transport: &'a SharedTransport,
    /// Names the frames; the turn is added.
    pub tag: Tag,
    /// Longest wait for a member that is connected but silent.
    pub patience: Duration,
    /// Whether the member ends, so that nothing is waited for any more.
    pub ends: &'a dyn Fn() -> bool,
}

impl Exchange<'_> {
    /// Gives others what they ask for, and adds up what this member asks for in `into`.
    ///
    /// # Errors
    /// [`TrainerError`] when a member is lost, or sends something else.
    pub fn run(&self, asks: &Asks, own: Own<'_>, into: &mut [u8]) -> Result<(), TrainerError> {
        let me = self.members.me;
        let of = |(other, rank)| (rank, chunks(asks, me, other), chunks(asks, other, me));
        let partners: Vec<_> = self.members.others().map(of).collect();
        let most = |(_, gives, takes): &(_, Vec<Term>, Vec<Term>)| gives.len().max(takes.len());
        for turn in 0..partners.iter().map(most).max().unwrap_or(0) {
            let partners = || partners.iter().filter(|partner| turn < most(partner));
            let tag = self.turn(turn);
            for (rank, gives, _) in partners() {
                self.give(*rank, tag, gives.get(turn).map(|term| own.part(&term.part)))?;
            }
            for (rank, _, takes) in partners() {
                let frame = self.wait(*rank, tag)?;
                self.take(&frame, takes.get(turn), into)?;
            }
        }
        Ok(())
    }

    /// Everybody's number, in order. Call it once, after [`Exchange::run`].
    ///
    /// # Errors
    /// As [`Exchange::run`].
    pub fn all(&self, own: u64) -> Result<Vec<u64>, TrainerError> {
        let tag = Tag {
            index: u32::MAX,
            ..self.tag
        };
        for (_, rank) in self.members.others() {
            self.give(rank, tag, Some(&own.to_le_bytes()))?;
        }
        let mut all = vec![own; self.members.ranks.len()];
        for (other, rank) in self.members.others() {
            let mut word = [0_u8; 8];
            self.wait(rank, tag)?.copy_to(&mut word)?;
            all[other] = u64::from_le_bytes(word);
        }
        Ok(all)
    }

    fn turn(&self, turn: usize) -> Tag {
        let index = u32::try_from(turn).unwrap_or(u32::MAX);
        Tag { index, ..self.tag }
    }

    fn give(&self, to: RankId, tag: Tag, bytes: Option<&[u8]>) -> Result<(), TrainerError> {
        let bytes = Arc::new(self.transport.pool().copy_of(bytes.unwrap_or_default()));
        self.patiently(|by| {
            let payload = Payload::shared(Arc::clone(&bytes) as Arc<dyn ByteOwner>);
            self.transport.send(to, tag, payload, by)
        })
    }

    fn wait(&self, from: RankId, tag: Tag) -> Result<Frame, TrainerError> {
        self.patiently(|by| self.transport.recv(from, tag, by))
    }

    /// Waits in slices, between which it looks whether the member ends.
    fn patiently<T>(&self, act: impl Fn(Deadline) -> Result<T, TransportError>) -> Result<T, TrainerError> {
        let deadline = Deadline::after(self.patience);
        loop {
            match act(deadline.earlier(Deadline::after(LOOK))) {
                Err(TransportError::DeadlineExceeded { .. })
                    if deadline.remaining().is_some() && !(self.ends)() => {}
                other => return Ok(other?),
            }
        }
    }

    fn take(&self, frame: &Frame, term: Option<&Term>, into: &mut [u8]) -> Result<(), TrainerError> {
        let wanted = term.map_or(0, |term| term.part.bytes());
        let place = term.map_or(Some(&mut [][..]), |term| into.get_mut(at(&term.into)));
        let (Some(place), true) = (place, frame.len() as u64 == wanted) else {
            let what = format!(
                "{} sent {} bytes where {wanted} were due",
                frame.from(),
                frame.len()
            );
            return Err(TrainerError::Protocol { what });
        };
        add_scaled(place, term.map_or(0, |term| term.factor), frame.bytes());
        Ok(())
    }
}

/// What `from` sends to `to`, in order: terms cut to the length of frames.
fn chunks(asks: &Asks, from: usize, to: usize) -> Vec<Term> {
    let terms = asks.get(&to).into_iter().flatten();
    terms.filter(|term| term.member == from).flat_map(cut).collect()
}

fn cut(term: &Term) -> impl Iterator<Item = Term> + '_ {
    let bytes = term.part.bytes();
    (0..bytes.div_ceil(CHUNK)).map(move |number| {
        let (first, end) = (number * CHUNK, ((number + 1) * CHUNK).min(bytes));
        let within = |range: &Range<u64>| range.start + first..range.start + end;
        Term {
            part: match &term.part {
                Part::State(range) => Part::State(within(range)),
                Part::Parity(range) => Part::Parity(within(range)),
            },
            into: within(&term.into),
            ..*term
        }
    })
}

fn at(range: &Range<u64>) -> Range<usize> {
    let at = |byte: u64| usize::try_from(byte).unwrap_or(usize::MAX);
    at(range.start)..at(range.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_a_term_once() {
        let term = Term {
            member: 1,
            part: Part::Parity(10..10 + 2 * CHUNK + 5),
            factor: 3,
            into: 100..100 + 3 * CHUNK,
        };
        let asks = Asks::from([(0, vec![term.clone()])]);
        assert!(chunks(&asks, 0, 1).is_empty() && chunks(&asks, 2, 0).is_empty());
        let chunks = chunks(&asks, 1, 0);
        assert_eq!(chunks.len(), 3);
        let (mut from, mut into) = (10, 100);
        for chunk in chunks {
            let Part::Parity(range) = &chunk.part else {
                panic!("{chunk:?}")
            };
            assert_eq!((range.start, chunk.into.start), (from, into));
            assert_eq!(range.end - range.start, chunk.into.end - chunk.into.start);
            assert!(chunk.part.bytes() <= CHUNK);
            (from, into) = (range.end, chunk.into.end);
        }
        assert_eq!((from, into), (10 + 2 * CHUNK + 5, 100 + 2 * CHUNK + 5));
    }
}
