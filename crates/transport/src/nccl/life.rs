//! The states of a communicator and what may be called in each (TR-10). Pure.
//!
//! ```text
//!  Making ──> Ready <──> Busy            Ready ──> Finalizing ──> Quiet ──> Ended
//!     └─────────┴─────────┴─────> Failed ─────────────────────────────────────┘  (abort, from anywhere)
//! ```

use rekindle_compute::cuda::nccl::Code;

/// Where a communicator is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    /// It meets its ranks.
    Making,
    /// At rest.
    Ready,
    /// Something is under way.
    Busy,
    /// It is let go of in order.
    Finalizing,
    /// Nothing is left in it.
    Quiet,
    /// It can't be relied on any more.
    Failed,
    /// It is gone.
    Ended,
}

/// What somebody wants to do with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    /// Transfer, or make another one of it.
    Use,
    /// Finalize.
    Finalize,
    /// Destroy.
    Destroy,
    /// Abort.
    Abort,
    /// Stop what is under way and make another one of it, without those that are lost.
    Rescue,
}

impl Life {
    /// Whether that may be called now.
    pub(crate) fn allows(self, act: Act) -> bool {
        match act {
            Act::Use | Act::Finalize => self == Self::Ready,
            Act::Destroy => self == Self::Quiet,
            Act::Abort => self != Self::Ended,
            Act::Rescue => matches!(self, Self::Ready | Self::Busy | Self::Failed),
        }
    }

    /// What it is after `act` was called and gave `code`.
    pub(crate) fn after(self, act: Act, code: Code) -> Self {
        match (act, code) {
            (Act::Destroy | Act::Abort, _) => Self::Ended,
            (Act::Use | Act::Rescue, Code::SUCCESS | Code::IN_PROGRESS) => Self::Busy,
            (Act::Finalize, Code::SUCCESS | Code::IN_PROGRESS) => Self::Finalizing,
            _ => Self::Failed,
        }
    }

    /// What it is once what was under way is over.
    pub(crate) fn over(self) -> Self {
        match self {
            Self::Making | Self::Busy | Self::Ready => Self::Ready,
            Self::Finalizing => Self::Quiet,
            other => other,
        }
    }

    /// In words.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Making => "being made",
            Self::Ready => "at rest",
            Self::Busy => "busy",
            Self::Finalizing => "being let go of",
            Self::Quiet => "let go of",
            Self::Failed => "broken",
            Self::Ended => "gone",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_failure_there_is_only_abort_and_rescue() {
        for act in [Act::Use, Act::Finalize] {
            for code in [1, 2, 3, 4, 5, 6, 8, 9, -1, 77].map(Code) {
                assert_eq!(Life::Ready.after(act, code), Life::Failed, "{code:?}");
            }
        }
        let allowed =
            |life: Life| [Act::Use, Act::Finalize, Act::Destroy, Act::Abort].map(|a| life.allows(a));
        assert_eq!(allowed(Life::Failed), [false, false, false, true]);
        assert_eq!(Life::Failed.over(), Life::Failed);
        assert_eq!(Life::Failed.after(Act::Abort, Code(1)), Life::Ended);
    }

    #[test]
    fn nothing_else_is_asked_while_something_is_under_way() {
        for life in [Life::Making, Life::Busy, Life::Finalizing] {
            assert!(!life.allows(Act::Use) && !life.allows(Act::Finalize) && !life.allows(Act::Destroy));
        }
    }

    #[test]
    fn only_what_was_finalized_is_destroyed_and_nothing_is_aborted_twice() {
        use Life::{Busy, Ended, Failed, Finalizing, Making, Quiet, Ready};
        for life in [Making, Ready, Busy, Finalizing, Quiet, Failed, Ended] {
            assert_eq!(life.allows(Act::Destroy), life == Life::Quiet, "{life:?}");
            assert_eq!(life.allows(Act::Abort), life != Life::Ended, "{life:?}");
        }
    }
}
