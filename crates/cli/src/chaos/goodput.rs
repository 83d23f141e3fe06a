//! What a job's time went into (CM-7): from its history and its metrics lines, every worker-second under one label.
//!
//! ```text
//!   job.submitted ──starting──> first step ──steps──> last step told ──lost──> job.recovering ──recovering──> first step ──steps──> …
//!                                                                                       … last step ──finishing──> the job's end
//! ```
//!
//! In: events and step reports, oldest first. Out: [`Account`]. A worker here is a rank of the plan that was in force.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::AddAssign;

use rekindle_types::{Epoch, JobEvent, StepReport};
use serde::Serialize;

/// A step that takes more than this many times the median one was held up: what is above it isn't work.
const STALL_FACTOR: f64 = 5.0;

/// Seconds under each label.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Labels {
    /// Steps that were run for the first time.
    pub productive: f64,
    /// Steps that were run again after going back to a checkpoint.
    pub again: f64,
    /// What steps took beyond five times the median step.
    pub stalled: f64,
    /// From the submission to the beginning of the first step: waiting, planning, starting, loading.
    pub starting: f64,
    /// From the moment a loss was acted upon to the beginning of the next step.
    pub recovering: f64,
    /// Before that moment: the step in flight and steps that nobody could report any more, and noticing the loss.
    pub lost: f64,
    /// From the last step of the last epoch on: evaluation, the last checkpoint, export.
    pub finishing: f64,
}

impl Labels {
    /// All of them.
    #[must_use]
    pub fn sum(&self) -> f64 {
        self.each().iter().map(|(_, seconds)| seconds).sum()
    }

    /// Each with its name.
    #[must_use]
    pub fn each(&self) -> [(&'static str, f64); 7] {
        [
            ("productive", self.productive),
            ("again", self.again),
            ("stalled", self.stalled),
            ("starting", self.starting),
            ("recovering", self.recovering),
            ("lost", self.lost),
            ("finishing", self.finishing),
        ]
    }

    /// What faults took.
    #[must_use]
    pub fn taken(&self) -> f64 {
        self.again + self.stalled + self.recovering + self.lost
    }

    fn times(&self, factor: f64) -> Self {
        Self {
            productive: self.productive * factor,
            again: self.again * factor,
            stalled: self.stalled * factor,
            starting: self.starting * factor,
            recovering: self.recovering * factor,
            lost: self.lost * factor,
            finishing: self.finishing * factor,
        }
    }
}

impl AddAssign for Labels {
    fn add_assign(&mut self, other: Self) {
        self.productive += other.productive;
        self.again += other.again;
        self.stalled += other.stalled;
        self.starting += other.starting;
        self.recovering += other.recovering;
        self.lost += other.lost;
        self.finishing += other.finishing;
    }
}

/// A job's time.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Account {
    /// From the submission to the end (or to now), seconds.
    pub seconds: f64,
    /// How often the job went back to a checkpoint.
    pub recoveries: u64,
    /// Distinct steps that were reported.
    pub steps: u64,
    /// Reports of steps that had been reported before.
    pub steps_again: u64,
    /// What faults took, seconds of the job's duration: steps run again, stalls, recoveries, what was lost.
    pub lost_seconds: f64,
    /// `productive` of all worker-seconds, 0 to 1.
    pub goodput: f64,
    /// Worker-seconds under each label.
    pub worker_seconds: Labels,
}

/// From a loss (or the submission) over the first step to the next loss (or the end); milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Attempt {
    begin: u64,
    running: Option<u64>,
    end: u64,
}

/// Labels a job's time. `workers` says how many ranks the plan of each epoch had, as far as known; `now` is when a
/// job that hasn't ended is looked at, milliseconds since the Unix epoch.
#[must_use]
pub fn account(
    events: &[JobEvent],
    steps: &[StepReport],
    workers: &BTreeMap<Epoch, u32>,
    now: u64,
) -> Account {
    let (attempts, ended) = attempts(events, now);
    let ran = attempts
        .iter()
        .filter(|attempt| attempt.running.is_some())
        .count();
    let groups = by_epoch(steps, ran);
    let typical = STALL_FACTOR * median(groups.iter().flat_map(|(_, steps)| *steps));
    let mut account = Account {
        recoveries: events
            .iter()
            .filter(|event| event.kind == "job.recovering")
            .count() as u64,
        ..Account::default()
    };
    let (mut seen, mut wall, mut groups) = (BTreeSet::new(), Labels::default(), groups.into_iter());
    let mut epoch = workers.keys().next().copied().unwrap_or_default();
    for (n, attempt) in attempts.iter().enumerate() {
        let of_attempt = attempt.running.and_then(|_| groups.next());
        let (now_epoch, steps) = of_attempt.unwrap_or((epoch, &[]));
        epoch = now_epoch;
        account.steps_again += steps.iter().filter(|step| seen.contains(&step.step)).count() as u64;
        let last = ended && n + 1 == attempts.len();
        let labels = label(attempt, steps, &mut seen, typical, (n == 0, last));
        account.worker_seconds += labels.times(f64::from(workers_of(workers, epoch)));
        wall += labels;
    }
    account.steps = seen.len() as u64;
    account.seconds = wall.sum();
    account.lost_seconds = wall.taken();
    let all = account.worker_seconds.sum();
    account.goodput = if all > 0.0 {
        account.worker_seconds.productive / all
    } else {
        0.0
    };
    account
}

