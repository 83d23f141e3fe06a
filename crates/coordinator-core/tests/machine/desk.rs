//! A desk to test the machine at: makes records durable at once, sorts effects, knows the usual words.

use std::collections::BTreeMap;

use rekindle_coordinator_core::{
    Answer, CancelMode, Change, CloseReason, Commit, CommittedCheckpoint, Config, Coordinator, Effect, Event,
    JobView, NotFound, Record, Rejection, Seq, SessionId, Submission, Token,
};
use rekindle_types::spec::RecoverySource;
use rekindle_types::{
    CheckpointPart, Command, DeviceId, Epoch, Failure, FailureClass, JobFile, JobId, JobSpec, JobState,
    NumberedReport, RankId, Registration, Report, StartPoint, StateDigest, StepReport, TrainerPhase,
    TrainerStatus, WorkerId,
};

pub fn id(text: &str) -> JobId {
    JobId::new(text).expect("a good id")
}

pub fn worker(text: &str) -> WorkerId {
    WorkerId::new(text).expect("a good id")
}

/// A job of `stages` ranks and `steps` steps.
pub fn spec(stages: u32, steps: u64) -> JobSpec {
    let text = format!(
        "[job]\nname=\"j\"\noutput=\"runs/j\"\n[model]\nhidden_size=8\nintermediate_size=8\nnum_hidden_layers=4\n\
         num_attention_heads=2\n[data]\ntrain=[\"t\"]\nseq_len=4\n[training]\nsteps={steps}\nglobal_batch=2\nmicro_batch=1\n\
         [optimizer]\nlr=0.1\n[parallelism]\npipeline={stages}\n"
    );
    let file = JobFile::parse(&text).expect("a good file");
    let mut spec = file.into_spec(None).expect("a good job");
    spec.recovery.sources = vec![RecoverySource::Checkpoint];
    spec
}

/// A job of two stages whose state only its workers' memory has.
pub fn memory_spec(steps: u64) -> JobSpec {
    let mut spec = spec(2, steps);
    spec.recovery.sources = vec![RecoverySource::Local];
    spec
}

/// A job of two stages that saves its state every step.
pub fn saving_spec(steps: u64) -> JobSpec {
    let mut spec = spec(2, steps);
    spec.checkpoint.every = rekindle_types::spec::Cadence::Steps(1);
    spec
}

/// A rank's part of a checkpoint.
pub fn saved(step: u64, rank: u32) -> Report {
    let part = CheckpointPart {
        step,
        rank: RankId(rank),
        files: Vec::new(),
        persist_seconds: 0.1,
        stall_seconds: 0.0,
    };
    Report::Saved {
        part: Box::new(part),
        interval: None,
    }
}

pub fn step(number: u64) -> StepReport {
    StepReport {
        step: number,
        loss: 2.0,
        grad_norm: 1.0,
        lr: 0.1,
        tokens: 8,
        step_seconds: 0.1,
        epoch: Epoch(1),
        data_digest: String::new(),
        state_digest: None,
        val_loss: None,
        stage_norms: Vec::new(),
    }
}

pub fn failure(class: FailureClass) -> Failure {
    Failure {
        class,
        rank: None,
        worker: None,
        message: format!("a {class}"),
    }
}

pub fn status(job: &JobId, epoch: u64, rank: u32, phase: TrainerPhase) -> TrainerStatus {
    let listens = phase >= TrainerPhase::Ready;
    TrainerStatus {
        in_memory: rekindle_types::InMemory::default(),
        job: job.clone(),
        epoch: Epoch(epoch),
        rank: RankId(rank),
        phase,
        data_address: listens.then(|| format!("h:{rank}")),
        step: 0,
    }
}

/// The trainers of most tests say nothing of how far they are, and aren't stopped for that.
pub fn config() -> Config {
    Config {
        silence: 1_000_000_000,
        ..Config::default()
    }
}

