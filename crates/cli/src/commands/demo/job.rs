//! The job file of the demo.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// What varies.
#[derive(Debug)]
pub struct DemoJob<'a> {
    /// Optimizer steps.
    pub steps: u64,
    /// Text files.
    pub data: &'a [PathBuf],
    /// The run's folder.
    pub output: &'a Path,
    /// Pipeline stages.
    pub stages: u32,
}

impl DemoJob<'_> {
    /// The job file's text. About 1.3 million parameters: large enough to learn what the text looks like, small
    /// enough for a minute on two processor cores. State is saved often enough that a loss costs few steps, however
    /// short the run is.
    #[must_use]
    pub fn toml(&self) -> String {
        let mut data = String::new();
        for path in self.data {
            // A JSON string is a TOML string.
            let quoted = serde_json::Value::from(path.display().to_string());
            let _ = writeln!(data, "    {quoted},");
        }
        let output = serde_json::Value::from(self.output.display().to_string());
        let (steps, stages) = (self.steps, self.stages);
        let warmup = (steps / 10).min(20);
        let every = (steps / 20).clamp(1, 20);
        format!(
            r#"# Written by `rekindle demo`. Run it again with another output: rekindle run job.toml --workers {stages}
[job]
name = "demo"
seed = 1
output = {output}

[model]
hidden_size = 160
intermediate_size = 448
num_hidden_layers = 4
num_attention_heads = 5
num_key_value_heads = 5

[data]
train = [
{data}]
tokenizer = "bytes"
seq_len = 128

[training]
steps = {steps}
global_batch = 16
micro_batch = 2

[optimizer]
lr = 3e-3

[lr_schedule]
kind = "cosine"
warmup_steps = {warmup}
min_lr_ratio = 0.1

[parallelism]
pipeline = {stages}

[checkpoint]
every = {every}
"#
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rekindle_types::JobFile;

    #[test]
    fn the_job_file_is_valid_for_any_path_and_length() {
        let data = [PathBuf::from("/a b/\"quoted\".txt"), PathBuf::from("/ü\\n.md")];
        for (steps, stages) in [(1, 1), (5, 4), (1000, 6)] {
            let job = DemoJob {
                steps,
                data: &data,
                output: Path::new("/runs/x"),
                stages,
            };
            let spec = JobFile::parse(&job.toml()).unwrap().into_spec(None).unwrap();
            assert_eq!(spec.data.train, data.each_ref().map(|p| p.display().to_string()));
            let parameters = spec.model.parameters();
            assert!((1_000_000..=3_000_000).contains(&parameters), "{parameters}");
        }
    }
}
