//! Rekindle on the wire: code generated from `proto/`, conversions to and from `rekindle-types`, and errors.
//!
//! In: values of `rekindle-types` and [`ApiError`]. Out: messages, services, clients and `tonic::Status`; and back.
//! The only crate that knows how a value looks on the wire: others name messages, but leave their meaning to
//! [`convert`].
//!
//! Invariants
//! - PR-1 A value that is encoded and decoded again is equal, floats to the bit.
//! - PR-2 A message that holds an impossible value is a [`ConvertError`] naming the field, never a panic or a default.
//! - PR-3 An [`ApiError`] survives the way through a `tonic::Status`.
//!
//! Deliberately absent: what the calls do (see `rekindle-coordinator`), retries and deadlines (see `rekindle-client`).

pub mod convert;
mod error;
pub mod view;

pub use convert::ConvertError;
pub use error::{ApiError, DOMAIN, Reason, Resource};

/// The generated code. Comments are those of the `.proto` files.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod pb {
    /// Package `rekindle.v1`: the API of users.
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/rekindle.v1.rs"));
    }
    /// Package `rekindle.admin.v1`, under its parent.
    pub mod admin {
        /// Package `rekindle.admin.v1`: faults on request.
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/rekindle.admin.v1.rs"));
        }
    }
    /// Package `rekindle.worker.v1`, under its parent.
    pub mod worker {
        /// Package `rekindle.worker.v1`: what workers and their coordinator say.
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/rekindle.worker.v1.rs"));
        }
    }
}

/// The encoded `FileDescriptorSet` of everything in `proto/`, for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Rises with every change of the API.
pub const API_REVISION: u32 = 3;

/// Largest message either side accepts, bytes.
pub const MAX_MESSAGE_BYTES: usize = 4 << 20;

/// Largest job file or resolved job, bytes; leaves room for everything else in a message.
pub const MAX_SPEC_BYTES: usize = 1 << 20;

/// Metadata key under which a client says its version.
pub const CLIENT_VERSION_KEY: &str = "rekindle-client-version";
