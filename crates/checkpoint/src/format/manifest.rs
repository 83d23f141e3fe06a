//! The manifest: what a committed checkpoint is, in one JSON file.
//!
//! In: bytes, or the parts that ranks have written (see [`super::Assembly`]). Out: a checked [`Manifest`], or why not.
//!
//! Compatibility: [`SCHEMA_VERSION`] rises when a reader of the version before would misread what is written; such a
//! reader refuses it by number. Whoever knows a version reads every older one. Keys may be added to the manifest
//! itself without a new version, if a reader may ignore them; never to files and sections, which decide what bytes
//! mean.

use rekindle_types::{Epoch, FileEntry, JobId, JobSpec, ModelConfig, Plan, Rebuilt, StartPoint, StateDigest};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use xxhash_rust::xxh3::xxh3_128;

use super::seal::{check_seal, seal};
use super::{FormatError, Result};

/// The schema this code writes, and the newest it reads.
pub const SCHEMA_VERSION: u32 = 1;

/// All of a checkpoint but its tensors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`SCHEMA_VERSION`] of whoever wrote it.
    pub schema_version: u32,
    /// The job.
    pub job: JobId,
    /// The epoch of the plan that was running.
    pub epoch: Epoch,
    /// The folder of the files, see [`super::writer_name`].
    pub writer: String,
    /// The last step whose update is in the state.
    pub step: u64,
    /// Tokens learnt from, over all runs that led here.
    pub tokens: u64,
    /// When it was committed, milliseconds since 1970.
    pub created_unix_ms: u64,
    /// Version of the program that committed it.
    pub program: String,
    /// The model's shape.
    pub model: ModelConfig,
    /// How the run was laid out. Whoever reads the checkpoint may be laid out otherwise.
    pub topology: Topology,
    /// What the run was told; none for a checkpoint that no run made (an import).
    pub recipe: Option<Recipe>,
    /// Where it comes from.
    pub lineage: Lineage,
    /// Layers whose state was made up by an approximate recovery before it was saved; in pipeline order. A run that
    /// goes on from here updates them accordingly.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rebuilt: Vec<Rebuilt>,
    /// The sum of the digests of all files' state: what the run reports as state digest of the step.
    pub state_digest: StateDigest,
    /// Bytes of all files.
    pub total_bytes: u64,
    /// The tensor files.
    pub files: Vec<FileEntry>,
}

/// The layout of a run, for information.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    /// Data-parallel copies of the pipeline.
    pub lanes: u32,
    /// First layer and one past the last layer (pipeline order) of each stage.
    pub stages: Vec<(u32, u32)>,
}

impl Topology {
    /// That of a plan.
    #[must_use]
    pub fn of(plan: &Plan) -> Self {
        let stages = plan.stages.iter().map(|stage| (stage.start, stage.end));
        Self {
            lanes: plan.lanes,
            stages: stages.collect(),
        }
    }
}

/// What decides the numbers of a run, besides the model: sections of its job file as JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// xxh3_128 (seed 0) of the whole resolved job file as compact JSON.
    pub config_digest: StateDigest,
    /// Seed of weights and data order.
    pub seed: u64,
    /// `[data]`
    pub data: Value,
    /// `[training]`
    pub training: Value,
    /// `[optimizer]`
    pub optimizer: Value,
    /// `[lr_schedule]`
    pub lr_schedule: Value,
}

impl Recipe {
    /// That of a job.
    #[must_use]
    pub fn of(spec: &JobSpec) -> Self {
        // Plain structures of numbers and texts: they always have a JSON form.
        let json = |value: serde_json::Result<Value>| value.unwrap_or(Value::Null);
        let text = serde_json::to_vec(spec).unwrap_or_default();
        Self {
            config_digest: StateDigest(xxh3_128(&text)),
            seed: spec.job.seed,
            data: json(serde_json::to_value(&spec.data)),
            training: json(serde_json::to_value(&spec.training)),
            optimizer: json(serde_json::to_value(&spec.optimizer)),
            lr_schedule: json(serde_json::to_value(&spec.lr_schedule)),
        }
    }
}

/// Where a checkpoint comes from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Lineage {
    /// The checkpoint the run went on from, if it did.
    pub resumed_from: Option<StartPoint>,
    /// The Hugging Face folder it was imported from, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub imported_from: Option<String>,
}

impl Manifest {
    /// Its bytes: one line of JSON that starts with its own digest, see [`super::seal()`].
    ///
    /// # Errors
    /// [`FormatError::Inconsistent`] for a number that JSON doesn't have, which a checked manifest never holds.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut text = serde_json::to_vec(self).map_err(|e| FormatError::Inconsistent(e.to_string()))?;
        text.push(b'\n');
        Ok(seal(&text))
    }

    /// Reads and checks (CK-10, CK-11, CK-19).
    ///
    /// # Errors
    /// [`FormatError`]: foreign, newer, or contradicting itself.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Version {
            schema_version: u64,
        }
        let foreign = |e: serde_json::Error| FormatError::Foreign(e.to_string());
        let found = serde_json::from_slice::<Version>(bytes)
            .map_err(foreign)?
            .schema_version;
        let known = SCHEMA_VERSION;
        match found {
            0 => return Err(FormatError::Foreign("there is no schema version 0".to_owned())),
            version if version > u64::from(known) => return Err(FormatError::Newer { found, known }),
            _ => {}
        }
        check_seal(bytes)?;
        let manifest: Self = serde_json::from_slice(bytes).map_err(foreign)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// Tokens learnt from at `step` of a run that started at `start`, if it didn't start from nothing.
    #[must_use]
    pub fn tokens_at(start: Option<&Self>, spec: &JobSpec, step: u64) -> u64 {
        let (from, before) = start.map_or((0, 0), |manifest| (manifest.step, manifest.tokens));
        before + step.saturating_sub(from) * spec.tokens_per_step()
    }
}
