//! What the coordinator wants done.

use std::collections::BTreeSet;
use std::sync::Arc;

use rekindle_types::{
    CheckpointPart, Command, JobEvent, JobId, JobSpec, JobState, Plan, Rebuilt, StartPoint, StepReport,
    WorkerId,
};

use crate::{JobView, Millis, Record, Seq, SessionId, Token};

/// One thing to do, in order. `after`: not before that record is durable (CO-1).
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Make a record durable, then say `Persisted` (or `PersistFailed`). Numbers rise by one.
    Persist {
        /// Its number.
        seq: Seq,
        /// The record.
        record: Box<Record>,
    },
    /// Send a command to a worker. A session that is gone drops it.
    Send {
        /// Through which connection.
        session: SessionId,
        /// To whom.
        worker: WorkerId,
        /// What.
        command: Command,
        /// The record it depends on.
        after: Option<Seq>,
    },
    /// Answer a request.
    Reply {
        /// Which.
        token: Token,
        /// With what.
        answer: Result<Answer, Rejection>,
        /// The record it depends on.
        after: Option<Seq>,
    },
    /// Append a line to the job's `metrics.jsonl`. The same step may come again with the same content.
    AppendMetrics {
        /// The job.
        job: JobId,
        /// `job.output` of its spec.
        output: String,
        /// The line.
        report: Box<StepReport>,
        /// The record it depends on.
        after: Option<Seq>,
    },
    /// Append a line to the job's `events.jsonl` unless its last line has this `seq` or a later one: after a restart
    /// the retained events of living and just ended jobs are given out once more.
    AppendEvent {
        /// `job.output` of the job's spec.
        output: String,
        /// The line; names the job.
        event: Box<JobEvent>,
        /// The record it depends on.
        after: Option<Seq>,
    },
    /// Make the folder of a job's run and open its files; say `OutputFailed` if that can't be done. May come again
    /// after a restart.
    PrepareOutput {
        /// The job.
        job: JobId,
        /// `job.output` of its spec.
        output: String,
        /// The record it depends on.
        after: Option<Seq>,
    },
    /// Look for the state a job is to start from, then say `StartFound`. Bounded in time by the shell.
    FindStart {
        /// The job.
        job: JobId,
        /// Its spec: where its checkpoints are, and what they must fit.
        spec: Arc<JobSpec>,
        /// What to look for.
        search: StartSearch,
        /// URLs of checkpoints that are known to be damaged.
        refused: BTreeSet<String>,
        /// The record it depends on.
        after: Option<Seq>,
    },
    /// Write a checkpoint's manifest, create-only, delete what the job keeps no longer, then say `CheckpointWritten`.
    /// Effects of one job are done in order; a manifest of the same writer that is there already counts as written,
    /// and one that is damaged makes way.
    CommitCheckpoint(Box<Commit>),
    /// Tell watchers of a job.
    Publish {
        /// The job.
        job: JobId,
        /// What is new.
        update: Update,
        /// The record it depends on.
        after: Option<Seq>,
    },
    /// The worker is registered; commands may follow.
    AcceptSession {
        /// The connection.
        session: SessionId,
        /// The worker.
        worker: WorkerId,
        /// What is expected of it.
        terms: SessionTerms,
    },
    /// Tell the worker why and close its connection.
    CloseSession {
        /// The connection.
        session: SessionId,
        /// The worker.
        worker: WorkerId,
        /// Why.
        reason: CloseReason,
    },
    /// The coordinator can't go on: exit with this message.
    Halt {
        /// Why and what to do.
        message: String,
    },
}

impl Effect {
    /// The record that must be durable before this may be done.
    #[must_use]
    pub fn after(&self) -> Option<Seq> {
        match self {
            Self::Send { after, .. }
            | Self::Reply { after, .. }
            | Self::AppendMetrics { after, .. }
            | Self::AppendEvent { after, .. }
            | Self::PrepareOutput { after, .. }
            | Self::FindStart { after, .. }
            | Self::Publish { after, .. } => *after,
            Self::CommitCheckpoint(commit) => commit.after,
            Self::Persist { .. }
            | Self::AcceptSession { .. }
            | Self::CloseSession { .. }
            | Self::Halt { .. } => None,
        }
    }
}

/// Where a job may start from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartSearch {
    /// From the job's first weights (or the checkpoint `model.init_from` names); its place for checkpoints must hold
    /// none.
    Fresh,
    /// From the newest valid checkpoint in its place; having none is an error.
    Resume,
    /// From the newest valid checkpoint in its place, else as `Fresh`.
    Again,
}