pub struct Desk {
    pub machine: Coordinator,
    pub now: u64,
    pub journal: Vec<(Seq, Record)>,
    /// Effects since they were last taken, without records.
    pub effects: Vec<Effect>,
    /// Records become durable at once.
    pub prompt: bool,
    /// What a search for a state to start from finds.
    pub found: Result<Option<StartPoint>, NotFound>,
    /// The epoch it finds in the run's files.
    pub after_epoch: Epoch,
    sessions: BTreeMap<String, SessionId>,
    numbers: BTreeMap<String, u64>,
    next_session: u64,
}

impl Desk {
    pub fn new() -> Self {
        Self::with(config())
    }

    pub fn with(config: Config) -> Self {
        Self::of(Coordinator::new(config), Vec::new())
    }

    pub fn of(machine: Coordinator, journal: Vec<(Seq, Record)>) -> Self {
        let mut desk = Self {
            machine,
            now: 1_700_000_000_000,
            journal,
            effects: Vec::new(),
            prompt: true,
            found: Ok(None),
            after_epoch: Epoch(0),
            sessions: BTreeMap::new(),
            numbers: BTreeMap::new(),
            next_session: 1,
        };
        desk.tell(Event::Tick);
        desk
    }

    /// The coordinator dies; what was durable remains.
    pub fn restart(&self) -> Self {
        let machine = Coordinator::restore(config(), self.journal.clone()).expect("a good journal");
        let mut desk = Self::of(machine, self.journal.clone());
        desk.next_session = self.next_session + 100;
        desk.numbers.clone_from(&self.numbers);
        desk
    }

    pub fn tell(&mut self, event: Event) {
        let effects = self.machine.handle(self.now, event);
        let (mut newest, mut searched) = (None, Vec::new());
        for effect in effects {
            if let Effect::FindStart { job, .. } = &effect {
                searched.push(job.clone());
            }
            if let Effect::Persist { seq, record } = effect {
                self.journal.push((seq, *record));
                newest = Some(seq);
            } else {
                self.effects.push(effect);
            }
        }
        if let Some(seq) = newest.filter(|_| self.prompt) {
            self.tell(Event::Persisted { seq });
        }
        for job in searched {
            self.tell(Event::StartFound {
                job,
                found: self.found.clone(),
                after_epoch: self.after_epoch,
                notes: Vec::new(),
            });
        }
    }

    /// Manifests that are to be written.
    pub fn commits(&self) -> Vec<Commit> {
        let commits = self.effects.iter().filter_map(|effect| match effect {
            Effect::CommitCheckpoint(commit) => Some((**commit).clone()),
            _ => None,
        });
        commits.collect()
    }

    /// The manifest of a checkpoint is durable, or isn't.
    pub fn written(&mut self, job: &JobId, epoch: u64, step: u64, error: Option<&str>) {
        let outcome = match error {
            Some(error) => Err(error.to_owned()),
            None => Ok(CommittedCheckpoint {
                step,
                url: format!("runs/j/checkpoints/step-{step:08}"),
                bytes: 1,
                state_digest: StateDigest(u128::from(step)),
            }),
        };
        self.tell(Event::CheckpointWritten {
            job: job.clone(),
            epoch: Epoch(epoch),
            step,
            outcome,
            notes: Vec::new(),
        });
    }

    /// Reports up to which a worker was last told to forget.
    pub fn acknowledged(&self, name: &str) -> u64 {
        let told = self.effects.iter().rev().find_map(|effect| match effect {
            Effect::Send {
                worker,
                command: Command::Acknowledge { up_to },
                ..
            } if worker.as_str() == name => Some(*up_to),
            _ => None,
        });
        told.unwrap_or(0)
    }

