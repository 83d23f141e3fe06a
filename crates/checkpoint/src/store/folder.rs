//! A folder of this machine (or one it has mounted) as a [`Store`].
//!
//! A file is written under a hidden name, synced, and then given its name in one step that fails when the name is
//! taken (`renameat2` with `RENAME_NOREPLACE`, or a hard link); the folder and the folders above it are synced last.
//! So a file is never seen half written, and none that was reported is lost with the power.
//!
//! Deliberately absent: locks, and following symbolic links inside the folder when listing.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use object_store::ObjectStore;
use object_store::path::Path as ObjectPath;

use super::{Entry, MOST_ENTRIES, Result, Store, StoreError, Swept, check_key};

/// Names of files that aren't finished start so. No key does (CK-8).
const HIDDEN: &str = ".rekindle-";

/// A folder.
#[derive(Debug, Clone)]
pub struct Folder {
    root: PathBuf,
}

impl Folder {
    /// Opens `path`, making it and the folders above it where they are missing.
    ///
    /// # Errors
    /// [`StoreError`] of the operating system.
    pub fn open(path: &Path) -> Result<Self> {
        let named = |e: &io::Error| StoreError::of_io(path.display().to_string(), e);
        let root = std::path::absolute(path).map_err(|e| named(&e))?;
        create_folders(Path::new("/"), &root).map_err(|e| named(&e))?;
        Ok(Self { root })
    }

    /// Runs `work` with the path of `key` where blocking is allowed, and names the key in its error.
    async fn at<T: Send + 'static>(
        &self,
        key: &str,
        work: impl FnOnce(&Path, &Path) -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        check_key(&self.describe(), key)?;
        self.blocking(key, self.root.join(key), work).await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        key: &str,
        path: PathBuf,
        work: impl FnOnce(&Path, &Path) -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let root = self.root.clone();
        let done = tokio::task::spawn_blocking(move || work(&root, &path)).await;
        match done {
            Ok(result) => result.map_err(|e| StoreError::of_io(self.url_of(key), &e)),
            Err(error) => Err(StoreError::Unavailable {
                url: self.url_of(key),
                why: format!("the work was ended: {error}"),
            }),
        }
    }

    /// `""` or a key, as a path.
    fn folder(&self, prefix: &str) -> Result<PathBuf> {
        if prefix.is_empty() {
            return Ok(self.root.clone());
        }
        check_key(&self.describe(), prefix)?;
        Ok(self.root.join(prefix))
    }
}

#[async_trait::async_trait]
impl Store for Folder {
    async fn put_new(&self, key: &str, bytes: Bytes) -> Result<()> {
        self.at(key, move |root, path| write(root, path, &bytes, false))
            .await
    }

    async fn put(&self, key: &str, bytes: Bytes) -> Result<()> {
        self.at(key, move |root, path| write(root, path, &bytes, true))
            .await
    }

    async fn get(&self, key: &str, max_bytes: u64) -> Result<Bytes> {
        self.at(key, move |_, path| {
            let file = File::open(path)?;
            let bytes = file.metadata()?.len();
            if bytes > max_bytes {
                let why = format!("{bytes} bytes are more than the {max_bytes} that are read of such a file");
                return Err(io::Error::new(ErrorKind::InvalidInput, why));
            }
            read_range(&file, 0..bytes)
        })
        .await
    }

