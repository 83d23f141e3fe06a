//! Why a coordinator doesn't start or can't go on.

use std::net::SocketAddr;
use std::path::PathBuf;

/// Why a coordinator doesn't start or can't go on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// An address that others can reach, without TLS.
    #[error(
        "listening on {address} without TLS would let anybody on the network run jobs; give a certificate and key \
         (--tls-cert, --tls-key), listen on 127.0.0.1, or accept it with --insecure"
    )]
    OpenAddress {
        /// The address.
        address: SocketAddr,
    },
    /// The address can't be listened on.
    #[error("can't listen on {address}: {source}; choose another address with --listen")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// A certificate or key can't be read.
    #[error("{}: {source}", path.display())]
    TlsFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Certificate and key don't fit.
    #[error("the TLS certificate or key can't be used: {why}")]
    Tls {
        /// What is wrong.
        why: String,
    },
    /// The folder of the journal can't be used.
    #[error("{}: {why}", path.display())]
    State {
        /// The folder.
        path: PathBuf,
        /// What is wrong and what to do.
        why: String,
    },
    /// The machine can't go on.
    #[error("the coordinator stopped: {why}")]
    Halted {
        /// Why and what to do.
        why: String,
    },
    /// The gRPC server ended by itself.
    #[error("the gRPC server failed: {why}")]
    Server {
        /// What it said.
        why: String,
    },
}
