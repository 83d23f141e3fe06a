//! Every member has a short vector; afterwards every member has the sum. For losses, norms, digests and
//! counts: tens of numbers, not gradients.
//!
//! In: the own values. Out: the sums, the same on every member. A star on the group's first member: two hops,
//! however many members. A sum out of range is told to everybody, so that all members fail alike.

use super::{Group, Summand};
use crate::{Buffer, Deadline, Payload, Tag, Transport, TransportError};

/// An all-reduce between its two phases. The first member's `finish` is what lets the others' `finish` end.
#[must_use = "the other members wait for `finish`"]
pub struct AllReduce<T> {
    group: Group,
    tag: Tag,
    own: Vec<T>,
}

const IN_RANGE: u128 = 0;

/// What the first member sends back: the sums, and 0 or 1 + the place of the member whose part left the
/// range.
fn answer<T: Summand>(transport: &dyn Transport, sums: &[T], status: u128) -> Buffer {
    let bytes = bytemuck::cast_slice::<T, u8>(sums);
    let mut buffer = transport.pool().take(bytes.len() + size_of::<u128>());
    buffer[..bytes.len()].copy_from_slice(bytes);
    buffer[bytes.len()..].copy_from_slice(&status.to_le_bytes());
    buffer
}

impl<T: Summand> AllReduce<T> {
    /// Sends `own` on its way.
    ///
    /// # Errors
    /// As [`Transport::send`].
    pub fn start(
        transport: &dyn Transport,
        group: &Group,
        tag: Tag,
        own: &[T],
        deadline: Deadline,
    ) -> Result<Self, TransportError> {
        if group.place() > 0 {
            transport.send_slice(group.members()[0], tag, own, deadline)?;
        }
        Ok(Self {
            group: group.clone(),
            tag,
            own: own.to_vec(),
        })
    }

    /// The sums.
    ///
    /// # Errors
    /// As [`Transport::recv`] and [`Transport::send`]; `SizeMismatch` when members gave different numbers of
    /// values; `Overflow`.
    pub fn finish(self, transport: &dyn Transport, deadline: Deadline) -> Result<Vec<T>, TransportError> {
        if self.group.len() == 1 {
            return Ok(self.own);
        }
        if self.group.place() == 0 {
            self.add_up(transport, deadline)
        } else {
            self.learn(transport, deadline)
        }
    }

    fn overflow(&self, status: u128) -> Result<(), TransportError> {
        if status == IN_RANGE {
            return Ok(());
        }
        let place = usize::try_from(status - 1).unwrap_or(0).min(self.group.len() - 1);
        Err(TransportError::Overflow {
            tag: self.tag,
            from: self.group.members()[place],
        })
    }

    fn add_up(mut self, transport: &dyn Transport, deadline: Deadline) -> Result<Vec<T>, TransportError> {
        let mut status = IN_RANGE;
        let mut sums = std::mem::take(&mut self.own);
        for (place, &rank) in self.group.members().iter().enumerate().skip(1) {
            let frame = transport.recv(rank, self.tag, deadline)?;
            let parts = frame.slice_of::<T>(sums.len())?;
            for (sum, &part) in sums.iter_mut().zip(parts) {
                match sum.sum(part) {
                    Some(value) => *sum = value,
                    None => {
                        status = if status == IN_RANGE {
                            place as u128 + 1
                        } else {
                            status
                        }
                    }
                }
            }
        }
        let shared: std::sync::Arc<dyn crate::ByteOwner> =
            std::sync::Arc::new(answer(transport, &sums, status));
        for &rank in &self.group.members()[1..] {
            transport.send(
                rank,
                self.tag,
                Payload::shared(std::sync::Arc::clone(&shared)),
                deadline,
            )?;
        }
        self.overflow(status)?;
        Ok(sums)
    }

    fn learn(mut self, transport: &dyn Transport, deadline: Deadline) -> Result<Vec<T>, TransportError> {
        let frame = transport.recv(self.group.members()[0], self.tag, deadline)?;
        let words = frame.slice_of::<u128>(self.own.len() * size_of::<T>() / size_of::<u128>() + 1)?;
        let (sums, status) = words.split_at(words.len() - 1);
        self.overflow(status[0])?;
        self.own.copy_from_slice(bytemuck::cast_slice(sums));
        Ok(self.own)
    }
}

/// Both phases at once: replaces `values` by the sums.
///
/// # Errors
/// As [`AllReduce::start`] and [`AllReduce::finish`].
pub fn all_reduce<T: Summand>(
    transport: &dyn Transport,
    group: &Group,
    tag: Tag,
    values: &mut [T],
    deadline: Deadline,
) -> Result<(), TransportError> {
    let sums = AllReduce::start(transport, group, tag, values, deadline)?.finish(transport, deadline)?;
    values.copy_from_slice(&sums);
    Ok(())
}
