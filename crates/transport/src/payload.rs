//! What a frame is sent from: an owned buffer, or something shared that stays alive until it is written.
//!
//! In: buffers, frames, vectors, `Arc`s with a range. Out: bytes for vectored writes; nothing is copied here.

use std::ops::Range;
use std::sync::Arc;

use bytemuck::NoUninit;

use crate::{Buffer, Frame};

/// Something that owns bytes which don't change while it is shared.
pub trait ByteOwner: Send + Sync {
    /// The bytes. Every call gives the same ones.
    fn bytes(&self) -> &[u8];
}

impl<T: NoUninit + Send + Sync> ByteOwner for Vec<T> {
    fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(self)
    }
}

impl<T: NoUninit + Send + Sync> ByteOwner for Box<[T]> {
    fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(self)
    }
}

impl ByteOwner for Buffer {
    fn bytes(&self) -> &[u8] {
        self
    }
}

/// The body of a frame to send.
pub struct Payload(Inner);

enum Inner {
    Empty,
    Owned(Buffer),
    Shared {
        owner: Arc<dyn ByteOwner>,
        range: Range<usize>,
    },
}

impl Payload {
    /// No bytes at all: the tag says everything.
    #[must_use]
    pub fn empty() -> Self {
        Self(Inner::Empty)
    }

    /// A vector of plain values, without copying it.
    #[must_use]
    pub fn vec<T: NoUninit + Send + Sync>(values: Vec<T>) -> Self {
        Self::shared(Arc::new(values))
    }

    /// All bytes of `owner`. The same `Arc` can go to several peers.
    #[must_use]
    pub fn shared(owner: Arc<dyn ByteOwner>) -> Self {
        let range = 0..owner.bytes().len();
        Self(Inner::Shared { owner, range })
    }

    /// The bytes `range` of `owner`; `None` when it hasn't that many.
    #[must_use]
    pub fn shared_range(owner: Arc<dyn ByteOwner>, range: Range<usize>) -> Option<Self> {
        owner.bytes().get(range.clone())?;
        Some(Self(Inner::Shared { owner, range }))
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match &self.0 {
            Inner::Empty => &[],
            Inner::Owned(buffer) => buffer,
            Inner::Shared { owner, range } => &owner.bytes()[range.clone()],
        }
    }

    /// Number of bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes().len()
    }

    /// Whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The buffer itself, where the payload owns one.
    pub(crate) fn into_owned(self) -> Result<Buffer, Self> {
        match self.0 {
            Inner::Owned(buffer) => Ok(buffer),
            other => Err(Self(other)),
        }
    }
}

impl From<Buffer> for Payload {
    fn from(buffer: Buffer) -> Self {
        Self(Inner::Owned(buffer))
    }
}

impl From<Frame> for Payload {
    fn from(frame: Frame) -> Self {
        frame.into_buffer().into()
    }
}

impl std::fmt::Debug for Payload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Payload({} bytes)", self.len())
    }
}
