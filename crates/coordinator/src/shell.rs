//! The task that owns the machine (CS-1, CS-2).

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::time::Duration;

use rekindle_coordinator_core::{
    Coordinator, Effect, Event, JobView, Seq, SessionId, Submission, Token, Update,
};
use rekindle_proto::{ApiError, Reason};
use rekindle_types::{Command, FaultOrder, JobId, WorkerId};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::ServeError;
use crate::clock;
use crate::files::{Files, Line, folder_of, not_empty};
use crate::handle::{Input, Reply};
use crate::hub::Hub;
use crate::journal::{JournalHandle, Progress};
use crate::keeper::Keeper;
use crate::session::Link;
use crate::view::{close_reason, rejection};

/// Inputs handled between two looks at the clock.
const BURST: usize = 256;
/// No new inputs while so many effects wait for the journal.
const MOST_EFFECTS: usize = 16_384;

/// A request that waits for its answer.
struct Waiting {
    reply: Reply,
    /// The folder a submission wants, and its request id.
    claim: Option<(PathBuf, String)>,
}

/// The machine and everything its effects touch.
pub(crate) struct Shell {
    pub(crate) core: Coordinator,
    pub(crate) hub: Hub,
    pub(crate) files: Files,
    keeper: Keeper,
    max_jobs: usize,
    effects: VecDeque<Effect>,
    /// Events that doing effects gave rise to.
    events: VecDeque<Event>,
    waiting: BTreeMap<Token, Waiting>,
    sessions: BTreeMap<SessionId, Link>,
    journal: JournalHandle,
    durable: Seq,
    next_token: u64,
    clock: (u64, Instant),
    halted: Option<String>,
}

impl Shell {
    pub(crate) fn new(
        core: Coordinator,
        journal: JournalHandle,
        durable: Seq,
        files: Files,
        keeper: Keeper,
        max_jobs: usize,
    ) -> Self {
        let now = clock::now();
        Self {
            core,
            hub: Hub::new(now),
            files,
            keeper,
            max_jobs,
            effects: VecDeque::new(),
            events: VecDeque::new(),
            waiting: BTreeMap::new(),
            sessions: BTreeMap::new(),
            journal,
            durable,
            next_token: 0,
            clock: (now, Instant::now()),
            halted: None,
        }
    }

    /// A job with its version.
    pub(crate) fn job(&self, id: &JobId) -> Option<(JobView, u64)> {
        Some((self.core.job(id)?, self.hub.version(id)))
    }

