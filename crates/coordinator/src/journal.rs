//! The journal's thread: batches records, makes them durable, says how far it is.
//!
//! The machine's task never waits for it: a full queue leaves a record where it is until there is room (CS-2).

use std::thread::JoinHandle;

use rekindle_coordinator_core::{Record, Seq};
use rekindle_store::Store;
use tokio::sync::{mpsc, watch};

/// Records that wait at most.
const QUEUE: usize = 1024;
/// Records made durable by one write at most.
const BATCH: usize = 256;

/// How far the journal is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Progress {
    /// All records up to this one are durable.
    Durable(Seq),
    /// It can't be written any more.
    Failed(String),
}

/// The way to the journal's thread.
#[derive(Debug)]
pub(crate) struct JournalHandle {
    records: mpsc::Sender<(Seq, Record)>,
    progress: watch::Receiver<Progress>,
    thread: JoinHandle<()>,
}

impl JournalHandle {
    /// Starts the thread; records up to `durable` are in `log`.
    pub(crate) fn start(log: impl Store + Send + 'static, durable: Seq) -> std::io::Result<Self> {
        let (records, queue) = mpsc::channel(QUEUE);
        let (told, progress) = watch::channel(Progress::Durable(durable));
        let thread = std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || write(log, queue, &told))?;
        Ok(Self {
            records,
            progress,
            thread,
        })
    }

    /// Hands a record over; gives it back when there is no room now.
    pub(crate) fn push(&self, seq: Seq, record: Box<Record>) -> Result<(), Box<Record>> {
        match self.records.try_reserve() {
            Ok(room) => {
                room.send((seq, *record));
                Ok(())
            }
            Err(_) => Err(record),
        }
    }

    /// Waits until the journal is further than when this was last asked.
    pub(crate) async fn changed(&mut self) -> Progress {
        if self.progress.changed().await.is_err() {
            return Progress::Failed("its thread ended".to_owned());
        }
        self.progress.borrow_and_update().clone()
    }

    /// Lets the thread write what it has and end.
    pub(crate) fn close(self) {
        drop(self.records);
        if self.thread.join().is_err() {
            tracing::error!("the journal's thread panicked");
        }
    }
}

fn write(mut log: impl Store, mut queue: mpsc::Receiver<(Seq, Record)>, told: &watch::Sender<Progress>) {
    let mut batch = Vec::new();
    while queue.blocking_recv_many(&mut batch, BATCH) > 0 {
        let last = batch.last().map(|(seq, _)| *seq);
        match (log.append(&batch), last) {
            (Ok(()), Some(seq)) => told.send_replace(Progress::Durable(seq)),
            (Ok(()), None) => continue,
            (Err(why), _) => {
                told.send_replace(Progress::Failed(why.to_string()));
                return;
            }
        };
        batch.clear();
    }
}
