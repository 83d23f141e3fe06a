//! Which piece of whose state goes into whose parity.
//!
//! Member i of n takes part in stripe j by its distance (i - j) mod n: below r it keeps that parity of the stripe,
//! else it gives the piece of its state with that number, less r. So each member gives every piece to another stripe,
//! and keeps each of the r parities of one.
//!
//! Pieces are rounded up to [`ALIGN`] bytes; states may be of different sizes, none at all included: what lies behind
//! a state's end counts as zeros, and travels nowhere.

use std::collections::BTreeSet;
use std::ops::Range;

use super::code::MOST;
use super::{Code, ParityError, Symbol};

/// Pieces begin at multiples of this many bytes.
pub const ALIGN: u64 = 64;

/// What a term is read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// These bytes of the member's state.
    State(Range<u64>),
    /// These bytes of the member's parities, which lie one after the other.
    Parity(Range<u64>),
}

impl Part {
    /// How many bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let (Self::State(range) | Self::Parity(range)) = self;
        range.end - range.start
    }
}

/// A term of a sum: `into += factor * part of member`. The part is no longer than `into`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term {
    /// Who has it.
    pub member: usize,
    /// What of it.
    pub part: Part,
    /// Times this.
    pub factor: u8,
    /// Which bytes of the sum: of the keeper's parities, or of the lost member's state.
    pub into: Range<u64>,
}

/// Members with states of these sizes, any few of whom may be lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    sizes: Vec<u64>,
    losses: usize,
    code: Code,
}

impl Group {
    /// `sizes`: bytes of each member's state. A group of one with no losses keeps nothing of anybody.
    ///
    /// # Errors
    /// [`ParityError::Shape`] unless there are more members than losses, and 255 members at most.
    pub fn new(sizes: Vec<u64>, losses: usize) -> Result<Self, ParityError> {
        let (members, most) = (sizes.len(), MOST);
        let shape = ParityError::Shape {
            members,
            losses,
            most,
        };
        let data = members.checked_sub(losses).ok_or_else(|| shape.clone())?;
        let code = Code::new(data, losses).map_err(|_| shape)?;
        Ok(Self { sizes, losses, code })
    }

    /// How many there are.
    #[must_use]
    pub fn members(&self) -> usize {
        self.sizes.len()
    }

    /// How many may be lost.
    #[must_use]
    pub fn losses(&self) -> usize {
        self.losses
    }

    /// Bytes of a member's state.
    #[must_use]
    pub fn size(&self, member: usize) -> u64 {
        self.sizes[member]
    }

    /// Bytes of a member's parities.
    #[must_use]
    pub fn parity_bytes(&self, member: usize) -> u64 {
        self.kept(member)
            .iter()
            .map(|(_, bytes)| bytes.end - bytes.start)
            .sum()
    }

    /// A member's parities: which bytes of all of them each is.
    #[must_use]
    pub fn parities(&self, member: usize) -> Vec<Range<u64>> {
        self.kept(member).into_iter().map(|(_, bytes)| bytes).collect()
    }

    /// What `keeper`'s parities are sums of.
    #[must_use]
    pub fn encode(&self, keeper: usize) -> Vec<Term> {
        let mut terms = Vec::new();
        for (number, (stripe, into)) in self.kept(keeper).into_iter().enumerate() {
            for member in 0..self.members() {
                if let Symbol::Data(data) = self.symbol(member, stripe) {
                    let part = Part::State(self.piece(member, data));
                    let factor = self.code.factor(number, data);
                    let into = into.clone();
                    terms.push(Term {
                        member,
                        part,
                        factor,
                        into,
                    });
                }
            }
        }
        terms.retain(|term| term.part.bytes() > 0);
        terms
    }

    /// What the state of `lost` is the sum of, all of it kept by `left` (VA-5).
    ///
    /// # Errors
    /// [`ParityError`] when too many are lost, or `lost` isn't.
    pub fn rebuild(&self, lost: usize, left: &BTreeSet<usize>) -> Result<Vec<Term>, ParityError> {
        let members = self.members();
        if lost >= members || left.contains(&lost) {
            let member = lost;
            return Err(ParityError::NotLost { member, members });
        }
        let gone: Vec<usize> = (0..members).filter(|member| !left.contains(member)).collect();
        if gone.len() > self.losses {
            return Err(ParityError::TooManyLosses {
                lost: gone,
                members,
                losses: self.losses,
            });
        }
        let mut terms = Vec::new();
        for stripe in 0..members {
            if let Symbol::Data(data) = self.symbol(lost, stripe) {
                terms.extend(self.rebuild_piece(stripe, data, self.piece(lost, data), left)?);
            }
        }
        terms.retain(|term| term.part.bytes() > 0);
        Ok(terms)
    }

