//! The files of runs: where they are, and the tasks that write them.

mod folder;
mod lines;
mod writer;

pub(crate) use folder::{METRICS, check_unused, folder_of, local_path, metrics_of, not_empty};
pub(crate) use lines::last_line;
pub(crate) use writer::{Files, Line, Wait};
