//! What the two ends of a link say to each other before NCCL may carry anything (TR-11, TR-12). Pure.
//!
//! ```text
//!  first (the lower rank)                         second
//!  Offer: version, what it holds    ──>      compares with its own
//!                                   <──      Answer: keep, make under these ids, or neither and why
//!      both take up communicators that they hold, or make new ones
//!  Ready, or why not                <──>     Ready, or why not
//! ```
//!
//! Ids are made by the answering end, and only where they are needed: NCCL listens for those that come under each
//! until the process ends.
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
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "one for each link of a plan, for a moment"
)]
pub(crate) enum Answer {
    /// New communicators under these ids: the first for what the first end sends.
    Make([UniqueId; 2]),
    /// Those that both hold.
    Keep,
    /// Nothing: TCP.
    Neither(String),
}

/// The second end's decision. `ids` are asked for where they are needed, and give a reason where there can't be any.
pub(crate) fn answer(
    offer: &Offer,
    version: i32,
    held: Option<Held>,
    ids: impl FnOnce() -> Result<[UniqueId; 2], String>,
) -> Answer {
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
        _ => ids().map_or_else(Answer::Neither, Answer::Make),
    }
}

/// The number of communicators made under these ids.
pub(crate) fn birth(ids: &[UniqueId; 2]) -> u64 {
    xxh3_64(&[ids[0].0, ids[1].0].concat())
}

const OFFER_BYTES: usize = 4 + 1 + 3 * 8;

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
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        let head: &[u8; OFFER_BYTES] = bytes
            .try_into()
            .map_err(|_| "an offer of NCCL has another length")?;
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
        })
    }
}

impl Answer {
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Make(ids) => [&[0], &ids[0].0[..], &ids[1].0].concat(),
            Self::Keep => vec![1],
            Self::Neither(why) => [&[2], why.as_bytes()].concat(),
        }
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        match bytes {
            [0, ids @ ..] if ids.len() == 256 => Ok(Self::Make(
                [0, 128].map(|from| UniqueId(std::array::from_fn(|i| ids[from + i]))),
            )),
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
        Offer { version, held }
    }

    const IDS: [UniqueId; 2] = [UniqueId([1; 128]), UniqueId([2; 128])];

    const HELD: Held = Held {
        birth: 7,
        sent: 3,
        received: 5,
    };

    #[test]
    fn what_both_hold_at_rest_with_the_same_past_is_kept() {
        let mine = |held| answer(&offer(23_203, Some(HELD)), 23_203, held, || Ok(IDS));
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
            assert_eq!(mine(other), Answer::Make(IDS), "{other:?}");
        }
        let nothing = offer(23_203, None);
        assert_eq!(
            answer(&nothing, 23_203, Some(HELD), || Ok(IDS)),
            Answer::Make(IDS)
        );
        let none = answer(&nothing, 23_203, None, || Err("no network".to_owned()));
        assert_eq!(none, Answer::Neither("no network".to_owned()));
    }

    #[test]
    fn without_nccl_at_one_end_or_with_two_versions_it_is_tcp() {
        for (first, second) in [(0, 0), (0, 23_203), (23_203, 0), (23_203, 23_007)] {
            let Answer::Neither(why) = answer(&offer(first, None), second, None, || Ok(IDS)) else {
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
        for answer in [Answer::Make(IDS), Answer::Keep, Answer::Neither("so".into())] {
            assert_eq!(Answer::decode(&answer.encode()), Ok(answer));
        }
        for nonsense in [&[][..], &[0], &[1, 1], &[3]] {
            assert!(Answer::decode(nonsense).is_err(), "{nonsense:?}");
        }
    }

    #[test]
    fn other_ids_are_another_birth() {
        assert_ne!(birth(&IDS), birth(&[IDS[1], IDS[0]]));
    }
}
