//! From what a client submitted to a valid job: paths, base model, validation.

use std::path::Path;

use rekindle_checkpoint::{CheckpointError, HfModel, read_config};
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
    Ok(spec)
}

fn from_file(file: JobFile) -> Result<JobSpec, ApiError> {
    let file = file.map_paths(&|path| local_path(path).to_owned());
    let base = file.base_model().map(base_model).transpose()?;
    Ok(file.into_spec(base.as_ref())?)
}

/// Reads the shape of a base model: a folder with weights, or a config.json.
fn base_model(path: &str) -> Result<ModelConfig, ApiError> {
    let path = Path::new(path);
    if !path.is_absolute() {
        return Err(SpecError {
            violations: vec![relative("model.config", &path.display().to_string())],
        }
        .into());
    }
    let config = if path.is_dir() {
        HfModel::open(path).map(|model| model.config().clone())
    } else {
        read_config(path)
    };
    config.map_err(|e| unreadable(&e))
}

fn unreadable(error: &CheckpointError) -> ApiError {
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
    paths.push(("job.output", spec.job.output.clone()));
    let violations: Vec<_> = paths
        .iter()
        .filter(|(_, path)| !Path::new(local_path(path)).is_absolute())
        .map(|(key, path)| relative(key, path))
        .collect();
    if violations.is_empty() {
        Ok(())
    } else {
        Err(SpecError { violations })
    }
}

fn relative(key: &str, path: &str) -> Violation {
    let why = format!("{path:?} is relative, and the coordinator doesn't know to what; make it absolute");
    Violation::new(key, why)
}
