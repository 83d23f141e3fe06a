//! Decides on one look at what is under way: wait, done, or why not. Pure.

use std::time::Duration;

use rekindle_compute::cuda::nccl::Code;

/// What a look shows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    /// The communicator's state.
    pub(crate) state: Code,
    /// Whether what was asked for has happened, as far as the device can tell. Counts only where the state is good.
    pub(crate) done: bool,
    /// Whether this rank gave up.
    pub(crate) stopped: bool,
    /// Since when the peer's connection is at its end.
    pub(crate) hung_up: Option<Duration>,
    /// How long it has been waited for.
    pub(crate) waited: Duration,
}

/// What may be waited for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// In all.
    pub(crate) wait: Duration,
    /// After the peer's connection has ended.
    pub(crate) hang_up: Duration,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Look again.
    Wait,
    /// It has happened.
    Done,
    /// NCCL says that it failed.
    Failed,
    /// This rank gave up.
    Stopped,
    /// The peer is gone.
    HungUp,
    /// It takes too long.
    Hung,
}

/// What is over counts before anything else does: a peer may be gone right after its last transfer.
pub(crate) fn judge(seen: Seen, bounds: Bounds) -> Verdict {
    match seen.state {
        Code::SUCCESS if seen.done => Verdict::Done,
        Code::SUCCESS | Code::IN_PROGRESS if seen.stopped => Verdict::Stopped,
        Code::SUCCESS | Code::IN_PROGRESS if seen.hung_up.is_some_and(|since| since > bounds.hang_up) => {
            Verdict::HungUp
        }
        Code::SUCCESS | Code::IN_PROGRESS if seen.waited > bounds.wait => Verdict::Hung,
        Code::SUCCESS | Code::IN_PROGRESS => Verdict::Wait,
        _ => Verdict::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        wait: Duration::from_secs(10),
        hang_up: Duration::from_secs(1),
    };

    fn seen(state: Code, done: bool) -> Seen {
        Seen {
            state,
            done,
            stopped: false,
            hung_up: None,
            waited: Duration::from_secs(2),
        }
    }

    #[test]
    fn what_is_done_counts_whatever_happens_beside_it() {
        let late = Seen {
            stopped: true,
            hung_up: Some(Duration::from_secs(9)),
            waited: Duration::from_secs(99),
            ..seen(Code::SUCCESS, true)
        };
        assert_eq!(judge(late, BOUNDS), Verdict::Done);
        // NCCL hasn't given it to the device yet, so the device's word means nothing.
        let early = seen(Code::IN_PROGRESS, true);
        assert_eq!(judge(early, BOUNDS), Verdict::Wait);
    }

    #[test]
    fn every_code_but_two_is_a_failure_also_unknown_ones() {
        for code in (-2..12).map(Code) {
            let expected = match code {
                Code::SUCCESS | Code::IN_PROGRESS => Verdict::Wait,
                _ => Verdict::Failed,
            };
            assert_eq!(judge(seen(code, false), BOUNDS), expected, "{code:?}");
        }
    }

    #[test]
    fn a_wait_ends_when_stopped_when_the_peer_is_gone_for_long_and_at_its_bound() {
        let waiting = seen(Code::SUCCESS, false);
        let hung_up = |millis| Seen {
            hung_up: Some(Duration::from_millis(millis)),
            ..waiting
        };
        assert_eq!(judge(waiting, BOUNDS), Verdict::Wait);
        assert_eq!(judge(hung_up(999), BOUNDS), Verdict::Wait);
        assert_eq!(judge(hung_up(1001), BOUNDS), Verdict::HungUp);
        let stopped = Seen {
            stopped: true,
            ..hung_up(1001)
        };
        assert_eq!(judge(stopped, BOUNDS), Verdict::Stopped);
        let late = Seen {
            waited: Duration::from_secs(11),
            ..waiting
        };
        assert_eq!(judge(late, BOUNDS), Verdict::Hung);
    }
}
