//! `rekindle.v1.JobService`.

use rekindle_coordinator_core::{Answer, CancelMode, Submission};
use rekindle_plan::{PlaceError, Slot, place, report};
use rekindle_proto::convert::spec_to_json;
use rekindle_proto::pb::v1 as pb;
use rekindle_proto::view::JobStatus;
use rekindle_proto::{ApiError, Reason};
use rekindle_types::{Epoch, JobId, JobSpec, JobState, SpecError, WorkerId};
use tonic::{Request, Response, Status};

use super::page::page;
use super::stream::Stream;
use super::{Api, blocking, job_id};
use crate::clock;
use crate::files::check_unused;
use crate::handle::{shutting_down, unknown_job};
use crate::submit::resolve;
use crate::view::job_status;

#[tonic::async_trait]
impl pb::job_service_server::JobService for Api {
    type WatchJobStream = Stream<pb::WatchJobResponse>;

    async fn submit_job(
        &self,
        request: Request<pb::SubmitJobRequest>,
    ) -> Result<Response<pb::SubmitJobResponse>, Status> {
        let job = self.submit(request.into_inner()).await?;
        Ok(Response::new(pb::SubmitJobResponse {
            job: Some((&job).into()),
        }))
    }

    async fn get_job(
        &self,
        request: Request<pb::GetJobRequest>,
    ) -> Result<Response<pb::GetJobResponse>, Status> {
        let job = self.status(&job_id(&request.get_ref().job_id)?, true).await?;
        Ok(Response::new(pb::GetJobResponse {
            job: Some((&job).into()),
        }))
    }

    async fn list_jobs(
        &self,
        request: Request<pb::ListJobsRequest>,
    ) -> Result<Response<pb::ListJobsResponse>, Status> {
        let request = request.into_inner();
        let states = request.states;
        let jobs = self
            .handle
            .query(move |shell| {
                let wanted =
                    |state: JobState| states.is_empty() || states.contains(&pb::JobState::from(state).into());
                let views = shell.core.jobs().into_iter().filter(|view| wanted(view.state));
                views
                    .map(|view| job_status(&view, shell.hub.version(&view.job), false))
                    .collect::<Vec<_>>()
            })
            .await?;
        let key = |job: &JobStatus| job.job.as_ref().map(ToString::to_string).unwrap_or_default();
        let (jobs, next_page_token) = page(jobs, request.page_size, &request.page_token, key);
        Ok(Response::new(pb::ListJobsResponse {
            jobs: jobs.iter().map(Into::into).collect(),
            next_page_token,
        }))
    }

    async fn watch_job(
        &self,
        request: Request<pb::WatchJobRequest>,
    ) -> Result<Response<Self::WatchJobStream>, Status> {
        let job = job_id(&request.get_ref().job_id)?;
        Ok(self.watch(job).await?)
    }

    async fn cancel_job(
        &self,
        request: Request<pb::CancelJobRequest>,
    ) -> Result<Response<pb::CancelJobResponse>, Status> {
        let request = request.into_inner();
        let job = job_id(&request.job_id)?;
        let mode = match request.mode() {
            pb::CancelMode::Now => CancelMode::Now,
            pb::CancelMode::Stop => CancelMode::Stop,
            pb::CancelMode::Graceful | pb::CancelMode::Unspecified => CancelMode::Graceful,
        };
        self.handle.cancel(job.clone(), mode).await?;
        let job = self.status(&job, false).await?;
        Ok(Response::new(pb::CancelJobResponse {
            job: Some((&job).into()),
        }))
    }

    async fn plan_job(
        &self,
        request: Request<pb::PlanJobRequest>,
    ) -> Result<Response<pb::PlanJobResponse>, Status> {
        let request = request.into_inner();
        let spec = blocking(move || resolve(request.spec)).await?;
        let slots = match request.workers {
            0 => self.connected_slots().await?,
            workers => imagined_slots(workers)?,
        };
        let job = JobId::new(&spec.job.name).map_err(|e| SpecError::one("job.name", e.to_string()));
        let plan = place(&job.map_err(ApiError::from)?, Epoch(0), &spec, &slots).map_err(unplaceable)?;
        Ok(Response::new(pb::PlanJobResponse {
            report: Some((&report(&spec, &plan)).into()),
            plan: Some((&plan).into()),
            spec_json: spec_to_json(&spec),
        }))
    }

    async fn explain_job(
        &self,
        request: Request<pb::ExplainJobRequest>,
    ) -> Result<Response<pb::ExplainJobResponse>, Status> {
        let id = job_id(&request.get_ref().job_id)?;
        let job = id.clone();
        let incidents = self.handle.query(move |shell| shell.core.incidents(&job)).await?;
        let incidents = incidents.ok_or_else(|| unknown_job(&id))?;
        Ok(Response::new(pb::ExplainJobResponse {
            incidents: incidents.iter().map(Into::into).collect(),
        }))
    }
}

