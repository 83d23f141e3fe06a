//! Parity: what a group of ranks on different workers keeps of each other's states, so that the states of any few of
//! them can be worked out from the others'. Bytes and arithmetic only.
//!
//! ```text
//!   group of n members, r losses: the state of each is cut into n-r pieces; stripe j is made of one piece of each of n-r members and of r
//!   parities, which the other r members keep                                                                       [layout]
//!   n = 4, r = 1:   member      0     1     2     3
//!                   stripe 0    P     d     d     d        P of stripe j is kept by member j, and never covers a piece of its keeper
//!                   stripe 1    d     P     d     d
//!                   stripe 2    d     d     P     d        memory for parities: state / (n-1), or r * state / (n-r)
//!                   stripe 3    d     d     d     P
//!   encode, rebuild: sums of pieces times constants of GF(2^8), given as lists of terms                            [code, field]
//!   a set: one member's state as of a step and its parities of that step, with checksums                           [seal]
//! ```
//!
//! The layout is that of REFT (rotated: each sub-shard is covered by one parity, never by its owner's), with r
//! parities in the place of one. The code is a systematic Reed-Solomon code from a Cauchy matrix (Blömer et al. 1995)
//! whose columns are scaled so that its first row is all ones: with one loss it is XOR. It is written here and not
//! taken from a crate: terms have to be added one by one as they arrive, in chunks and for one lost member alone.
//! `reed-solomon-simd` and `reed-solomon-erasure` want all shards at once, of one length, and work out all that is
//! lost; the former's transform pays off for hundreds of shards, the latter is slow without its C code.
//!
//! Invariants
//! - VA-5 With any r members of a group of n gone, the state of each is the sum of the terms that [`Group::rebuild`]
//!   names, all of them kept by members that are left.
//! - VA-6 A set that was changed after it was sealed is refused.
//!
//! Deliberately absent: who is in a group, how pieces travel, and where a set lies.

mod code;
mod error;
mod field;
mod layout;
mod seal;

pub use code::{Code, Symbol};
pub use error::{Damaged, ParityError};
pub use field::add_scaled;
pub use layout::{ALIGN, Group, Part, Term};
pub use seal::{SEAL, Seal, checksum};
