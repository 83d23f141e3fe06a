//! `rekindle events JOB`

use clap::Args;
use rekindle_types::JobEvent;

use crate::args::Remote;
use crate::exit::Exit;
use crate::output::{self, Format};
use crate::problem::Problem;
use crate::remote;

/// Arguments of `rekindle events`.
#[derive(Debug, Args)]
pub struct EventsArgs {
    /// The job's id
    job: String,
    /// Wait for more until the job has ended
    #[arg(short, long)]
    follow: bool,
    #[command(flatten)]
    remote: Remote,
}

/// Prints the job's history, one event a line.
///
/// # Errors
/// There is no such job, or the coordinator can't be reached.
pub async fn run(args: EventsArgs, format: Format) -> Result<Exit, Problem> {
    let id = remote::job_id(&args.job)?;
    let client = remote::connect(&args.remote).await?;
    let failed = |e| remote::problem(&format!("can't show the events of job {id}"), &e);
    if !args.follow {
        for event in client.events(&id).await.map_err(failed)? {
            print(&event, format)?;
        }
        return Ok(Exit::Ok);
    }
    let mut feed = client.watch_events(&id, 0).await.map_err(failed)?;
    while let Some(event) = feed.next().await.map_err(failed)? {
        print(&event, format)?;
    }
    Ok(Exit::Ok)
}

fn print(event: &JobEvent, format: Format) -> Result<(), Problem> {
    match format {
        Format::Json => output::json(event),
        Format::Table => output::data(&format!(
            "{}  {:<22} {:<18} {}",
            time_of_day(event.time_unix_ms),
            event.actor,
            event.kind,
            event.detail
        )),
    }
}

/// `2026-11-23T10:43:27.123Z`, from the days of the civil calendar (Hinnant, "chrono-compatible low-level date
/// algorithms").
pub(super) fn time_of_day(unix_ms: u64) -> String {
    let (days, ms) = (unix_ms / 86_400_000, unix_ms % 86_400_000);
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (h, m, s) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60);
    format!(
        "{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{:03}Z",
        ms % 1_000
    )
}

#[cfg(test)]
mod tests {
    use super::time_of_day;

    #[test]
    fn times_are_written_as_rfc_3339() {
        assert_eq!(time_of_day(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(time_of_day(951_782_400_001), "2000-02-29T00:00:00.001Z");
        assert_eq!(time_of_day(1_795_430_607_123), "2026-11-23T10:43:27.123Z");
    }
}
