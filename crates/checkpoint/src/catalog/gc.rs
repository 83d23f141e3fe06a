//! Cleaning up: which checkpoints go, which stay and why, and what dead writers left.
//!
//! In: a location, a [`Policy`], the time. Out: a [`GcReport`]; with `dry_run` nothing is touched.
//!
//! Whoever commits checkpoints should be the one to clean up, or the policy's age be longer than any checkpoint
//! takes: files of an unfinished checkpoint are only told from leftovers by their age, which a clock that jumps or a
//! machine that was suspended makes of any length; and so the policy's own writer says itself what it is at and what
//! it has given up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::list::{Condition, by_step, condition};
use super::pins::pins;
use crate::format::{manifest_key, step_folder};
use crate::reader::Refusal;
use crate::state_error::Result;
use crate::store::{Entry, Store, StoreError, Swept};

/// Who writes to a location now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AtWork {
    /// As in the keys of its files.
    pub writer: String,
    /// What it began at this step or later is no leftover, however old it looks. What it began before and no manifest
    /// names is given up, however young it is.
    pub from: u64,
}

/// What to keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// The newest valid checkpoints; at least 1 is kept.
    pub keep_last: u32,
    /// Steps in use (runs start from them).
    pub protect: Vec<u64>,
    /// Who writes here now.
    pub writer: Option<AtWork>,
    /// What no manifest names goes when it is older, milliseconds.
    pub sweep_older_than_ms: u64,
    /// The time, milliseconds since 1970.
    pub now_unix_ms: u64,
}

/// Why a checkpoint stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// It is one of the newest.
    Newest,
    /// Somebody pinned it.
    Pinned,
    /// The caller protects it.
    Protected,
}

/// What was done, or would be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GcReport {
    /// Whether nothing was touched.
    pub dry_run: bool,
    /// Checkpoints deleted.
    pub deleted: Vec<u64>,
    /// Checkpoints that stay.
    pub kept: Vec<(u64, Kept)>,
    /// Checkpoints with a manifest that can't be used: they stay for a person to look at.
    pub broken: Vec<Refusal>,
    /// Folders of writers that no manifest names, deleted.
    pub swept: Vec<String>,
    /// Unfinished files and uploads removed; not counted when nothing was touched.
    pub uploads: Swept,
    /// Bytes of everything deleted.
    pub freed_bytes: u64,
}

/// Cleans up a location.
///
/// # Errors
/// What the store says; what was deleted by then stays deleted, and everything else is as it was (CK-17).
pub async fn gc(store: &Arc<dyn Store>, policy: &Policy, dry_run: bool) -> Result<GcReport> {
    let mut run = Run {
        store,
        policy,
        report: GcReport {
            dry_run,
            ..GcReport::default()
        },
        oldest: policy.now_unix_ms.saturating_sub(policy.sweep_older_than_ms),
    };
    run.clean().await?;
    Ok(run.report)
}

struct Run<'a> {
    store: &'a Arc<dyn Store>,
    policy: &'a Policy,
    report: GcReport,
    /// Leftovers written before this go.
    oldest: u64,
}

impl Run<'_> {
    async fn clean(&mut self) -> Result<()> {
        let folders = by_step(self.store.list("").await?);
        let pinned: BTreeSet<u64> = pins(self.store).await?.values().map(|pin| pin.step).collect();
        let mut valid = 0;
        for (step, entries) in folders.into_iter().rev() {
            let writer = match condition(self.store, step, &entries).await? {
                Condition::Unfinished => None,
                Condition::Broken(why) => {
                    self.report.broken.push(Refusal { step, why });
                    continue;
                }
                Condition::Valid(facts) => {
                    valid += 1;
                    match self.why_kept(step, valid, &pinned) {
                        Some(why) => self.report.kept.push((step, why)),
                        None => {
                            self.delete(step, &entries).await?;
                            continue;
                        }
                    }
                    Some(facts.writer)
                }
            };
            self.sweep(step, &entries, writer).await?;
        }
        if !self.report.dry_run {
            self.report.uploads = self.store.sweep_uploads(self.oldest).await?;
        }
        Ok(())
    }

    /// CK-16.
    fn why_kept(&self, step: u64, number: u32, pinned: &BTreeSet<u64>) -> Option<Kept> {
        if number <= self.policy.keep_last.max(1) {
            Some(Kept::Newest)
        } else if pinned.contains(&step) {
            Some(Kept::Pinned)
        } else if self.policy.protect.contains(&step) {
            Some(Kept::Protected)
        } else {
            None
        }
    }

    /// CK-17: the manifest goes first, durably. Pins made since the first look are seen by a second one.
    async fn delete(&mut self, step: u64, entries: &[Entry]) -> Result<()> {
        if !self.report.dry_run {
            if pins(self.store).await?.values().any(|pin| pin.step == step) {
                self.report.kept.push((step, Kept::Pinned));
                return Ok(());
            }
            self.store.delete(&[manifest_key(step)]).await?;
            self.store.delete_dir(&step_folder(step)).await?;
        }
        self.report.deleted.push(step);
        self.free(entries.iter());
        Ok(())
    }

    fn free<'a>(&mut self, entries: impl Iterator<Item = &'a Entry>) {
        self.report.freed_bytes += entries.map(|entry| entry.bytes).sum::<u64>();
    }

    /// Removes the folders of writers other than the committed one, when they are given up or nothing in them was
    /// written lately.
    async fn sweep(&mut self, step: u64, entries: &[Entry], committed: Option<String>) -> Result<()> {
        for (writer, files) in by_writer(entries) {
            let newest = files
                .iter()
                .map(|entry| entry.modified_unix_ms)
                .max()
                .unwrap_or(0);
            let at_work = self
                .policy
                .writer
                .as_ref()
                .filter(|at_work| at_work.writer == writer);
            let left = at_work.map_or(newest < self.oldest, |at_work| step < at_work.from);
            if !left || committed.as_deref() == Some(writer) {
                continue;
            }
            let folder = format!("{}/{writer}", step_folder(step));
            if !self.report.dry_run {
                // Whose checkpoint was committed since the listing is no leftover.
                if committed.is_none() && self.is_committed(step).await? {
                    return Ok(());
                }
                self.store.delete_dir(&folder).await?;
            }
            self.free(files.into_iter());
            self.report.swept.push(folder);
        }
        Ok(())
    }

    async fn is_committed(&self, step: u64) -> Result<bool> {
        match self.store.get(&manifest_key(step), 0).await {
            Err(StoreError::NotFound { .. }) => Ok(false),
            // It is larger than nothing, which is all that was to be known.
            Ok(_) | Err(StoreError::Invalid { .. }) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }
}

fn by_writer(entries: &[Entry]) -> BTreeMap<&str, Vec<&Entry>> {
    let mut writers: BTreeMap<&str, Vec<&Entry>> = BTreeMap::new();
    for entry in entries {
        let mut parts = entry.key.split('/').skip(1);
        if let (Some(writer), Some(_)) = (parts.next(), parts.next()) {
            writers.entry(writer).or_default().push(entry);
        }
    }
    writers
}
