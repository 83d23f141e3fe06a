//! What became of a lost part of a job: one causal story per loss, as plain data.
//!
//! ```text
//!   first failure noted   verdict     new plan durable   all told to connect   first new step committed
//!         detected ------> decided --------> placed ------------> ready ---------------> rejoined
//!                  decide           place            load                  rejoin
//! ```
//!
//! Deliberately absent: how a story is put together (the coordinator's journal is folded into it) and how it is shown.

use serde::{Deserialize, Serialize};

use crate::status::named_enum;
use crate::{Epoch, Failure, WorkerId};

named_enum! {
    /// What a failure was to an incident.
    CausalRole {
        /// The verdict: the failure that the job was stopped for.
        Initiating = "INITIATING",
        /// A broken connection or a standstill, as the loss of another part causes it.
        Cascade = "CASCADE",
        /// No verdict has fallen yet, or a failure of its own weight beside the verdict.
        Unknown = "UNKNOWN",
    }
}

named_enum! {
    /// How far an incident is.
    IncidentState {
        /// Failures were noted; which one caused the others isn't decided yet.
        Tracing = "TRACING",
        /// The job waits for a place, or its new trainers start.
        Recovering = "RECOVERING",
        /// The job went on.
        Recovered = "RECOVERED",
        /// Another part was lost before the job went on; the next incident tells the rest.
        Overtaken = "OVERTAKEN",
        /// The job failed of it.
        Failed = "FAILED",
        /// The job was cancelled before it went on.
        Cancelled = "CANCELLED",
    }
}

named_enum! {
    /// Where the state came from that a job went on with.
    StateSource {
        /// The memory of the workers, in which dead trainers left it.
        Local = "local",
        /// The same, with ranks whose machines were lost taking theirs from their guards.
        Shadow = "shadow",
        /// The memory of the workers as of a group's last exchange; what was lost was worked out from parities.
        Parity = "parity",
        /// The same, with stages that nobody had made of their neighbours.
        NeighbourAverage = "neighbour_average",
        /// A committed checkpoint.
        Checkpoint = "checkpoint",
        /// The job's first weights: nothing was saved yet.
        Beginning = "beginning",
    }
}

/// A failure of an incident.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NotedFailure {
    /// When it was noted, milliseconds since the Unix epoch by the coordinator's clock.
    pub time_unix_ms: u64,
    /// What it was to the incident.
    pub role: CausalRole,
    /// The worker that reported it; none: the coordinator saw it itself.
    pub seen_by: Option<WorkerId>,
    /// What went wrong, and where.
    pub failure: Failure,
}

/// When an incident's phases were reached, milliseconds since the Unix epoch by the coordinator's clock (which may be
/// set back).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IncidentTimes {
    /// The first failure was noted.
    pub detected: u64,
    /// The verdict fell: the job starts again or has failed.
    pub decided: Option<u64>,
    /// The new plan was made; nothing followed from it before it was durable.
    pub placed: Option<u64>,
    /// All trainers of the new plan held their state and were told to connect. None too when the coordinator was down
    /// just then.
    pub ready: Option<u64>,
    /// The first step of the new epoch was committed; where no step was left to run: the job ended.
    pub rejoined: Option<u64>,
}

/// How long an incident's phases took, milliseconds. None: a phase that wasn't reached, or whose start isn't known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct IncidentDurations {
    /// From the first failure to the verdict.
    pub decide: Option<u64>,
    /// From the verdict to the new plan: trainers stop, slots are waited for, a checkpoint is chosen.
    pub place: Option<u64>,
    /// From the new plan until all trainers had loaded their state.
    pub load: Option<u64>,
    /// From there to the first step.
    pub rejoin: Option<u64>,
    /// From the first failure to the first step.
    pub total: Option<u64>,
}

/// A loss of a part of a job, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Incident {
    /// Counts the incidents of the job, from 1.
    pub number: u64,
    /// The epoch it ended.
    pub epoch: Epoch,
    /// The epoch that took its place, once that is planned.
    pub next_epoch: Option<Epoch>,
    /// How far it is.
    pub state: IncidentState,
    /// The failures noted, in order: the first is what was seen first, the INITIATING one is the verdict. Late ones
    /// of trainers that were already to be stopped are among them, as long as the job hasn't failed.
    pub failures: Vec<NotedFailure>,
    /// Further failures that were noted and aren't kept.
    pub more_failures: u64,
    /// What was decided and why, one sentence; empty while TRACING.
    pub decision: String,
    /// Where the state came from, once that is known.
    pub source: Option<StateSource>,
    /// URL of the checkpoint, where the source is one.
    pub source_url: Option<String>,
    /// Whether the state is the one an undisturbed run has after that step, bit for bit.
    pub exact: bool,
    /// The last step the ended epoch had committed (or the one it had started from, where it had committed none), as
    /// far as known: a coordinator that has just been restarted may not have heard of any.
    pub last_step: Option<u64>,
    /// The step the job went on after; 0: the job's first weights.
    pub resumed_step: Option<u64>,
    /// When the phases were reached.
    pub times: IncidentTimes,
}

impl Incident {
    /// The verdict, once it fell.
    #[must_use]
    pub fn initiating(&self) -> Option<&NotedFailure> {
        let is_verdict = |noted: &&NotedFailure| noted.role == CausalRole::Initiating;
        self.failures.iter().find(is_verdict)
    }

    /// How many steps the ended epoch had committed that are run again.
    #[must_use]
    pub fn steps_again(&self) -> Option<u64> {
        Some(self.last_step?.saturating_sub(self.resumed_step?))
    }

    /// Whether what becomes of it isn't known yet.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.state, IncidentState::Tracing | IncidentState::Recovering)
    }

    /// How long the phases took.
    #[must_use]
    pub fn durations(&self) -> IncidentDurations {
        let times = self.times;
        let between = |from: Option<u64>, to: Option<u64>| Some(to?.saturating_sub(from?));
        IncidentDurations {
            decide: between(Some(times.detected), times.decided),
            place: between(times.decided, times.placed),
            load: between(times.placed, times.ready),
            rejoin: between(times.ready, times.rejoined),
            total: between(Some(times.detected), times.rejoined),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_steps_are_known_as_far_as_their_ends_are() {
        let mut incident = Incident {
            number: 1,
            epoch: Epoch(1),
            next_epoch: None,
            state: IncidentState::Recovering,
            failures: Vec::new(),
            more_failures: 0,
            decision: String::new(),
            source: None,
            source_url: None,
            exact: true,
            last_step: Some(7),
            resumed_step: None,
            times: IncidentTimes {
                detected: 100,
                decided: Some(130),
                placed: Some(200),
                ready: None,
                rejoined: Some(1_000),
            },
        };
        let durations = incident.durations();
        assert_eq!((durations.decide, durations.place), (Some(30), Some(70)));
        assert_eq!((durations.load, durations.rejoin), (None, None));
        assert_eq!(durations.total, Some(900));
        assert_eq!(incident.steps_again(), None);
        incident.resumed_step = Some(4);
        assert_eq!(incident.steps_again(), Some(3));
    }
}
