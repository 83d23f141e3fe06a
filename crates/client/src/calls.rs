//! Unary calls.

use std::time::Duration;

use rekindle_plan::PlanReport;
use rekindle_proto::convert::{spec_from_json, spec_to_json};
use rekindle_proto::pb::v1 as pb;
use rekindle_proto::view::{ClusterStatus, JobStatus, WorkerStatus};
use rekindle_proto::{CLIENT_VERSION_KEY, ConvertError};
use rekindle_types::{Incident, JobEvent, JobId, JobSpec, JobState, Plan};
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::retry::backoff;
use crate::{Client, ClientError};

/// A job as it is sent.
#[derive(Debug, Clone)]
pub enum JobText {
    /// The text of a job file; its paths are absolute.
    Toml(String),
    /// A resolved job.
    Resolved(Box<JobSpec>),
}

impl From<JobSpec> for JobText {
    fn from(spec: JobSpec) -> Self {
        Self::Resolved(Box::new(spec))
    }
}

impl JobText {
    fn to_pb(&self) -> pb::JobSpec {
        use pb::job_spec::Format;
        pb::JobSpec {
            format: Some(match self {
                Self::Toml(text) => Format::Toml(text.clone()),
                Self::Resolved(spec) => Format::Json(spec_to_json(spec)),
            }),
        }
    }
}

/// A wish to run a job.
#[derive(Debug, Clone)]
pub struct Submission {
    /// Makes the submission safe to repeat; none: drawn for this call, so that only its own retries are.
    pub request_id: Option<String>,
    /// The id wanted; none: made from the job's name.
    pub job: Option<JobId>,
    /// What to run.
    pub spec: JobText,
    /// Only check.
    pub validate_only: bool,
    /// Go on from the newest valid checkpoint in the job's place for checkpoints.
    pub resume: bool,
}

/// How a job is cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancel {
    /// Its state is saved first, if it saves any.
    Save,
    /// Its trainers are stopped at once and waited for.
    Stop,
    /// It is cancelled at once; its trainers end by themselves.
    Now,
}

impl Submission {
    /// A submission of `spec` with everything else left to the coordinator.
    #[must_use]
    pub fn new(spec: impl Into<JobText>) -> Self {
        Self {
            request_id: None,
            job: None,
            spec: spec.into(),
            validate_only: false,
            resume: false,
        }
    }
}

/// What a job would look like.
#[derive(Debug, Clone)]
pub struct Planned {
    /// The job, complete.
    pub spec: JobSpec,
    /// Who would do what.
    pub plan: Plan,
    /// What that costs.
    pub report: PlanReport,
}

pub(crate) type Jobs = pb::job_service_client::JobServiceClient<Channel>;
pub(crate) type Telemetry = pb::telemetry_service_client::TelemetryServiceClient<Channel>;
type Cluster = pb::cluster_service_client::ClusterServiceClient<Channel>;

const PAGE: u32 = 200;

impl Client {
    pub(crate) fn jobs(&self) -> Jobs {
        Jobs::new(self.channel.clone())
    }

    pub(crate) fn telemetry(&self) -> Telemetry {
        Telemetry::new(self.channel.clone())
    }

    fn cluster_service(&self) -> Cluster {
        Cluster::new(self.channel.clone())
    }

    /// Submits a job. Repeated by itself when the coordinator doesn't answer; that is safe (CL-2).
    ///
    /// # Errors
    /// [`ClientError`]; an unusable job comes with every violation.
    pub async fn submit(&self, submission: Submission) -> Result<JobStatus, ClientError> {
        let message = pb::SubmitJobRequest {
            request_id: submission
                .request_id
                .unwrap_or_else(|| uuid::Uuid::new_v4().to_string()),
            job_id: submission.job.map(String::from).unwrap_or_default(),
            spec: Some(submission.spec.to_pb()),
            validate_only: submission.validate_only,
            resume: submission.resume,
        };
        let limit = self.options.submit_timeout;
        let response = self
            .call(limit, message, |request| {
                let mut jobs = self.jobs();
                async move { jobs.submit_job(request).await }
            })
            .await?;
        job(response.job)
    }

