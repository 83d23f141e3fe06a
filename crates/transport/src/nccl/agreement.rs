//! What the two ends of a link say to each other before NCCL may carry anything (TR-11, TR-12). Pure.
//!
//! ```text
//!  first (the lower rank)                         second
//!  Offer: version, what it holds, ids    ──>      compares with its own
//!                                        <──      Answer: make, keep, or neither and why
//!      both make communicators, or take up those they hold
//!  Ready, or why not                     <──>     Ready, or why not
//! ```
//!
//! In and out: values and their bytes. Bytes that make no sense are an error, which names what.

use rekindle_compute::cuda::nccl::UniqueId;
use xxhash_rust::xxh3::xxh3_64;

/// Communicators that an end has from an earlier epoch, at rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Held {
    /// Which.
    pub(crate) birth: u64,
    /// Payloads that this end has sent through them.
    pub(crate) sent: u64,
    /// Payloads that it has received.
    pub(crate) received: u64,
}

/// What the first end has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Offer {
    /// NCCL's version; 0 without NCCL.
    pub(crate) version: i32,
    pub(crate) held: Option<Held>,
    /// To meet under anew.
    pub(crate) ids: [UniqueId; 2],
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Communicators under the offered ids.
    Make,
    /// Those that both hold.
    Keep,
    /// Nothing: TCP.
    Neither(String),
}

/// The second end's decision.
pub(crate) fn answer(offer: &Offer, version: i32, held: Option<Held>) -> Answer {
    let neither = |why: &str| Answer::Neither(why.to_owned());
    if version == 0 {
        return neither("the higher rank has no NCCL");
    }
    if offer.version == 0 {
        return neither("the lower rank has no NCCL");
    }
    if offer.version != version {
        return Answer::Neither(format!(
            "the lower rank has NCCL {}, the higher one {version}",
            offer.version
        ));
    }
    let turned = held.map(|mine| Held {
        sent: mine.received,
        received: mine.sent,
        ..mine
    });
    match offer.held {
        Some(theirs) if turned == Some(theirs) => Answer::Keep,
        _ => Answer::Make,
    }
}

/// The number of communicators made under these ids.
pub(crate) fn birth(ids: &[UniqueId; 2]) -> u64 {
    xxh3_64(&[ids[0].0, ids[1].0].concat())
}

const HEAD: usize = 4 + 1 + 3 * 8;

impl Offer {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let held = self.held.unwrap_or(Held {
            birth: 0,
            sent: 0,
            received: 0,
        });
        let mut out = self.version.to_le_bytes().to_vec();
        out.push(u8::from(self.held.is_some()));
        for number in [held.birth, held.sent, held.received] {
            out.extend(number.to_le_bytes());
        }
        out.extend(self.ids.iter().flat_map(|id| id.0));
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        let long = bytes.len() == HEAD + 256;
        let (head, ids) = bytes
            .split_at_checked(HEAD)
            .filter(|_| long)
            .ok_or("an offer of NCCL has another length")?;
        let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| head[at + i]));
        let held = match head[4] {
            0 => None,
            1 => Some(Held {
                birth: number(5),
                sent: number(13),
                received: number(21),
            }),
            _ => return Err("an offer of NCCL holds neither something nor nothing"),
        };
        Ok(Self {
            version: i32::from_le_bytes(std::array::from_fn(|i| head[i])),
            held,
            ids: [0, 128].map(|from| UniqueId(std::array::from_fn(|i| ids[from + i]))),
        })
    }
}

impl Answer {
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Make => vec![0],
            Self::Keep => vec![1],
            Self::Neither(why) => [&[2], why.as_bytes()].concat(),
        }
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        match bytes {
            [0] => Ok(Self::Make),
            [1] => Ok(Self::Keep),
            [2, why @ ..] => Ok(Self::Neither(String::from_utf8_lossy(why).into_owned())),
            _ => Err("an answer about NCCL is none of the three"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(version: i32, held: Option<Held>) -> Offer {
        Offer {
            version,
            held,
            ids: [UniqueId([1; 128]), UniqueId([2; 128])],
        }
    }

    const HELD: Held = Held {
        birth: 7,
        sent: 3,
        received: 5,
    };

    #[test]
    fn what_both_hold_at_rest_with_the_same_past_is_kept() {
        let mine = |held| answer(&offer(23_203, Some(HELD)), 23_203, held);
        let turned = Held {
            sent: 5,
            received: 3,
            ..HELD
        };
        assert_eq!(mine(Some(turned)), Answer::Keep);
        for other in [
            None,
            Some(HELD),
            Some(Held { birth: 8, ..turned }),
            Some(Held {
                received: 4,
                ..turned
            }),
        ] {
            assert_eq!(mine(other), Answer::Make, "{other:?}");
        }
        assert_eq!(answer(&offer(23_203, None), 23_203, Some(HELD)), Answer::Make);
    }

    #[test]
    fn without_nccl_at_one_end_or_with_two_versions_it_is_tcp() {
        for (first, second) in [(0, 0), (0, 23_203), (23_203, 0), (23_203, 23_007)] {
            let Answer::Neither(why) = answer(&offer(first, None), second, None) else {
                panic!("{first} and {second} agreed");
            };
            assert!(why.contains("NCCL"), "{why}");
        }
    }

    #[test]
    fn what_is_said_arrives_and_nonsense_is_refused() {
        for held in [None, Some(HELD)] {
            let offer = offer(-1, held);
            let bytes = offer.encode();
            assert_eq!(Offer::decode(&bytes).as_ref(), Ok(&offer));
            assert!(
                Offer::decode(&bytes[1..]).is_err() && Offer::decode(&[&bytes[..], &[0]].concat()).is_err()
            );
            let wrong = [&bytes[..4], &[2], &bytes[5..]].concat();
            assert!(Offer::decode(&wrong).is_err());
        }
        for answer in [Answer::Make, Answer::Keep, Answer::Neither("so".into())] {
            assert_eq!(Answer::decode(&answer.encode()), Ok(answer));
        }
        assert!(Answer::decode(&[]).is_err() && Answer::decode(&[1, 1]).is_err());
    }

    #[test]
    fn other_ids_are_another_birth() {
        let ids = offer(1, None).ids;
        assert_ne!(birth(&ids), birth(&[ids[1], ids[0]]));
    }
}
