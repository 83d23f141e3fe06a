//! What trainers that died left in the worker's shared memory: their own state, and that of ranks they guarded.
//!
//! In: the worker's folder and where this trainer stands. Out: snapshots that can be used, and their bytes. The names
//! of the files, too: `JOB+rR+eE` is the state of rank R as of epoch E, `JOB+sR+eE` its shadow, `JOB+pR+eE` its sets
//! ([`super::parity`]).

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rekindle_types::spec::RecoverySource;
use rekindle_types::{Epoch, InMemory, LayerId, RankId, StateKind};
use rekindle_vault::{Entry, Identity, Snapshot, Unusable, What};

use super::context::Context;
use super::parity::Set;
use super::{Engine, TrainerError};

/// How long a trainer may outlive its killed worker.
const WRITER_ENDS: Duration = Duration::from_secs(5);
/// Between two looks whether it has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Whose state a file has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Whose {
    /// A rank's, by itself.
    Own(RankId),
    /// A rank's, by its guard.
    Guarded(RankId),
    /// A rank's as of some steps, by itself, with its parities.
    Parity(RankId),
}

impl Whose {
    /// What a file of it says.
    #[must_use]
    pub fn identity(self, context: &Context) -> Identity {
        let (rank, what) = match self {
            Self::Own(rank) => (rank, What::Own),
            Self::Guarded(rank) => (rank, What::Shadow),
            Self::Parity(rank) => (rank, What::Parity),
        };
        Identity::of(&context.plan, rank, what, &context.spec)
    }

    /// The file of this trainer's epoch.
    #[must_use]
    pub fn file(self, folder: &Path, context: &Context) -> PathBuf {
        let (kind, rank) = match self {
            Self::Own(rank) => ('r', rank.0),
            Self::Guarded(rank) => ('s', rank.0),
            Self::Parity(rank) => ('p', rank.0),
        };
        let (prefix, epoch) = (prefix(context.plan.job.as_str()), context.plan.epoch.0);
        folder.join(format!("{prefix}{kind}{rank}+e{epoch}"))
    }
}

/// Names of a job's files begin with this.
pub fn prefix(job: &str) -> String {
    format!("{job}+")
}

/// The job of a file of this name.
pub fn job_of(name: &str) -> Option<&str> {
    name.split_once('+').map(|(job, _)| job)
}

/// Whose state a file has, and the epoch, by what follows the job in its name.
fn parse(name: &str) -> Option<(Whose, u64)> {
    let (whose, epoch) = name.split_once("+e")?;
    let epoch = epoch.parse().ok()?;
    let whose = match whose.split_at_checked(1)? {
        ("r", rank) => Whose::Own(RankId(rank.parse().ok()?)),
        ("s", rank) => Whose::Guarded(RankId(rank.parse().ok()?)),
        ("p", rank) => Whose::Parity(RankId(rank.parse().ok()?)),
        _ => return None,
    };
    Some((whose, epoch))
}

/// Files that trainers of older epochs of this job left.
fn older(folder: &Path, context: &Context) -> Vec<(Whose, u64, PathBuf)> {
    let prefix = prefix(context.plan.job.as_str());
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let (whose, epoch) = parse(name.strip_prefix(&prefix)?)?;
            (epoch < context.plan.epoch.0).then(|| (whose, epoch, entry.path()))
        })
        .collect()
}

/// Removes what trainers of older epochs left, of those that `which` names: there is a newer state.
pub fn forget_older(folder: &Path, context: &Context, which: impl Fn(Whose) -> bool) {
    for (_, _, path) in older(folder, context).into_iter().filter(|(w, ..)| which(*w)) {
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(%error, path = %path.display(), "an old trainer's memory can't be freed");
            }
            _ => {}
        }
    }
}

