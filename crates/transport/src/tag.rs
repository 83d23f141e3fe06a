//! What a frame is: its kind, step and indices. Receivers ask for a tag, not for "the next frame".
//!
//! In and out: plain values. A tag may be used again; frames of one tag queue in order (TR-1).

use std::fmt;

macro_rules! tag_kinds {
    ($($(#[$doc:meta])* $name:ident = $code:literal,)*) => {
        /// What a frame carries. The codes are on the wire: never give one a new meaning.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum TagKind {
            $($(#[$doc])* $name = $code,)*
        }

        impl TagKind {
            /// Every kind.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The kind with this code on the wire.
            #[must_use]
            pub fn from_code(code: u8) -> Option<Self> {
                match code {
                    $($code => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

tag_kinds! {
    /// Activations of a micro-batch, to the next stage.
    Activation = 1,
    /// Gradients of those activations, to the stage before.
    ActivationGrad = 2,
    /// A part of a layer's gradient, between the lanes of a stage.
    LayerGrad = 3,
    /// A part of a layer's new weights, between the lanes of a stage.
    LayerWeight = 4,
    /// The mirror's gradient of a tied embedding, to the rank that owns the embedding.
    TiedGrad = 5,
    /// The owner's new weights of a tied embedding, to the mirror.
    TiedWeight = 6,
    /// Small exact sums: losses, norms, digests, counts.
    Reduce = 7,
    /// A value one rank tells all others.
    Broadcast = 8,
    /// Nothing but having arrived.
    Barrier = 9,
    /// Held-out evaluation.
    Eval = 10,
    /// Ranges of a layer's state on their way to a new owner, a guard or a checkpoint.
    State = 11,
    /// Tokens and masks, where not every stage reads the corpus itself.
    Tokens = 12,
    /// A rank's final gradient of a layer, to its guard.
    ShadowGrad = 13,
    /// A rank's state, to its guard, which keeps it up to date from then on.
    ShadowState = 14,
    /// Pieces of a state for the parities of a group, or of states and parities for one that is lost.
    Parity = 15,
    /// What the two ends of a link agree on about another way for their payloads.
    Pair = 16,
}

impl TagKind {
    /// The code on the wire.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }
}

/// Names a frame between one sender and one receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag {
    /// What it carries.
    pub kind: TagKind,
    /// Training step.
    pub step: u64,
    /// Micro-batch or layer, as the kind says.
    pub index: u32,
    /// Second index where one isn't enough (an operation's phase, a chunk of a layer); 0 otherwise.
    pub part: u32,
}

impl Tag {
    /// The tag with `part` 0.
    #[must_use]
    pub const fn new(kind: TagKind, step: u64, index: u32) -> Self {
        Self {
            kind,
            step,
            index,
            part: 0,
        }
    }

    /// The same tag with another `part`.
    #[must_use]
    pub const fn with_part(self, part: u32) -> Self {
        Self { part, ..self }
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} step {} index {} part {}",
            self.kind, self.step, self.index, self.part
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_invertible() {
        let mut seen = 0_u32;
        for code in 0..=u8::MAX {
            if let Some(kind) = TagKind::from_code(code) {
                assert_eq!(kind.code(), code);
                seen += 1;
            }
        }
        assert_eq!(seen as usize, TagKind::ALL.len());
    }
}
