//! What the command line says.

use std::collections::BTreeMap;
use std::path::PathBuf;

use rekindle_checkpoint::WriterOptions;

use super::Error;

pub struct Options {
    names: Vec<String>,
    dir: PathBuf,
    numbers: BTreeMap<String, u64>,
}

impl Options {
    pub fn parse() -> Result<Self, Error> {
        let mut options = Self {
            names: Vec::new(),
            dir: std::env::temp_dir(),
            numbers: BTreeMap::new(),
        };
        let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
        while let Some(arg) = args.next() {
            match arg.strip_prefix("--") {
                None => options.names.push(arg),
                Some("dir") => options.dir = args.next().ok_or("--dir needs a folder")?.into(),
                Some(name) => {
                    let value = args.next().ok_or(format!("--{name} needs a number"))?;
                    options.numbers.insert(name.to_owned(), value.parse()?);
                }
            }
        }
        Ok(options)
    }

    pub fn get(&self, name: &str, default: u64) -> u64 {
        self.numbers.get(name).copied().unwrap_or(default)
    }

    pub fn runs(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|n| n == name)
    }

    pub fn writer(&self) -> WriterOptions {
        let mut options = WriterOptions::default();
        options.nice = self.get("nice", options.nice as u64) as i32;
        options.group_bytes = self.get("group", options.group_bytes >> 20) << 20;
        options.chunk_bytes = (self.get("chunk", options.chunk_bytes as u64 >> 20) as usize) << 20;
        options.threads = self.get("threads", options.threads as u64) as usize;
        options
    }

    /// A folder of its own inside `--dir`.
    pub fn folder(&self) -> Result<tempfile::TempDir, Error> {
        Ok(tempfile::tempdir_in(&self.dir)?)
    }
}