/// Whether this rank's state of older epochs is still being written, or held, by somebody, after a while: whoever
/// goes on without it would lose steps.
#[must_use]
pub fn held(folder: &Path, context: &Context) -> bool {
    let by = Instant::now() + WRITER_ENDS;
    let own = Whose::Own(context.id());
    let files: Vec<_> = older(folder, context)
        .into_iter()
        .filter(|(whose, ..)| *whose == own)
        .collect();
    let written = |path: &Path| {
        matches!(
            Snapshot::open(path, &own.identity(context)),
            Err(Unusable::Written)
        )
    };
    files.iter().any(|(_, _, path)| {
        loop {
            match written(path) {
                true if Instant::now() < by => std::thread::sleep(LOOK_AGAIN),
                written => return written,
            }
        }
    })
}

/// What a trainer left.
pub struct Left {
    path: PathBuf,
    snapshot: Snapshot,
}

/// What trainers left in one folder.
#[derive(Default)]
pub struct Memory {
    states: BTreeMap<Whose, Left>,
    sets: Vec<Set>,
}

impl Memory {
    /// Looks for this rank's own state and, with `shadows`, for that of all ranks that were guarded there: of each
    /// the file of the newest epoch that offers anything. And for this rank's sets, of all epochs: those of the
    /// newest may not be whole at other ranks.
    #[must_use]
    pub fn find(folder: &Path, context: &Context, shadows: bool) -> Self {
        let parity = context.spec.recovery.allows(RecoverySource::Parity);
        let wanted = |whose: Whose| match whose {
            Whose::Own(rank) => rank == context.id(),
            Whose::Guarded(rank) => shadows && rank.0 < context.plan.world(),
            Whose::Parity(rank) => parity && rank == context.id(),
        };
        let mut files = older(folder, context);
        files.retain(|(whose, ..)| wanted(*whose));
        files.sort_by_key(|(_, epoch, _)| std::cmp::Reverse(*epoch));
        let mut found = Self::default();
        for (whose, _, path) in files {
            let is_set = matches!(whose, Whose::Parity(_));
            if found.states.contains_key(&whose) {
                continue;
            }
            match open(path, &whose.identity(context)) {
                Some(left) if is_set => found.sets.extend(Set::all(left)),
                Some(left) => drop(found.states.insert(whose, left)),
                None => {}
            }
        }
        found.sets.truncate(InMemory::MOST_SETS);
        found
    }

    /// What there is of all kinds.
    #[must_use]
    pub fn offers(&self, context: &Context) -> InMemory {
        InMemory {
            own: self.steps(Whose::Own(context.id())),
            guarded: self.guarded(),
            parity: self.sets.iter().map(Set::told).collect(),
        }
    }

    /// This rank's set of a step, exchanged in an epoch.
    ///
    /// # Errors
    /// [`TrainerError::Lost`] when it isn't there.
    pub fn set(&self, epoch: Epoch, step: u64) -> Result<&Set, TrainerError> {
        let is = |set: &&Set| (set.seal().epoch, set.seal().step) == (epoch, step);
        let why = "its set isn't there";
        self.sets.iter().find(is).ok_or_else(|| lost(step, why))
    }

    /// The steps there are of a state, newest first.
    #[must_use]
    pub fn steps(&self, whose: Whose) -> Vec<u64> {
        self.states.get(&whose).map(Left::steps).unwrap_or_default()
    }

    /// The ranks that were guarded here, with the steps there are.
    #[must_use]
    pub fn guarded(&self) -> BTreeMap<RankId, Vec<u64>> {
        let of = |(whose, left): (&Whose, &Left)| match whose {
            Whose::Guarded(rank) => Some((*rank, left.steps())),
            Whose::Own(_) | Whose::Parity(_) => None,
        };
        self.states.iter().filter_map(of).collect()
    }

    /// A state at a step.
    ///
    /// # Errors
    /// [`TrainerError::Lost`] when it isn't there.
    pub fn at(&self, whose: Whose, step: u64) -> Result<Pieces<'_>, TrainerError> {
        let left = self
            .states
            .get(&whose)
            .ok_or_else(|| lost(step, "nothing was found"))?;
        let entries = left.snapshot.entries(step);
        let entries = entries.ok_or_else(|| lost(step, "it isn't there any more"))?;
        Ok(Pieces { step, left, entries })
    }
}

