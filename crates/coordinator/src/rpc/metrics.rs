//! Step reports: from `metrics.jsonl` what was, from the machine what is new.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Seek as _, SeekFrom};
use std::path::PathBuf;

use rekindle_proto::pb::v1 as pb;
use rekindle_proto::{ApiError, Reason};
use rekindle_types::{Epoch, JobId, StepReport};
use tokio::sync::broadcast::error::RecvError;
use tonic::Response;

use super::stream::{End, Out, Stream};
use super::watch::{Subscription, subscribe};
use super::{Api, blocking};
use crate::files::{METRICS, folder_of};
use crate::handle::Handle;
use crate::hub::Note;

/// Reports in a message at most.
const BATCH: usize = 256;

/// How far a stream is.
#[derive(Clone)]
struct Reader {
    path: PathBuf,
    offset: u64,
    after_step: u64,
    /// The last report given out.
    last: Option<(Epoch, u64)>,
}

impl Api {
    pub(super) async fn steps(
        &self,
        id: JobId,
        after_step: u64,
        follow: bool,
    ) -> Result<Response<Stream<pb::StreamMetricsResponse>>, ApiError> {
        let first = subscribe(&self.handle, &id, u64::MAX).await?;
        let handle = self.handle.clone();
        Ok(self.stream(|out| steps(handle, id, after_step, follow, first, out)))
    }
}

async fn steps(
    handle: Handle,
    id: JobId,
    after_step: u64,
    follow: bool,
    mut place: Subscription,
    out: Out<pb::StreamMetricsResponse>,
) -> Result<(), End> {
    let mut reader = Reader {
        path: folder_of(&place.job.output).join(METRICS),
        offset: 0,
        after_step,
        last: None,
    };
    loop {
        // What was told before this place was handed to the file; it may not be in it yet.
        if let Some(written) = place.written.take() {
            written.wait().await;
        }
        reader = read_all(reader, &out).await?;
        let mut ended = place.job.state.is_terminal() || !follow;
        while !ended {
            match place.notes.recv().await {
                Ok(note) => match &*note {
                    Note::Job(job) => ended = job.state.is_terminal(),
                    Note::Step(_, step) if reader.wants(step) => {
                        let steps = vec![step.into()];
                        out.send(pb::StreamMetricsResponse { steps }).await?;
                    }
                    Note::Step(..) | Note::Event(_) => {}
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

async fn read_all(mut reader: Reader, out: &Out<pb::StreamMetricsResponse>) -> Result<Reader, End> {
    loop {
        let (steps, next) = blocking(move || {
            let steps = reader.read().map_err(|e| unreadable(&reader.path, &e))?;
            Ok((steps, reader))
        })
        .await?;
        reader = next;
        if steps.is_empty() {
            return Ok(reader);
        }
        let steps = steps.iter().map(Into::into).collect();
        out.send(pb::StreamMetricsResponse { steps }).await?;
    }
}

fn unreadable(path: &std::path::Path, error: &io::Error) -> ApiError {
    ApiError::new(Reason::RunUnreadable, format!("{}: {error}", path.display()))
}

impl Reader {
    /// Whether a report is new, and asked for.
    fn wants(&mut self, step: &StepReport) -> bool {
        let key = (step.epoch, step.step);
        let new = self.last.is_none_or(|last| key > last);
        if new {
            self.last = Some(key);
        }
        new && step.step > self.after_step
    }

    /// The next reports that are asked for; empty at the end of the file.
    fn read(&mut self) -> io::Result<Vec<StepReport>> {
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(e),
        };
        file.seek(SeekFrom::Start(self.offset))?;
        let mut file = BufReader::new(file);
        let (mut steps, mut line) = (Vec::new(), Vec::new());
        while steps.len() < BATCH {
            line.clear();
            let read = file.read_until(b'\n', &mut line)?;
            if !line.ends_with(b"\n") {
                break;
            }
            self.offset += read as u64;
            let step: StepReport = serde_json::from_slice(&line)?;
            if self.wants(&step) {
                steps.push(step);
            }
        }
        Ok(steps)
    }
}
