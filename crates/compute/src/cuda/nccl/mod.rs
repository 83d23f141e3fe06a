//! NCCL, which moves bytes between the memories of devices: its calls as a trait, and the library behind it.
//!
//! In: names of communicators ([`Comm`]) and pieces of memory. Out: NCCL's own result codes, as numbers, whatever
//! they are. The calls are few, and each is safe to make at any time: a name is never used twice, and one that has
//! ended is refused with [`Code::INVALID_ARGUMENT`]. What order of calls makes sense, and which wait may hang, is the
//! caller's business (`rekindle-transport` has that logic, and runs it against a simulated NCCL that implements
//! [`Calls`], too).
//!
//! Invariants
//! - CP-9 Memory, stream and place of a communicator outlive whatever NCCL or the device may still do with them:
//!   where that can't be known in time they are left allocated.
//!
//! Deliberately absent: collectives, registered memory, windows, `ncclCommRevoke` (it waits for a stream that may be
//! stuck).

mod device;
mod library;
mod table;

use std::any::Any;
use std::fmt;
use std::sync::Arc;

pub use device::Nccl;
pub use library::{Library, Since};

use crate::Result;

/// The oldest NCCL that can be used: communicators that don't block and can be split, 2.18.1.
pub const OLDEST: i32 = 21_801;

/// What ranks that want to meet must share.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct UniqueId(pub [u8; 128]);

impl fmt::Debug for UniqueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // It holds an address and a secret.
        f.write_str("UniqueId(..)")
    }
}

/// The name of a communicator in this process. No two have the same, ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Comm(pub u64);

/// A result code, also one that this code doesn't know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Code(pub i32);

impl Code {
    /// Done, or going well.
    pub const SUCCESS: Self = Self(0);
    /// A call of CUDA failed.
    pub const CUDA: Self = Self(1);
    /// A call of the operating system failed, often on the network.
    pub const SYSTEM: Self = Self(2);
    /// A defect of NCCL, or memory that was overwritten.
    pub const INTERNAL: Self = Self(3);
    /// An argument makes no sense.
    pub const INVALID_ARGUMENT: Self = Self(4);
    /// The call makes no sense now.
    pub const INVALID_USAGE: Self = Self(5);
    /// The peer is gone, or the network between.
    pub const REMOTE: Self = Self(6);
    /// Not done yet: nothing else may be asked of the communicator before it is.
    pub const IN_PROGRESS: Self = Self(7);
    /// NCCL itself stopped waiting (2.30).
    pub const TIMEOUT: Self = Self(8);
}

/// How [`Calls::shrink`] treats what is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shrink {
    /// Nothing is.
    Quiet,
    /// It is stopped first. May block for as long as the device doesn't stop.
    Abort,
}

/// A run of a device's memory, and what keeps it allocated.
#[derive(Clone)]
pub struct Piece {
    at: u64,
    bytes: usize,
    keep: Arc<dyn Any + Send + Sync>,
}

impl Piece {
    /// `bytes` at the device's address `at`.
    ///
    /// # Safety
    /// As long as `keep` lives they are memory of the device (or of the simulated one) that the receiving [`Calls`]
    /// works on.
    #[must_use]
    pub unsafe fn new(at: u64, bytes: usize, keep: Arc<dyn Any + Send + Sync>) -> Self {
        Self { at, bytes, keep }
    }

    /// Its address.
    #[must_use]
    pub fn at(&self) -> u64 {
        self.at
    }

    /// Its length.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What keeps it.
    #[must_use]
    pub fn keep(&self) -> &Arc<dyn Any + Send + Sync> {
        &self.keep
    }
}

/// The calls of NCCL that are made, on one device. Communicators don't block: a call that returns
/// [`Code::IN_PROGRESS`] is over when [`Calls::state`] says something else. Calls on one communicator are made by one
/// thread at a time, whoever calls.
pub trait Calls: Send + Sync {
    /// NCCL's version: 10000 × major + 100 × minor + patch.
    fn version(&self) -> i32;

    /// A new id to meet under.
    ///
    /// # Errors
    /// NCCL's code, [`Code::SYSTEM`] where no network interface can be used.
    fn unique_id(&self) -> std::result::Result<UniqueId, Code>;

    /// Begins to meet the `ranks` of `id` as `rank`.
    fn init(&self, ranks: u32, rank: u32, id: &UniqueId) -> (Comm, Code);

    /// Begins to make a communicator of those of `parent` that give the same `colour`, in the order of their keys;
    /// without a colour this rank only takes part in the call. All ranks of the parent call it. The parent is in
    /// progress until it is over.
    fn split(&self, parent: Comm, colour: Option<u32>, key: u32) -> (Comm, Code);

    /// Begins to make a communicator of all of `parent` but these ranks (2.27), which don't call it.
    fn shrink(&self, parent: Comm, leave_out: &[u32], how: Shrink) -> (Comm, Code);

    /// An id under which new ranks can join `parent` (2.29); one of its ranks calls this. May block.
    ///
    /// # Errors
    /// NCCL's code.
    fn grow_id(&self, parent: Comm) -> std::result::Result<UniqueId, Code>;

    /// Begins to make a communicator of `ranks` out of `parent` and those that join (2.29), as one of the parent.
    fn grow(&self, parent: Comm, ranks: u32, id: Option<&UniqueId>) -> (Comm, Code);

    /// As [`Calls::grow`], as one that joins: as `rank`, from the parent's number of ranks on.
    fn join(&self, ranks: u32, rank: u32, id: &UniqueId) -> (Comm, Code);

    /// How the communicator is doing. The only call, with [`Calls::abort`], that may be made at any time.
    fn state(&self, comm: Comm) -> Code;

    /// Gives the communicator's stream the first `bytes` of `from` to send.
    fn send(&self, comm: Comm, from: &Piece, bytes: usize, peer: u32) -> Code;

    /// Gives the communicator's stream the first `bytes` of `into` to receive.
    fn recv(&self, comm: Comm, into: &Piece, bytes: usize, peer: u32) -> Code;

    /// Whether the communicator's stream has done all that it was given.
    ///
    /// # Errors
    /// The device's.
    fn idle(&self, comm: Comm) -> Result<bool>;

    /// Begins to let go of the communicator, in order. All its ranks call it.
    fn finalize(&self, comm: Comm) -> Code;

    /// Frees a communicator that was finalized. Its name has ended.
    fn destroy(&self, comm: Comm) -> Code;

    /// Stops whatever the communicator is doing, and frees it. Its name has ended. May block for as long as the
    /// device doesn't stop. Of a communicator and one that is being made of it, the older is aborted first.
    fn abort(&self, comm: Comm) -> Code;

    /// What a code means, and what NCCL says about its last failure.
    fn explain(&self, code: Code) -> String;

    /// Memory of the device.
    ///
    /// # Errors
    /// The device's.
    fn memory(&self, bytes: usize) -> Result<Piece>;

    /// Copies to the device on the communicator's stream, which is idle, and waits for it.
    ///
    /// # Errors
    /// The device's.
    fn copy_in(&self, comm: Comm, to: &Piece, from: &[u8]) -> Result<()>;

    /// Copies from the device on the communicator's stream, which is idle, and waits for it.
    ///
    /// # Errors
    /// The device's.
    fn copy_out(&self, comm: Comm, from: &Piece, to: &mut [u8]) -> Result<()>;
}
