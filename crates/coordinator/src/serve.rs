//! Starting, running and ending a coordinator (CS-5, CS-6).

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use rekindle_coordinator_core::{Coordinator, Seq};
use rekindle_proto::pb::admin::v1::fault_injection_service_server::FaultInjectionServiceServer;
use rekindle_proto::pb::v1::cluster_service_server::ClusterServiceServer;
use rekindle_proto::pb::v1::job_service_server::JobServiceServer;
use rekindle_proto::pb::v1::telemetry_service_server::TelemetryServiceServer;
use rekindle_proto::pb::worker::v1::worker_service_server::WorkerServiceServer;
use rekindle_proto::{FILE_DESCRIPTOR_SET, MAX_MESSAGE_BYTES};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::RoutesBuilder;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::files::Files;
use crate::handle::Handle;
use crate::journal::JournalHandle;
use crate::keeper::Keeper;
use crate::rpc::Api;
use crate::shell::Shell;
use crate::{CoordinatorConfig, ServeError, clock};

/// Calls that wait for the machine at most.
const INBOX: usize = 1024;
/// No call takes longer, whatever its client says.
const LONGEST_CALL: Duration = Duration::from_secs(120);
/// Health entries.
const SERVICES: [&str; 5] = [
    "",
    "rekindle.v1.JobService",
    "rekindle.v1.TelemetryService",
    "rekindle.v1.ClusterService",
    "rekindle.worker.v1.WorkerService",
];

/// A coordinator that listens, but doesn't serve yet.
#[derive(Debug)]
pub struct Bound {
    config: CoordinatorConfig,
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<ServerTlsConfig>,
}

/// Runs a coordinator until `shutdown` is cancelled.
///
/// # Errors
/// [`ServeError`] when it can't start, or can't go on.
pub async fn serve(config: CoordinatorConfig, shutdown: CancellationToken) -> Result<(), ServeError> {
    bind(config).await?.run(shutdown).await
}

/// Like [`serve`], on a listener that is bound already; `config.listen` isn't used.
///
/// # Errors
/// [`ServeError`] when it can't start, or can't go on.
pub async fn serve_on(
    config: CoordinatorConfig,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    Bound::new(config, listener).await?.run(shutdown).await
}

/// Listens at `config.listen`; [`Bound::address`] says where that is, [`Bound::run`] serves.
///
/// # Errors
/// [`ServeError`]: an address that isn't allowed or can't be had, certificates that can't be used.
pub async fn bind(config: CoordinatorConfig) -> Result<Bound, ServeError> {
    config.check_address(config.listen)?;
    let address = config.listen;
    let listener = TcpListener::bind(address)
        .await
        .map_err(|source| ServeError::Listen { address, source })?;
    Bound::new(config, listener).await
}