fn lost(step: u64, why: &str) -> TrainerError {
    let why = why.to_owned();
    TrainerError::Lost { step, why }
}

/// Opens a file whose writer may be about to die: a trainer ends when its worker does, but not before.
fn open(path: PathBuf, identity: &Identity) -> Option<Left> {
    let by = Instant::now() + WRITER_ENDS;
    loop {
        match Snapshot::open(&path, identity) {
            Ok(snapshot) => return Some(Left { path, snapshot }).filter(|left| !left.steps().is_empty()),
            Err(Unusable::Written) if Instant::now() < by => std::thread::sleep(LOOK_AGAIN),
            Err(why) => {
                tracing::info!(path = %path.display(), %why, "memory of an older trainer isn't used");
                return None;
            }
        }
    }
}

impl Left {
    /// What can be read of it.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// The steps there are, newest first.
    pub fn steps(&self) -> Vec<u64> {
        self.snapshot.steps().collect()
    }

    /// The state at a step; nothing where it isn't there.
    pub fn pieces(&self, step: u64) -> Pieces<'_> {
        Pieces {
            step,
            left: self,
            entries: self.snapshot.entries(step).unwrap_or_default(),
        }
    }
}

/// A state at one step.
pub struct Pieces<'a> {
    step: u64,
    left: &'a Left,
    entries: &'a [Entry],
}

impl Pieces<'_> {
    /// Fills the engine with all there is, which has to be some of all its layers and kinds. The tied mirror is left
    /// as it is.
    ///
    /// # Errors
    /// [`TrainerError::Lost`] when the state isn't there after all. It isn't offered again then.
    pub fn load(&self, engine: &mut Engine) -> Result<(), TrainerError> {
        self.fill(engine).inspect_err(|_| {
            if let Err(error) = std::fs::remove_file(&self.left.path) {
                tracing::warn!(%error, path = %self.left.path.display(), "unusable memory can't be freed");
            }
        })
    }

    fn fill(&self, engine: &mut Engine) -> Result<(), TrainerError> {
        for layer in engine.layers() {
            for kind in StateKind::ALL {
                if kind != StateKind::Weights && engine.owned(layer)?.is_empty() {
                    continue;
                }
                let (range, bytes) = self.piece(layer, kind)?;
                engine.set_state_bytes(layer, kind, range, bytes)?;
            }
        }
        Ok(())
    }

    /// Elements of a layer and their bytes.
    ///
    /// # Errors
    /// [`TrainerError::Lost`] when they aren't there.
    pub fn piece(&self, layer: LayerId, kind: StateKind) -> Result<(Range<usize>, &[u8]), TrainerError> {
        let is = |entry: &&Entry| (entry.layer, entry.kind) == (layer, kind);
        let entry = self.entries.iter().find(is).ok_or_else(|| TrainerError::Lost {
            step: self.step,
            why: format!("{kind} of {layer} aren't in it"),
        })?;
        let at = |element: u64| usize::try_from(element).unwrap_or(usize::MAX);
        let range = at(entry.elements.start)..at(entry.elements.end);
        Ok((range, self.left.snapshot.bytes(entry)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_whose_state_it_is() {
        assert_eq!(parse("r3+e12"), Some((Whose::Own(RankId(3)), 12)));
        assert_eq!(parse("s0+e1"), Some((Whose::Guarded(RankId(0)), 1)));
        assert_eq!(parse("p7+e2"), Some((Whose::Parity(RankId(7)), 2)));
        for other in ["", "r3", "x3+e1", "r+e1", "r3+e", "é+e1"] {
            assert_eq!(parse(other), None, "{other}");
        }
        assert_eq!(job_of("j-1+s0+e1"), Some("j-1"));
    }
}
