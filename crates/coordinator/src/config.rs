//! What a coordinator is started with.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use rekindle_coordinator_core::Config;

use crate::ServeError;

/// How a coordinator runs.
#[derive(Debug, Clone)]
pub struct CoordinatorConfig {
    /// Where to listen; port 0: any free one.
    pub listen: SocketAddr,
    /// Folder of the journal; made when missing. One coordinator at a time.
    pub state_dir: PathBuf,
    /// Whether anybody on the network may connect without encryption.
    pub insecure: bool,
    /// Certificates; none: without TLS.
    pub tls: Option<TlsFiles>,
    /// Whether gRPC reflection answers; none: on loopback addresses only.
    pub reflection: Option<bool>,
    /// Whether faults are injected on request (CS-10).
    pub allow_chaos: bool,
    /// How long a call may wait for the machine.
    pub call_limit: Duration,
    /// How long calls, files and journal may take to end at shutdown, each.
    pub drain_limit: Duration,
    /// Time limits and bounds of the machine.
    pub limits: Config,
}

/// Files in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The coordinator's certificate, with the intermediate ones.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Who signs the certificates of clients and workers; none: they need none.
    pub client_ca: Option<PathBuf>,
}

impl CoordinatorConfig {
    /// A coordinator that listens at `listen` and keeps its journal in `state_dir`, everything else by default.
    #[must_use]
    pub fn new(listen: SocketAddr, state_dir: impl Into<PathBuf>) -> Self {
        Self {
            listen,
            state_dir: state_dir.into(),
            insecure: false,
            tls: None,
            reflection: None,
            allow_chaos: false,
            call_limit: Duration::from_secs(10),
            drain_limit: Duration::from_secs(5),
            limits: Config::default(),
        }
    }

    /// CS-5.
    pub(crate) fn check_address(&self, address: SocketAddr) -> Result<(), ServeError> {
        if address.ip().is_loopback() || self.tls.is_some() || self.insecure {
            Ok(())
        } else {
            Err(ServeError::OpenAddress { address })
        }
    }

    pub(crate) fn reflects(&self, address: SocketAddr) -> bool {
        self.reflection.unwrap_or(address.ip().is_loopback())
    }
}