    /// Runs until `stop`, or until the machine can't go on. The journal is closed in either case.
    pub(crate) async fn run(
        mut self,
        mut inbox: mpsc::Receiver<Input>,
        stop: CancellationToken,
    ) -> Result<(), ServeError> {
        self.handle(Event::Tick);
        let mut inputs = Vec::new();
        while self.halted.is_none() {
            let tick_at = self.tick_at();
            let has_room = self.effects.len() < MOST_EFFECTS;
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                progress = self.journal.changed() => self.journal_is(progress),
                _ = inbox.recv_many(&mut inputs, BURST), if has_room => {
                    if inputs.is_empty() {
                        break;
                    }
                    inputs.drain(..).for_each(|input| self.take(input));
                    if tick_at <= Instant::now() {
                        self.handle(Event::Tick);
                    }
                }
                () = tokio::time::sleep_until(tick_at) => self.handle(Event::Tick),
            }
        }
        self.end().await
    }

    async fn end(self) -> Result<(), ServeError> {
        let journal = self.journal;
        drop((self.waiting, self.sessions, self.files, self.keeper));
        if tokio::task::spawn_blocking(move || journal.close())
            .await
            .is_err()
        {
            tracing::error!("closing the journal ended unexpectedly");
        }
        match self.halted {
            Some(why) => Err(ServeError::Halted { why }),
            None => Ok(()),
        }
    }

    /// When the machine wants to hear of the time, on a clock that doesn't jump.
    fn tick_at(&self) -> Instant {
        let (wall, instant) = self.clock;
        let wait = match self.core.next_deadline() {
            Some(at) => Duration::from_millis(at.saturating_sub(wall)),
            None => Duration::from_secs(60),
        };
        // At least a millisecond, so that a deadline that doesn't move can't spin.
        instant + wait.clamp(Duration::from_millis(1), Duration::from_secs(60))
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Query(look) => look(self),
            Input::Event(event) => {
                if let Event::SessionLost { session } = &event {
                    self.sessions.remove(session);
                }
                self.handle(event);
            }
            Input::Open(session, link, registration) => {
                self.sessions.insert(session, link);
                self.handle(Event::WorkerRegistered {
                    session,
                    registration,
                });
            }
            Input::Cancel(job, mode, reply) => {
                let token = self.wait_for(reply, None);
                self.handle(Event::Cancel { token, job, mode });
            }
            Input::Submit(submission, output, reply) => self.submit(submission, output, reply),
        }
    }

    fn submit(&mut self, submission: Box<Submission>, output: String, reply: Reply) {
        let claim = (folder_of(&output), submission.request_id.clone());
        if let Some(user) = self.other_user(&claim) {
            let why = format!("{user} writes there");
            let _ = reply.send(Err(not_empty(&output, &why)));
            return;
        }
        let claim = (!submission.validate_only).then_some(claim);
        let token = self.wait_for(reply, claim);
        self.handle(Event::Submit { token, submission });
    }

    /// Who else uses the folder: a job that hasn't ended, or a submission on its way.
    fn other_user(&self, (folder, request): &(PathBuf, String)) -> Option<String> {
        let durable = self.core.durable();
        if durable.of_request(request).is_some() {
            // Said before: the machine knows the answer.
            return None;
        }
        let living = durable.jobs().iter().filter(|(_, job)| !job.state.is_terminal());
        for (id, job) in living {
            if folder_of(&job.spec.job.output) == *folder {
                return Some(format!("job {id}"));
            }
        }
        let mut claims = self.waiting.values().filter_map(|waiting| waiting.claim.as_ref());
        claims
            .any(|(other, by)| other == folder && (by != request || request.is_empty()))
            .then(|| "a job that is being submitted".to_owned())
    }

    fn wait_for(&mut self, reply: Reply, claim: Option<(PathBuf, String)>) -> Token {
        self.next_token += 1;
        let token = Token(self.next_token);
        self.waiting.insert(token, Waiting { reply, claim });
        token
    }

    fn journal_is(&mut self, progress: Progress) {
        match progress {
            Progress::Durable(seq) => {
                self.durable = seq;
                self.handle(Event::Persisted { seq });
            }
            Progress::Failed(message) => self.handle(Event::PersistFailed { message }),
        }
    }

    /// Lets the machine handle an event and does what can be done.
    fn handle(&mut self, event: Event) {
        self.events.push_back(event);
        while let Some(event) = self.events.pop_front() {
            let now = clock::now();
            self.clock = (now, Instant::now());
            let effects = self.core.handle(now, event);
            self.effects.extend(effects);
            self.work();
        }
    }

    /// Does effects in order up to the first that must wait.
    fn work(&mut self) {
        while let Some(effect) = self.effects.pop_front() {
            let waits = effect.after().is_some_and(|seq| seq > self.durable);
            // A machine that halted says so last, and a journal that failed makes nothing durable any more.
            if waits {
                self.effects.push_front(effect);
                self.look_for_halt();
                return;
            }
            if let Err(effect) = self.perform(effect) {
                self.effects.push_front(*effect);
                return;
            }
        }
    }

    fn look_for_halt(&mut self) {
        let halt = self.effects.iter().find_map(|effect| match effect {
            Effect::Halt { message } => Some(message.clone()),
            _ => None,
        });
        self.halted = self.halted.take().or(halt);
    }

    /// Does one effect; gives it back when it has to wait for room in the journal's queue.
    fn perform(&mut self, effect: Effect) -> Result<(), Box<Effect>> {
        match effect {
            Effect::Persist { seq, record } => {
                return self
                    .journal
                    .push(seq, record)
                    .map_err(|record| Box::new(Effect::Persist { seq, record }));
            }
            Effect::Send { session, command, .. } => self.send(session, &command),
            Effect::Reply { token, answer, .. } => {
                if let Some(waiting) = self.waiting.remove(&token) {
                    let _ = waiting.reply.send(answer.map_err(rejection));
                }
            }
            Effect::AppendMetrics {
                job, output, report, ..
            } => self.write(job, &output, Line::Metrics(report)),
            Effect::AppendEvent { output, event, .. } => {
                self.write(event.job.clone(), &output, Line::Event(event));
            }
            Effect::FindStart {
                job,
                spec,
                search,
                refused,
                ..
            } => self.events.extend(self.keeper.find(job, spec, search, refused)),
            Effect::CommitCheckpoint(commit) => {
                let lines = self.files.wait(&commit.job);
                self.events.extend(self.keeper.commit(commit, lines));
            }
            Effect::PrepareOutput { job, output, .. } => self.write(job, &output, Line::Prepare),
            Effect::Publish { job, update, .. } => self.publish(&job, update),
            Effect::AcceptSession {
                session,
                worker,
                terms,
            } => {
                tracing::info!(%worker, session = session.0, "worker registered");
                let taken = self
                    .sessions
                    .get_mut(&session)
                    .is_none_or(|link| link.welcome(worker, terms).is_ok());
                if !taken {
                    self.too_slow(session);
                }
            }
            Effect::CloseSession {
                session,
                worker,
                reason,
            } => {
                tracing::warn!(%worker, session = session.0, %reason, "session closed");
                if let Some(link) = self.sessions.remove(&session) {
                    link.close(close_reason(&reason));
                }
            }
            Effect::Halt { message } => self.halted = Some(message),
        }
        Ok(())
    }

    fn send(&mut self, session: SessionId, command: &Command) {
        let Some(link) = self.sessions.get(&session) else {
            return;
        };
        if link.send(command, || self.files.wait_all()).is_err() {
            self.too_slow(session);
        }
    }

    /// Passes an order for a fault on; the session that it went to. None: the worker isn't connected, or doesn't take
    /// it.
    pub(crate) fn order_fault(&self, worker: &WorkerId, order: &FaultOrder) -> Option<SessionId> {
        let of_worker = |(_, link): &(&SessionId, &Link)| link.worker.as_ref() == Some(worker);
        let (session, link) = self.sessions.iter().rev().find(of_worker)?;
        link.order(order).ok().map(|()| *session)
    }

    fn too_slow(&mut self, session: SessionId) {
        tracing::warn!(
            session = session.0,
            "worker doesn't take its commands; disconnected"
        );
        if let Some(link) = self.sessions.remove(&session) {
            let why = "the worker didn't take its commands in time; connect again";
            link.close(ApiError::new(Reason::SessionTooSlow, why));
        }
        self.events.push_back(Event::SessionLost { session });
    }

    fn write(&mut self, job: JobId, output: &str, line: Line) {
        if let Err(message) = self.files.put(&job, output, line) {
            self.events.push_back(Event::OutputFailed { job, message });
        }
    }

    fn publish(&mut self, job: &JobId, update: Update) {
        let ended = matches!(&update, Update::Job(view) if view.state.is_terminal());
        if let Update::Job(view) = &update {
            tracing::info!(%job, state = %view.state, reason = view.reason, "job");
        }
        self.hub.publish(job, update);
        if ended {
            let jobs = self.core.durable();
            let living = |id: &JobId| jobs.job(id).is_some_and(|job| !job.state.is_terminal());
            self.files.retire(living);
            self.keeper.retire(living);
            self.hub.prune(2 * self.max_jobs, |id| jobs.job(id).is_some());
        }
    }
}
