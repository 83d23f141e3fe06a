//! The commit of a checkpoint, and the end of older ones.

use std::time::Duration;

use rekindle_checkpoint::catalog::{AtWork, Policy, gc};
use rekindle_checkpoint::format::{Assembly, step_folder};
use rekindle_checkpoint::{Checkpoint, Manifest, StateError, Store, commit_over_damaged};
use rekindle_coordinator_core::{Commit, CommittedCheckpoint};
use rekindle_types::StartPoint;

use super::find::open;
use crate::clock;

/// Waits between tries while a store doesn't answer; after the last one the commit has failed.
const WAITS: [u64; 7] = [200, 500, 1_000, 2_000, 5_000, 15_000, 40_000];
/// What writers that died left is removed after this time, milliseconds.
const SWEEP_AFTER: u64 = 24 * 3_600_000;

/// Kind of event and a sentence.
type Note = (String, String);
type Notes = Vec<Note>;

/// Tokens learnt up to the state that the job's trainers started from, once it was read.
#[derive(Default)]
pub(super) struct Tokens(Option<(StartPoint, Manifest)>);

/// Writes the manifest, then deletes what is kept no longer.
pub(super) async fn commit(
    order: &Commit,
    tokens: &mut Tokens,
) -> (Result<CommittedCheckpoint, String>, Notes) {
    let mut waits = WAITS.iter();
    loop {
        match try_commit(order, tokens).await {
            Ok((committed, store, aside)) => {
                let cleaned = clean_up(order, &store).await;
                return (Ok(committed), aside.into_iter().chain(cleaned).collect());
            }
            Err((error, again)) => match waits.next().filter(|_| again) {
                Some(ms) => {
                    tracing::warn!(job = %order.job, step = order.step, error, "commit failed; trying again");
                    tokio::time::sleep(Duration::from_millis(*ms)).await;
                }
                None => return (Err(error), Vec::new()),
            },
        }
    }
}

type Opened = std::sync::Arc<dyn Store>;

/// One try: the checkpoint, where it is, and what the job's history has to know; with an error, whether another may
/// help.
async fn try_commit(
    order: &Commit,
    tokens: &mut Tokens,
) -> Result<(CommittedCheckpoint, Opened, Option<Note>), (String, bool)> {
    let store = open(&order.spec.checkpoint_url()).await.map_err(|e| (e, true))?;
    let start = start_manifest(order, tokens).await;
    let manifest = Manifest::assemble(&Assembly {
        spec: &order.spec,
        plan: &order.plan,
        writer: &order.writer,
        step: order.step,
        tokens: Manifest::tokens_at(start, &order.spec, order.step),
        resumed_from: order.resumed_from.as_ref(),
        rebuilt: &order.rebuilt,
        parts: &order.parts,
        now_unix_ms: clock::now(),
    });
    let manifest = manifest.map_err(|e| (e.to_string(), false))?;
    let url = store.url_of(&step_folder(order.step));
    let known_damaged = order.refused.contains(&url);
    let aside = match commit_over_damaged(&store, &manifest, known_damaged).await {
        Ok(aside) => aside.map(|aside| put_aside(&url, &aside)),
        // Ours, written before an answer was lost or this coordinator was started again.
        Err(StateError::Taken { writer, .. }) if writer == order.writer => None,
        Err(error) => {
            let again = matches!(&error, StateError::Store(e) if e.is_transient());
            return Err((error.to_string(), again));
        }
    };
    let committed = CommittedCheckpoint {
        step: order.step,
        url,
        bytes: manifest.total_bytes,
        state_digest: manifest.state_digest,
    };
    Ok((committed, store, aside))
}

fn put_aside(url: &str, aside: &str) -> Note {
    let text = format!("{url} was damaged and is written anew; what its manifest said is now {aside}");
    ("checkpoint.replaced".to_owned(), text)
}

/// The manifest of the state that the trainers started from. One that can't be read any more costs its count of
/// tokens, not the commit.
async fn start_manifest<'a>(order: &Commit, tokens: &'a mut Tokens) -> Option<&'a Manifest> {
    let start = order.resumed_from.as_ref()?;
    if tokens.0.as_ref().is_none_or(|(known, _)| known != start) {
        match read_manifest(start).await {
            Ok(manifest) => tokens.0 = Some((start.clone(), manifest)),
            Err(error) => {
                tracing::warn!(job = %order.job, error, "the checkpoint this run started from can't be read");
                tokens.0 = None;
            }
        }
    }
    tokens.0.as_ref().map(|(_, manifest)| manifest)
}

async fn read_manifest(start: &StartPoint) -> Result<Manifest, String> {
    let (location, step) = Checkpoint::parse_url(&start.url).map_err(|e| e.to_string())?;
    let store = super::find::open_location(location).await?;
    let found = Checkpoint::open(store, step).await.map_err(|e| e.to_string())?;
    Ok(found.manifest().clone())
}

async fn clean_up(order: &Commit, store: &Opened) -> Notes {
    let protect = order.resumed_from.iter().map(|start| start.step);
    let policy = Policy {
        keep_last: order.spec.checkpoint.keep_last,
        protect: protect.chain([order.step]).collect(),
        // Older ones were committed before, or are given up: a gang's commits come in the order of steps.
        writer: Some(AtWork {
            writer: order.writer.clone(),
            from: order.step,
        }),
        sweep_older_than_ms: SWEEP_AFTER,
        now_unix_ms: clock::now(),
    };
    match gc(store, &policy, false).await {
        Ok(report) if report.deleted.is_empty() => Vec::new(),
        Ok(report) => {
            let steps: Vec<String> = report.deleted.iter().map(u64::to_string).collect();
            let text = format!("checkpoints of steps {} are deleted", steps.join(", "));
            vec![("checkpoint.deleted".to_owned(), text)]
        }
        Err(error) => {
            let text = format!("older checkpoints can't be deleted: {error}");
            vec![("checkpoint.undeleted".to_owned(), text)]
        }
    }
}
