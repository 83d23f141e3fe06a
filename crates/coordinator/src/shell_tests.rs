//! CS-2 with a journal that can be held up, and one that fails.

use std::sync::mpsc as blocking;

use rekindle_coordinator_core::{Answer, Config, Coordinator, Record, Seq, Submission};
use rekindle_store::{Store, StoreError};
use rekindle_types::{JobFile, JobSpec};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::ServeError;
use crate::files::Files;
use crate::handle::{Handle, Input};
use crate::journal::JournalHandle;
use crate::shell::Shell;

/// Makes a record durable when it is let, or fails when nobody can let it any more.
struct Gate(blocking::Receiver<()>);

impl Store for Gate {
    fn append(&mut self, _: &[(Seq, Record)]) -> Result<(), StoreError> {
        self.0.recv().map_err(|_| StoreError::OutOfOrder {
            wanted: Seq(0),
            found: Seq(0),
        })
    }

    fn load(&self) -> Result<Vec<(Seq, Record)>, StoreError> {
        Ok(Vec::new())
    }
}

pub(crate) fn spec(output: &str) -> JobSpec {
    let text = format!(
        "[job]\nname = \"a\"\noutput = \"{output}\"\n\
         [model]\nhidden_size = 8\nintermediate_size = 8\nnum_hidden_layers = 1\nnum_attention_heads = 1\n\
         [data]\ntrain = [\"/a\"]\nseq_len = 4\n[training]\nsteps = 1\nglobal_batch = 1\nmicro_batch = 1\n\
         [optimizer]\nlr = 0.1\n"
    );
    JobFile::parse(&text).unwrap().into_spec(None).unwrap()
}

struct Parts {
    gate: blocking::Sender<()>,
    inbox: mpsc::Sender<Input>,
    handle: Handle,
    stop: CancellationToken,
    end: tokio::task::JoinHandle<Result<(), ServeError>>,
}

fn start() -> Parts {
    let (gate, held) = blocking::channel();
    let journal = JournalHandle::start(Gate(held), Seq(0)).unwrap();
    let (inbox, inputs) = mpsc::channel(16);
    let files = Files::new(inbox.downgrade(), TaskTracker::new());
    let keeper = crate::keeper::Keeper::new(inbox.downgrade(), TaskTracker::new());
    let core = Coordinator::new(Config::default());
    let shell = Shell::new(core, journal, Seq(0), files, keeper, 10);
    let stop = CancellationToken::new();
    Parts {
        gate,
        handle: Handle::new(inbox.clone(), std::time::Duration::from_secs(30)),
        inbox,
        end: tokio::spawn(shell.run(inputs, stop.clone())),
        stop,
    }
}

async fn submit(parts: &Parts, output: &str) -> oneshot::Receiver<Result<Answer, rekindle_proto::ApiError>> {
    let (reply, answer) = oneshot::channel();
    let submission = Submission {
        request_id: String::new(),
        job: None,
        spec: spec(output),
        validate_only: false,
        resume: false,
    };
    let input = Input::Submit(Box::new(submission), output.to_owned(), reply);
    parts.inbox.send(input).await.map_err(|_| "closed").unwrap();
    answer
}

#[tokio::test]
async fn nothing_is_answered_before_the_journal_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("run").display().to_string();
    let parts = start();
    let mut answer = submit(&parts, &output).await;
    // The queue is in order: when this is answered, the submission was handled.
    let jobs = parts.handle.query(|shell| shell.core.jobs().len()).await.unwrap();
    assert_eq!(jobs, 0);
    assert!(answer.try_recv().is_err(), "answered before it was durable");
    // Nor does anybody else get the folder meanwhile.
    let second = submit(&parts, &output).await.await.unwrap().unwrap_err();
    assert_eq!(second.reason, Some(rekindle_proto::Reason::OutputNotEmpty));
    for _ in 0..8 {
        parts.gate.send(()).unwrap();
    }
    let answer = answer.await.unwrap().unwrap();
    assert!(matches!(answer, Answer::Submitted { created: true, .. }));
    parts.stop.cancel();
    parts.end.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_journal_that_fails_ends_the_coordinator_and_answers_nothing() {
    let parts = start();
    let answer = submit(&parts, "/nowhere/run").await;
    drop(parts.gate);
    assert!(answer.await.is_err());
    let error = parts.end.await.unwrap().unwrap_err();
    assert!(matches!(error, ServeError::Halted { .. }), "{error}");
    assert!(error.to_string().contains("journal"), "{error}");
}
