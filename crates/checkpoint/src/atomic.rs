//! Files that appear whole or not at all.
//!
//! In: a path and a function that writes. Out: the file under its name, durable; or nothing under its name and no
//! leftover.

use std::fs::{File, Permissions};
use std::io::{BufWriter, Write};
use std::path::Path;

use crate::error::{CheckpointError, Result, io};

/// Writes `path` through a temporary file beside it. `path` has a parent folder that exists.
pub(crate) fn write(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<&File>) -> std::io::Result<()>,
) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    builder.prefix(".rekindle-");
    readable(&mut builder);
    let temporary = builder.tempfile_in(folder).map_err(io(folder))?;
    let mut writer = BufWriter::with_capacity(1 << 18, temporary.as_file());
    fill(&mut writer)
        .and_then(|()| writer.flush())
        .map_err(io(path))?;
    drop(writer);
    temporary.as_file().sync_all().map_err(io(path))?;
    temporary.persist(path).map_err(|e| CheckpointError::Io {
        path: path.to_owned(),
        source: e.error,
    })?;
    File::open(folder).and_then(|f| f.sync_all()).map_err(io(folder))
}

/// Writes a JSON value, pretty, with a line break at its end.
pub(crate) fn write_json(path: &Path, value: &serde_json::Value) -> Result<()> {
    write(path, |out| writeln!(out, "{value:#}"))
}

/// Temporary files are private by default; ours become ordinary files (within the umask).
fn readable(builder: &mut tempfile::Builder<'_, '_>) {
    #[cfg(unix)]
    builder.permissions(<Permissions as std::os::unix::fs::PermissionsExt>::from_mode(
        0o666,
    ));
    #[cfg(not(unix))]
    let _ = builder;
}
