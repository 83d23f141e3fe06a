//! Operating system calls that fail as they are told to.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use super::super::files::{FileOps, OpenFile, System};

/// The calls that can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    Create,
    Reserve,
    Write,
    Sync,
    SyncParents,
    Remove,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// This error number.
    Errno(i32),
    /// Only one in so many bytes is written, rounded up.
    Short(usize),
    /// Nothing is written.
    Nothing,
    /// A panic.
    Panic,
    /// It doesn't return before [`FaultyFiles::release`].
    Hang,
}

#[derive(Default)]
struct Script {
    /// Call, how often yet, what.
    rules: VecDeque<(Call, usize, Fault)>,
    calls: Vec<Call>,
    released: bool,
    hanging: usize,
}

#[derive(Clone, Default)]
pub struct FaultyFiles(Arc<(Mutex<Script>, Condvar)>);

impl FaultyFiles {
    /// The next `count` calls go wrong.
    pub fn next(&self, call: Call, count: usize, fault: Fault) -> &Self {
        self.0.0.lock().unwrap().rules.push_back((call, count, fault));
        self
    }

    /// Drops every order.
    pub fn heal(&self) {
        self.0.0.lock().unwrap().rules.clear();
    }

    /// Lets what hangs go on.
    pub fn release(&self) {
        self.0.0.lock().unwrap().released = true;
        self.0.1.notify_all();
    }

    pub fn count(&self, call: Call) -> usize {
        let script = self.0.0.lock().unwrap();
        script.calls.iter().filter(|made| **made == call).count()
    }

    /// Waits until a call hangs.
    pub fn wait_for_hang(&self) {
        let script = self.0.0.lock().unwrap();
        let waiting = |script: &mut Script| script.hanging == 0;
        drop(self.0.1.wait_while(script, waiting).unwrap());
    }

    fn call(&self, call: Call) -> io::Result<Option<Fault>> {
        let mut script = self.0.0.lock().unwrap();
        script.calls.push(call);
        let Some(rule) = script
            .rules
            .iter_mut()
            .find(|(meant, left, _)| *meant == call && *left > 0)
        else {
            return Ok(None);
        };
        rule.1 -= 1;
        let fault = rule.2;
        match fault {
            Fault::Errno(code) => return Err(io::Error::from_raw_os_error(code)),
            Fault::Panic => {
                drop(script);
                panic!("a panic was ordered");
            }
            Fault::Hang => {
                script.hanging += 1;
                self.0.1.notify_all();
                let longest = Duration::from_secs(120);
                let held = self.0.1.wait_timeout_while(script, longest, |s| !s.released);
                held.unwrap().0.hanging -= 1;
            }
            Fault::Short(_) | Fault::Nothing => {}
        }
        Ok(Some(fault))
    }
}

struct FaultyFile {
    inner: Box<dyn OpenFile>,
    files: FaultyFiles,
}

impl FileOps for FaultyFiles {
    fn create(&self, root: &Path, path: &Path, direct: bool) -> io::Result<Box<dyn OpenFile>> {
        self.call(Call::Create)?;
        let inner = System.create(root, path, direct)?;
        let files = self.clone();
        Ok(Box::new(FaultyFile { inner, files }))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.call(Call::Remove)?;
        System.remove(path)
    }

    fn sync_parents(&self, root: &Path, path: &Path) -> io::Result<()> {
        self.call(Call::SyncParents)?;
        System.sync_parents(root, path)
    }
}

impl OpenFile for FaultyFile {
    fn direct(&self) -> Option<usize> {
        self.inner.direct()
    }

    fn reserve(&self, bytes: u64) -> io::Result<()> {
        self.files.call(Call::Reserve)?;
        self.inner.reserve(bytes)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        if let Some(address) = self.inner.direct() {
            // What the strictest disk would refuse; this machine's may take more.
            let whole = offset.is_multiple_of(4096) && bytes.len().is_multiple_of(4096);
            assert!(whole && bytes.as_ptr().addr().is_multiple_of(address));
        }
        match self.files.call(Call::Write)? {
            // Aligned, as a device does it, but not to our blocks.
            Some(Fault::Short(part)) => {
                let some = bytes.len().div_ceil(part).next_multiple_of(4096) + 512;
                self.inner.write_at(&bytes[..some.min(bytes.len())], offset)
            }
            Some(Fault::Nothing) => Ok(0),
            _ => self.inner.write_at(bytes, offset),
        }
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.inner.set_len(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.files.call(Call::Sync)?;
        self.inner.sync()
    }
}
