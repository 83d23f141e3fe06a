//! From what a client submitted to a valid job: paths, base model, validation.

use std::path::Path;

use rekindle_checkpoint::{Location, StateError, StoreError};
use rekindle_proto::convert::SpecSource;
use rekindle_proto::pb::v1 as pb;
use rekindle_proto::{ApiError, Reason};
use rekindle_types::{JobFile, JobSpec, ModelConfig, SpecError, Violation};

use crate::files::local_path;

/// Resolves a submitted job. Reads the base model's files, if it has one: not for async tasks.
///
/// # Errors
/// [`ApiError`] with every violation found.
pub(crate) fn resolve(submitted: Option<pb::JobSpec>) -> Result<JobSpec, ApiError> {
    let submitted = submitted.unwrap_or_default();
    let spec = match SpecSource::try_from(submitted)? {
        SpecSource::Resolved(spec) => *spec,
        SpecSource::File(file) => from_file(*file)?,
    };
    check_paths(&spec)?;
    check_place(&spec)?;
    Ok(spec)
}

/// Whether checkpoints could be kept where the job wants them; nothing is asked of the place itself.
fn check_place(spec: &JobSpec) -> Result<(), SpecError> {
    if !spec.checkpoint.is_on() {
        return Ok(());
    }
    let unusable = |error: StoreError| SpecError {
        violations: vec![Violation::new("checkpoint.to", error.to_string())],
    };
    Location::parse(&spec.checkpoint_url()).map_err(unusable)?;
    Ok(())
}

fn from_file(file: JobFile) -> Result<JobSpec, ApiError> {
    let file = file.map_paths(&|path| local_path(path).to_owned());
    let base = file.base_model().map(base_model).transpose()?;
    Ok(file.into_spec(base.as_ref())?)
}

/// Reads the shape of a base model: a checkpoint, a folder with weights, or a config.json.
fn base_model(path: &str) -> Result<ModelConfig, ApiError> {
    if !is_absolute(path) {
        return Err(SpecError {
            violations: vec![relative("model.config", path)],
        }
        .into());
    }
    rekindle_checkpoint::base_model(path).map_err(|e| unreadable(&e))
}

fn unreadable(error: &StateError) -> ApiError {
    let violation = Violation::new("model", error.to_string());
    ApiError::invalid(
        Reason::BaseModelUnreadable,
        "the job's base model",
        vec![violation],
    )
}

/// The coordinator and the workers don't know the folder a client is in.
fn check_paths(spec: &JobSpec) -> Result<(), SpecError> {
    let tokenizer = Some(&spec.data.tokenizer).filter(|t| *t != "bytes");
    let data = |key, paths: &'_ [String]| paths.iter().map(move |p| (key, p.clone())).collect::<Vec<_>>();
    let mut paths = data("data.train", &spec.data.train);
    paths.extend(data("data.val", &spec.data.val));
    paths.extend(tokenizer.map(|t| ("data.tokenizer", t.clone())));
    paths.extend(spec.init_from.iter().map(|p| ("model.init_from", p.clone())));
    paths.extend(spec.checkpoint.to.iter().map(|p| ("checkpoint.to", p.clone())));
    paths.push(("job.output", spec.job.output.clone()));
    let violations: Vec<_> = paths
        .iter()
        .filter(|(_, path)| !is_absolute(path))
        .map(|(key, path)| relative(key, path))
        .collect();
    if violations.is_empty() {
        Ok(())
    } else {
        Err(SpecError { violations })
    }
}

/// Whether it means the same everywhere: an absolute path, or a URL (what kinds of URL a key takes is checked
/// elsewhere).
fn is_absolute(path: &str) -> bool {
    let local = local_path(path);
    local.contains("://") || Path::new(local).is_absolute()
}

fn relative(key: &str, path: &str) -> Violation {
    let why = format!("{path:?} is relative, and the coordinator doesn't know to what; make it absolute");
    Violation::new(key, why)
}
