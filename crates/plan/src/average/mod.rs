//! Rebuilding a lost pipeline stage from its neighbours: the mathematics alone.
//!
//! The method is CheckFree and CheckFree+ (arXiv 2506.15461v2, sections 4.2 and 4.3): stages of equal shape follow
//! each other, and the weights of a lost one become a mean of its neighbours', weighted by the norms of their last
//! gradients. In: flat `f32` slices, facts about stages. Out: flat `f32` vectors, shares, learning-rate factors. A
//! trainer calls these in this order:
//!
//! ```text
//! refuse_adjacent(lost) -> source_of(stage, facts, swapped) -> Source::mix(weighting, norms) -> blend(weights)
//!                                                                   -> starting_moments -> Boost::recovered
//! ```
//!
//! Stages are counted from 0 among the block stages; the embedding and the head are no block stages and can't be
//! blended.
//!
//! Invariants
//! - PL-6 Nothing is read from a stage that is lost: such a source is refused by name, and so is an element that
//!   isn't finite.
//! - PL-7 Shares are not negative and add up to 1, whatever the norms; so a blend lies between its sources, element
//!   by element.
//!
//! Deliberately absent: any stage, device, randomness or clock. The result is approximate by nature; nothing here
//! claims otherwise.

mod blend;
mod boost;
mod candidates;
mod error;
mod moments;
mod sources;
mod stand_in;
mod weights;

pub use blend::blend;
pub use boost::{Boost, BoostRule};
pub use candidates::{Candidate, candidates, outputs};
pub use error::AverageError;
pub use moments::{MomentSlices, StartingMoments, starting_moments};
pub use sources::{Source, StageFacts, copy_of, refuse_adjacent, source_of, visiting_order};
pub use stand_in::{blocks, like, means};
pub use weights::{Mix, Part, shares};

/// What the functions here return.
pub type Result<T> = std::result::Result<T, AverageError>;