/// A checkpoint all of whose parts are durable.
#[derive(Debug, Clone, PartialEq)]
pub struct Commit {
    /// The job.
    pub job: JobId,
    /// Its spec.
    pub spec: Arc<JobSpec>,
    /// The plan whose trainers wrote it; names the epoch.
    pub plan: Plan,
    /// Names them in the files' keys.
    pub writer: String,
    /// The step whose state it is.
    pub step: u64,
    /// The state they had started from.
    pub resumed_from: Option<StartPoint>,
    /// Layers of it that were made up.
    pub rebuilt: Vec<Rebuilt>,
    /// What every rank wrote, by rank.
    pub parts: Vec<CheckpointPart>,
    /// URLs of checkpoints that were found damaged: where one of them has this step, it makes way.
    pub refused: BTreeSet<String>,
    /// The record it depends on.
    pub after: Option<Seq>,
}

/// What a registered worker has to keep to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionTerms {
    /// Be heard of this often, milliseconds.
    pub heartbeat: Millis,
    /// After so much silence it is lost, milliseconds.
    pub lease: Millis,
}

/// Why a worker's connection is closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// Another process holds the name. Worth trying again for a lease's length: it may be the dead predecessor.
    #[error(
        "a worker named {worker} is registered and alive; give this one another --name, or stop the other one"
    )]
    NameTaken {
        /// The name.
        worker: WorkerId,
    },
    /// The same process connected again; this connection is the older one.
    #[error("worker {worker} connected anew; this is its older connection")]
    Superseded {
        /// The worker.
        worker: WorkerId,
    },
    /// Nothing was heard for a lease's length. It may register again.
    #[error("worker {worker} wasn't heard of for {silent_ms} ms; register again")]
    LeaseExpired {
        /// The worker.
        worker: WorkerId,
        /// Length of the silence.
        silent_ms: Millis,
    },
    /// The registration can't be used.
    #[error("worker {worker} can't be registered: {why}")]
    Unusable {
        /// The worker.
        worker: WorkerId,
        /// What is wrong with it and what to do.
        why: String,
    },
}

/// A request that was granted.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// The job is in the journal.
    Submitted {
        /// Its id.
        job: JobId,
        /// Whether this request made it (false: the same request came before).
        created: bool,
    },
    /// `validate_only`: it would be taken.
    Valid,
    /// The job is cancelled or being cancelled.
    Cancelled {
        /// The job.
        job: JobId,
        /// `CANCELLING` or `CANCELLED`.
        state: JobState,
    },
}

/// A request that was not granted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// Same request id, other content.
    #[error("request id {request_id:?} was used for job {job} with another content; use a new request id")]
    RequestReused {
        /// The request id.
        request_id: String,
        /// The job it made.
        job: JobId,
    },
    /// The request id can't be used.
    #[error("request id of {bytes} bytes; use at most 128")]
    RequestIdTooLong {
        /// Its length.
        bytes: usize,
    },
    /// The wanted id is in use.
    #[error("a job named {job} exists; choose another id or leave it out")]
    JobExists {
        /// The id.
        job: JobId,
    },
    /// There is no such job.
    #[error("there is no job {job}; list them with `rekindle jobs`")]
    UnknownJob {
        /// The id asked for.
        job: JobId,
    },
    /// The job ended before.
    #[error("job {job} has ended ({state}); it can't be cancelled")]
    JobEnded {
        /// The job.
        job: JobId,
        /// How it ended.
        state: JobState,
    },
    /// No cluster could run it.
    #[error("the job can't be placed: {why}")]
    NotPlaceable {
        /// What is wrong and what to do.
        why: String,
    },
    /// Too many jobs that haven't ended.
    #[error("{jobs} jobs are queued or running, which is the limit; wait for one to end or cancel one")]
    TooManyJobs {
        /// The limit.
        jobs: usize,
    },
    /// The journal failed; the coordinator is going down.
    #[error("the coordinator can't write its journal ({why}); nothing was changed")]
    Halted {
        /// What the journal said.
        why: String,
    },
}

/// What watchers of a job are told.
#[derive(Debug, Clone, PartialEq)]
pub enum Update {
    /// State, epoch, ranks or failure changed; the whole view.
    Job(Box<JobView>),
    /// A step was committed.
    Step(StepReport),
    /// Something happened.
    Event(JobEvent),
}
