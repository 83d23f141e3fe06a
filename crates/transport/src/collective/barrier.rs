//! Nobody leaves before everybody has come. A star on the group's first member.

use super::Group;
use crate::{Deadline, Payload, Tag, Transport, TransportError};

/// Returns once every member has called it with this tag.
///
/// # Errors
/// As [`Transport::send`] and [`Transport::recv`].
pub fn barrier(
    transport: &dyn Transport,
    group: &Group,
    tag: Tag,
    deadline: Deadline,
) -> Result<(), TransportError> {
    let first = group.members()[0];
    if group.place() > 0 {
        transport.send(first, tag, Payload::empty(), deadline)?;
        return transport.recv(first, tag, deadline).map(drop);
    }
    for &rank in &group.members()[1..] {
        transport.recv(rank, tag, deadline)?;
    }
    for &rank in &group.members()[1..] {
        transport.send(rank, tag, Payload::empty(), deadline)?;
    }
    Ok(())
}
