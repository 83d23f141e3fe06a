//! From the path of a job file to a job that can be sent anywhere: paths made absolute, the model completed, the data
//! looked at.
//!
//! In: the path. Out: a [`JobSpec`], or a [`Problem`] that names the key or file at fault. Everything here happens
//! before any process is started or anything is sent.

use std::path::{Path, PathBuf};

use rekindle_data::{Corpus, Kind, Tokenizer};
use rekindle_types::spec::DataSpec;
use rekindle_types::{JobFile, JobSpec, ModelConfig};

use crate::problem::Problem;

/// Text up to this size is encoded and checked whole before a start; of larger text only the files are looked at, as
/// encoding it takes longer than a person wants to wait. Token files are always checked.
const TEXT_CHECKED: u64 = 32 << 20;

/// Reads, completes and validates a job file. Looks at no data.
///
/// # Errors
/// The file can't be read, or everything that is wrong with it.
pub fn load(path: &Path) -> Result<JobSpec, Problem> {
    let text = std::fs::read_to_string(path).map_err(|e| {
        Problem::new(format!("can't read the job file {}", path.display()))
            .cause(e)
            .fix("check the path; docs/job-file.md shows what a job file looks like")
    })?;
    let folder = folder_of(path)?;
    let file = JobFile::parse(&text)
        .map_err(|e| Problem::job_file(path, &e))?
        .map_paths(&|p| absolute(&folder, p));
    let base = file.base_model().map(|base| base_model(path, base)).transpose()?;
    file.into_spec(base.as_ref())
        .map_err(|e| Problem::job_file(path, &e))
}

/// Checks that the data of a job exists, is readable and fits the model.
///
/// # Errors
/// The first input at fault.
pub fn check_data(spec: &JobSpec) -> Result<(), Problem> {
    check_inputs(&spec.data, &spec.data.train, spec.model.vocab_size)
        .and_then(|()| check_inputs(&spec.data, &spec.data.val, spec.model.vocab_size))
        .map_err(|e| Problem::new(format!("the data of job {:?} can't be used", spec.job.name)).cause(e))
}

fn check_inputs(data: &DataSpec, inputs: &[String], vocab_size: u32) -> Result<(), rekindle_data::DataError> {
    if inputs.is_empty() {
        return Ok(());
    }
    let tokenizer = Tokenizer::for_model(data, vocab_size)?;
    let sources = rekindle_data::resolve(inputs, data.format)?;
    let mut text = 0;
    for source in &sources {
        let file = std::fs::File::open(&source.path).and_then(|f| f.metadata());
        let bytes = file
            .map_err(|e| rekindle_data::DataError::Io {
                path: source.path.clone(),
                source: e,
            })?
            .len();
        if !matches!(source.kind, Kind::Tokens(_)) {
            text += bytes;
        }
    }
    if text <= TEXT_CHECKED {
        let corpus = Corpus::load(inputs, data.format, &data.text_field, &tokenizer, vocab_size)?;
        if corpus.samples(data.seq_len) == 0 {
            let needed = u64::from(data.seq_len) + 1;
            return Err(rekindle_data::DataError::TooLittle {
                tokens: corpus.tokens(),
                needed,
                seq_len: data.seq_len,
            });
        }
    }
    Ok(())
}

/// The folder a job file lies in, absolute.
fn folder_of(path: &Path) -> Result<PathBuf, Problem> {
    let broken = |e| Problem::new(format!("can't tell which folder {} lies in", path.display())).cause(e);
    let absolute = std::path::absolute(path).map_err(broken)?;
    Ok(absolute.parent().unwrap_or(Path::new("/")).to_path_buf())
}

/// `path` as an absolute path without `.` and without `file://`.
fn absolute(folder: &Path, path: &str) -> String {
    if path.is_empty() || (path.contains("://") && !path.starts_with("file://")) {
        // Not a local path; validation says so under the right key.
        return path.to_owned();
    }
    let local = path.strip_prefix("file://").unwrap_or(path);
    let joined = folder.join(local);
    joined.components().collect::<PathBuf>().display().to_string()
}

fn base_model(job_file: &Path, base: &str) -> Result<ModelConfig, Problem> {
    rekindle_checkpoint::base_model(base).map_err(|e| {
        Problem::new(format!(
            "the job file {} starts from a model that can't be read",
            job_file.display()
        ))
        .cause(e)
        .fix("model.config takes a Hugging Face config.json, model.init_from a folder with one or a checkpoint (…/step-00000050)")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_absolute() {
        let folder = Path::new("/jobs");
        assert_eq!(absolute(folder, "data/*.txt"), "/jobs/data/*.txt");
        assert_eq!(absolute(folder, "./x"), "/jobs/x");
        assert_eq!(absolute(folder, "/y"), "/y");
        assert_eq!(absolute(folder, "file:///out"), "/out");
        assert_eq!(absolute(folder, "s3://bucket"), "s3://bucket");
        assert_eq!(absolute(folder, ""), "");
    }
}
