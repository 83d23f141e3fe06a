//! NCCL as another way for long payloads, beside a TCP connection that keeps order, room, fences and ends.
//!
//! ```text
//!  Calls (compute: the library; tests: a simulated one)
//!    └ Communicator   one communicator: what may be called when, waits with bounds, abort
//!        ├ Channel    two of two ranks each, one for each direction; kept from epoch to epoch by the endpoint
//!        │   └ NcclEndpoint::connect: TCP, then an agreement of both ends of each link, then channels -> NcclTransport
//!        └ Group      many ranks under the plan's numbers: split, shrink, grow
//! ```
//!
//! In: a [`TcpEndpoint`](crate::TcpEndpoint) and [`Calls`](rekindle_compute::cuda::nccl::Calls). Out: an
//! [`NcclTransport`], which is a [`Transport`](crate::Transport). Start reading at [`NcclEndpoint`].
//!
//! Why a connection beside it: a receiver must know a payload's length before NCCL can receive it, a waiting NCCL
//! kernel takes multiprocessors from those that compute, and NCCL doesn't reliably tell of a peer that died. So a
//! payload is announced on the connection, both ends come to NCCL only when both are there for it, and whatever takes
//! long after that is wrong.
//!
//! Invariants
//! - TR-10 After a failure of a communicator nothing is called on it but abort (or a shrink that aborts); finalize
//!   and destroy are called on healthy ones only. Every wait for NCCL has a bound, also the one for abort, after
//!   which the communicator is left behind.
//! - TR-11 A communicator is used again under a later epoch only when both ends have it, at rest, with the same
//!   number of transfers behind it.
//! - TR-12 A link uses NCCL only after both ends have said that their communicators stand; until then, and where one
//!   can't, it uses TCP.
//!
//! Deliberately absent: going over to another epoch on the connections there are ([`crate::TcpEndpoint::edit`]),
//! which are made anew here beside communicators that are kept; payloads that start or end in a device's memory (they
//! pass through the host's, see `channel`), collectives of NCCL (exact sums are this crate's own), several devices in
//! one process.

mod agreement;
mod aside;
mod channel;
mod communicator;
mod endpoint;
mod fault;
mod group;
mod judge;
mod life;
mod members;
mod offspring;
mod options;
mod transport;
mod wait;

pub use communicator::Communicator;
pub use endpoint::NcclEndpoint;
pub use fault::Fault;
pub use group::Group;
pub use members::Members;
pub use options::NcclOptions;
pub use transport::NcclTransport;
