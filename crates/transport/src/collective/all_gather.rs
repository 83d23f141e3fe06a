//! Every member has one part; afterwards every member has all parts.
//!
//! In: the own part. Out: the others' parts, as frames or copied into the whole vector.

use std::ops::Range;
use std::sync::Arc;

use bytemuck::{AnyBitPattern, NoUninit};

use super::Group;
use crate::{ByteOwner, Deadline, Frame, Payload, Tag, Transport, TransportError};

/// An all-gather between its two phases.
#[must_use = "the parts of the others wait in the inbox until `finish`"]
pub struct AllGather {
    group: Group,
    tag: Tag,
}

impl AllGather {
    /// Sends `own` to everybody else. Copies it once, whatever the number of members.
    ///
    /// # Errors
    /// As [`Transport::send`].
    pub fn start<T: NoUninit>(
        transport: &dyn Transport,
        group: &Group,
        tag: Tag,
        own: &[T],
        deadline: Deadline,
    ) -> Result<Self, TransportError> {
        if group.len() == 1 {
            return Ok(Self {
                group: group.clone(),
                tag,
            });
        }
        let owner: Arc<dyn ByteOwner> = Arc::new(transport.pool().copy_of(own));
        Self::start_shared(transport, group, tag, &owner, deadline)
    }

    /// The same with something shared, which isn't copied.
    ///
    /// # Errors
    /// As [`Transport::send`].
    pub fn start_shared(
        transport: &dyn Transport,
        group: &Group,
        tag: Tag,
        own: &Arc<dyn ByteOwner>,
        deadline: Deadline,
    ) -> Result<Self, TransportError> {
        for (_, rank) in group.others() {
            transport.send(rank, tag, Payload::shared(Arc::clone(own)), deadline)?;
        }
        Ok(Self {
            group: group.clone(),
            tag,
        })
    }

    /// Gives each other member's part to `take`, with the member's place in the group, in the group's order.
    ///
    /// # Errors
    /// As [`Transport::recv`], and what `take` returns.
    pub fn finish_each(
        self,
        transport: &dyn Transport,
        deadline: Deadline,
        mut take: impl FnMut(usize, Frame) -> Result<(), TransportError>,
    ) -> Result<(), TransportError> {
        for (place, &rank) in self.group.members().iter().enumerate() {
            if place != self.group.place() {
                take(place, transport.recv(rank, self.tag, deadline)?)?;
            }
        }
        Ok(())
    }

    /// Copies each other member's part to its range of `whole`; the own range stays as it is.
    ///
    /// # Errors
    /// As [`Transport::recv`]; `Group` when the parts don't fit; `SizeMismatch`.
    pub fn finish_into<T: AnyBitPattern + NoUninit>(
        self,
        transport: &dyn Transport,
        whole: &mut [T],
        parts: &[Range<usize>],
        deadline: Deadline,
    ) -> Result<(), TransportError> {
        self.group.check_parts(parts, whole.len())?;
        self.finish_each(transport, deadline, |place, frame| {
            frame.copy_to(&mut whole[parts[place].clone()])
        })
    }
}
