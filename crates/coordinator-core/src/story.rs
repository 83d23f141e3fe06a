//! Losses told as stories: the fold of a job's records into incidents (CO-2, CO-9).
//!
//! ```text
//!   FailureNoted ----> Requeued --> (late FailureNoted) --> Planned --> Reloaded --> Running, IncidentClosed
//!     TRACING           RECOVERING                                                    RECOVERED
//!        |                  +-- another Requeued before the first step --> OVERTAKEN
//!        +------------------+-- Ended --> FAILED, CANCELLED
//! ```
//!
//! In: records, one after the other. Out: [`Incident`]s, the newest [`crate::Config::max_incidents`] of a job.
//! Deliberately absent: deciding anything (see [`crate::verdict`], [`crate::recover`]), and the sentences (see
//! [`crate::telling`]).

use std::collections::{BTreeMap, VecDeque};

use rekindle_types::{
    CausalRole, Epoch, Failure, Incident, IncidentState, IncidentTimes, JobState, NotedFailure, RankId,
    Refill, StartPoint, StateSource, WorkerId,
};

use crate::durable_job::DurableJob;
use crate::telling::{failed, origin, restart};
use crate::verdict::is_weak;
use crate::{Change, Millis};

/// Failures kept per incident; a large gang's broken connections tell the same thing again and again.
const MOST_FAILURES: usize = 32;

/// The incidents of a job.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Story {
    /// The newest ones, oldest first.
    pub incidents: VecDeque<Incident>,
    /// Number of all there were.
    pub count: u64,
    /// The one whose end isn't in the job's history yet.
    untold: Option<u64>,
}

impl Story {
    /// The newest incident whose end isn't in the job's history yet, or that ends now that the job is `through`.
    pub(crate) fn to_close(&self, through: bool) -> Option<&Incident> {
        let ends = |incident: &&Incident| {
            let recovering = incident.state == IncidentState::Recovering;
            self.untold == Some(incident.number) || (through && recovering)
        };
        self.incidents.iter().rev().find(ends)
    }

    /// Whether incident `number` has ended well, or may.
    pub(crate) fn may_close(&self, number: u64) -> bool {
        let recovering = |incident: &Incident| incident.state == IncidentState::Recovering;
        self.untold == Some(number) || self.last().filter(|i| i.number == number).is_some_and(recovering)
    }

    pub(crate) fn last(&self) -> Option<&Incident> {
        self.incidents.back()
    }

    fn last_in(&mut self, state: IncidentState) -> Option<&mut Incident> {
        self.incidents.back_mut().filter(|last| last.state == state)
    }

    fn of_next(&mut self, epoch: Epoch) -> Option<&mut Incident> {
        let is_next = |incident: &&mut Incident| incident.next_epoch == Some(epoch);
        let mut recovering = self.incidents.iter_mut().rev().filter(is_next);
        recovering.find(|incident| incident.state == IncidentState::Recovering)
    }

    /// The incident that is being traced, a new one where none is.
    fn traced(&mut self, at: Millis, epoch: Epoch, most: usize) -> Option<&mut Incident> {
        if self.last_in(IncidentState::Tracing).is_none() {
            self.count += 1;
            self.incidents.push_back(opened(self.count, epoch, at));
            while self.incidents.len() > most {
                self.incidents.pop_front();
            }
        }
        self.incidents.back_mut()
    }

    fn went_on(&mut self, number: u64, at: Millis) {
        let mut all = self.incidents.iter_mut();
        if let Some(incident) = all.find(|incident| incident.number == number) {
            incident.state = IncidentState::Recovered;
            incident.times.rejoined.get_or_insert(at);
        }
    }

    /// All open incidents but the last end in `others`, the last in `last`.
    fn close(&mut self, others: IncidentState, last: IncidentState) {
        let newest = self.count;
        for incident in self.incidents.iter_mut().filter(|incident| incident.is_open()) {
            incident.state = if incident.number == newest { last } else { others };
        }
    }
}

impl DurableJob {
    /// Takes a record into the job's story. `was`: the job's state before it.
    pub(crate) fn follow(&mut self, was: Option<JobState>, at: Millis, change: &Change, most: usize) {
        let epoch = self.epoch();
        // Where no step of the epoch was committed, it is where it started.
        let began = (was == Some(JobState::Starting)).then(|| self.started_after());
        let story = &mut self.story;
        match change {
            Change::FailureNoted { failure, seen_by, .. } => {
                let late = was == Some(JobState::Recovering);
                let incident = match late {
                    true => story.last_in(IncidentState::Recovering),
                    false => story.traced(at, epoch, most),
                };
                if let Some(incident) = incident {
                    add(incident, at, failure, seen_by.as_ref());
                }
            }
            Change::Requeued {
                failure, last_step, ..
            } => {
                if let Some(incident) = story.traced(at, epoch, most) {
                    decide(incident, at, failure, last_step.or(began));
                    incident.decision = restart("the newest state there is", failure);
                }
                story.close(IncidentState::Overtaken, IncidentState::Recovering);
            }
            Change::Planned { plan, start, .. } => {
                if let Some(incident) = story.last_in(IncidentState::Recovering) {
                    place(incident, at, plan.epoch, start.as_ref());
                }
            }
            Change::Connected {
                epoch,
                local: Some(step),
                refills,
                rebuilt,
                ..
            } => {
                if let Some(incident) = story.of_next(*epoch) {
                    incident.exact = rebuilt.is_empty();
                    remember(incident, *step, refills);
                }
            }
            Change::Reloaded { epoch, .. } => {
                if let Some(incident) = story.of_next(*epoch) {
                    incident.times.ready.get_or_insert(at);
                }
            }
            Change::Running { epoch, .. } => {
                if let Some(number) = story.of_next(*epoch).map(|incident| incident.number) {
                    story.went_on(number, at);
                    story.untold = Some(number);
                }
            }
            Change::IncidentClosed { number, .. } => {
                story.went_on(*number, at);
                story.untold = None;
            }
            Change::Ended {
                state,
                failure,
                last_step,
                ..
            } => {
                let reached = last_step.as_ref().map(|step| step.step).or(began);
                story.end(at, *state, failure.as_ref(), reached);
            }
            _ => {}
        }
    }
}

