//! Files that appear whole or not at all.
//!
//! In: a path and a function that writes. Out: the file under its name, durable; or nothing under its name and no
//! leftover.

use std::fs::{File, Permissions};
use std::io::{BufWriter, Write};
use std::path::Path;

use crate::error::{DataError, Result, io};

/// Writes `path` through a temporary file beside it.
pub(crate) fn write(path: &Path, fill: impl FnOnce(&mut BufWriter<&File>) -> Result<()>) -> Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(folder).map_err(io(folder))?;
    let mut builder = tempfile::Builder::new();
    builder.prefix(".rekindle-");
    readable(&mut builder);
    let temporary = builder.tempfile_in(folder).map_err(io(folder))?;
    let mut writer = BufWriter::with_capacity(1 << 18, temporary.as_file());
    fill(&mut writer)?;
    writer.flush().map_err(io(path))?;
    drop(writer);
    temporary.as_file().sync_all().map_err(io(path))?;
    temporary.persist(path).map_err(|e| DataError::Io {
        path: path.to_owned(),
        source: e.error,
    })?;
    File::open(folder).and_then(|f| f.sync_all()).map_err(io(folder))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/file");
        write(&path, |out| out.write_all(b"old").map_err(io(Path::new("x")))).unwrap();
        let failed = write(&path, |out| {
            out.write_all(b"half").map_err(io(Path::new("x")))?;
            Err(DataError::NoInputs)
        });
        assert!(failed.is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }
}
