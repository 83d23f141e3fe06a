//! `rekindle workers`

use clap::Args;

use crate::args::Remote;
use crate::exit::Exit;
use crate::output::{self, Format};
use crate::problem::Problem;
use crate::remote;

/// Arguments of `rekindle workers`.
#[derive(Debug, Args)]
pub struct WorkersArgs {
    #[command(flatten)]
    remote: Remote,
}

/// Lists workers by name.
///
/// # Errors
/// The coordinator can't be reached.
pub async fn run(args: WorkersArgs, format: Format) -> Result<Exit, Problem> {
    let client = remote::connect(&args.remote).await?;
    let workers = client
        .workers()
        .await
        .map_err(|e| remote::problem("can't list the workers", &e))?;
    if format == Format::Json {
        output::json(&workers)?;
        return Ok(Exit::Ok);
    }
    let row = |worker: &rekindle_client::WorkerStatus| {
        vec![
            worker.worker.to_string(),
            if worker.connected { "connected" } else { "away" }.to_owned(),
            format!("{}/{}", worker.used_slots, worker.slots),
            worker.threads.to_string(),
            worker.device.to_string(),
            worker.data_host.clone(),
            worker.version.clone(),
        ]
    };
    let headers = [
        "WORKER",
        "STATE",
        "SLOTS",
        "THREADS",
        "DEVICE",
        "DATA HOST",
        "VERSION",
    ];
    output::table(&headers, workers.iter().map(row).collect())?;
    Ok(Exit::Ok)
}
