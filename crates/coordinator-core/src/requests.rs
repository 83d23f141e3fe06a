//! What clients want: submit (idempotent by request id) and cancel.

use rekindle_plan::{PlaceError, place};
use rekindle_types::{JobId, JobSpec, JobState};

use crate::event::{CancelMode, Submission};
use crate::machine::Coordinator;
use crate::saves::Purpose;
use crate::{Answer, Change, Effect, Rejection, Token};

const MAX_REQUEST_ID: usize = 128;

impl Coordinator {
    pub(crate) fn submit(&mut self, token: Token, submission: Submission) {
        let answer = self.admit(submission);
        self.reply(token, answer);
        self.place_queue();
    }

    fn admit(&mut self, submission: Submission) -> Result<Answer, Rejection> {
        let Submission {
            request_id,
            job: wanted,
            spec,
            resume,
            validate_only,
        } = submission;
        if request_id.len() > MAX_REQUEST_ID {
            let bytes = request_id.len();
            return Err(Rejection::RequestIdTooLong { bytes });
        }
        if let Some((id, known)) = self.live.of_request(&request_id) {
            let same = *known.spec == spec
                && known.resume == resume
                && wanted.as_ref().is_none_or(|wanted| wanted == id);
            let job = id.clone();
            return match (same, validate_only) {
                (true, true) => Ok(Answer::Valid),
                (true, false) => Ok(Answer::Submitted { job, created: false }),
                (false, _) => Err(Rejection::RequestReused { request_id, job }),
            };
        }
        let job = self.job_id(wanted, &spec)?;
        self.check_placeable(&job, &spec)?;
        if !self.live.has_room() {
            let jobs = self.config.max_jobs;
            return Err(Rejection::TooManyJobs { jobs });
        }
        if validate_only {
            return Ok(Answer::Valid);
        }
        let output = spec.job.output.clone();
        self.record(Change::Submitted {
            job: job.clone(),
            request_id,
            spec: Box::new(spec),
            resume,
        });
        let after = self.after();
        self.emit(Effect::PrepareOutput {
            job: job.clone(),
            output,
            after,
        });
        Ok(Answer::Submitted { job, created: true })
    }

    /// The id wanted, or `<name>-<n>` with the first free n from the count of submissions on.
    fn job_id(&self, wanted: Option<JobId>, spec: &JobSpec) -> Result<JobId, Rejection> {
        if let Some(job) = wanted {
            if self.live.job(&job).is_some() {
                return Err(Rejection::JobExists { job });
            }
            return Ok(job);
        }
        let name = &spec.job.name;
        let mut number = self.live.submitted() + 1;
        loop {
            let job = JobId::new(format!("{name}-{number}")).map_err(|error| Rejection::NotPlaceable {
                why: error.to_string(),
            })?;
            if self.live.job(&job).is_none() {
                return Ok(job);
            }
            number += 1;
        }
    }

    /// Refuses what no number of workers would help.
    fn check_placeable(&self, job: &JobId, spec: &JobSpec) -> Result<(), Rejection> {
        let epoch = rekindle_types::Epoch(1);
        match place(job, epoch, spec, &self.registry.free_slots()) {
            Ok(_) | Err(PlaceError::NotEnoughWorkers { .. }) => Ok(()),
            Err(error) => Err(Rejection::NotPlaceable {
                why: error.to_string(),
            }),
        }
    }

    pub(crate) fn cancel(&mut self, token: Token, job: &JobId, mode: CancelMode) {
        let answer = self.try_cancel(job, mode);
        self.reply(token, answer);
        self.place_queue();
    }

    fn try_cancel(&mut self, id: &JobId, mode: CancelMode) -> Result<Answer, Rejection> {
        let Some(job) = self.live.job(id) else {
            return Err(Rejection::UnknownJob { job: id.clone() });
        };
        if matches!(job.state, JobState::Queued | JobState::Recovering) {
            self.end(id, JobState::Cancelled, None);
        } else if job.is_training() {
            self.stop_training(id, mode);
        } else if job.state == JobState::Cancelling && mode != CancelMode::Graceful {
            self.stop_now(id);
        }
        if mode == CancelMode::Now && self.state_of(id) == Some(JobState::Cancelling) {
            self.end(id, JobState::Cancelled, None);
        }
        self.check_cancelled(id);
        let state = self.state_of(id).unwrap_or(JobState::Cancelled);
        let job = id.clone();
        match state {
            JobState::Cancelling | JobState::Cancelled => Ok(Answer::Cancelled { job, state }),
            _ => Err(Rejection::JobEnded { job, state }),
        }
    }

    /// Stops the job's trainers on the user's wish, after their state is saved where that is wanted and possible.
    fn stop_training(&mut self, id: &JobId, mode: CancelMode) {
        let running = self.state_of(id) == Some(JobState::Running);
        let save = mode == CancelMode::Graceful && running && self.ask_to_save(id, Purpose::Cancel);
        self.record(Change::CancelRequested {
            job: id.clone(),
            save,
        });
        if !save {
            self.stop_now(id);
        }
    }

    fn stop_now(&mut self, id: &JobId) {
        let by = self.mono() + self.config.cancel_limit;
        if let Some(run) = self.runs.get_mut(id) {
            run.awaited = None;
            run.cancel_by.get_or_insert(by);
        }
        self.stop_holders(id, "the job is cancelled");
    }

    pub(crate) fn state_of(&self, job: &JobId) -> Option<JobState> {
        self.live.job(job).map(|job| job.state)
    }

    /// A job that is being cancelled has ended when none of its trainers holds a slot.
    pub(crate) fn check_cancelled(&mut self, job: &JobId) {
        if self.state_of(job) == Some(JobState::Cancelling) && self.registry.holders(job).is_empty() {
            self.end(job, JobState::Cancelled, None);
        }
    }
}
