//! One job on a local cluster: start, submit, follow, stop; Ctrl-C cancels the job, twice ends everything at once.

use std::pin::pin;
use std::time::{Duration, Instant};

use rekindle_client::{Cancel, Client, JobStatus, Options, Submission};
use rekindle_types::{Incident, JobId, JobSpec};

use super::cluster::{ClusterOptions, LocalCluster};
use super::{Kill, RunFolder, kills};
use crate::follow::follow;
use crate::problem::Problem;
use crate::shutdown::Shutdown;
use crate::{output, remote};

/// How long the workers may take to register.
const REGISTER_LIMIT: Duration = Duration::from_secs(30);
/// How long a cancelled job may take to save its state and end.
const CANCEL_LIMIT: Duration = Duration::from_secs(90);
/// How often the children are looked after.
const TEND_EVERY: Duration = Duration::from_millis(200);

/// What became of the job.
#[derive(Debug)]
pub struct Outcome {
    /// How the job stands; none: everything was stopped before that could be told.
    pub job: Option<JobStatus>,
    /// From the submission to the end, seconds.
    pub seconds: f64,
    /// What it lost on the way.
    pub incidents: Vec<Incident>,
}

/// Trains `spec` on a cluster that is started for it and stopped after it, and does `kills` on the way (which
/// `options` have to allow).
///
/// # Errors
/// The cluster can't be started, keeps dying, or refuses the job.
pub async fn train(
    spec: JobSpec,
    folder: RunFolder,
    options: ClusterOptions,
    kills: &[Kill],
    shutdown: &Shutdown,
) -> Result<Outcome, Problem> {
    let (mut first, mut second) = (shutdown.clone(), shutdown.clone());
    let started = Instant::now();
    let (cluster, client, job) = tokio::select! {
        started = start(spec, &folder, options) => started?,
        // Nothing to cancel yet: dropping the start kills the children.
        () = first.asked(1) => {
            return Ok(Outcome { job: None, seconds: started.elapsed().as_secs_f64(), incidents: Vec::new() });
        }
    };
    let mut session = Session { cluster, client, job };
    let job = tokio::select! {
        job = session.run(kills, shutdown) => job?,
        () = second.asked(2) => None,
    };
    let seconds = started.elapsed().as_secs_f64();
    let mut incidents = Vec::new();
    if job.is_some() {
        incidents = session.incidents().await;
        tokio::select! {
            () = session.cluster.stop() => {}
            () = second.asked(2) => {}
        }
    }
    Ok(Outcome {
        job,
        seconds,
        incidents,
    })
}

struct Session {
    cluster: LocalCluster,
    client: Client,
    job: JobId,
}

/// Starts the cluster and submits, once all workers are there: the planner counts those that it sees.
async fn start(
    spec: JobSpec,
    folder: &RunFolder,
    options: ClusterOptions,
) -> Result<(LocalCluster, Client, JobId), Problem> {
    let workers = options.workers as usize;
    let mut cluster = LocalCluster::start(options).await?;
    folder.tell_address(cluster.address())?;
    let address = cluster.address().to_owned();
    let client = tending(&mut cluster, Client::connect(&address, Options::default()))
        .await?
        .map_err(|e| remote::problem("can't reach the coordinator that was just started", &e))?;
    let deadline = Instant::now() + REGISTER_LIMIT;
    loop {
        let known = tending(&mut cluster, client.workers())
            .await?
            .map_err(|e| remote::problem("can't list the workers", &e))?;
        if known.iter().filter(|w| w.connected).count() >= workers {
            break;
        }
        if Instant::now() > deadline {
            let cause = format!("{} of {workers} are there", known.len());
            return Err(Problem::new("the workers didn't register in time").cause(cause));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let submission = Submission {
        job: Some(folder.job.clone()),
        resume: folder.resume,
        ..Submission::new(spec)
    };
    let job = tending(&mut cluster, client.submit(submission))
        .await?
        .map_err(|e| remote::problem("the job wasn't taken", &e))?;
    let id = job
        .job
        .ok_or_else(|| Problem::new("the coordinator gave the job no id"))?;
    Ok((cluster, client, id))
}

/// Waits for a call and keeps the children alive meanwhile: a coordinator that dies now is there again for the call's
/// next attempt.
async fn tending<T>(cluster: &mut LocalCluster, call: impl Future<Output = T>) -> Result<T, Problem> {
    let mut call = pin!(call);
    let mut tend = tokio::time::interval(TEND_EVERY);
    loop {
        tokio::select! {
            done = &mut call => return Ok(done),
            _ = tend.tick() => cluster.tend().await?,
        }
    }
}

impl Session {
    /// What the job lost. A coordinator that can't tell any more spoils no run.
    async fn incidents(&self) -> Vec<Incident> {
        self.client.explain(&self.job).await.unwrap_or_else(|error| {
            output::say(&format!("can't tell what was lost on the way: {error}"));
            Vec::new()
        })
    }

    /// Follows the job to its end and keeps the children alive meanwhile.
    async fn run(&mut self, kills: &[Kill], shutdown: &Shutdown) -> Result<Option<JobStatus>, Problem> {
        let mut first = shutdown.clone();
        let (client, job) = (self.client.clone(), self.job.clone());
        let mut following = pin!(follow(&client, &job));
        let mut killing = pin!(kills::all(&client, &job, kills));
        let mut all_killed = false;
        let mut tend = tokio::time::interval(TEND_EVERY);
        loop {
            tokio::select! {
                ended = &mut following => return ended.map(Some),
                done = &mut killing, if !all_killed => {
                    done?;
                    all_killed = true;
                }
                _ = tend.tick() => self.cluster.tend().await?,
                () = first.asked(1) => break,
            }
        }
        output::say("cancelling the job; Ctrl-C again stops everything at once");
        self.client
            .cancel(&self.job, Cancel::Save)
            .await
            .map_err(|e| remote::problem("can't cancel the job", &e))?;
        match tokio::time::timeout(CANCEL_LIMIT, following).await {
            Ok(ended) => ended.map(Some),
            Err(_) => {
                output::say(&format!("the job didn't end within {} s", CANCEL_LIMIT.as_secs()));
                Ok(None)
            }
        }
    }
}