    async fn read(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        self.at(key, move |_, path| read_range(&File::open(path)?, range))
            .await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Entry>> {
        let from = self.folder(prefix)?;
        let mut entries = self
            .blocking(prefix, from, |root, from| {
                let mut found = Vec::new();
                walk(from, &mut |path, meta| {
                    found.extend(entry(root, path, meta));
                    ControlFlow::Continue(())
                })?;
                Ok(found)
            })
            .await?;
        entries.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(entries)
    }

    async fn list_dirs(&self, prefix: &str) -> Result<Vec<String>> {
        let from = self.folder(prefix)?;
        self.blocking(prefix, from, |_, from| folders(from)).await
    }

    async fn delete(&self, keys: &[String]) -> Result<()> {
        for key in keys {
            check_key(&self.describe(), key)?;
        }
        let mut first = Ok(());
        for key in keys {
            let removed = self
                .at(key, |_, path| match fs::remove_file(path) {
                    Ok(()) => sync(path.parent().unwrap_or(path)),
                    Err(e) if is_gone(&e) => Ok(()),
                    Err(e) => Err(e),
                })
                .await;
            first = first.and(removed);
        }
        first
    }

    async fn delete_dir(&self, prefix: &str) -> Result<u64> {
        self.at(prefix, |root, path| {
            let mut files = 0;
            walk(path, &mut |_, _| {
                files += 1;
                ControlFlow::Continue(())
            })?;
            match fs::remove_dir_all(path) {
                Ok(()) => sync(remove_empty(root, path)).map(|()| files),
                Err(e) if is_gone(&e) => Ok(0),
                Err(e) => Err(e),
            }
        })
        .await
    }

    async fn sweep_uploads(&self, before_unix_ms: u64) -> Result<Swept> {
        self.blocking("", self.root.clone(), move |_, root| {
            let mut old = Vec::new();
            walk(root, &mut |path, meta| {
                if is_hidden(path) && modified(meta) < before_unix_ms {
                    old.push(path.to_owned());
                }
                ControlFlow::Continue(())
            })?;
            for path in &old {
                match fs::remove_file(path) {
                    Err(e) if !is_gone(&e) => return Err(e),
                    _ => {}
                }
            }
            Ok(Swept {
                removed: old.len() as u64,
                listable: true,
            })
        })
        .await
    }

    fn describe(&self) -> String {
        format!("file://{}", self.root.display())
    }

    fn local_path(&self, key: &str) -> Option<PathBuf> {
        check_key("", key).ok().map(|()| self.root.join(key))
    }

    fn objects(&self) -> Option<(Arc<dyn ObjectStore>, ObjectPath)> {
        None
    }
}

/// Removes the folders above `path` that hold nothing; returns the first that stays.
fn remove_empty<'a>(root: &'a Path, path: &'a Path) -> &'a Path {
    let mut above = path.ancestors().skip(1).take_while(|folder| *folder != root);
    above
        .find(|folder| fs::remove_dir(folder).is_err())
        .unwrap_or(root)
}

/// CK-6, CK-7.
fn write(root: &Path, path: &Path, bytes: &[u8], replace: bool) -> io::Result<()> {
    create_parents(root, path)?;
    let folder = path.parent().unwrap_or(root);
    let mut builder = tempfile::Builder::new();
    builder.prefix(HIDDEN);
    readable(&mut builder);
    let mut temporary = builder.tempfile_in(folder)?;
    temporary.write_all(bytes)?;
    temporary.as_file().sync_all()?;
    if replace {
        temporary.persist(path)?;
    } else {
        temporary.persist_noclobber(path)?;
    }
    sync_parents(root, path)
}

/// Temporary files are private by default; ours become ordinary files (within the umask).
fn readable(builder: &mut tempfile::Builder<'_, '_>) {
    #[cfg(unix)]
    builder.permissions(<fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(
        0o666,
    ));
    #[cfg(not(unix))]
    let _ = builder;
}

/// Makes the folders between `root` (which exists) and the file `path` below it.
///
/// # Errors
/// Of the operating system.
pub fn create_parents(root: &Path, path: &Path) -> io::Result<()> {
    create_folders(root, path.parent().unwrap_or(root))
}

/// Makes `folder` and what is missing above it, durably.
fn create_folders(root: &Path, folder: &Path) -> io::Result<()> {
    if folder == root || folder.is_dir() {
        return Ok(());
    }
    let Some(parent) = folder.parent() else {
        return Ok(());
    };
    create_folders(root, parent)?;
    match fs::create_dir(folder) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {
            if !folder.is_dir() {
                let why = format!("{} is a file, a folder is needed", folder.display());
                return Err(io::Error::new(ErrorKind::NotADirectory, why));
            }
            sync(parent)
        }
        Err(e) => Err(e),
        Ok(()) => sync(parent),
    }
}

/// Makes the name of the file `path`, and of every folder between it and `root`, durable. All of them each time: a
/// folder that was there may have been made by a process that died before it could sync it.
///
/// # Errors
/// Of the operating system.
pub fn sync_parents(root: &Path, path: &Path) -> io::Result<()> {
    let inside = path
        .ancestors()
        .skip(1)
        .take_while(|folder| folder.starts_with(root));
    inside.into_iter().try_for_each(sync)
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn read_range(file: &File, range: Range<u64>) -> io::Result<Bytes> {
    let bytes = file.metadata()?.len();
    let wanted = range.end.saturating_sub(range.start);
    if range.end > bytes {
        let why = format!(
            "it has {bytes} bytes, and {}..{} were asked for: it was cut short",
            range.start, range.end
        );
        return Err(io::Error::new(ErrorKind::InvalidInput, why));
    }
    let mut buffer = vec![0; usize::try_from(wanted).map_err(io::Error::other)?];
    read_exact_at(file, &mut buffer, range.start)?;
    Ok(Bytes::from(buffer))
}

/// Fills `buffer` from byte `offset` of the file.
#[cfg(unix)]
pub(crate) fn read_exact_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buffer, offset)
}

