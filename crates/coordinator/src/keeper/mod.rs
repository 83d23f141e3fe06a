//! Checkpoints of running jobs, as far as the coordinator has to do with them: where to start from, the commit, what
//! isn't kept.
//!
//! ```text
//!   machine --FindStart, CommitCheckpoint--> a task per job, in order --StartFound, CheckpointWritten--> machine
//! ```
//!
//! Invariants
//! - CS-7 Every order is answered, once, in the order given, within a bound: what a store doesn't say in time is an
//!   error.
//! - CS-8 Nothing is deleted before the newer checkpoint is committed, nor what a pin or the running job needs.
//! - CS-9 A checkpoint is there only when the lines of all steps up to its own are in the run's files: whoever goes
//!   on from it won't tell them.
//!
//! Deliberately absent: reading and writing tensors; trainers do that.

mod commit;
mod find;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rekindle_coordinator_core::{Commit, Event, NotFound, StartSearch};
use rekindle_types::{Epoch, JobId, JobSpec};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use crate::files::Wait;
use crate::handle::Input;

/// Orders of a job that wait at most. The machine has one checkpoint of a gang committed at a time, and a few more
/// when it gives the gang up.
const QUEUE: usize = 256;
/// A search takes no longer.
const FIND_LIMIT: Duration = Duration::from_secs(300);
/// A commit, retries included, takes no longer.
const COMMIT_LIMIT: Duration = Duration::from_secs(240);

/// Something to do for a job.
enum Order {
    Find(Find),
    /// Not before these lines are written, if any are on their way.
    Commit(Box<Commit>, Option<Wait>),
}

/// What to look for.
struct Find {
    job: JobId,
    spec: Arc<JobSpec>,
    search: StartSearch,
    refused: BTreeSet<String>,
}

/// All jobs' tasks. Owned by the machine's task.
pub(crate) struct Keeper {
    jobs: BTreeMap<JobId, mpsc::Sender<Order>>,
    inbox: mpsc::WeakSender<Input>,
    tasks: TaskTracker,
}

impl Keeper {
    pub(crate) fn new(inbox: mpsc::WeakSender<Input>, tasks: TaskTracker) -> Self {
        Self {
            jobs: BTreeMap::new(),
            inbox,
            tasks,
        }
    }

    /// Looks for the state a job is to start from. Never waits; an event at once says that it can't be done.
    pub(crate) fn find(
        &mut self,
        job: JobId,
        spec: Arc<JobSpec>,
        search: StartSearch,
        refused: BTreeSet<String>,
    ) -> Option<Event> {
        let order = Order::Find(Find {
            job: job.clone(),
            spec,
            search,
            refused,
        });
        let busy = NotFound {
            message: "too much waits for the place of its checkpoints".to_owned(),
            passes: true,
        };
        (!self.put(&job, order)).then(|| found(job, Err(busy), Epoch(0), Vec::new()))
    }

    /// Commits a checkpoint, as [`Keeper::find`] looks, once `lines` are written.
    pub(crate) fn commit(&mut self, commit: Box<Commit>, lines: Option<Wait>) -> Option<Event> {
        let (job, epoch, step) = (commit.job.clone(), commit.plan.epoch, commit.step);
        let taken = self.put(&job, Order::Commit(commit, lines));
        (!taken).then(|| Event::CheckpointWritten {
            job,
            epoch,
            step,
            outcome: Err("too many checkpoints wait to be committed; the store is too slow".to_owned()),
            notes: Vec::new(),
        })
    }

    /// Ends the tasks of jobs that aren't `living`, when they have done what they were told.
    pub(crate) fn retire(&mut self, living: impl Fn(&JobId) -> bool) {
        self.jobs.retain(|job, _| living(job));
    }

    fn put(&mut self, job: &JobId, order: Order) -> bool {
        let orders = self.jobs.entry(job.clone()).or_insert_with(|| {
            let (sender, receiver) = mpsc::channel(QUEUE);
            self.tasks.spawn(work(receiver, self.inbox.clone()));
            sender
        });
        orders.try_send(order).is_ok()
    }
}

