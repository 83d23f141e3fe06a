//! Which state a job starts from.
//!
//! In: the job, what to look for, checkpoints known to be damaged. Out: a checkpoint, or none (the job's first
//! weights), or why neither will do; and what was passed over or differs, for the job's history.

use std::sync::Arc;

use rekindle_checkpoint::{Checkpoint, Location, Manifest, StateError, Store, newest_valid, store};
use rekindle_coordinator_core::{NotFound, StartSearch};
use rekindle_types::{Epoch, JobSpec, StartPoint, StepReport};

use super::Find;
use crate::files::{last_line, metrics_of};

/// What was found.
pub(super) struct Outcome {
    pub(super) start: Result<Option<StartPoint>, NotFound>,
    /// The newest epoch that the run's files know.
    pub(super) after_epoch: Epoch,
    /// Kind of event and a sentence.
    pub(super) notes: Vec<(String, String)>,
}

pub(super) async fn find(order: Find) -> Outcome {
    let mut notes = Vec::new();
    let last = last_epoch(&order.spec).await;
    match search(&order, last, &mut notes).await {
        Ok(checkpoint) => {
            let epoch = checkpoint.as_ref().map(|found| found.manifest().epoch);
            Outcome {
                start: Ok(checkpoint.map(|found| found.start_point())),
                after_epoch: epoch.max(last).unwrap_or_default(),
                notes,
            }
        }
        Err(why) => Outcome {
            start: Err(why),
            after_epoch: Epoch(0),
            notes,
        },
    }
}

async fn search(
    order: &Find,
    last: Option<Epoch>,
    notes: &mut Vec<(String, String)>,
) -> Result<Option<Checkpoint>, NotFound> {
    let newest = match order.search {
        StartSearch::Fresh if order.spec.checkpoint.is_on() => {
            let store = open(&order.spec.checkpoint_url())
                .await
                .map_err(NotFound::lasting)?;
            check_empty(&store).await.map(|()| None)?
        }
        StartSearch::Fresh => None,
        StartSearch::Resume => newest(order, notes)
            .await?
            .or_else_beginning(last, order)
            .map_err(NotFound::lasting)?,
        StartSearch::Again => newest(order, notes).await?.checkpoint,
    };
    let found = match (newest, order.spec.init_checkpoint()) {
        (Some(newest), _) => newest,
        (None, Some(url)) => initial(url, order).await?,
        (None, None) => return Ok(None),
    };
    let noted = found.manifest().differences(&order.spec).noted;
    if !noted.is_empty() {
        let text = format!(
            "{} was written under other settings, so this run does not continue that one exactly: {}",
            found.url(),
            noted.join("; ")
        );
        notes.push(("checkpoint.differs".to_owned(), text));
    }
    Ok(Some(found))
}

/// The newest checkpoint that will do, and whether any was passed over.
struct Newest {
    checkpoint: Option<Checkpoint>,
    refused: Vec<String>,
}

impl Newest {
    /// A user who wants to go on from a checkpoint where there is none made a mistake, unless an earlier run was
    /// stopped before its first.
    fn or_else_beginning(self, last: Option<Epoch>, order: &Find) -> Result<Option<Checkpoint>, String> {
        let url = order.spec.checkpoint_url();
        match (&self.checkpoint, self.refused.as_slice()) {
            (Some(found), _) if found.manifest().step >= order.spec.training.steps => Err(format!(
                "the run is complete: {} holds the state after its last step; raise training.steps to go on",
                found.url()
            )),
            (Some(_), _) => Ok(self.checkpoint),
            (None, []) if last.is_some() => Ok(None),
            (None, []) => Err(format!("there is no checkpoint in {url} to go on from")),
            (None, refused) => Err(format!(
                "no checkpoint in {url} can be gone on from: {}",
                refused.join("; ")
            )),
        }
    }
}

async fn newest(order: &Find, notes: &mut Vec<(String, String)>) -> Result<Newest, NotFound> {
    let store = open(&order.spec.checkpoint_url())
        .await
        .map_err(NotFound::lasting)?;
    let veto = |manifest: &Manifest| fits(manifest, &order.spec);
    let passed_over = |step: u64| {
        let url = store.url_of(&rekindle_checkpoint::format::step_folder(step));
        order.refused.contains(&url)
    };
    let veto = |manifest: &Manifest| match passed_over(manifest.step) {
        true => Err("it was found damaged when it was loaded".to_owned()),
        false => veto(manifest),
    };
    let (checkpoint, refusals) = newest_valid(&store, &veto).await.map_err(of_state)?;
    let refused: Vec<String> = refusals.iter().map(ToString::to_string).collect();
    for why in &refused {
        notes.push(("checkpoint.refused".to_owned(), why.clone()));
    }
    Ok(Newest { checkpoint, refused })
}

/// The checkpoint that `model.init_from` names.
async fn initial(url: &str, order: &Find) -> Result<Checkpoint, NotFound> {
    if order.refused.contains(url) {
        let why = format!("{url}, which model.init_from names, is damaged");
        return Err(NotFound::lasting(why));
    }
    let (location, step) = Checkpoint::parse_url(url).map_err(of_state)?;
    let store = open_location(location).await.map_err(NotFound::lasting)?;
    let found = Checkpoint::open(store, step).await.map_err(of_state)?;
    found.check_files().await.map_err(of_state)?;
    fits(found.manifest(), &order.spec).map_err(|why| NotFound::lasting(format!("{url}: {why}")))?;
    Ok(found)
}

fn fits(manifest: &Manifest, spec: &JobSpec) -> Result<(), String> {
    let refused = manifest.differences(spec).refused;
    if refused.is_empty() {
        Ok(())
    } else {
        Err(format!("it is of another model: {}", refused.join("; ")))
    }
}

/// A new run mustn't mix its checkpoints with another's.
async fn check_empty(store: &Arc<dyn Store>) -> Result<(), NotFound> {
    let folders = store.list_dirs("").await.map_err(|e| of_state(e.into()))?;
    let step = |name: &&String| rekindle_checkpoint::format::step_of_folder(name).is_some();
    match folders.iter().find(step) {
        None => Ok(()),
        Some(name) => Err(NotFound::lasting(format!(
            "{} holds checkpoints of another run ({name}); go on from them (--resume), or set checkpoint.to to another place",
            store.describe()
        ))),
    }
}

pub(super) async fn open(url: &str) -> Result<Arc<dyn Store>, String> {
    open_location(Location::parse(url).map_err(|e| e.to_string())?).await
}

pub(super) async fn open_location(location: Location) -> Result<Arc<dyn Store>, String> {
    let opened = tokio::task::spawn_blocking(move || store::open(&location)).await;
    opened.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
}

fn of_state(error: StateError) -> NotFound {
    NotFound {
        passes: matches!(&error, StateError::Store(e) if e.is_transient()),
        message: error.to_string(),
    }
}

/// The epoch of the last line of the run's metrics, if there is one.
async fn last_epoch(spec: &JobSpec) -> Option<Epoch> {
    let path = metrics_of(&spec.job.output);
    let last = tokio::task::spawn_blocking(move || last_line::<StepReport>(&path)).await;
    last.ok().flatten().map(|step| step.epoch)
}
