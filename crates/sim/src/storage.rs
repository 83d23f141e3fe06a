//! Checkpoints in the virtual world: parts that ranks made durable, manifests, damage, and what a search finds.
//!
//! - SM-11 A checkpoint is committed with a durable part of every rank of one plan, all of the same step, and only
//!   once; those of a plan in the order of steps.
//! - SM-12 A gang starts from the newest committed checkpoint that isn't damaged, or from the beginning where there
//!   is none; every rank of it from the same.

use std::collections::{BTreeMap, BTreeSet};

use rekindle_coordinator_core::{Commit, CommittedCheckpoint, Event, NotFound, StartSearch};
use rekindle_types::{CheckpointPart, Epoch, JobId, Plan, RankId, StartPoint, StateDigest};

use crate::world::{Due, World};

/// What lies in storage. It survives everybody.
#[derive(Debug, Default)]
pub(crate) struct Storage {
    parts: BTreeSet<(JobId, Epoch, RankId, u64)>,
    manifests: BTreeMap<JobId, BTreeMap<u64, Manifest>>,
    /// When the last operation on a job's place ends: they are done in order.
    busy: BTreeMap<JobId, u64>,
    /// The newest step whose commit a life of the coordinator has ordered, by plan.
    ordered: BTreeMap<(u32, JobId, Epoch), u64>,
}

#[derive(Debug)]
struct Manifest {
    epoch: Epoch,
    damaged: bool,
}

fn url(job: &JobId, step: u64) -> String {
    format!("sim/{job}/step-{step:08}")
}

impl World {
    /// A rank says that its part is durable.
    pub(crate) fn store_part(&mut self, job: &JobId, epoch: Epoch, part: &CheckpointPart) {
        self.storage
            .parts
            .insert((job.clone(), epoch, part.rank, part.step));
    }

    fn after_busy(&mut self, job: &JobId, due: Due) {
        let start = self.storage.busy.get(job).copied().unwrap_or(0).max(self.now);
        // Now and then it takes longer than many steps.
        let slow = if self.rng.one_in(6) { 100 } else { 1 };
        let end = start + self.rng.within(1, 60) * slow;
        self.storage.busy.insert(job.clone(), end);
        self.at(end, due);
    }

    pub(crate) fn search_later(&mut self, job: JobId, search: StartSearch, refused: BTreeSet<String>) {
        let life = self.coordinator_life;
        let due = Due::Searched {
            life,
            job: job.clone(),
            search,
            refused,
        };
        self.after_busy(&job, due);
    }

    pub(crate) fn commit_later(&mut self, commit: Box<Commit>) {
        let life = self.coordinator_life;
        let job = commit.job.clone();
        let plan = (life, job.clone(), commit.plan.epoch);
        let before = self.storage.ordered.insert(plan, commit.step);
        if before.is_some_and(|before| before >= commit.step) {
            let detail = format!("step {} of {job} is committed after {before:?}", commit.step);
            self.violate("SM-11", detail);
        }
        self.after_busy(&job, Due::Committed { life, commit });
    }

    pub(crate) fn searched(
        &mut self,
        life: u32,
        job: JobId,
        search: StartSearch,
        refused: &BTreeSet<String>,
    ) {
        if life != self.coordinator_life {
            return;
        }
        let stored = self.storage.manifests.get(&job);
        let steps = stored.into_iter().flat_map(|stored| stored.keys().rev());
        let newest = steps
            .into_iter()
            .find(|step| !refused.contains(&url(&job, **step)));
        let newest = newest.map(|step| StartPoint {
            step: *step,
            url: url(&job, *step),
            rebuilt: Vec::new(),
        });
        let found = match search {
            StartSearch::Fresh if newest.is_some() => Err(NotFound::lasting("its place holds checkpoints")),
            StartSearch::Resume if newest.is_none() => Err(NotFound::lasting("there is no checkpoint")),
            // Now and then the store is away.
            StartSearch::Again if self.rng.one_in(8) && !self.config.is_quiet() => Err(NotFound {
                message: "the store is away".to_owned(),
                passes: true,
            }),
            _ => Ok(newest),
        };
        self.tell_coordinator(Event::StartFound {
            job,
            found,
            after_epoch: Epoch(0),
            notes: Vec::new(),
        });
    }

