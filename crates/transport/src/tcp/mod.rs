//! The transport over TCP: std's blocking sockets, one full-duplex connection per linked pair, a reader and a
//! writer thread on each end.
//!
//! ```text
//!  TcpEndpoint::bind -> local_addr (told to everybody) -> connect: lower rank dials, higher rank accepts -> TcpTransport
//! ```
//!
//! In: an address, an identity, the peers' addresses, which of them to link. Out: a [`TcpTransport`].
//!
//! Invariants: TR-2, TR-5, TR-6 (see the crate's header); `docs/transport-protocol.md` has the bytes.
//!
//! Why threads and not an asynchronous runtime: few connections, large frames, and a trainer whose threads
//! compute.

mod carrier;
mod edit;
mod endpoint;
mod establish;
mod handshake;
mod reader;
mod serving;
mod socket;
mod writer;

pub use carrier::Connections;
pub use edit::Edit;
pub use endpoint::TcpEndpoint;
pub use handshake::{GREETING_BYTES, Greeting, PROTOCOL_VERSION};

/// A rank's transport over TCP.
pub type TcpTransport = crate::hub::Linked<Connections>;
