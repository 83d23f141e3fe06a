//! `rekindle.v1.TelemetryService`.

use std::time::Duration;

use rekindle_proto::pb::v1 as pb;
use rekindle_proto::{ApiError, Reason};
use rekindle_types::{JobEvent, JobId};
use tonic::{Request, Response, Status};

use super::page::page;
use super::stream::{End, Out, Stream};
use super::{Api, blocking, job_id};
use crate::files::folder_of;
use crate::handle::{Handle, unknown_job};
use crate::logs::LogTail;

/// Between two looks for new log lines.
const LOOK: Duration = Duration::from_millis(200);
/// Bytes of log lines in a message at most, about.
const MESSAGE: usize = 256 << 10;

#[tonic::async_trait]
impl pb::telemetry_service_server::TelemetryService for Api {
    type StreamLogsStream = Stream<pb::StreamLogsResponse>;
    type StreamMetricsStream = Stream<pb::StreamMetricsResponse>;
    type WatchEventsStream = Stream<pb::WatchEventsResponse>;

    async fn stream_logs(
        &self,
        request: Request<pb::StreamLogsRequest>,
    ) -> Result<Response<Self::StreamLogsStream>, Status> {
        let request = request.into_inner();
        let id = job_id(&request.job_id)?;
        let (view, _) = self.handle.job(&id).await?;
        let folder = folder_of(&view.spec.job.output).join("logs");
        let process = Some(request.process).filter(|name| !name.is_empty());
        let tail = LogTail::new(folder, process.clone(), request.tail_lines);
        let (first, tail) = poll(tail).await?;
        match process {
            Some(name) if !tail.found_any() && !request.follow => {
                return Err(ApiError::not_found(Reason::LogNotFound, "log", &name).into());
            }
            _ => {}
        }
        let handle = self.handle.clone();
        Ok(self.stream(|out| logs(handle, id, first, tail, request.follow, out)))
    }

    async fn stream_metrics(
        &self,
        request: Request<pb::StreamMetricsRequest>,
    ) -> Result<Response<Self::StreamMetricsStream>, Status> {
        let request = request.into_inner();
        let id = job_id(&request.job_id)?;
        Ok(self.steps(id, request.after_step, request.follow).await?)
    }

    async fn list_events(
        &self,
        request: Request<pb::ListEventsRequest>,
    ) -> Result<Response<pb::ListEventsResponse>, Status> {
        let request = request.into_inner();
        let id = job_id(&request.job_id)?;
        let job = id.clone();
        let events = self.handle.query(move |shell| shell.core.events(&job, 0)).await?;
        let events = events.ok_or_else(|| unknown_job(&id))?;
        let key = |event: &JobEvent| event.seq.to_string();
        let (events, next_page_token) = page(events, request.page_size, &request.page_token, key);
        Ok(Response::new(pb::ListEventsResponse {
            events: events.iter().map(Into::into).collect(),
            next_page_token,
        }))
    }

    async fn watch_events(
        &self,
        request: Request<pb::WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let request = request.into_inner();
        let id = job_id(&request.job_id)?;
        Ok(self.watch_history(id, request.after_seq).await?)
    }
}

type Lines = Vec<pb::LogLine>;

async fn poll(mut tail: LogTail) -> Result<(Lines, LogTail), ApiError> {
    blocking(move || {
        let lines = tail
            .poll()
            .map_err(|e| ApiError::new(Reason::RunUnreadable, format!("the run's logs: {e}")))?;
        Ok((lines.into_iter().map(to_pb).collect(), tail))
    })
    .await
}

fn to_pb(line: crate::logs::LogLine) -> pb::LogLine {
    pb::LogLine {
        process: line.process,
        text: line.text,
    }
}

async fn logs(
    handle: Handle,
    id: JobId,
    mut lines: Lines,
    mut tail: LogTail,
    follow: bool,
    out: Out<pb::StreamLogsResponse>,
) -> Result<(), End> {
    loop {
        let nothing_new = lines.is_empty();
        send(&out, lines).await?;
        if nothing_new {
            // Asked before the next look, so that what a job says last isn't missed.
            let over = !follow || has_ended(&handle, &id).await?;
            if !over {
                tokio::time::sleep(LOOK).await;
            }
            (lines, tail) = poll(tail).await?;
            if over && lines.is_empty() {
                let rest = tail.rest().into_iter().map(to_pb).collect();
                return send(&out, rest).await;
            }
        } else {
            (lines, tail) = poll(tail).await?;
        }
    }
}

async fn has_ended(handle: &Handle, id: &JobId) -> Result<bool, ApiError> {
    let id = id.clone();
    handle
        .query(move |shell| {
            let jobs = shell.core.durable();
            jobs.job(&id).is_none_or(|job| job.state.is_terminal())
        })
        .await
}

async fn send(out: &Out<pb::StreamLogsResponse>, lines: Lines) -> Result<(), End> {
    let (mut batch, mut bytes) = (Vec::new(), 0);
    for line in lines {
        bytes += line.text.len() + line.process.len() + 16;
        batch.push(line);
        if bytes > MESSAGE {
            let lines = std::mem::take(&mut batch);
            out.send(pb::StreamLogsResponse { lines }).await?;
            bytes = 0;
        }
    }
    if batch.is_empty() {
        return Ok(());
    }
    out.send(pb::StreamLogsResponse { lines: batch }).await
}