    /// A manifest is written, or (one time in twelve) can't be. Of a coordinator that has died meanwhile it may be
    /// written as well.
    pub(crate) fn committed(&mut self, life: u32, commit: &Commit) {
        self.check_commit(commit);
        let current = life == self.coordinator_life;
        let fails = if current {
            self.rng.one_in(12) && !self.config.is_quiet()
        } else {
            self.rng.one_in(2)
        };
        let outcome = if fails {
            self.blame_storage(&commit.job);
            Err("the store is gone".to_owned())
        } else {
            self.put_manifest(commit)
        };
        if current {
            self.tell_coordinator(Event::CheckpointWritten {
                job: commit.job.clone(),
                epoch: commit.plan.epoch,
                step: commit.step,
                outcome,
                notes: Vec::new(),
            });
        }
    }

    fn put_manifest(&mut self, commit: &Commit) -> Result<CommittedCheckpoint, String> {
        let stored = self.storage.manifests.entry(commit.job.clone()).or_default();
        let epoch = commit.plan.epoch;
        let damaged = false;
        if commit.refused.contains(&url(&commit.job, commit.step)) {
            // The one that was found damaged makes way.
            stored.remove(&commit.step);
        }
        let manifest = stored.entry(commit.step).or_insert(Manifest { epoch, damaged });
        if manifest.epoch != epoch {
            return Err(format!("{} is there already", url(&commit.job, commit.step)));
        }
        Ok(CommittedCheckpoint {
            step: commit.step,
            url: url(&commit.job, commit.step),
            bytes: 1,
            state_digest: StateDigest(u128::from(commit.step)),
        })
    }

    fn check_commit(&mut self, commit: &Commit) {
        let of = |rank| (commit.job.clone(), commit.plan.epoch, rank, commit.step);
        let ranks: BTreeSet<RankId> = commit.parts.iter().map(|part| part.rank).collect();
        let same = commit.parts.iter().all(|part| part.step == commit.step);
        let all = commit
            .plan
            .ranks()
            .all(|rank| ranks.contains(&rank) && self.storage.parts.contains(&of(rank)));
        if !(same && all && commit.parts.len() == commit.plan.world() as usize) {
            let detail = format!(
                "step {} of {} {} isn't whole",
                commit.step, commit.job, commit.plan.epoch
            );
            self.violate("SM-11", detail);
        }
    }

    /// SM-12: before a plan is carried out.
    pub(crate) fn check_start(&mut self, plan: &Plan, start: Option<&StartPoint>) {
        let stored = self.storage.manifests.get(&plan.job);
        let sound = stored
            .into_iter()
            .flatten()
            .filter(|(_, manifest)| !manifest.damaged)
            .map(|(step, _)| *step)
            .max();
        let from = start.map(|start| start.step);
        if from < sound {
            let detail = format!(
                "{} {} starts from {from:?} though {sound:?} is there",
                plan.job, plan.epoch
            );
            self.violate("SM-12", detail);
        }
    }

    /// Whether loading a checkpoint finds it damaged.
    pub(crate) fn is_damaged(&self, job: &JobId, start: Option<&StartPoint>) -> bool {
        let stored = start.and_then(|start| self.storage.manifests.get(job)?.get(&start.step));
        stored.is_some_and(|manifest| manifest.damaged)
    }

    /// A committed checkpoint that nobody noticed rots.
    pub(crate) fn damage_a_checkpoint(&mut self) {
        let all: Vec<(JobId, u64)> = self
            .storage
            .manifests
            .iter()
            .flat_map(|(job, stored)| stored.keys().map(|step| (job.clone(), *step)))
            .collect();
        let Some((job, step)) = self.rng.index(all.len()).map(|index| all[index].clone()) else {
            return;
        };
        self.note(&format!("{} is damaged", url(&job, step)));
        if let Some(manifest) = self
            .storage
            .manifests
            .get_mut(&job)
            .and_then(|stored| stored.get_mut(&step))
        {
            manifest.damaged = true;
        }
    }
}
