//! A received frame: who sent it, what it is, and its bytes in an aligned buffer the receiver owns.

use bytemuck::{AnyBitPattern, NoUninit};
use rekindle_types::RankId;

use crate::{Buffer, Tag, TransportError};

/// What `recv` returns. Dropping it gives its memory back to the pool; sending it on doesn't copy it.
#[derive(Debug)]
pub struct Frame {
    from: RankId,
    tag: Tag,
    buffer: Buffer,
}

impl Frame {
    pub(crate) fn new(from: RankId, tag: Tag, buffer: Buffer) -> Self {
        Self { from, tag, buffer }
    }

    /// The sender.
    #[must_use]
    pub fn from(&self) -> RankId {
        self.from
    }

    /// What it is.
    #[must_use]
    pub fn tag(&self) -> Tag {
        self.tag
    }

    /// The bytes, 64-byte aligned.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.buffer
    }

    /// Number of bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Whether it carries no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    fn mismatch(&self, expected: String) -> TransportError {
        TransportError::SizeMismatch {
            from: self.from,
            tag: self.tag,
            expected,
            found: self.buffer.len(),
        }
    }

    fn whole<T>(&self) -> Result<(), TransportError> {
        let size = size_of::<T>();
        if size == 0 || !self.buffer.len().is_multiple_of(size) {
            return Err(self.mismatch(format!("a multiple of {size}")));
        }
        Ok(())
    }

    /// The bytes as values.
    ///
    /// # Errors
    /// [`TransportError::SizeMismatch`] when the length is no multiple of the value's.
    pub fn as_slice<T: AnyBitPattern>(&self) -> Result<&[T], TransportError> {
        self.whole::<T>()?;
        bytemuck::try_cast_slice(&self.buffer).map_err(|e| self.mismatch(e.to_string()))
    }

    /// Exactly `count` values.
    ///
    /// # Errors
    /// [`TransportError::SizeMismatch`] when the frame holds another number.
    pub fn slice_of<T: AnyBitPattern>(&self, count: usize) -> Result<&[T], TransportError> {
        let values = self.as_slice::<T>()?;
        if values.len() != count {
            return Err(self.mismatch(format!("{}", count.saturating_mul(size_of::<T>()))));
        }
        Ok(values)
    }

    /// The bytes as values to change in place.
    ///
    /// # Errors
    /// [`TransportError::SizeMismatch`] when the length is no multiple of the value's.
    pub fn as_mut_slice<T: AnyBitPattern + NoUninit>(&mut self) -> Result<&mut [T], TransportError> {
        self.whole::<T>()?;
        let (from, tag, found) = (self.from, self.tag, self.buffer.len());
        bytemuck::try_cast_slice_mut(&mut self.buffer).map_err(|e| TransportError::SizeMismatch {
            from,
            tag,
            expected: e.to_string(),
            found,
        })
    }

    /// Copies the values to `out`.
    ///
    /// # Errors
    /// [`TransportError::SizeMismatch`] when `out` has another length.
    pub fn copy_to<T: AnyBitPattern + NoUninit>(&self, out: &mut [T]) -> Result<(), TransportError> {
        let target = bytemuck::cast_slice_mut::<T, u8>(out);
        if target.len() != self.buffer.len() {
            return Err(self.mismatch(target.len().to_string()));
        }
        target.copy_from_slice(&self.buffer);
        Ok(())
    }

    /// The buffer itself.
    #[must_use]
    pub fn into_buffer(self) -> Buffer {
        self.buffer
    }
}
