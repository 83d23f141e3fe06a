//! Point-to-point frames and collectives between the trainers of one job, fenced by epoch; over TCP and in
//! memory.
//!
//! ```text
//!  trainer thread            one pair of threads per linked peer                trainer thread
//!  send(to, tag, payload) -> outbox (bounded) -> writer ==TCP==> reader -> inbox (bounded) -> recv(from, tag)
//! ```
//!
//! In: payloads (an aligned buffer or something shared, never copied on the way to the socket) under a
//! [`Tag`]. Out: [`Frame`]s, owned 64-byte aligned pooled buffers. Start reading at [`Transport`], then
//! [`collective`], then `hub`.
//!
//! Invariants
//! - TR-1 Frames of one (sender thread, peer, tag) arrive in the order in which they were sent, each exactly
//!   once.
//! - TR-2 Every wait of a caller ends: by success, by its deadline, by an abort, or by the end of the peer's
//!   connection.
//! - TR-3 Memory is bounded per peer: the outbox by bytes and frames, the inbox by a soft bound while nobody
//!   of this rank waits and by a hard bound always. No length a peer names is allocated before it passed
//!   these bounds.
//! - TR-4 While any thread of this rank is blocked (in `send`, `recv` or `flush`), its inboxes read on up to
//!   the hard bound, so that two ranks that send to each other, or wait for each other through a third, can't
//!   block each other below that bound. A `recv` whose own inbox has reached the hard bound without its tag
//!   fails with [`TransportError::InboxFull`]; it never waits in silence.
//! - TR-5 A frame of another job, a newer epoch (but the fence that goes before it), another pair of ranks, or over the
//!   size bound ends the connection with a named error; one of an older epoch is dropped and counted. Neither is ever
//!   delivered.
//! - TR-6 Every thread is owned by a transport, or by the one that took its connection over, and joined when that is
//!   closed or dropped, within the linger bound; one that is stuck inside NCCL is left behind after a bound of its
//!   own.
//! - TR-7 What arrived before a connection ended can still be received; only then does `recv` report the end.
//!
//! A transport is of one epoch. The next one may take its connections over ([`TcpEndpoint::edit`]), so that only
//! links are made whose ends changed; queues, counters and errors begin anew.
//!
//! Deliberately absent: reconnecting within an epoch (a broken link is the coordinator's business: it makes a new
//! plan under a new epoch), encryption, discovery of addresses, asynchronous code (trainers are threads that
//! compute).

mod apart;
mod buffer;
pub mod collective;
pub mod conformance;
mod deadline;
mod error;
mod frame;
mod gate;
mod hub;
mod identity;
mod inbox;
pub mod memory;
pub mod nccl;
mod options;
mod outbox;
mod payload;
mod stats;
mod tag;
pub mod tcp;
mod transport;
pub mod wire;

pub use buffer::{ALIGNMENT, Buffer, BufferPool};
pub use deadline::Deadline;
pub use error::{Operation, ProtocolError, RefusalReason, TransportError};
pub use frame::Frame;
pub use identity::Identity;
pub use memory::{MemoryMesh, MemoryTransport};
pub use options::Options;
pub use payload::{ByteOwner, Payload};
pub use stats::{PeerStats, Stats};
pub use tag::{Tag, TagKind};
pub use tcp::{TcpEndpoint, TcpTransport};
pub use transport::{Blocked, Transport};
