//! `rekindle coordinator`

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use rekindle_coordinator::{CoordinatorConfig, ServeError, TlsFiles};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::exit::Exit;
use crate::logging::{self, LogArgs};
use crate::output::{self, Format};
use crate::problem::Problem;
use crate::shutdown::Shutdown;

/// Arguments of `rekindle coordinator`.
#[derive(Debug, Args)]
pub struct CoordinatorArgs {
    /// Where to listen; port 0 takes any free one. Addresses other than loopback need TLS or --insecure
    #[arg(long, default_value = "127.0.0.1:7070", value_name = "HOST:PORT")]
    listen: SocketAddr,
    /// Folder of the journal; a coordinator that is started on it again goes on where it was
    #[arg(long, value_name = "DIR")]
    state_dir: PathBuf,
    /// Let anybody who reaches the address run jobs, unencrypted
    #[arg(long)]
    insecure: bool,
    /// PEM file of the coordinator's certificate
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// PEM file of the certificate's key
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Let `rekindle chaos` kill and stop this coordinator, and workers that allow it too
    #[arg(long)]
    allow_chaos: bool,
    #[command(flatten)]
    log: LogArgs,
}

#[derive(Serialize)]
struct Listening {
    listening: String,
}

/// Serves until asked to stop. Says on stdout where it listens, once it does.
///
/// # Errors
/// The address or the folder can't be used, or the journal can't be written.
pub async fn run(args: CoordinatorArgs, format: Format) -> Result<Exit, Problem> {
    logging::start(&args.log)?;
    let config = CoordinatorConfig {
        insecure: args.insecure,
        allow_chaos: args.allow_chaos,
        tls: args.tls_cert.zip(args.tls_key).map(|(cert, key)| TlsFiles {
            cert,
            key,
            client_ca: None,
        }),
        ..CoordinatorConfig::new(args.listen, args.state_dir)
    };
    let failed = |e: ServeError| Problem::new("the coordinator can't serve").cause(e);
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    let bound = rekindle_coordinator::bind(config).await.map_err(failed)?;
    let listening = format!("{scheme}://{}", bound.address());
    match format {
        Format::Json => output::json(&Listening { listening })?,
        Format::Table => output::data(&format!("listening on {listening}"))?,
    }
    let stop = CancellationToken::new();
    let (mut first, mut second) = {
        let shutdown = Shutdown::listen()?;
        (shutdown.clone(), shutdown)
    };
    let asked = stop.clone();
    tokio::spawn(async move {
        first.asked(1).await;
        asked.cancel();
    });
    let served = tokio::select! {
        served = bound.run(stop) => served,
        () = second.asked(2) => return Ok(Exit::Failed),
    };
    served.map_err(failed)?;
    Ok(Exit::Ok)
}