/// Cuts the history at its losses; whether the job has ended by itself (rather than with a loss).
fn attempts(events: &[JobEvent], now: u64) -> (Vec<Attempt>, bool) {
    let mut attempts: Vec<Attempt> = Vec::new();
    let mut open: Option<Attempt> = None;
    let mut ended = true;
    for event in events {
        let at = event.time_unix_ms;
        match event.kind.as_str() {
            "job.submitted" => {
                open = Some(Attempt {
                    begin: at,
                    running: None,
                    end: at,
                })
            }
            "job.running" => {
                if let Some(attempt) = &mut open {
                    attempt.running.get_or_insert(at.max(attempt.begin));
                }
            }
            "job.recovering" => {
                let next = Attempt {
                    begin: at,
                    running: None,
                    end: at,
                };
                attempts.extend(open.replace(next).map(|attempt| close(attempt, at)));
            }
            "job.succeeded" | "job.cancelled" | "job.failed" => {
                ended = event.kind != "job.failed";
                attempts.extend(open.take().map(|attempt| close(attempt, at)));
            }
            _ => {}
        }
    }
    attempts.extend(open.map(|attempt| close(attempt, now)));
    (attempts, ended)
}

fn close(attempt: Attempt, at: u64) -> Attempt {
    let end = at.max(attempt.running.unwrap_or(attempt.begin));
    Attempt { end, ..attempt }
}

/// The reports of each of the last `most` epochs, in order. Those before are of earlier runs in the same folder.
fn by_epoch(steps: &[StepReport], most: usize) -> Vec<(Epoch, &[StepReport])> {
    let groups = steps.chunk_by(|a, b| a.epoch == b.epoch);
    let mut groups: Vec<_> = groups
        .filter_map(|group| Some((group.first()?.epoch, group)))
        .collect();
    groups.drain(..groups.len().saturating_sub(most));
    groups
}

fn median<'a>(steps: impl Iterator<Item = &'a StepReport>) -> f64 {
    let mut seconds: Vec<f64> = steps.map(|step| step.step_seconds).collect();
    seconds.sort_by(f64::total_cmp);
    seconds.get(seconds.len() / 2).copied().unwrap_or(0.0)
}

/// The workers of an epoch; of one that wasn't looked at, those of the one before it.
fn workers_of(workers: &BTreeMap<Epoch, u32>, epoch: Epoch) -> u32 {
    let before = workers
        .range(..=epoch)
        .next_back()
        .or_else(|| workers.iter().next());
    before.map_or(1, |(_, count)| (*count).max(1))
}

/// Labels the time of one attempt: exactly what lies between its begin and its end.
fn label(
    attempt: &Attempt,
    steps: &[StepReport],
    seen: &mut BTreeSet<u64>,
    typical: f64,
    (first, last): (bool, bool),
) -> Labels {
    let mut labels = Labels::default();
    for step in steps {
        let work = step.step_seconds.min(typical);
        labels.stalled += step.step_seconds - work;
        if seen.insert(step.step) {
            labels.productive += work;
        } else {
            labels.again += work;
        }
    }
    let whole = (attempt.end - attempt.begin) as f64 / 1e3;
    let running = attempt.running.unwrap_or(attempt.end);
    // The first step's end is when the job counts as running.
    let first_step = steps.first().map_or(0.0, |step| step.step_seconds);
    let waited = ((running - attempt.begin) as f64 / 1e3 - first_step).max(0.0);
    let stepped = labels.sum();
    let rest = whole - waited - stepped;
    if rest < 0.0 && stepped > 0.0 {
        // Two clocks, one of them in milliseconds: steps can't have taken longer than there was time.
        labels = labels.times((whole - waited) / stepped);
    }
    *(if first {
        &mut labels.starting
    } else {
        &mut labels.recovering
    }) += waited;
    *(if last {
        &mut labels.finishing
    } else {
        &mut labels.lost
    }) += rest.max(0.0);
    labels
}

#[cfg(test)]
mod tests {
    use rekindle_types::JobId;

    use super::*;

