//! NCCL on one device: its calls, made with the device's context current.
//!
//! Every communicator has a stream of its own, so that what hangs in one holds up no other, nor the work of
//! [`Cuda`](crate::cuda::Cuda).

use std::ffi::c_int;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::library::{Config, Library, Raw};
use super::table::{Entry, Inside, Table};
use super::{Calls, Code, Comm, Piece, Shrink, UniqueId};
use crate::Result;
use crate::cuda::driver::{Context, Memory, Stream};

/// `ncclInt8`: everything is bytes here.
const BYTES: c_int = 0;
/// `NCCL_SPLIT_NOCOLOR`.
const NO_COLOUR: c_int = -1;
/// How long what an aborted communicator's stream uses is kept, waiting for the stream, before it is left allocated
/// for good.
const STOP: Duration = Duration::from_secs(60);

/// NCCL on a device of this process.
pub struct Nccl {
    library: Library,
    context: Arc<Context>,
    table: Table,
}

fn number(value: u32) -> c_int {
    c_int::try_from(value).unwrap_or(c_int::MAX)
}

impl Nccl {
    /// NCCL on the device of an ordinal. The device's context is the one that [`Cuda`](crate::cuda::Cuda) computes in.
    ///
    /// # Errors
    /// [`ComputeError::Device`](crate::ComputeError::Device): what is missing, and how to get it.
    pub fn open(ordinal: i32) -> Result<Self> {
        Ok(Self {
            library: Library::find()?,
            context: Context::open(ordinal)?,
            table: Table::default(),
        })
    }

    /// Begins to make a communicator by `make`, which is told where to write it.
    fn begin(&self, parent: Option<Comm>, make: impl FnOnce(*mut Raw) -> c_int) -> (Comm, Code) {
        // Makes the context current on this thread as well, which NCCL goes by.
        match Stream::new(&self.context) {
            Ok(stream) => {
                let entry = Arc::new(Entry::new(stream, parent));
                let comm = self.table.add(Arc::clone(&entry));
                (comm, Code(make(entry.place.write_to())))
            }
            Err(_) => (self.table.unused(), Code::CUDA),
        }
    }

    /// Makes a call on a communicator that lives.
    fn on(&self, comm: Comm, call: impl FnOnce(Raw, &Stream, &mut Vec<Piece>) -> c_int) -> Code {
        let Some(entry) = self.table.get(comm) else {
            return Code::INVALID_ARGUMENT;
        };
        let Some(mut inside) = entry.alone() else {
            return Code::INVALID_ARGUMENT;
        };
        match (entry.place.read(), entry.stream.bind()) {
            (None, _) => Code::INVALID_USAGE,
            (_, Err(_)) => Code::CUDA,
            (Some(raw), Ok(())) => Code(call(raw, &entry.stream, &mut inside.using)),
        }
    }

    /// Makes the last call on a communicator, and lets go of what it had.
    fn end(&self, comm: Comm, call: impl FnOnce(Raw) -> c_int) -> Code {
        let Some(entry) = self.table.remove(comm) else {
            return Code::INVALID_ARGUMENT;
        };
        let last = entry.last();
        let code = match (&last, entry.place.read(), entry.stream.bind()) {
            (None, _, _) => Code::INVALID_ARGUMENT,
            (_, None, _) => Code::SUCCESS,
            (_, _, Err(_)) => Code::CUDA,
            (Some(_), Some(raw), Ok(())) => Code(call(raw)),
        };
        drop(last);
        let_go(entry);
        code
    }

    /// Begins to make a communicator out of another one.
    fn child(&self, parent: Comm, make: impl FnOnce(Raw, *mut Raw) -> c_int) -> (Comm, Code) {
        let Some(entry) = self.table.get(parent) else {
            return (self.table.unused(), Code::INVALID_ARGUMENT);
        };
        let alone = entry.alone();
        match (&alone, entry.place.read()) {
            (Some(_), Some(raw)) => self.begin(Some(parent), |place| make(raw, place)),
            _ => (self.table.unused(), Code::INVALID_USAGE),
        }
    }