impl Bound {
    async fn new(config: CoordinatorConfig, listener: TcpListener) -> Result<Self, ServeError> {
        let address = listener.local_addr().map_err(|source| ServeError::Listen {
            address: config.listen,
            source,
        })?;
        config.check_address(address)?;
        let tls = tls(&config).await?;
        Ok(Self {
            config,
            listener,
            address,
            tls,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` is cancelled.
    ///
    /// # Errors
    /// [`ServeError`] when the journal can't be taken up or written, or the server fails.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), ServeError> {
        let limits = self.config.limits.clone();
        let folder = self.config.state_dir.clone();
        let (core, journal, durable) = tokio::task::spawn_blocking(move || restore(&folder, limits))
            .await
            .map_err(|e| state_error(&self.config.state_dir, e.to_string()))??;
        let (inbox, inputs) = mpsc::channel(INBOX);
        let (streams, writers) = (TaskTracker::new(), TaskTracker::new());
        let files = Files::new(inbox.downgrade(), writers.clone());
        let keeper = Keeper::new(inbox.downgrade(), writers.clone());
        let shell = Shell::new(core, journal, durable, files, keeper, self.config.limits.max_jobs);
        let api = Api {
            handle: Handle::new(inbox, self.config.call_limit),
            draining: CancellationToken::new(),
            tasks: streams.clone(),
            sessions: Arc::new(AtomicU64::new(1)),
            started_at: clock::now(),
            faults: Arc::default(),
        };
        let (stop, halted) = (CancellationToken::new(), CancellationToken::new());
        let machine = tokio::spawn({
            let (stop, halted) = (stop.clone(), halted.clone());
            async move {
                let end = shell.run(inputs, stop).await;
                halted.cancel();
                end
            }
        });
        let drain = self.config.drain_limit;
        let served = self.serve_calls(api, &streams, &shutdown, &halted).await;
        stop.cancel();
        let end = machine.await;
        writers.close();
        if tokio::time::timeout(drain, writers.wait()).await.is_err() {
            tracing::error!("the files of some runs weren't closed in time");
        }
        match end {
            Ok(end) => end.and(served),
            Err(panic) => Err(ServeError::Halted {
                why: format!("a defect of Rekindle: {panic}"),
            }),
        }
    }

    /// Serves until `shutdown` or `halted`, then drains: not serving, streams ended, open calls finished.
    async fn serve_calls(
        self,
        api: Api,
        streams: &TaskTracker,
        shutdown: &CancellationToken,
        halted: &CancellationToken,
    ) -> Result<(), ServeError> {
        let draining = api.draining.clone();
        let drain = self.config.drain_limit;
        let address = self.address;
        let reflect = self.config.reflects(address);
        let (health, health_service) = tonic_health::server::health_reporter();
        set_all(&health, ServingStatus::Serving).await;
        let mut routes = RoutesBuilder::default();
        routes.add_service(health_service);
        add_services(&mut routes, &api);
        if self.config.allow_chaos {
            tracing::warn!("faults are injected on request: --allow-chaos");
            routes.add_service(FaultInjectionServiceServer::new(api.clone()));
        }
        if reflect {
            add_reflection(&mut routes)?;
        }
        let mut server = server();
        if let Some(tls) = self.tls {
            server = server
                .tls_config(tls)
                .map_err(|e| ServeError::Tls { why: e.to_string() })?;
        }
        let incoming = TcpIncoming::from(self.listener).with_nodelay(Some(true));
        let ends = draining.clone().cancelled_owned();
        let mut calls = tokio::spawn(
            server
                .add_routes(routes.routes())
                .serve_with_incoming_shutdown(incoming, ends),
        );
        tracing::info!(%address, "coordinator listens");
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = halted.cancelled() => {}
            end = &mut calls => return server_end(end),
        }
        tracing::info!("coordinator ends");
        set_all(&health, ServingStatus::NotServing).await;
        draining.cancel();
        streams.close();
        let drained = tokio::time::timeout(drain, async {
            streams.wait().await;
            (&mut calls).await
        });
        match drained.await {
            Ok(end) => server_end(end),
            Err(_) => {
                tracing::warn!("some calls didn't end in time; cut off");
                calls.abort();
                Ok(())
            }
        }
    }
}

fn server() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .timeout(LONGEST_CALL)
        .trace_fn(|request| tracing::debug_span!("call", path = request.uri().path()))
}

fn server_end(
    end: Result<Result<(), tonic::transport::Error>, tokio::task::JoinError>,
) -> Result<(), ServeError> {
    let why = match end {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) => format!("{error:?}"),
        Err(panic) => panic.to_string(),
    };
    Err(ServeError::Server { why })
}

async fn set_all(health: &HealthReporter, status: ServingStatus) {
    for service in SERVICES {
        health.set_service_status(service, status).await;
    }
}

fn add_services(routes: &mut RoutesBuilder, api: &Api) {
    let limit = MAX_MESSAGE_BYTES;
    routes
        .add_service(JobServiceServer::new(api.clone()).max_decoding_message_size(limit))
        .add_service(TelemetryServiceServer::new(api.clone()).max_decoding_message_size(limit))
        .add_service(ClusterServiceServer::new(api.clone()).max_decoding_message_size(limit))
        .add_service(WorkerServiceServer::new(api.clone()).max_decoding_message_size(limit));
}

fn add_reflection(routes: &mut RoutesBuilder) -> Result<(), ServeError> {
    let builder = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let failed = |e: tonic_reflection::server::Error| ServeError::Server { why: e.to_string() };
    routes.add_service(builder().build_v1().map_err(failed)?);
    routes.add_service(builder().build_v1alpha().map_err(failed)?);
    Ok(())
}

/// Takes up the journal.
fn restore(
    folder: &Path,
    limits: rekindle_coordinator_core::Config,
) -> Result<(Coordinator, JournalHandle, Seq), ServeError> {
    let failed = |why: String| state_error(folder, why);
    std::fs::create_dir_all(folder).map_err(|e| failed(e.to_string()))?;
    let path = folder.join("journal.redb");
    let (journal, records) = rekindle_store::Journal::open(&path).map_err(|e| failed(e.to_string()))?;
    let durable = records.last().map_or(Seq(0), |(seq, _)| *seq);
    tracing::info!(records = records.len(), path = %path.display(), "journal opened");
    let core = Coordinator::restore(limits, records).map_err(|e| failed(e.to_string()))?;
    let journal = JournalHandle::start(journal, durable).map_err(|e| failed(e.to_string()))?;
    Ok((core, journal, durable))
}

fn state_error(folder: &Path, why: String) -> ServeError {
    ServeError::State {
        path: folder.to_owned(),
        why,
    }
}

async fn tls(config: &CoordinatorConfig) -> Result<Option<ServerTlsConfig>, ServeError> {
    let Some(files) = &config.tls else {
        return Ok(None);
    };
    let (cert, key) = (read(&files.cert).await?, read(&files.key).await?);
    let mut tls = ServerTlsConfig::new().identity(Identity::from_pem(cert, key));
    if let Some(ca) = &files.client_ca {
        tls = tls.client_ca_root(Certificate::from_pem(read(ca).await?));
    }
    Ok(Some(tls))
}

async fn read(path: &PathBuf) -> Result<Vec<u8>, ServeError> {
    tokio::fs::read(path).await.map_err(|source| ServeError::TlsFile {
        path: path.clone(),
        source,
    })
}
