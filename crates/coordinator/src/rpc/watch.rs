//! Following a job: a snapshot, then what is new; a watcher that lagged gets a snapshot again.

use std::sync::Arc;

use rekindle_proto::ApiError;
use rekindle_proto::pb::v1 as pb;
use rekindle_proto::view::JobStatus;
use rekindle_types::{JobEvent, JobId};
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tonic::Response;

use super::Api;
use super::stream::{End, Out, Stream};
use crate::files::Wait;
use crate::handle::{Handle, unknown_job};
use crate::hub::Note;
use crate::view::job_status;

/// A place in what happens to a job.
pub(super) struct Subscription {
    /// The job at that place.
    pub(super) job: JobStatus,
    /// Its kept events up to that place, from the number asked for.
    pub(super) events: Vec<JobEvent>,
    /// Resolves when all lines up to that place are in its files.
    pub(super) written: Option<Wait>,
    /// Everything after that place.
    pub(super) notes: Receiver<Arc<Note>>,
}

/// Takes a place; events from number `from_seq` on.
pub(super) async fn subscribe(handle: &Handle, id: &JobId, from_seq: u64) -> Result<Subscription, ApiError> {
    let job = id.clone();
    let place = handle.query(move |shell| {
        let (view, version) = shell.job(&job)?;
        Some(Subscription {
            job: job_status(&view, version, false),
            events: shell.core.events(&job, from_seq).unwrap_or_default(),
            written: shell.files.wait(&job),
            notes: shell.hub.subscribe(&job),
        })
    });
    place.await?.ok_or_else(|| unknown_job(id))
}

impl Api {
    pub(super) async fn watch(&self, id: JobId) -> Result<Response<Stream<pb::WatchJobResponse>>, ApiError> {
        let first = subscribe(&self.handle, &id, u64::MAX).await?;
        let handle = self.handle.clone();
        Ok(self.stream(|out| watch(handle, id, first, out)))
    }

    pub(super) async fn watch_history(
        &self,
        id: JobId,
        after_seq: u64,
    ) -> Result<Response<Stream<pb::WatchEventsResponse>>, ApiError> {
        let first = subscribe(&self.handle, &id, after_seq.saturating_add(1)).await?;
        let handle = self.handle.clone();
        Ok(self.stream(|out| watch_events(handle, id, after_seq, first, out)))
    }
}

async fn watch(
    handle: Handle,
    id: JobId,
    mut place: Subscription,
    out: Out<pb::WatchJobResponse>,
) -> Result<(), End> {
    use pb::watch_job_response::Update;
    let send = async |resource_version, update| {
        out.send(pb::WatchJobResponse {
            resource_version,
            update: Some(update),
        })
        .await
    };
    loop {
        let job = &place.job;
        send(job.resource_version, Update::Snapshot(job.into())).await?;
        let mut ended = job.state.is_terminal();
        while !ended {
            match place.notes.recv().await {
                Ok(note) => match &*note {
                    Note::Job(job) => {
                        ended = job.state.is_terminal();
                        send(job.resource_version, Update::Changed((&**job).into())).await?;
                    }
                    Note::Step(version, step) => send(*version, Update::Step(step.into())).await?,
                    Note::Event(_) => {}
                },
                Err(RecvError::Lagged(_)) => break,
                Err(RecvError::Closed) => return Ok(()),
            }
        }
        if ended {
            return Ok(());
        }
        place = subscribe(&handle, &id, u64::MAX).await?;
    }
}

async fn watch_events(
    handle: Handle,
    id: JobId,
    mut after: u64,
    mut place: Subscription,
    out: Out<pb::WatchEventsResponse>,
) -> Result<(), End> {
    loop {
        let mut ended = place.job.state.is_terminal();
        send_events(&out, &place.events, &mut after).await?;
        while !ended {
            match place.notes.recv().await {
                Ok(note) => match &*note {
                    // The event that says so comes before the change it is about.
                    Note::Job(job) => ended = job.state.is_terminal(),
                    Note::Event(event) => send_events(&out, std::slice::from_ref(event), &mut after).await?,
                    Note::Step(..) => {}
                },
                Err(RecvError::Lagged(_)) => break,
                Err(RecvError::Closed) => return Ok(()),
            }
        }
        if ended {
            return Ok(());
        }
        place = subscribe(&handle, &id, after.saturating_add(1)).await?;
    }
}

async fn send_events(
    out: &Out<pb::WatchEventsResponse>,
    events: &[JobEvent],
    after: &mut u64,
) -> Result<(), End> {
    let new: Vec<pb::JobEvent> = events.iter().filter(|e| e.seq > *after).map(Into::into).collect();
    *after = events.iter().map(|e| e.seq).fold(*after, u64::max);
    if new.is_empty() {
        return Ok(());
    }
    out.send(pb::WatchEventsResponse { events: new }).await
}
