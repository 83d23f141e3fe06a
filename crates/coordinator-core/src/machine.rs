//! The machine itself: dispatch of events, the journal's pending end, and how effects are given out.

use std::collections::{BTreeMap, VecDeque};

use rekindle_types::{Command, JobId, WorkerId};

use crate::begin::Search;
use crate::durable::{Durable, FoldError};
use crate::registry::Registry;
use crate::run::Run;
use crate::{
    Answer, Change, Config, Effect, Event, Millis, Record, Rejection, Seq, SessionId, Stats, Token, Update,
};
use rekindle_types::clock::{Clock, Mono};

/// Why a journal can't be taken up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// Numbers of records don't rise by one from 1.
    #[error("the journal has record {found} where {wanted} is due; it is damaged, restore it from a copy")]
    Gap {
        /// The number that is due.
        wanted: Seq,
        /// The number found.
        found: Seq,
    },
    /// A record doesn't follow from the ones before.
    #[error("journal record {seq}: {error}; it is damaged, restore it from a copy")]
    Fold {
        /// The record.
        seq: Seq,
        /// What doesn't fit.
        error: FoldError,
    },
}

/// The coordinator. See the crate's head for events and effects.
#[derive(Debug, Clone)]
pub struct Coordinator {
    pub(crate) config: Config,
    pub(crate) clock: Clock,
    /// Fold of every record given out.
    pub(crate) live: Durable,
    /// Fold of every record known durable.
    pub(crate) visible: Durable,
    pending: VecDeque<(Seq, Record)>,
    last_seq: Seq,
    pub(crate) registry: Registry,
    /// A gang for every job that is starting, running or cancelling.
    pub(crate) runs: BTreeMap<JobId, Run>,
    /// What jobs that wait for a place are to start from.
    pub(crate) searches: BTreeMap<JobId, Search>,
    /// Until when recovering jobs wait for the slots they had.
    pub(crate) regroups: BTreeMap<JobId, Mono>,
    /// Why jobs wait that were looked at when the queue was last served.
    pub(crate) queue_notes: BTreeMap<JobId, String>,
    /// When it was last told that time has passed: what was due before has been seen to, as far as it can be.
    pub(crate) ticked: Mono,
    pub(crate) stats: Stats,
    halted: Option<String>,
    pub(crate) booted: bool,
    out: Vec<Effect>,
}

