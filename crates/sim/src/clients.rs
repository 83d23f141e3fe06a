//! Clients: submit with a request id until there is an answer, now and then send it twice, now and then cancel.

use rekindle_coordinator_core::{Answer, CancelMode, Event, Rejection, Submission, Token};
use rekindle_types::spec::RecoverySource;
use rekindle_types::{JobFile, JobId, JobSpec};

use crate::world::{Due, World};

/// A client and its one job.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub(crate) spec: JobSpec,
    /// The job it was told.
    pub(crate) job: Option<JobId>,
    /// Answers it still wants: a client that repeats itself wants two.
    pub(crate) wanted: u32,
    pub(crate) refused: Option<String>,
}

impl Client {
    pub(crate) fn is_done(&self) -> bool {
        self.wanted == 0 || self.refused.is_some()
    }

    fn request_id(index: usize) -> String {
        format!("request-{index}")
    }
}

/// A job of `stages` x `lanes` trainers. Its blocks outweigh the head, so that every stage has some.
fn spec(stages: u64, lanes: u64, steps: u64, save_every: u64) -> JobSpec {
    let text = format!(
        "[job]\nname=\"sim\"\noutput=\"out\"\n[model]\nhidden_size=8\nintermediate_size=512\nnum_hidden_layers=4\n\
         num_attention_heads=2\n[data]\ntrain=[\"text\"]\nseq_len=4\n[training]\nsteps={steps}\nglobal_batch=4\nmicro_batch=1\n\
         [optimizer]\nlr=0.1\n[parallelism]\npipeline={stages}\ndata={lanes}\n[checkpoint]\nevery={save_every}\n"
    );
    let file = JobFile::parse(&text).expect("the text is a job file");
    file.into_spec(None).expect("the job is a valid one")
}

impl World {
    pub(crate) fn make_clients(&mut self) {
        let slots: u64 = self.hosts.iter().map(|host| u64::from(host.slots)).sum();
        for index in 0..self.config.jobs as usize {
            let stages = self.rng.within(1, slots.clamp(1, 4));
            let lanes = self.rng.within(1, (slots / stages).clamp(1, 2));
            let steps = self.rng.within(3, 25);
            // Half of the jobs save their state, and go on after a loss.
            let save_every = if self.rng.one_in(2) {
                self.rng.within(1, 6)
            } else {
                0
            };
            let wanted = if self.rng.one_in(3) { 2 } else { 1 };
            let mut spec = spec(stages, lanes, steps, save_every);
            if self.rng.one_in(2) {
                spec.recovery.sources.push(RecoverySource::Shadow);
                let most = (stages * lanes).saturating_sub(1).clamp(1, 3);
                spec.recovery.guards = self.rng.within(1, most) as u32;
                if lanes > u64::from(spec.recovery.guards) && self.rng.one_in(2) {
                    spec.recovery.sources.push(RecoverySource::Replica);
                }
            }
            // Some make up what nobody has, rather than to go back or only where there is no checkpoint.
            if (stages > 2 || lanes > 1) && self.rng.one_in(3) {
                let sources = &mut spec.recovery.sources;
                let at = if self.rng.one_in(2) { 1 } else { sources.len() };
                sources.insert(at, RecoverySource::NeighbourAverage);
                // Of those that can, every other one swaps micro-batches, so that its ends can be made up, too.
                if stages == 4 && !sources.contains(&RecoverySource::Shadow) && self.rng.one_in(2) {
                    spec.recovery.sources.push(RecoverySource::Swap);
                }
            }
            self.clients.push(Client {
                spec,
                job: None,
                wanted,
                refused: None,
            });
            let delay = self.rng.within(0, 8_000);
            self.after(delay, Due::Client { index });
        }
    }

    /// Submits, and again later as long as an answer is wanted.
    pub(crate) fn client_acts(&mut self, index: usize) {
        if self.clients[index].is_done() {
            return;
        }
        let submission = Submission {
            request_id: Client::request_id(index),
            job: None,
            spec: self.clients[index].spec.clone(),
            resume: false,
            validate_only: false,
        };
        let token = Token(index as u64);
        let submission = Box::new(submission);
        self.tell_coordinator(Event::Submit { token, submission });
        let delay = self.rng.within(300, 3_000);
        self.after(delay, Due::Client { index });
    }

    pub(crate) fn client_cancels(&mut self, index: usize) {
        let Some(job) = self.clients[index].job.clone() else {
            return;
        };
        if self.coordinator.is_none() {
            self.after(500, Due::Cancel { index });
            return;
        }
        self.note(&format!("cancel {job}"));
        let mode = match self.rng.within(0, 3) {
            0 => CancelMode::Now,
            1 => CancelMode::Stop,
            _ => CancelMode::Graceful,
        };
        self.ledger.cancelled.insert(job.clone());
        let token = Token(1_000_000 + index as u64);
        self.tell_coordinator(Event::Cancel { token, job, mode });
    }

    /// SM-5: a request makes one job, whoever asks how often.
    pub(crate) fn answered(&mut self, token: Token, answer: Result<Answer, Rejection>) {
        let index = usize::try_from(token.0).unwrap_or(usize::MAX);
        let Some(client) = self.clients.get_mut(index) else {
            return;
        };
        client.wanted = client.wanted.saturating_sub(1);
        match answer {
            Ok(Answer::Submitted { job, .. }) => {
                let before = client.job.replace(job.clone());
                if before.as_ref().is_some_and(|before| *before != job) {
                    self.violate("SM-5", format!("request {index} made {before:?} and {job}"));
                }
                self.note(&format!("client {index} has {job}"));
            }
            Ok(other) => self.violate("SM-5", format!("request {index} was answered {other:?}")),
            Err(error) => client.refused = Some(error.to_string()),
        }
    }
}
