//! Every member has a whole vector; afterwards member j has the sum of all members' part j.
//!
//! In: the vector and one range per member. Out: the sum of this member's part, in place. Direct exchange:
//! part j goes straight to member j.

use std::marker::PhantomData;
use std::ops::Range;

use super::{Element, Group};
use crate::{Deadline, Frame, Payload, Tag, Transport, TransportError};

/// A reduce-scatter between its two phases.
#[must_use = "the parts of the others wait in the inbox until `finish`"]
pub struct ReduceScatter<T> {
    group: Group,
    tag: Tag,
    own: Range<usize>,
    elements: PhantomData<T>,
}

impl<T: Element> ReduceScatter<T> {
    /// Sends part j of `data` (elements `parts[j]`) to member j. Copies each part once, so `data` is free to
    /// change afterwards; the own part must stay, for [`ReduceScatter::finish`].
    ///
    /// # Errors
    /// `Group` when the parts don't fit, or as [`Transport::send`].
    pub fn start(
        transport: &dyn Transport,
        group: &Group,
        tag: Tag,
        data: &[T],
        parts: &[Range<usize>],
        deadline: Deadline,
    ) -> Result<Self, TransportError> {
        group.check_parts(parts, data.len())?;
        let payload = |part: Range<usize>| transport.pool().copy_of(&data[part]).into();
        Self::start_with(transport, group, tag, parts, payload, deadline)
    }

    /// The same with payloads the caller makes (for instance ranges of one shared accumulator, which then
    /// isn't copied).
    /// `payload` is called once for each other member's part and must give the bytes of its elements.
    ///
    /// # Errors
    /// As [`ReduceScatter::start`].
    pub fn start_with(
        transport: &dyn Transport,
        group: &Group,
        tag: Tag,
        parts: &[Range<usize>],
        mut payload: impl FnMut(Range<usize>) -> Payload,
        deadline: Deadline,
    ) -> Result<Self, TransportError> {
        group.check_parts(parts, usize::MAX)?;
        for (place, rank) in group.others() {
            transport.send(rank, tag, payload(parts[place].clone()), deadline)?;
        }
        Ok(Self {
            group: group.clone(),
            tag,
            own: parts[group.place()].clone(),
            elements: PhantomData,
        })
    }

    /// The elements that this member gets the sum of.
    #[must_use]
    pub fn own(&self) -> Range<usize> {
        self.own.clone()
    }

    /// Adds the others' parts to `own` (this member's contribution, `parts[place]` of its data), in the
    /// group's order.
    ///
    /// # Errors
    /// As [`Transport::recv`]; `SizeMismatch`; `Overflow` where an integer sum leaves its range.
    pub fn finish(
        self,
        transport: &dyn Transport,
        own: &mut [T],
        deadline: Deadline,
    ) -> Result<(), TransportError> {
        if own.len() != self.own.len() {
            let why = format!("{} elements given for the own part {:?}", own.len(), self.own);
            return Err(TransportError::Group { why });
        }
        if T::ORDER_MATTERS && self.group.place() > 0 {
            return self.finish_in_order(transport, own, deadline);
        }
        for &rank in self.group.members() {
            if rank != self.group.rank() {
                let frame = transport.recv(rank, self.tag, deadline)?;
                self.add(own, frame.slice_of(own.len())?, &frame)?;
            }
        }
        Ok(())
    }

    fn add(&self, sum: &mut [T], part: &[T], frame: &Frame) -> Result<(), TransportError> {
        if T::add(sum, part) {
            return Ok(());
        }
        Err(TransportError::Overflow {
            tag: self.tag,
            from: frame.from(),
        })
    }

    /// Sums up in the first member's frame, so that the own part comes in at its own place.
    fn finish_in_order(
        &self,
        transport: &dyn Transport,
        own: &mut [T],
        deadline: Deadline,
    ) -> Result<(), TransportError> {
        let mut first = transport.recv(self.group.members()[0], self.tag, deadline)?;
        first.slice_of::<T>(own.len())?;
        let sum = first.as_mut_slice::<T>()?;
        for &rank in &self.group.members()[1..] {
            if rank == self.group.rank() {
                T::add(sum, own);
            } else {
                let frame = transport.recv(rank, self.tag, deadline)?;
                self.add(sum, frame.slice_of(own.len())?, &frame)?;
            }
        }
        own.copy_from_slice(sum);
        Ok(())
    }
}