    /// One job, with its resolved spec.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn get(&self, id: &JobId) -> Result<JobStatus, ClientError> {
        let message = pb::GetJobRequest {
            job_id: id.to_string(),
        };
        let response = self
            .call(self.options.timeout, message, |request| {
                let mut jobs = self.jobs();
                async move { jobs.get_job(request).await }
            })
            .await?;
        job(response.job)
    }

    /// All jobs in one of `states` (empty: in any), oldest first.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn list(&self, states: &[JobState]) -> Result<Vec<JobStatus>, ClientError> {
        let states: Vec<i32> = states.iter().map(|s| pb::JobState::from(*s).into()).collect();
        let mut all = Vec::new();
        let mut page_token = String::new();
        loop {
            let message = pb::ListJobsRequest {
                page_size: PAGE,
                page_token,
                states: states.clone(),
            };
            let response = self
                .call(self.options.timeout, message, |request| {
                    let mut jobs = self.jobs();
                    async move { jobs.list_jobs(request).await }
                })
                .await?;
            all.extend(convert_all(response.jobs)?);
            if response.next_page_token.is_empty() {
                return Ok(all);
            }
            page_token = response.next_page_token;
        }
    }

    /// Cancels a job.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn cancel(&self, id: &JobId, how: Cancel) -> Result<JobStatus, ClientError> {
        let mode = match how {
            Cancel::Save => pb::CancelMode::Graceful,
            Cancel::Stop => pb::CancelMode::Stop,
            Cancel::Now => pb::CancelMode::Now,
        };
        let message = pb::CancelJobRequest {
            job_id: id.to_string(),
            mode: mode.into(),
        };
        let response = self
            .call(self.options.timeout, message, |request| {
                let mut jobs = self.jobs();
                async move { jobs.cancel_job(request).await }
            })
            .await?;
        job(response.job)
    }

    /// What a job would look like on `workers` imagined workers, or (0) on the connected ones.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn plan(&self, spec: JobText, workers: u32) -> Result<Planned, ClientError> {
        let message = pb::PlanJobRequest {
            spec: Some(spec.to_pb()),
            workers,
        };
        let response = self
            .call(self.options.timeout, message, |request| {
                let mut jobs = self.jobs();
                async move { jobs.plan_job(request).await }
            })
            .await?;
        Ok(Planned {
            spec: spec_from_json(&response.spec_json)
                .map_err(|e| ConvertError::new("spec_json", e.to_string()))?,
            plan: set("plan", response.plan)?.try_into()?,
            report: set("report", response.report)?.try_into()?,
        })
    }

    /// What a job lost and what became of it, oldest first.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn explain(&self, id: &JobId) -> Result<Vec<Incident>, ClientError> {
        let message = pb::ExplainJobRequest {
            job_id: id.to_string(),
        };
        let response = self
            .call(self.options.timeout, message, |request| {
                let mut jobs = self.jobs();
                async move { jobs.explain_job(request).await }
            })
            .await?;
        Ok(convert_all(response.incidents)?)
    }

    /// What the coordinator is.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn cluster(&self) -> Result<ClusterStatus, ClientError> {
        let response = self
            .call(self.options.timeout, pb::GetClusterRequest {}, |request| {
                let mut cluster = self.cluster_service();
                async move { cluster.get_cluster(request).await }
            })
            .await?;
        Ok(response.try_into()?)
    }

    /// All workers, by name.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn workers(&self) -> Result<Vec<WorkerStatus>, ClientError> {
        let mut all = Vec::new();
        let mut page_token = String::new();
        loop {
            let message = pb::ListWorkersRequest {
                page_size: PAGE,
                page_token,
            };
            let response = self
                .call(self.options.timeout, message, |request| {
                    let mut cluster = self.cluster_service();
                    async move { cluster.list_workers(request).await }
                })
                .await?;
            all.extend(convert_all(response.workers)?);
            if response.next_page_token.is_empty() {
                return Ok(all);
            }
            page_token = response.next_page_token;
        }
    }

    /// A job's history, oldest first.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn events(&self, id: &JobId) -> Result<Vec<JobEvent>, ClientError> {
        let mut all = Vec::new();
        let mut page_token = String::new();
        loop {
            let message = pb::ListEventsRequest {
                job_id: id.to_string(),
                page_size: PAGE,
                page_token,
            };
            let response = self
                .call(self.options.timeout, message, |request| {
                    let mut telemetry = self.telemetry();
                    async move { telemetry.list_events(request).await }
                })
                .await?;
            all.extend(convert_all(response.events)?);
            if response.next_page_token.is_empty() {
                return Ok(all);
            }
            page_token = response.next_page_token;
        }
    }

    /// Makes a call, again after a while when it may be made again, within `limit` a time (CL-1).
    pub(crate) async fn call<M, R, F>(
        &self,
        limit: Duration,
        message: M,
        mut attempt: impl FnMut(Request<M>) -> F,
    ) -> Result<R, ClientError>
    where
        M: Clone,
        F: Future<Output = Result<Response<R>, Status>>,
    {
        let mut made = 0;
        loop {
            made += 1;
            let mut request = self.request(message.clone());
            request.set_timeout(limit);
            // The transport's own deadline doesn't cover waiting for a connection.
            let error = match tokio::time::timeout(limit, attempt(request)).await {
                Ok(Ok(response)) => return Ok(response.into_inner()),
                Ok(Err(status)) => ClientError::of(&self.endpoint, &status),
                Err(_) => ClientError::TimedOut {
                    endpoint: self.endpoint.clone(),
                    seconds: limit.as_secs(),
                },
            };
            if made >= self.options.attempts || !error.is_retryable() {
                return Err(error);
            }
            tokio::time::sleep(backoff(made)).await;
        }
    }

    /// A request that says who asks.
    pub(crate) fn request<M>(&self, message: M) -> Request<M> {
        let mut request = Request::new(message);
        let version = MetadataValue::from_static(env!("CARGO_PKG_VERSION"));
        request.metadata_mut().insert(CLIENT_VERSION_KEY, version);
        request
    }
}

fn set<T>(field: &str, value: Option<T>) -> Result<T, ConvertError> {
    value.ok_or_else(|| ConvertError::new(field, "is not set"))
}

fn job(message: Option<pb::Job>) -> Result<JobStatus, ClientError> {
    Ok(set("job", message)?.try_into()?)
}

fn convert_all<M, T>(messages: Vec<M>) -> Result<Vec<T>, ConvertError>
where
    T: TryFrom<M, Error = ConvertError>,
{
    messages.into_iter().map(TryInto::try_into).collect()
}