    /// Lets time pass, ticking when the machine wants it and keeping `alive` workers' leases.
    pub fn wait(&mut self, ms: u64, alive: &[&str]) {
        let end = self.now + ms;
        while self.now < end {
            let next = self.machine.next_deadline().unwrap_or(end);
            self.now = next.clamp(self.now + 1, end).min(self.now + 500);
            for name in alive {
                self.beat(name);
            }
            self.tell(Event::Tick);
        }
    }

    /// A worker is alive.
    pub fn beat(&mut self, name: &str) {
        let session = self.sessions[name];
        self.tell(Event::Heartbeat { session });
    }

    pub fn submit(&mut self, request: &str, spec: JobSpec) -> Result<Answer, Rejection> {
        self.submit_as(request, None, spec, false)
    }

    pub fn submit_as(
        &mut self,
        request: &str,
        job: Option<JobId>,
        spec: JobSpec,
        validate_only: bool,
    ) -> Result<Answer, Rejection> {
        let submission = Submission {
            request_id: request.to_owned(),
            job,
            spec,
            resume: false,
            validate_only,
        };
        let submission = Box::new(submission);
        self.tell(Event::Submit {
            token: Token(1),
            submission,
        });
        self.answer()
    }

    pub fn cancel(&mut self, job: &JobId, mode: CancelMode) -> Result<Answer, Rejection> {
        let job = job.clone();
        self.tell(Event::Cancel {
            token: Token(1),
            job,
            mode,
        });
        self.answer()
    }

    fn answer(&mut self) -> Result<Answer, Rejection> {
        let mut answers = self.effects.iter().filter_map(|effect| match effect {
            Effect::Reply { answer, .. } => Some(answer.clone()),
            _ => None,
        });
        answers.next_back().expect("an answer")
    }

    /// A new job in the queue (or started, when there is room).
    pub fn job(&mut self, spec: JobSpec) -> JobId {
        let answer = self.submit("", spec);
        let job = answer.as_ref().ok().and_then(|answer| match answer {
            Answer::Submitted { job, created: true } => Some(job.clone()),
            _ => None,
        });
        job.expect("a new job is taken")
    }

    pub fn register(
        &mut self,
        name: &str,
        incarnation: u64,
        slots: u32,
        trainers: Vec<TrainerStatus>,
    ) -> SessionId {
        self.register_kept(name, incarnation, slots, trainers, Vec::new())
    }

    /// A new worker of one slot that found these jobs' state in its machine's memory.
    pub fn register_with(&mut self, name: &str, kept: Vec<JobId>) -> SessionId {
        self.register_kept(name, 1, 1, Vec::new(), kept)
    }

    pub fn register_kept(
        &mut self,
        name: &str,
        incarnation: u64,
        slots: u32,
        trainers: Vec<TrainerStatus>,
        kept: Vec<JobId>,
    ) -> SessionId {
        let session = SessionId(self.next_session);
        self.next_session += 1;
        let registration = Registration {
            kept,
            worker: worker(name),
            incarnation,
            version: "1".to_owned(),
            data_host: "h".to_owned(),
            threads: 1,
            device: DeviceId::Cpu,
            slots,
            memory_bytes: 0,
            trainers,
        };
        let registration = Box::new(registration);
        self.tell(Event::WorkerRegistered {
            session,
            registration,
        });
        if self.accepted(session) {
            self.sessions.insert(name.to_owned(), session);
        }
        session
    }

    pub fn accepted(&self, wanted: SessionId) -> bool {
        let accepts =
            |effect: &Effect| matches!(effect, Effect::AcceptSession { session, .. } if *session == wanted);
        self.effects.iter().any(accepts)
    }

    pub fn closed(&self, wanted: SessionId) -> Option<CloseReason> {
        self.effects.iter().find_map(|effect| match effect {
            Effect::CloseSession { session, reason, .. } if *session == wanted => Some(reason.clone()),
            _ => None,
        })
    }

    pub fn lose(&mut self, name: &str) {
        let session = self.sessions[name];
        self.tell(Event::SessionLost { session });
    }

