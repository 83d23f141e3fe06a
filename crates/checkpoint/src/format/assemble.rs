//! From the parts that ranks have made durable to a manifest.

use std::collections::BTreeSet;

use rekindle_types::{CheckpointPart, FileEntry, JobSpec, Plan, Rebuilt, StartPoint, StateDigest};

use super::{FormatError, Lineage, Manifest, Recipe, Result, SCHEMA_VERSION, Topology, check, coverage};
use super::{Span, check::check_path};

/// What a manifest is made from.
#[derive(Debug, Clone, Copy)]
pub struct Assembly<'a> {
    /// The job.
    pub spec: &'a JobSpec,
    /// The plan whose ranks wrote the parts.
    pub plan: &'a Plan,
    /// The folder they wrote to.
    pub writer: &'a str,
    /// The step.
    pub step: u64,
    /// Tokens learnt from, see [`Manifest::tokens_at`].
    pub tokens: u64,
    /// The checkpoint the run went on from, if it did.
    pub resumed_from: Option<&'a StartPoint>,
    /// Layers whose state was made up.
    pub rebuilt: &'a [Rebuilt],
    /// One part of each rank, in any order.
    pub parts: &'a [CheckpointPart],
    /// The time, milliseconds since 1970.
    pub now_unix_ms: u64,
}

impl Manifest {
    /// Puts the parts of a step together (CK-10).
    ///
    /// # Errors
    /// [`FormatError::Parts`]: a part of another step or of a rank that the plan doesn't have or has twice, a file in another writer's
    /// folder, elements that are missing or there twice, sections that don't fit their file.
    pub fn assemble(from: &Assembly<'_>) -> Result<Self> {
        let files = from.files().map_err(FormatError::Parts)?;
        let manifest = Self {
            schema_version: SCHEMA_VERSION,
            job: from.plan.job.clone(),
            epoch: from.plan.epoch,
            writer: from.writer.to_owned(),
            step: from.step,
            tokens: from.tokens,
            created_unix_ms: from.now_unix_ms,
            program: env!("CARGO_PKG_VERSION").to_owned(),
            model: from.spec.model.clone(),
            topology: Topology::of(from.plan),
            recipe: Some(Recipe::of(from.spec)),
            lineage: Lineage {
                resumed_from: from.resumed_from.cloned(),
                imported_from: None,
            },
            rebuilt: from.rebuilt.to_vec(),
            state_digest: sum(&files),
            total_bytes: files.iter().map(|file| file.bytes).sum(),
            files,
        };
        manifest.check()?;
        Ok(manifest)
    }
}

pub(super) fn sum(files: &[FileEntry]) -> StateDigest {
    files
        .iter()
        .fold(StateDigest::default(), |sum, file| sum.add(file.state_digest()))
}

impl Assembly<'_> {
    /// Every part's files, by path; the faults that only parts can have are found here, so that they name the rank.
    fn files(&self) -> std::result::Result<Vec<FileEntry>, String> {
        let mut ranks = BTreeSet::new();
        let (mut files, mut spans) = (Vec::new(), Vec::new());
        for part in self.parts {
            let rank = part.rank;
            if part.step != self.step {
                return Err(format!("{rank} wrote step {}, not {}", part.step, self.step));
            }
            if rank.0 >= self.plan.world() || !ranks.insert(rank) {
                return Err(format!(
                    "{rank} is there twice, or isn't in the plan of {} ranks",
                    self.plan.world()
                ));
            }
            for file in &part.files {
                let named = |why: String| format!("{rank}: {why}");
                check_path(&file.path, self.writer).map_err(named)?;
                check::check_file(file).map_err(named)?;
                for section in &file.sections {
                    let span = Span::of(section);
                    coverage::check_span(&self.spec.model, &span).map_err(named)?;
                    spans.push(span);
                }
                files.push(file.clone());
            }
        }
        if let Some(rank) = self.plan.ranks().find(|rank| !ranks.contains(rank)) {
            return Err(format!("that of {rank} is missing"));
        }
        coverage::check_whole(&self.spec.model, &spans)?;
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(files)
    }
}