impl Api {
    #[tracing::instrument(skip_all, fields(request_id = request.request_id, job_id = request.job_id))]
    async fn submit(&self, request: pb::SubmitJobRequest) -> Result<JobStatus, ApiError> {
        if self.draining.is_cancelled() {
            return Err(shutting_down());
        }
        check_request_id(&request.request_id)?;
        let job = Some(request.job_id).filter(|id| !id.is_empty());
        let job = job.map(|id| job_id(&id)).transpose()?;
        let spec = blocking(move || resolve(request.spec)).await?;
        let output = spec.job.output.clone();
        // A run that goes on writes to the files it has.
        if !request.resume && !self.is_known(&request.request_id).await? {
            let output = output.clone();
            blocking(move || check_unused(&output)).await?;
        }
        let submission = Submission {
            request_id: request.request_id,
            job,
            spec: spec.clone(),
            resume: request.resume,
            validate_only: request.validate_only,
        };
        match self.handle.submit(submission, output).await? {
            Answer::Valid => Ok(only_checked(spec)),
            Answer::Submitted { job, created } => {
                tracing::info!(%job, created, "submitted");
                self.status(&job, true).await
            }
            Answer::Cancelled { job, .. } => self.status(&job, true).await,
        }
    }

    /// Whether a request made a job before: its folder is in use then, by that job.
    async fn is_known(&self, request_id: &str) -> Result<bool, ApiError> {
        let request_id = request_id.to_owned();
        self.handle
            .query(move |shell| shell.core.durable().of_request(&request_id).is_some())
            .await
    }

    async fn status(&self, job: &JobId, with_spec: bool) -> Result<JobStatus, ApiError> {
        let (view, version) = self.handle.job(job).await?;
        Ok(job_status(&view, version, with_spec))
    }

    /// One slot for every trainer the connected workers may run, taken or not.
    async fn connected_slots(&self) -> Result<Vec<Slot>, ApiError> {
        let workers = self.handle.query(|shell| shell.core.workers()).await?;
        let connected = workers.into_iter().filter(|worker| worker.connected);
        Ok(connected
            .flat_map(|worker| {
                let slot = Slot {
                    worker: worker.worker,
                    threads: worker.threads,
                };
                std::iter::repeat_n(slot, worker.slots as usize)
            })
            .collect())
    }
}

fn check_request_id(id: &str) -> Result<(), ApiError> {
    if id.len() <= 128 && id.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(());
    }
    let why = "must be 1 to 128 printable ASCII characters, or empty";
    Err(rekindle_proto::ConvertError::new("request_id", why).into())
}

/// The answer to a submission that was only checked.
fn only_checked(spec: JobSpec) -> JobStatus {
    JobStatus {
        job: None,
        name: spec.job.name.clone(),
        state: JobState::Queued,
        state_message: "the job is valid; nothing was submitted".to_owned(),
        resource_version: 0,
        total_steps: spec.training.steps,
        created_unix_ms: clock::now(),
        started_unix_ms: None,
        ended_unix_ms: None,
        output: spec.job.output.clone(),
        failure: None,
        plan: None,
        ranks: Vec::new(),
        last_step: None,
        checkpoints: None,
        start: None,
        restarts: 0,
        restart_budgets: Vec::new(),
        rebuilt: Vec::new(),
        spec: Some(Box::new(spec)),
    }
}

/// Imagined workers at most.
const MOST_IMAGINED: u32 = 4096;

fn imagined_slots(workers: u32) -> Result<Vec<Slot>, ApiError> {
    if workers > MOST_IMAGINED {
        let why = format!("{workers} is out of range; use 0 to {MOST_IMAGINED}");
        return Err(rekindle_proto::ConvertError::new("workers", why).into());
    }
    let slot = |n| {
        let worker = WorkerId::new(format!("worker-{n}"))
            .map_err(|e| ApiError::new(Reason::Internal, e.to_string()))?;
        Ok(Slot { worker, threads: 1 })
    };
    (1..=workers).map(slot).collect()
}

fn unplaceable(error: PlaceError) -> ApiError {
    let message = error.to_string();
    match error {
        PlaceError::NotEnoughWorkers { needed, free } => ApiError::new(Reason::NotEnoughWorkers, message)
            .with("needed", needed.to_string())
            .with("free", free.to_string()),
        PlaceError::TooManyStages { .. } => ApiError::from(SpecError::one("parallelism.pipeline", message)),
    }
}