    fn event(time_unix_ms: u64, kind: &str) -> JobEvent {
        JobEvent {
            seq: 1,
            time_unix_ms,
            job: JobId::new("j").unwrap(),
            actor: "coordinator".to_owned(),
            kind: kind.to_owned(),
            detail: String::new(),
        }
    }

    fn step(epoch: u64, step: u64, step_seconds: f64) -> StepReport {
        StepReport {
            step,
            loss: 1.0,
            grad_norm: 1.0,
            lr: 0.1,
            tokens: 1,
            step_seconds,
            epoch: Epoch(epoch),
            data_digest: String::new(),
            state_digest: None,
            val_loss: None,
            stage_norms: Vec::new(),
        }
    }

    fn close_to(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-9
    }

    /// Two workers; a loss after step 3, going back to step 2.
    fn story() -> (Vec<JobEvent>, Vec<StepReport>) {
        let events = [
            event(10_000, "job.submitted"),
            event(10_100, "plan.durable"),
            event(13_000, "job.running"),
            event(16_500, "failure.noted"),
            event(17_000, "job.recovering"),
            event(20_000, "job.running"),
            event(23_000, "job.succeeded"),
        ];
        let steps = [
            step(1, 1, 1.0),
            step(1, 2, 1.0),
            step(1, 3, 1.0),
            step(2, 3, 1.0),
            step(2, 4, 1.0),
        ];
        (events.to_vec(), steps.to_vec())
    }

    #[test]
    fn every_worker_second_has_one_label() {
        let (events, steps) = story();
        let account = account(&events, &steps, &[(Epoch(1), 2)].into(), 0);
        let expected = Labels {
            productive: 8.0,
            again: 2.0,
            stalled: 0.0,
            starting: 4.0,
            recovering: 4.0,
            lost: 4.0,
            finishing: 4.0,
        };
        assert_eq!(account.worker_seconds, expected);
        assert!(close_to(account.worker_seconds.sum(), 2.0 * 13.0));
        assert!(close_to(account.seconds, 13.0));
        assert!(close_to(account.goodput, 8.0 / 26.0));
        assert!(close_to(account.lost_seconds, 1.0 + 2.0 + 2.0));
        assert_eq!(
            (account.recoveries, account.steps, account.steps_again),
            (1, 4, 1)
        );
    }

    #[test]
    fn plans_of_different_sizes_are_weighed() {
        let (events, steps) = story();
        let account = account(&events, &steps, &[(Epoch(1), 4), (Epoch(2), 1)].into(), 0);
        assert!(close_to(account.worker_seconds.sum(), 4.0 * 7.0 + 6.0));
        assert!(close_to(account.worker_seconds.again, 1.0));
    }

    #[test]
    fn losses_before_the_first_step_and_jobs_that_go_on_are_counted() {
        let events = [
            event(0, "job.submitted"),
            event(2_000, "job.recovering"),
            event(3_000, "job.recovering"),
            event(6_000, "job.running"),
        ];
        let account = account(&events, &[step(3, 1, 1.0)], &[(Epoch(1), 1)].into(), 8_000);
        let labels = account.worker_seconds;
        assert!(close_to(labels.sum(), 8.0));
        assert_eq!(account.recoveries, 2);
        assert!(close_to(labels.starting, 2.0), "{labels:?}");
        assert!(close_to(labels.recovering, 3.0), "{labels:?}");
        assert!(close_to(labels.finishing, 2.0), "{labels:?}");
    }

    #[test]
    fn a_step_that_was_held_up_is_work_up_to_a_bound_only() {
        let events = [
            event(0, "job.submitted"),
            event(1_000, "job.running"),
            event(20_000, "job.succeeded"),
        ];
        let mut steps: Vec<_> = (1..=9).map(|n| step(1, n, 1.0)).collect();
        steps.push(step(1, 10, 11.0));
        let account = account(&events, &steps, &BTreeMap::new(), 0);
        assert!(close_to(account.worker_seconds.stalled, 6.0));
        assert!(close_to(account.worker_seconds.productive, 14.0));
        assert!(close_to(account.worker_seconds.sum(), 20.0));
    }

    #[test]
    fn lines_of_an_earlier_run_and_clocks_that_disagree_change_no_sum() {
        let events = [
            event(0, "job.submitted"),
            event(500, "job.running"),
            event(1_500, "job.succeeded"),
        ];
        let steps = [step(1, 1, 9.0), step(2, 1, 1.0), step(2, 2, 1.0)];
        let account = account(&events, &steps, &[(Epoch(2), 3)].into(), 0);
        assert!(close_to(account.worker_seconds.sum(), 4.5), "{account:?}");
        assert_eq!((account.steps, account.steps_again), (2, 0));
    }
}
