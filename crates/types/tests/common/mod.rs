//! A small valid job file that the tests change one line at a time.

use rekindle_types::{JobFile, JobSpec, SpecError};

/// Valid, and short enough to read; optional keys are left to their defaults.
pub const JOB: &str = r#"
[job]
name = "small"
output = "run"

[model]
hidden_size = 64
intermediate_size = 128
num_hidden_layers = 4
num_attention_heads = 4

[data]
train = ["a.txt"]
seq_len = 32

[training]
steps = 10
global_batch = 8
micro_batch = 2

[optimizer]
lr = 1e-3
"#;

/// `JOB` with the line that starts with `key =` in `section` replaced by `line` (empty: taken out), or `line` added
/// there.
#[must_use]
pub fn with(section: &str, key: &str, line: &str) -> String {
    let mut out = Vec::new();
    let mut here = String::new();
    let mut done = false;
    for old in JOB.lines() {
        if old.starts_with('[') {
            if here == section && !done {
                out.push(line.to_owned());
                done = true;
            }
            here = old.trim_matches(['[', ']']).to_owned();
        }
        if here == section && old.split('=').next().is_some_and(|k| k.trim() == key) {
            out.push(line.to_owned());
            done = true;
        } else {
            out.push(old.to_owned());
        }
    }
    if !done {
        if here != section {
            out.push(format!("[{section}]"));
        }
        out.push(line.to_owned());
    }
    out.join("\n")
}

/// Parses and validates, without a base model.
///
/// # Errors
/// As [`JobFile`]'s.
pub fn spec(text: &str) -> Result<JobSpec, SpecError> {
    JobFile::parse(text)?.into_spec(None)
}