    /// It is asked to leave.
    pub fn drain(&mut self, name: &str) {
        let (session, grace) = (self.sessions[name], 20_000);
        self.tell(Event::WorkerDraining { session, grace });
    }

    pub fn report(&mut self, name: &str, job: &JobId, rank: u32, report: Report) {
        self.report_of(name, job, 1, rank, report);
    }

    /// The worker's next report, of another epoch than the first.
    pub fn report_of(&mut self, name: &str, job: &JobId, epoch: u64, rank: u32, report: Report) {
        let number = self.numbers.entry(name.to_owned()).or_default();
        *number += 1;
        let number = *number;
        self.report_as(name, number, job, epoch, rank, report);
    }

    pub fn report_as(&mut self, name: &str, number: u64, job: &JobId, epoch: u64, rank: u32, report: Report) {
        let report = NumberedReport {
            number,
            job: job.clone(),
            epoch: Epoch(epoch),
            rank: RankId(rank),
            report,
        };
        let session = self.sessions[name];
        let report = Box::new(report);
        self.tell(Event::WorkerReport { session, report });
    }

    pub fn ready(&mut self, name: &str, job: &JobId, rank: u32) {
        let data_address = format!("h:{rank}");
        self.report(
            name,
            job,
            rank,
            Report::Ready {
                data_address,
                in_memory: rekindle_types::InMemory::default(),
            },
        );
    }

    /// Two workers a, b and a job of two stages that trains on them.
    pub fn training(&mut self, steps: u64) -> JobId {
        self.training_of(spec(2, steps))
    }

    /// The same for a job that saves its state every step.
    pub fn saving(&mut self, steps: u64) -> JobId {
        self.training_of(saving_spec(steps))
    }

    pub fn training_of(&mut self, spec: JobSpec) -> JobId {
        self.register("a", 1, 1, vec![]);
        self.register("b", 1, 1, vec![]);
        let job = self.job(spec);
        self.ready("a", &job, 0);
        self.ready("b", &job, 1);
        self.report("a", &job, 0, Report::Step(step(1)));
        assert_eq!(self.view(&job).state, JobState::Running);
        self.effects.clear();
        job
    }

    /// Commands sent since the effects were last taken, by worker, without acknowledgements.
    pub fn commands(&mut self) -> Vec<(String, Command)> {
        let effects = std::mem::take(&mut self.effects);
        let sends = effects.into_iter().filter_map(|effect| match effect {
            Effect::Send { worker, command, .. } => Some((worker.to_string(), command)),
            _ => None,
        });
        sends
            .filter(|(_, command)| !matches!(command, Command::Acknowledge { .. }))
            .collect()
    }

    /// The same as words, without what is told to all about ended jobs: `start a 0`, `connect a`, `stop a`.
    pub fn orders(&mut self) -> Vec<String> {
        let word = |(worker, command): (String, Command)| match command {
            Command::Start(start) => Some(format!("start {worker} {}", start.rank.0)),
            Command::Connect { .. } => Some(format!("connect {worker}")),
            Command::Halt { .. } => Some(format!("halt {worker}")),
            Command::Stop { .. } => Some(format!("stop {worker}")),
            Command::Save { .. } => Some(format!("save {worker}")),
            Command::Forget { .. } | Command::Acknowledge { .. } => None,
        };
        self.commands().into_iter().filter_map(word).collect()
    }

    pub fn view(&self, job: &JobId) -> JobView {
        self.machine.job(job).expect("the job is known")
    }

    pub fn verdict(&self, job: &JobId) -> Failure {
        let view = self.view(job);
        assert_eq!(view.state, JobState::Failed, "{}", view.reason);
        view.failure.expect("a failed job says why")
    }

    pub fn changes(&self, wanted: fn(&Change) -> bool) -> usize {
        self.journal
            .iter()
            .filter(|(_, record)| wanted(&record.change))
            .count()
    }
}