impl Story {
    /// The job has ended: so have its incidents.
    fn end(&mut self, at: Millis, state: JobState, failure: Option<&Failure>, reached: Option<u64>) {
        let incident = self.incidents.back_mut().filter(|last| last.is_open());
        match (state, failure, incident) {
            (_, _, None) => {}
            (JobState::Failed, Some(failure), Some(incident)) => {
                decide(incident, at, failure, reached);
                incident.decision = failed(failure);
            }
            (JobState::Cancelled, _, Some(incident)) if incident.state == IncidentState::Tracing => {
                incident.last_step = reached;
                incident.decision = "the job was cancelled before the cause was known".to_owned();
            }
            (_, _, Some(_)) => {}
        }
        match state {
            JobState::Cancelled => self.close(IncidentState::Overtaken, IncidentState::Cancelled),
            JobState::Failed => self.close(IncidentState::Overtaken, IncidentState::Failed),
            _ => self.close(IncidentState::Overtaken, IncidentState::Recovered),
        }
    }
}

fn opened(number: u64, epoch: Epoch, at: Millis) -> Incident {
    Incident {
        number,
        epoch,
        next_epoch: None,
        state: IncidentState::Tracing,
        failures: Vec::new(),
        more_failures: 0,
        decision: String::new(),
        source: None,
        source_url: None,
        exact: true,
        last_step: None,
        resumed_step: None,
        times: IncidentTimes {
            detected: at,
            ..IncidentTimes::default()
        },
    }
}

fn role_beside_the_verdict(failure: &Failure) -> CausalRole {
    match is_weak(failure.class) {
        true => CausalRole::Cascade,
        false => CausalRole::Unknown,
    }
}

fn add(incident: &mut Incident, at: Millis, failure: &Failure, seen_by: Option<&WorkerId>) {
    let decided = incident.state != IncidentState::Tracing;
    if decided && incident.failures.len() >= MOST_FAILURES {
        incident.more_failures += 1;
        return;
    }
    let role = match decided {
        true => role_beside_the_verdict(failure),
        false => CausalRole::Unknown,
    };
    incident.failures.push(NotedFailure {
        time_unix_ms: at,
        role,
        seen_by: seen_by.cloned(),
        failure: failure.clone(),
    });
}

/// The verdict: what each failure was to it. Nothing changes where it fell before.
fn decide(incident: &mut Incident, at: Millis, verdict: &Failure, reached: Option<u64>) {
    if incident.state != IncidentState::Tracing {
        return;
    }
    // Its message may have been added to; class and place are one failure's.
    let is_verdict = |known: &Failure| {
        (known.class, known.rank, &known.worker) == (verdict.class, verdict.rank, &verdict.worker)
    };
    if !incident.failures.iter().any(|noted| is_verdict(&noted.failure)) {
        add(incident, at, verdict, None);
    }
    for noted in &mut incident.failures {
        noted.role = match is_verdict(&noted.failure) {
            true => CausalRole::Initiating,
            false => role_beside_the_verdict(&noted.failure),
        };
    }
    while incident.failures.len() > MOST_FAILURES {
        let spare = |noted: &NotedFailure| noted.role != CausalRole::Initiating;
        let Some(last) = incident.failures.iter().rposition(spare) else {
            break;
        };
        incident.failures.remove(last);
        incident.more_failures += 1;
    }
    incident.times.decided = Some(at);
    incident.last_step = reached;
}

fn place(incident: &mut Incident, at: Millis, epoch: Epoch, start: Option<&StartPoint>) {
    incident.next_epoch = Some(epoch);
    incident.times.placed = Some(at);
    incident.resumed_step = Some(step_of(start));
    incident.exact = start.is_none_or(|start| start.rebuilt.is_empty());
    incident.source = Some(match start {
        Some(_) => StateSource::Checkpoint,
        None => StateSource::Beginning,
    });
    incident.source_url = start.map(|start| start.url.clone());
    if let Some(verdict) = incident.initiating().map(|noted| noted.failure.clone()) {
        incident.decision = restart(&origin(incident), &verdict);
    }
}

/// All ranks found the state of `step` in memory, or get it from others: the checkpoint isn't needed.
fn remember(incident: &mut Incident, step: u64, refills: &BTreeMap<RankId, Refill>) {
    incident.resumed_step = Some(step);
    let in_sets = |refill: &Refill| matches!(refill, Refill::Parity(_));
    incident.source = Some(match refills.values().all(Refill::is_exact) {
        true if refills.values().any(in_sets) => StateSource::Parity,
        true if refills.is_empty() => StateSource::Local,
        true => StateSource::Shadow,
        false => StateSource::NeighbourAverage,
    });
    incident.source_url = None;
    if let Some(verdict) = incident.initiating().map(|noted| noted.failure.clone()) {
        incident.decision = restart(&origin(incident), &verdict);
    }
}

fn step_of(start: Option<&StartPoint>) -> u64 {
    start.map_or(0, |start| start.step)
}