fn found(
    job: JobId,
    found: Result<Option<rekindle_types::StartPoint>, NotFound>,
    after_epoch: Epoch,
    notes: Vec<(String, String)>,
) -> Event {
    Event::StartFound {
        job,
        found,
        after_epoch,
        notes,
    }
}

/// Does a job's orders, one after the other.
async fn work(mut orders: mpsc::Receiver<Order>, inbox: mpsc::WeakSender<Input>) {
    let mut tokens = commit::Tokens::default();
    while let Some(order) = orders.recv().await {
        let event = match order {
            Order::Find(order) => look(order).await,
            Order::Commit(order, lines) => write(&order, lines, &mut tokens).await,
        };
        let Some(inbox) = inbox.upgrade() else { return };
        if inbox.send(Input::Event(event)).await.is_err() {
            return;
        }
    }
}

async fn look(order: Find) -> Event {
    let (job, url) = (order.job.clone(), order.spec.checkpoint_url());
    match tokio::time::timeout(FIND_LIMIT, find::find(order)).await {
        Ok(find::Outcome {
            start,
            after_epoch,
            notes,
        }) => found(job, start, after_epoch, notes),
        Err(_) => {
            let why = NotFound {
                message: format!("{url} didn't answer within {} s", FIND_LIMIT.as_secs()),
                passes: true,
            };
            found(job, Err(why), Epoch(0), Vec::new())
        }
    }
}

async fn write(order: &Commit, lines: Option<Wait>, tokens: &mut commit::Tokens) -> Event {
    let whole = async {
        if let Some(lines) = lines {
            lines.wait().await;
        }
        commit::commit(order, tokens).await
    };
    let (outcome, notes) = match tokio::time::timeout(COMMIT_LIMIT, whole).await {
        Ok((outcome, notes)) => (outcome, notes),
        Err(_) => {
            let url = order.spec.checkpoint_url();
            let why = format!("{url} didn't answer within {} s", COMMIT_LIMIT.as_secs());
            (Err(why), Vec::new())
        }
    };
    Event::CheckpointWritten {
        job: order.job.clone(),
        epoch: order.plan.epoch,
        step: order.step,
        outcome,
        notes,
    }
}

#[cfg(test)]
mod tests {
    use rekindle_types::{Plan, WorkerId};
    use tokio::sync::watch;

    use super::*;

    fn commit(output: &str) -> Box<Commit> {
        let plan = Plan {
            job: JobId::new("a-1").unwrap(),
            epoch: Epoch(1),
            lanes: 1,
            stages: std::iter::once(0..3).collect(),
            workers: vec![WorkerId::new("w").unwrap()],
        };
        Box::new(Commit {
            job: plan.job.clone(),
            spec: Arc::new(crate::shell_tests::spec(output)),
            plan,
            writer: "a-1-e1-0".to_owned(),
            step: 1,
            resumed_from: None,
            rebuilt: Vec::new(),
            parts: Vec::new(),
            refused: BTreeSet::new(),
            after: None,
        })
    }

    /// CS-9
    #[tokio::test]
    async fn a_checkpoint_waits_for_the_lines_up_to_its_step() {
        let folder = tempfile::tempdir().unwrap();
        let (inbox, mut events) = mpsc::channel(4);
        let mut keeper = Keeper::new(inbox.downgrade(), TaskTracker::new());
        let (told, done) = watch::channel(2);
        let order = commit(&folder.path().display().to_string());
        assert!(keeper.commit(order, Some(Wait::new(done, 3))).is_none());
        let early = tokio::time::timeout(Duration::from_millis(200), events.recv()).await;
        assert!(early.is_err(), "line 3 isn't written");
        told.send_replace(3);
        let event = events.recv().await;
        assert!(
            matches!(
                event,
                Some(Input::Event(Event::CheckpointWritten { outcome: Err(_), .. }))
            ),
            "there are no parts to commit"
        );
    }
}