/// Fills `buffer` from byte `offset` of the file.
#[cfg(not(unix))]
pub(crate) fn read_exact_at(mut file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    use io::{Read, Seek, SeekFrom};
    file.seek(SeekFrom::Start(offset))?;
    file.read_exact(buffer)
}

/// Shows every plain file below `folder`, until it is told to stop. What vanishes meanwhile was not there.
fn walk(folder: &Path, show: &mut dyn FnMut(&Path, &fs::Metadata) -> ControlFlow<()>) -> io::Result<()> {
    let (mut open, mut seen) = (vec![folder.to_owned()], 0);
    while let Some(folder) = open.pop() {
        let listing = match fs::read_dir(&folder) {
            Err(e) if is_gone(&e) => continue,
            listing => listing?,
        };
        for item in listing {
            let path = item?.path();
            let meta = match fs::symlink_metadata(&path) {
                Err(e) if is_gone(&e) => continue,
                meta => meta?,
            };
            seen += 1;
            if seen > MOST_ENTRIES {
                let why = format!("more than {MOST_ENTRIES} files; this is no folder of checkpoints");
                return Err(io::Error::new(ErrorKind::InvalidInput, why));
            }
            if meta.is_dir() {
                open.push(path);
            } else if meta.is_file() && show(&path, &meta).is_break() {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == ErrorKind::NotFound
}

fn is_hidden(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with(HIDDEN))
}

fn modified(meta: &fs::Metadata) -> u64 {
    let at = meta.modified().ok();
    let since = at.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Whether there is a finished file somewhere below `folder`: object stores have no empty folders, so ours don't show.
fn holds_something(folder: &Path) -> io::Result<bool> {
    let mut found = false;
    walk(folder, &mut |path, _| {
        found = !is_hidden(path);
        match found {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    })?;
    Ok(found)
}

/// A file that has a key; files whose names are none are not ours.
fn entry(root: &Path, path: &Path, meta: &fs::Metadata) -> Option<Entry> {
    let key = path.strip_prefix(root).ok()?.to_str()?.to_owned();
    check_key("", &key).ok()?;
    Some(Entry {
        key,
        bytes: meta.len(),
        modified_unix_ms: modified(meta),
    })
}

fn folders(from: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    let listing = match fs::read_dir(from) {
        Err(e) if is_gone(&e) => return Ok(names),
        listing => listing?,
    };
    for item in listing {
        let item = item?;
        let name = item.file_name().into_string().ok();
        let Some(name) = name.filter(|name| check_key("", name).is_ok()) else {
            continue;
        };
        if item.file_type()?.is_dir() && holds_something(&item.path())? {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn leftovers_are_hidden_and_swept_when_old() {
        let dir = tempfile::tempdir().unwrap();
        let store = Folder::open(&dir.path().join("a/b")).unwrap();
        store
            .put_new("step-00000001/x", Bytes::from_static(b"x"))
            .await
            .unwrap();
        let leftover = dir.path().join("a/b/step-00000001/.rekindle-abc");
        fs::write(&leftover, b"half").unwrap();
        assert_eq!(store.list("").await.unwrap().len(), 1);
        assert_eq!(store.sweep_uploads(0).await.unwrap().removed, 0);
        assert!(leftover.exists());
        assert_eq!(store.sweep_uploads(u64::MAX).await.unwrap().removed, 1);
        assert_eq!(
            (leftover.exists(), store.list("").await.unwrap().len()),
            (false, 1)
        );
    }

    #[tokio::test]
    async fn a_folder_that_cannot_be_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), b"").unwrap();
        let error = Folder::open(&dir.path().join("file/inside")).unwrap_err();
        assert!(error.to_string().contains("file/inside"), "{error}");
        let store = Folder::open(dir.path()).unwrap();
        let error = store.put("file/inside", Bytes::new()).await.unwrap_err();
        assert_eq!(error.kind(), super::super::StoreErrorKind::Invalid);
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn links_are_not_followed_when_listing() {
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(outside.path().join("secret"), b"s").unwrap();
        std::os::unix::fs::symlink(outside.path(), dir.path().join("step-00000001")).unwrap();
        let store = Folder::open(dir.path()).unwrap();
        assert!(store.list("").await.unwrap().is_empty());
        assert!(store.list_dirs("").await.unwrap().is_empty());
    }
}