    fn transfer(&self, comm: Comm, piece: &Piece, bytes: usize, peer: u32, receive: bool) -> Code {
        if bytes > piece.bytes() {
            return Code::INVALID_ARGUMENT;
        }
        let call = if receive {
            self.library.recv
        } else {
            self.library.send
        };
        self.on(comm, |raw, stream, using| {
            using.push(piece.clone());
            // SAFETY: the communicator lives and no other thread calls it; the memory has `bytes`, and is kept until
            // the stream is idle or, after an abort, done with it. The stream is this communicator's own.
            unsafe { call(piece.at(), bytes, BYTES, number(peer), raw, stream.raw().cast()) }
        })
    }

    /// Does something on the stream of a communicator that lives.
    fn on_stream<T>(&self, comm: Comm, act: impl FnOnce(&Stream, &mut Inside) -> Result<T>) -> Result<T> {
        let ended = || crate::ComputeError::Device {
            what: "a communicator that has ended was asked for its stream (a defect of Rekindle)".to_owned(),
        };
        let entry = self.table.get(comm).ok_or_else(ended)?;
        let mut inside = entry.alone().ok_or_else(ended)?;
        act(&entry.stream, &mut inside)
    }
}

/// Waits for the stream to be done with what it uses; else leaves all of it allocated (CP-9).
fn let_go(entry: Arc<Entry>) {
    let until = Instant::now() + STOP;
    while let Ok(false) = entry.stream.is_idle() {
        if Instant::now() > until {
            // To free memory would be to wait for the stream.
            std::mem::forget(entry);
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

impl Calls for Nccl {
    fn version(&self) -> i32 {
        self.library.version()
    }

    fn unique_id(&self) -> std::result::Result<UniqueId, Code> {
        self.library.unique_id()
    }

    fn init(&self, ranks: u32, rank: u32, id: &UniqueId) -> (Comm, Code) {
        let mut config = Config::new();
        self.begin(None, |place| {
            // SAFETY: the place is never freed; NCCL copies the settings before it returns.
            unsafe { (self.library.init)(place, number(ranks), *id, number(rank), &raw mut config) }
        })
    }

    fn split(&self, parent: Comm, colour: Option<u32>, key: u32) -> (Comm, Code) {
        let colour = colour.map_or(NO_COLOUR, number);
        self.child(parent, |raw, place| {
            // SAFETY: the parent lives and no other thread calls it; the place is never freed; without settings the
            // parent's are taken.
            unsafe { (self.library.split)(raw, colour, number(key), place, std::ptr::null_mut()) }
        })
    }

    fn shrink(&self, parent: Comm, leave_out: &[u32], how: Shrink) -> (Comm, Code) {
        let Some(shrink) = self.library.shrink else {
            return (self.table.unused(), Code::INVALID_USAGE);
        };
        let mut out: Vec<c_int> = leave_out.iter().copied().map(number).collect();
        let flags = c_int::from(how == Shrink::Abort);
        self.child(parent, |raw, place| {
            let count = c_int::try_from(out.len()).unwrap_or(0);
            // SAFETY: as in `split`; NCCL sorts the list in place and copies it before it returns.
            unsafe { shrink(raw, out.as_mut_ptr(), count, place, std::ptr::null_mut(), flags) }
        })
    }

    fn grow_id(&self, parent: Comm) -> std::result::Result<UniqueId, Code> {
        let grow_id = self.library.grow_id.ok_or(Code::INVALID_USAGE)?;
        let mut id = UniqueId([0; 128]);
        // SAFETY: the communicator lives and no other thread calls it; the result has a place of its size.
        match self.on(parent, |raw, _, _| unsafe { grow_id(raw, &raw mut id) }) {
            Code::SUCCESS => Ok(id),
            code => Err(code),
        }
    }

    fn grow(&self, parent: Comm, ranks: u32, id: Option<&UniqueId>) -> (Comm, Code) {
        let Some(grow) = self.library.grow else {
            return (self.table.unused(), Code::INVALID_USAGE);
        };
        let id = id.map_or(std::ptr::null(), std::ptr::from_ref);
        self.child(parent, |raw, place| {
            // SAFETY: as in `split`; NCCL copies the id before it returns.
            unsafe { grow(raw, number(ranks), id, -1, place, std::ptr::null_mut()) }
        })
    }

    fn join(&self, ranks: u32, rank: u32, id: &UniqueId) -> (Comm, Code) {
        let Some(grow) = self.library.grow else {
            return (self.table.unused(), Code::INVALID_USAGE);
        };
        let mut config = Config::new();
        self.begin(None, |place| {
            // SAFETY: without a parent; the place is never freed; NCCL copies id and settings before it returns.
            unsafe {
                grow(
                    std::ptr::null_mut(),
                    number(ranks),
                    id,
                    number(rank),
                    place,
                    &raw mut config,
                )
            }
        })
    }

    fn state(&self, comm: Comm) -> Code {
        let Some(entry) = self.table.get(comm) else {
            return Code::INVALID_ARGUMENT;
        };
        let Some(_alone) = entry.alone() else {
            return Code::INVALID_ARGUMENT;
        };
        let Some(raw) = entry.place.read() else {
            // NCCL writes the communicator before its parent is out of progress.
            return match entry.parent.map(|parent| self.state(parent)) {
                Some(Code::SUCCESS) | None => Code::INTERNAL,
                Some(code) => code,
            };
        };
        let mut state = 0;
        // SAFETY: the communicator lives and no other thread calls it; the result has a place.
        match Code(unsafe { (self.library.state)(raw, &raw mut state) }) {
            Code::SUCCESS => Code(state),
            code => code,
        }
    }

    fn send(&self, comm: Comm, from: &Piece, bytes: usize, peer: u32) -> Code {
        self.transfer(comm, from, bytes, peer, false)
    }

    fn recv(&self, comm: Comm, into: &Piece, bytes: usize, peer: u32) -> Code {
        self.transfer(comm, into, bytes, peer, true)
    }

    fn idle(&self, comm: Comm) -> Result<bool> {
        // What NCCL hasn't begun yet isn't in the stream.
        let state = self.state(comm);
        self.on_stream(comm, |stream, inside| {
            let idle = state != Code::IN_PROGRESS && stream.is_idle()?;
            if idle && state == Code::SUCCESS {
                inside.using.clear();
            }
            Ok(idle)
        })
    }

    fn finalize(&self, comm: Comm) -> Code {
        // SAFETY: the communicator lives and no other thread calls it.
        self.on(comm, |raw, _, _| unsafe { (self.library.finalize)(raw) })
    }

    fn destroy(&self, comm: Comm) -> Code {
        // SAFETY: nobody else has the communicator any more.
        self.end(comm, |raw| unsafe { (self.library.destroy)(raw) })
    }

    fn abort(&self, comm: Comm) -> Code {
        // SAFETY: as above.
        self.end(comm, |raw| unsafe { (self.library.abort)(raw) })
    }

    fn explain(&self, code: Code) -> String {
        self.library.explain(code)
    }

    fn memory(&self, bytes: usize) -> Result<Piece> {
        let memory = Arc::new(Memory::new(&self.context, bytes)?);
        // SAFETY: the memory lives as long as what keeps it.
        Ok(unsafe { Piece::new(memory.at(), bytes, memory) })
    }

    fn copy_in(&self, comm: Comm, to: &Piece, from: &[u8]) -> Result<()> {
        let bytes = from.len().min(to.bytes());
        self.on_stream(comm, |stream, _| stream.copy_in(to.at(), &from[..bytes]))
    }

    fn copy_out(&self, comm: Comm, from: &Piece, to: &mut [u8]) -> Result<()> {
        let bytes = to.len().min(from.bytes());
        self.on_stream(comm, |stream, _| stream.copy_out(&mut to[..bytes], from.at()))
    }
}
