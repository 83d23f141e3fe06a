//! One member has a value; afterwards every member has it.

use std::sync::Arc;

use bytemuck::{AnyBitPattern, NoUninit};

use super::Group;
use crate::{ByteOwner, Deadline, Payload, Tag, Transport, TransportError};

/// Copies `values` of the member at place `root` to every member's `values`, which have the same length. The
/// root returns once its sends are queued.
///
/// # Errors
/// As [`Transport::send`] on the root, [`Transport::recv`] on the others; `SizeMismatch`; `Group` for a root
/// that isn't there.
pub fn broadcast<T: NoUninit + AnyBitPattern>(
    transport: &dyn Transport,
    group: &Group,
    tag: Tag,
    root: usize,
    values: &mut [T],
    deadline: Deadline,
) -> Result<(), TransportError> {
    let Some(&source) = group.members().get(root) else {
        return Err(TransportError::Group {
            why: format!("no place {root} in a group of {}", group.len()),
        });
    };
    if group.place() != root {
        return transport.recv_into(source, tag, values, deadline);
    }
    let shared: Arc<dyn ByteOwner> = Arc::new(transport.pool().copy_of(values));
    for (_, rank) in group.others() {
        transport.send(rank, tag, Payload::shared(Arc::clone(&shared)), deadline)?;
    }
    Ok(())
}