    fn rebuild_piece(
        &self,
        stripe: usize,
        data: usize,
        into: Range<u64>,
        left: &BTreeSet<usize>,
    ) -> Result<Vec<Term>, ParityError> {
        let there = (0..self.members()).filter(|member| left.contains(member));
        let present: Vec<Symbol> = there.map(|member| self.symbol(member, stripe)).collect();
        let term = |(symbol, factor)| {
            let member = self.member(symbol, stripe);
            let part = match symbol {
                Symbol::Data(data) => Part::State(cut(self.piece(member, data), &into)),
                Symbol::Parity(number) => Part::Parity(cut(self.kept(member)[number].1.clone(), &into)),
            };
            let into = into.clone();
            Term {
                member,
                part,
                factor,
                into,
            }
        };
        Ok(self.code.rebuild(data, &present)?.into_iter().map(term).collect())
    }

    /// What a member has of a stripe.
    fn symbol(&self, member: usize, stripe: usize) -> Symbol {
        let members = self.members();
        let distance = (member + members - stripe) % members;
        match distance.checked_sub(self.losses) {
            None => Symbol::Parity(distance),
            Some(data) => Symbol::Data(data),
        }
    }

    /// Who has it.
    fn member(&self, symbol: Symbol, stripe: usize) -> usize {
        let distance = match symbol {
            Symbol::Parity(number) => number,
            Symbol::Data(data) => data + self.losses,
        };
        (stripe + distance) % self.members()
    }

    /// The stripes whose parity number 0, 1, … `keeper` keeps, and where among its parities.
    fn kept(&self, keeper: usize) -> Vec<(usize, Range<u64>)> {
        let (members, mut end) = (self.members(), 0);
        let of = |number: usize| {
            let stripe = (keeper + members - number) % members;
            let start = end;
            end += self.width(stripe);
            (stripe, start..end)
        };
        (0..self.losses).map(of).collect()
    }

    /// Bytes of a stripe's parities: those of the longest piece in it.
    fn width(&self, stripe: usize) -> u64 {
        let pieces = (0..self.members()).filter_map(|member| match self.symbol(member, stripe) {
            Symbol::Data(data) => Some(self.piece(member, data)),
            Symbol::Parity(_) => None,
        });
        let longest = pieces.map(|piece| piece.end - piece.start).max();
        longest.unwrap_or(0).next_multiple_of(ALIGN)
    }

    /// Which bytes of a member's state its piece of this number is.
    fn piece(&self, member: usize, number: usize) -> Range<u64> {
        let size = self.sizes[member];
        let pieces = (self.members() - self.losses) as u64;
        let width = size.div_ceil(pieces).next_multiple_of(ALIGN);
        let at = |number: usize| (number as u64 * width).min(size);
        at(number)..at(number + 1)
    }
}

/// A part no longer than what it is added to: behind that there are zeros only, all in all.
fn cut(range: Range<u64>, into: &Range<u64>) -> Range<u64> {
    range.start..range.end.min(range.start + (into.end - into.start))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every piece goes into as many parities as losses, none of them its owner's; and no two symbols of a stripe lie
    /// with one member.
    #[test]
    fn each_piece_is_covered_by_others_only() {
        for members in 2..=9 {
            for losses in 1..members {
                let group = Group::new(vec![(members * 640) as u64; members], losses).unwrap();
                let mut covered = vec![vec![0; members * 640]; members];
                for keeper in 0..members {
                    for term in group.encode(keeper) {
                        assert_ne!(term.member, keeper);
                        let Part::State(bytes) = term.part else {
                            panic!("of a state")
                        };
                        let (from, to) = (bytes.start as usize, bytes.end as usize);
                        covered[term.member][from..to].iter_mut().for_each(|n| *n += 1);
                    }
                }
                let all = covered.iter().flatten();
                assert!(all.into_iter().all(|n| *n == losses), "{losses} of {members}");
                for stripe in 0..members {
                    let of = |member| group.symbol(member, stripe);
                    assert!((0..members).all(|member| group.member(of(member), stripe) == member));
                }
            }
        }
    }

    #[test]
    fn parities_take_the_memory_that_the_design_says() {
        for members in 2..=9_u64 {
            for losses in 1..members {
                let size = ALIGN * (members - losses) * 11;
                let group = Group::new(vec![size; members as usize], losses as usize).unwrap();
                for member in 0..members as usize {
                    let bytes = group.parity_bytes(member);
                    assert_eq!(bytes, losses * size / (members - losses), "{losses} of {members}");
                }
            }
        }
    }
}
