//! Why there is no parity, or no state from it.

/// A group or its state that can't be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParityError {
    /// No code has this shape.
    #[error(
        "a group of {members} can't outlive {losses} losses: there have to be more members than losses, and {most} members at most"
    )]
    Shape {
        /// Members of the group.
        members: usize,
        /// Losses that it is to outlive.
        losses: usize,
        /// The most members that a group can have.
        most: usize,
    },
    /// More is gone than the parities make up for.
    #[error("members {lost:?} of a group of {members} are lost, and it outlives {losses} losses")]
    TooManyLosses {
        /// Who is gone.
        lost: Vec<usize>,
        /// Members of the group.
        members: usize,
        /// Losses that it outlives.
        losses: usize,
    },
    /// The one to be rebuilt is left, or was never in the group.
    #[error("member {member} of a group of {members} isn't lost")]
    NotLost {
        /// Who.
        member: usize,
        /// Members of the group.
        members: usize,
    },
}

/// Why a set offers nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damaged {
    /// It was never sealed, or its seal was changed.
    #[error("it was never finished, or what is written about it was changed")]
    Seal,
    /// The state was changed, or isn't the one that it was sealed with.
    #[error("the state in it was changed")]
    State,
    /// A parity was changed.
    #[error("parity {number} in it was changed")]
    Parity {
        /// Number among those of its keeper.
        number: usize,
    },
}