impl Coordinator {
    /// A coordinator with an empty journal.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let empty = Durable::new(&config);
        Self {
            clock: Clock::default(),
            live: empty.clone(),
            visible: empty,
            pending: VecDeque::new(),
            last_seq: Seq(0),
            registry: Registry::default(),
            runs: BTreeMap::new(),
            searches: BTreeMap::new(),
            regroups: BTreeMap::new(),
            queue_notes: BTreeMap::new(),
            ticked: 0,
            stats: Stats::default(),
            halted: None,
            booted: false,
            out: Vec::new(),
            config,
        }
    }

    /// A coordinator that takes up a journal. Send it a `Tick` at once.
    ///
    /// # Errors
    /// [`RestoreError`] when the records can't be the journal of a coordinator.
    pub fn restore(
        config: Config,
        records: impl IntoIterator<Item = (Seq, Record)>,
    ) -> Result<Self, RestoreError> {
        let mut machine = Self::new(config);
        for (found, record) in records {
            let wanted = machine.last_seq.next();
            if found != wanted {
                return Err(RestoreError::Gap { wanted, found });
            }
            let fold = |error| RestoreError::Fold { seq: found, error };
            machine.live.apply(&record).map_err(fold)?;
            machine.last_seq = found;
        }
        machine.visible = machine.live.clone();
        machine.expect_gangs();
        Ok(machine)
    }

    /// Takes an event at `now` (wall clock) and says what to do, in order.
    pub fn handle(&mut self, now: Millis, event: Event) -> Vec<Effect> {
        self.clock.advance(now, self.config.max_step);
        if let Some(why) = self.halted.clone() {
            self.refuse(event, why);
            return std::mem::take(&mut self.out);
        }
        if !self.booted {
            self.booted = true;
            self.boot();
        }
        match event {
            Event::Submit { token, submission } => self.submit(token, *submission),
            Event::Cancel { token, job, mode } => self.cancel(token, &job, mode),
            Event::WorkerRegistered {
                session,
                registration,
            } => self.register(session, *registration),
            Event::WorkerReport { session, report } => self.report(session, *report),
            Event::Heartbeat { session } => self.heartbeat(session),
            Event::WorkerDraining { session, grace } => self.drain(session, grace),
            Event::StartFound {
                job,
                found,
                after_epoch,
                notes,
            } => self.start_found(&job, found, after_epoch, notes),
            Event::CheckpointWritten {
                job,
                epoch,
                step,
                outcome,
                notes,
            } => self.checkpoint_written(&job, epoch, step, outcome, notes),
            Event::SessionLost { session } => self.session_lost(session),
            Event::Persisted { seq } => self.persisted(seq),
            Event::PersistFailed { message } => self.halt(format!("the journal can't be written: {message}")),
            Event::OutputFailed { job, message } => self.output_failed(&job, message),
            Event::Tick => self.tick(),
        }
        std::mem::take(&mut self.out)
    }

    /// When to send a `Tick` at the latest, on the clock of the last `now`: the shell waits for the difference to
    /// that `now` on a clock that doesn't jump. None: nothing is awaited.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Millis> {
        if self.halted.is_some() {
            return None;
        }
        if !self.booted {
            return Some(0);
        }
        let next = self.deadlines().min()?;
        Some(self.clock.wall_of(next, self.config.max_step))
    }

    pub(crate) fn mono(&self) -> Mono {
        self.clock.mono()
    }

    /// Gives out a record and changes the live state by it.
    pub(crate) fn record(&mut self, change: Change) {
        let at = self.clock.wall();
        let record = Record { at, change };
        if let Err(error) = self.live.apply(&record) {
            self.halt(format!(
                "a decision contradicts the state (a defect of Rekindle): {error}"
            ));
            return;
        }
        self.last_seq = self.last_seq.next();
        self.pending.push_back((self.last_seq, record.clone()));
        self.out.push(Effect::Persist {
            seq: self.last_seq,
            record: Box::new(record),
        });
    }

    /// The newest record that isn't durable yet: everything given out now waits for it (CO-1).
    pub(crate) fn after(&self) -> Option<Seq> {
        self.pending.back().map(|(seq, _)| *seq)
    }

    pub(crate) fn emit(&mut self, effect: Effect) {
        self.out.push(effect);
    }

    /// Sends to a worker, if it is connected. What it misses is made up for when it registers again.
    pub(crate) fn send(&mut self, worker: &WorkerId, command: Command) {
        let Some(session) = self.registry.workers.get(worker).and_then(|entry| entry.session) else {
            return;
        };
        let after = self.after();
        self.out.push(Effect::Send {
            session,
            worker: worker.clone(),
            command,
            after,
        });
    }

    /// Answers a request.
    pub(crate) fn reply(&mut self, token: Token, answer: Result<Answer, Rejection>) {
        let after = self.after();
        self.out.push(Effect::Reply { token, answer, after });
    }

    /// Records up to `seq` are durable: they become visible.
    fn persisted(&mut self, seq: Seq) {
        let mut changed = Vec::new();
        while self.pending.front().is_some_and(|(first, _)| *first <= seq) {
            let Some((_, record)) = self.pending.pop_front() else {
                break;
            };
            match self.visible.apply(&record) {
                Ok(event) => self.tell(event),
                Err(error) => self.halt(format!(
                    "the journal contradicts itself (a defect of Rekindle): {error}"
                )),
            }
            let job = record.change.job();
            if !changed.contains(job) {
                changed.push(job.clone());
            }
        }
        for job in changed {
            self.publish_job(&job);
        }
    }

    /// Gives a line of history to the job's file and its watchers.
    pub(crate) fn tell(&mut self, event: rekindle_types::JobEvent) {
        let Some(job) = self.visible.job(&event.job) else {
            return;
        };
        let output = job.spec.job.output.clone();
        self.out.push(Effect::AppendEvent {
            output,
            event: Box::new(event.clone()),
            after: None,
        });
        self.out.push(Effect::Publish {
            job: event.job.clone(),
            update: Update::Event(event),
            after: None,
        });
    }

    /// Gives the job's view to its watchers.
    pub(crate) fn publish_job(&mut self, job: &JobId) {
        if let Some(view) = self.job(job) {
            self.out.push(Effect::Publish {
                job: job.clone(),
                update: Update::Job(Box::new(view)),
                after: None,
            });
        }
    }

    fn halt(&mut self, message: String) {
        if self.halted.is_none() {
            self.halted = Some(message.clone());
            self.out.push(Effect::Halt { message });
        }
    }

    fn refuse(&mut self, event: Event, why: String) {
        if let Event::Submit { token, .. } | Event::Cancel { token, .. } = event {
            self.out.push(Effect::Reply {
                token,
                answer: Err(Rejection::Halted { why }),
                after: None,
            });
        }
    }

    /// A message of a connection that isn't a worker's current one.
    pub(crate) fn stale_session(&mut self, _session: SessionId) {
        self.stats.stale_sessions += 1;
    }
}
