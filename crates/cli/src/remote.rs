//! The coordinator, as commands reach it: connecting, job ids, and API errors as problems.

use rekindle_client::{Client, ClientError, Options, Reason, Tls};
use rekindle_types::JobId;

use crate::args::Remote;
use crate::exit::Exit;
use crate::problem::Problem;

/// Connects.
///
/// # Errors
/// Nothing answers there, or a certificate can't be read.
pub async fn connect(remote: &Remote) -> Result<Client, Problem> {
    let tls = match &remote.tls_ca {
        None => None,
        Some(path) => {
            let ca_pem = std::fs::read(path)
                .map_err(|e| Problem::new(format!("can't read {}", path.display())).cause(e))?;
            Some(Tls {
                ca_pem,
                ..Tls::default()
            })
        }
    };
    let options = Options {
        tls,
        ..Options::default()
    };
    Client::connect(&remote.coordinator, options)
        .await
        .map_err(|e| problem("can't reach the coordinator", &e))
}

/// The id of a job, as given on the command line.
///
/// # Errors
/// It can't be one.
pub fn job_id(text: &str) -> Result<JobId, Problem> {
    JobId::new(text).map_err(|e| {
        Problem::new(format!("{text:?} is no job id"))
            .cause(e)
            .fix("rekindle jobs lists them")
            .exit(Exit::Usage)
    })
}

/// `error` as a problem, with what to do (where the error doesn't say so itself) and the exit status that goes with it.
#[must_use]
pub fn problem(what: &str, error: &ClientError) -> Problem {
    let problem = Problem::new(what).cause(error);
    if error.is_not_found() {
        return problem
            .fix("rekindle jobs lists the jobs there are")
            .exit(Exit::JobNotFound);
    }
    match error.reason() {
        Some(Reason::JobInvalid | Reason::NotPlaceable) => {
            problem.fix("correct the job file; docs/job-file.md lists all keys")
        }
        Some(Reason::OutputNotEmpty | Reason::OutputUnusable) => {
            problem.fix("give job.output another folder")
        }
        _ => problem,
    }
}
