//! What the demo proves: two processes are killed on the way, and the run still ends with the bits of a run that
//! nobody disturbed.
//!
//! In: the demo's job. Out: when to kill what, and the job of the undisturbed run: the same model, data, seed and
//! steps on one worker, from the first step to the last, without checkpoints, so that nothing of the disturbed run
//! gets into it.

use rekindle_types::spec::{Auto, CheckpointSpec, ParallelismSpec, RecoverySpec};
use rekindle_types::{FaultKind, JobSpec};
use serde::Serialize;

use crate::commands::run::{self, ChildArgs};
use crate::local::{self, Kill, Outcome, RunFolder};
use crate::output;
use crate::problem::Problem;
use crate::shutdown::Shutdown;

/// The folder of the undisturbed run, in the demo's.
const FOLDER: &str = "undisturbed";

/// How the undisturbed run ended.
#[derive(Debug, Serialize)]
pub struct Undisturbed {
    /// Digest of weights and moments after its last step; none: it was stopped before.
    pub state_digest: Option<String>,
    /// From start to end.
    pub seconds: f64,
    /// Whether the disturbed run ended with the same digest.
    pub same: bool,
}

/// A trainer after a third of the steps, a whole worker after two thirds. A run of a single step has nothing in
/// between.
pub fn kills(steps: u64) -> Vec<Kill> {
    let all = [
        (steps / 3, FaultKind::KillTrainer),
        (steps * 2 / 3, FaultKind::KillWorker),
    ];
    let possible = all.into_iter().filter(|(step, _)| *step > 0);
    possible
        .map(|(after_step, kind)| Kill { after_step, kind })
        .collect()
}

/// Trains `spec` once more, undisturbed, and compares. None: the disturbed run hasn't come to its end.
///
/// # Errors
/// The cluster can't be started, or the run fails.
pub async fn compare(
    spec: &JobSpec,
    disturbed: &Outcome,
    children: &ChildArgs,
    shutdown: &Shutdown,
) -> Result<Option<Undisturbed>, Problem> {
    let Some(digest) = run::summary(spec, disturbed)
        .state_digest
        .filter(|_| run::exit(disturbed) == crate::exit::Exit::Ok)
    else {
        return Ok(None);
    };
    output::say("now the same job on one worker that is left alone, to compare");
    let spec = undisturbed(spec, local::cores());
    let folder = RunFolder::take(&spec)?;
    let options = run::cluster_options(&spec, &folder, 1, None, children)?;
    let outcome = local::train(spec.clone(), folder, options, &[], shutdown).await?;
    let summary = run::summary(&spec, &outcome);
    if let Some(failure) = &summary.failure {
        return Err(Problem::new("the undisturbed run failed").cause(crate::follow::failure_text(failure)));
    }
    let state_digest = summary
        .state_digest
        .filter(|_| summary.step == summary.total_steps);
    Ok(Some(Undisturbed {
        same: state_digest.as_ref() == Some(&digest),
        seconds: outcome.seconds,
        state_digest,
    }))
}

/// One stage, and a lane for each core as far as the micro-batches can be dealt out evenly: faster than threads in a
/// model so small.
fn undisturbed(spec: &JobSpec, cores: usize) -> JobSpec {
    let most = u32::try_from(cores).unwrap_or(1).clamp(1, spec.micro_batches());
    let lanes = (1..=most)
        .rev()
        .find(|lanes| spec.micro_batches().is_multiple_of(*lanes));
    let mut spec = spec.clone();
    spec.job.output = spec.job.folder().join(FOLDER).display().to_string();
    spec.parallelism = ParallelismSpec {
        pipeline: Auto::Count(1),
        data: Auto::Count(lanes.unwrap_or(1)),
        ..ParallelismSpec::default()
    };
    spec.checkpoint = CheckpointSpec::default();
    spec.recovery = RecoverySpec::default();
    spec
}

#[cfg(test)]
mod tests {
    use rekindle_types::JobFile;

    use super::super::job::DemoJob;
    use super::*;

    #[test]
    fn kills_fall_within_the_run() {
        let steps = |steps| -> Vec<u64> { kills(steps).iter().map(|kill| kill.after_step).collect() };
        assert_eq!(steps(600), [200, 400]);
        assert_eq!(steps(2), [1]);
        assert_eq!(
            steps(1),
            [0; 0],
            "there is nothing between its beginning and its end"
        );
    }

    #[test]
    fn the_undisturbed_run_learns_the_same_and_takes_nothing_from_the_disturbed_one() {
        let demo = DemoJob {
            steps: 9,
            data: &["/text.md".into()],
            output: "/runs/x".as_ref(),
            stages: 4,
        };
        let disturbed = JobFile::parse(&demo.toml()).unwrap().into_spec(None).unwrap();
        let other = undisturbed(&disturbed, 3);
        assert_eq!(other.job.folder(), "/runs/x/undisturbed");
        assert!(!other.checkpoint.is_on() && other.init_from.is_none());
        assert_eq!(
            crate::commands::plan::wanted(&other),
            2,
            "8 micro-batches over 3 cores"
        );
        let JobSpec {
            job,
            model,
            data,
            training,
            optimizer,
            lr_schedule,
            ..
        } = other;
        assert_eq!(
            (job.seed, model, data),
            (disturbed.job.seed, disturbed.model, disturbed.data)
        );
        assert_eq!(
            (training, optimizer, lr_schedule),
            (disturbed.training, disturbed.optimizer, disturbed.lr_schedule)
        );
    }
}
