//! Who waits for whom, and where that begins. Pure: ranks in, a chain of ranks out.
//!
//! Where a gang stands still nearly everybody waits, each for the one whose frame it needs next. The rank at fault is
//! the one at the end of that chain: it is waited for, and waits for nobody.

use std::collections::BTreeMap;

use rekindle_types::RankId;

/// Where waiting leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Chain {
    /// Each waits for the next one, the last for nobody.
    To(Vec<RankId>),
    /// Each waits for the next one, the last for the first.
    Around(Vec<RankId>),
}

impl Chain {
    /// The rank at which it begins: the last one.
    pub(crate) fn end(&self) -> Option<RankId> {
        match self {
            Self::To(path) => path.last().copied(),
            Self::Around(_) => None,
        }
    }
}

/// The chain that begins at `from`. `next`: whom a rank waits for.
fn follow(from: RankId, next: impl Fn(RankId) -> Option<RankId>) -> Chain {
    let (mut path, mut at) = (vec![from], from);
    while let Some(on) = next(at) {
        if let Some(met) = path.iter().position(|rank| *rank == on) {
            return Chain::Around(path.split_off(met));
        }
        path.push(on);
        at = on;
    }
    Chain::To(path)
}

/// The longest chain to the rank that most ranks wait for, through others or not; where all wait for each other in a
/// circle, that. Of equals the lowest rank counts. None: nobody waits.
pub(crate) fn origin(
    ranks: impl IntoIterator<Item = RankId>,
    next: impl Fn(RankId) -> Option<RankId>,
) -> Option<Chain> {
    let (mut ends, mut circle) = (BTreeMap::<RankId, (usize, Vec<RankId>)>::new(), None);
    for rank in ranks.into_iter().filter(|rank| next(*rank).is_some()) {
        match follow(rank, &next) {
            Chain::To(path) => {
                let Some(end) = path.last().copied() else { continue };
                let (waiting, longest) = ends.entry(end).or_default();
                *waiting += 1;
                if path.len() > longest.len() {
                    *longest = path;
                }
            }
            around @ Chain::Around(_) => circle = circle.or(Some(around)),
        }
    }
    // The first of equals, as the map is in the order of ranks.
    let most = ends.into_values().rev().max_by_key(|(waiting, _)| *waiting);
    most.map(|(_, path)| Chain::To(path)).or(circle)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Edges as pairs.
    fn from(edges: &[(u32, u32)]) -> Option<Chain> {
        let next = |rank: RankId| {
            let edge = edges.iter().find(|(a, _)| *a == rank.0);
            edge.map(|(_, b)| RankId(*b))
        };
        origin((0..10).map(RankId), next)
    }

    fn to(path: &[u32]) -> Option<Chain> {
        Some(Chain::To(path.iter().copied().map(RankId).collect()))
    }

    fn around(path: &[u32]) -> Option<Chain> {
        Some(Chain::Around(path.iter().copied().map(RankId).collect()))
    }

    #[test]
    fn it_begins_at_the_rank_that_is_waited_for_and_waits_for_nobody() {
        assert_eq!(from(&[]), None);
        assert_eq!(from(&[(0, 1)]), to(&[0, 1]));
        // A pipeline of four whose second stage is stuck.
        assert_eq!(from(&[(0, 1), (2, 1), (3, 2)]), to(&[3, 2, 1]));
        // A collective: everybody waits for the next one.
        assert_eq!(
            from(&[(0, 1), (1, 2), (2, 3), (4, 5), (5, 0)]),
            to(&[4, 5, 0, 1, 2, 3])
        );
    }

    #[test]
    fn of_two_that_are_stuck_the_one_counts_that_more_wait_for() {
        assert_eq!(from(&[(0, 1), (2, 3), (4, 2)]), to(&[4, 2, 3]));
        assert_eq!(from(&[(0, 7), (2, 3)]), to(&[2, 3]), "of equals the lower rank");
    }

    #[test]
    fn a_circle_is_one_only_where_nobody_is_stuck_by_itself() {
        assert_eq!(from(&[(1, 2), (2, 1)]), around(&[1, 2]));
        assert_eq!(from(&[(0, 1), (1, 2), (2, 3), (3, 1)]), around(&[1, 2, 3]));
        assert_eq!(from(&[(5, 5)]), around(&[5]));
        assert_eq!(from(&[(0, 1), (1, 0), (2, 9)]), to(&[2, 9]));
    }

    #[test]
    fn every_chain_ends() {
        // All graphs of four ranks in which each waits for one of the four or for nobody.
        for graph in 0..5_u32.pow(4) {
            let next = |rank: RankId| {
                let on = graph / 5_u32.pow(rank.0) % 5;
                (on < 4).then_some(RankId(on))
            };
            match origin((0..4).map(RankId), next) {
                None => assert!((0..4).all(|rank| next(RankId(rank)).is_none()), "{graph}"),
                Some(Chain::To(path)) => {
                    let (last, before) = path.split_last().expect("two at least");
                    assert_eq!(next(*last), None, "{graph}");
                    let links = before.iter().zip(&path[1..]);
                    assert!(links.clone().count() > 0, "{graph}");
                    assert!(links.into_iter().all(|(a, b)| next(*a) == Some(*b)), "{graph}");
                }
                Some(Chain::Around(path)) => {
                    let ahead = path.iter().cycle().skip(1);
                    assert!(
                        path.iter().zip(ahead).all(|(a, b)| next(*a) == Some(*b)),
                        "{graph}"
                    );
                    let ends = |rank| matches!(follow(RankId(rank), next), Chain::To(p) if p.len() > 1);
                    assert!(!(0..4).any(ends), "{graph}");
                }
            }
        }
    }
}
