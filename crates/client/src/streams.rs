//! The streams there are: a job's watch, metrics, events, logs.

use rekindle_proto::ConvertError;
use rekindle_proto::pb::v1 as pb;
use rekindle_proto::view::JobStatus;
use rekindle_types::{JobEvent, JobId, StepReport};
use tonic::{Status, Streaming};

use crate::{Client, ClientError, Feed, Source};

/// One update of a followed job.
#[derive(Debug, Clone, PartialEq)]
pub enum WatchUpdate {
    /// The whole job: first update, and after a gap.
    Snapshot(Box<JobStatus>),
    /// The whole job after a change.
    Changed(Box<JobStatus>),
    /// A step was committed.
    Step(Box<StepReport>),
}

/// Source of a [`JobWatch`].
#[derive(Debug)]
pub struct WatchSource {
    job: JobId,
}

/// Follows a job until it has ended.
pub type JobWatch = Feed<WatchSource>;

impl Source for WatchSource {
    type Item = WatchUpdate;
    type Message = pb::WatchJobResponse;

    async fn open(&self, client: &Client) -> Result<Streaming<Self::Message>, Status> {
        let request = client.request(pb::WatchJobRequest {
            job_id: self.job.to_string(),
        });
        Ok(client.jobs().watch_job(request).await?.into_inner())
    }

    fn take(&mut self, message: Self::Message) -> Result<Vec<WatchUpdate>, ConvertError> {
        use pb::watch_job_response::Update;
        Ok(match message.update {
            Some(Update::Snapshot(job)) => vec![WatchUpdate::Snapshot(Box::new(job.try_into()?))],
            Some(Update::Changed(job)) => vec![WatchUpdate::Changed(Box::new(job.try_into()?))],
            Some(Update::Step(step)) => vec![WatchUpdate::Step(Box::new(step.try_into()?))],
            // Something a newer coordinator says.
            None => Vec::new(),
        })
    }

    fn can_resume(&self) -> bool {
        true
    }
}

/// Source of a [`MetricFeed`].
#[derive(Debug)]
pub struct MetricSource {
    job: JobId,
    after_step: u64,
    follow: bool,
}

/// Reports of committed steps.
pub type MetricFeed = Feed<MetricSource>;

impl Source for MetricSource {
    type Item = StepReport;
    type Message = pb::StreamMetricsResponse;

    async fn open(&self, client: &Client) -> Result<Streaming<Self::Message>, Status> {
        let request = client.request(pb::StreamMetricsRequest {
            job_id: self.job.to_string(),
            after_step: self.after_step,
            follow: self.follow,
        });
        Ok(client.telemetry().stream_metrics(request).await?.into_inner())
    }

    fn take(&mut self, message: Self::Message) -> Result<Vec<StepReport>, ConvertError> {
        let steps: Vec<StepReport> = message
            .steps
            .into_iter()
            .map(TryInto::try_into)
            .collect::<Result<_, _>>()?;
        self.after_step = steps.last().map_or(self.after_step, |step| step.step);
        Ok(steps)
    }

    fn can_resume(&self) -> bool {
        true
    }
}

/// Source of an [`EventFeed`].
#[derive(Debug)]
pub struct EventSource {
    job: JobId,
    after_seq: u64,
}

/// A job's history as it happens.
pub type EventFeed = Feed<EventSource>;

impl Source for EventSource {
    type Item = JobEvent;
    type Message = pb::WatchEventsResponse;

    async fn open(&self, client: &Client) -> Result<Streaming<Self::Message>, Status> {
        let request = client.request(pb::WatchEventsRequest {
            job_id: self.job.to_string(),
            after_seq: self.after_seq,
        });
        Ok(client.telemetry().watch_events(request).await?.into_inner())
    }

    fn take(&mut self, message: Self::Message) -> Result<Vec<JobEvent>, ConvertError> {
        let events: Vec<JobEvent> = message
            .events
            .into_iter()
            .map(TryInto::try_into)
            .collect::<Result<_, _>>()?;
        self.after_seq = events.last().map_or(self.after_seq, |event| event.seq);
        Ok(events)
    }

    fn can_resume(&self) -> bool {
        true
    }
}

/// Which log lines.
#[derive(Debug, Clone, Default)]
pub struct LogQuery {
    /// Only this process (its log file's name without `.log`).
    pub process: Option<String>,
    /// Only the last so many lines of each file.
    pub tail_lines: Option<u32>,
    /// Wait for more until the job has ended.
    pub follow: bool,
}

/// One log line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// Name of the log file without `.log`.
    pub process: String,
    /// The line.
    pub text: String,
}

/// Source of a [`LogFeed`].
#[derive(Debug)]
pub struct LogSource {
    job: JobId,
    query: LogQuery,
}

/// Log lines. Not opened again when it breaks: a place in a log has no name.
pub type LogFeed = Feed<LogSource>;

impl Source for LogSource {
    type Item = LogLine;
    type Message = pb::StreamLogsResponse;

    async fn open(&self, client: &Client) -> Result<Streaming<Self::Message>, Status> {
        let request = client.request(pb::StreamLogsRequest {
            job_id: self.job.to_string(),
            process: self.query.process.clone().unwrap_or_default(),
            tail_lines: self.query.tail_lines,
            follow: self.query.follow,
        });
        Ok(client.telemetry().stream_logs(request).await?.into_inner())
    }

    fn take(&mut self, message: Self::Message) -> Result<Vec<LogLine>, ConvertError> {
        let line = |line: pb::LogLine| LogLine {
            process: line.process,
            text: line.text,
        };
        Ok(message.lines.into_iter().map(line).collect())
    }

    fn can_resume(&self) -> bool {
        false
    }
}

impl Client {
    /// Follows a job: a snapshot first, then its changes and steps, until it has ended. After a break another snapshot.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn watch(&self, job: &JobId) -> Result<JobWatch, ClientError> {
        Feed::open(self, WatchSource { job: job.clone() }).await
    }

    /// Reports of the steps after `after_step`, as `metrics.jsonl` has them.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn metrics(
        &self,
        job: &JobId,
        after_step: u64,
        follow: bool,
    ) -> Result<MetricFeed, ClientError> {
        let source = MetricSource {
            job: job.clone(),
            after_step,
            follow,
        };
        Feed::open(self, source).await
    }

    /// Events after `after_seq`, until the job has ended.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn watch_events(&self, job: &JobId, after_seq: u64) -> Result<EventFeed, ClientError> {
        let source = EventSource {
            job: job.clone(),
            after_seq,
        };
        Feed::open(self, source).await
    }

    /// Log lines of the run's folder.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn logs(&self, job: &JobId, query: LogQuery) -> Result<LogFeed, ClientError> {
        let source = LogSource {
            job: job.clone(),
            query,
        };
        Feed::open(self, source).await
    }
}
