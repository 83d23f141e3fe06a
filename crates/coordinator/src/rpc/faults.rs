//! `rekindle.admin.v1.FaultInjectionService`, served with `allow_chaos` only (CS-10).

use std::time::Duration;

use rekindle_proto::pb::admin::v1 as pb;
use rekindle_proto::{ApiError, Reason};
use rekindle_types::{FaultKind, FaultOrder, FaultTarget, WorkerId};
use tonic::{Request, Response, Status};

use super::Api;
use crate::faults::FaultAnswer;
use crate::shell::Shell;

/// Between the answer and the coordinator's end.
const ANSWER_FIRST: Duration = Duration::from_millis(100);

#[tonic::async_trait]
impl pb::fault_injection_service_server::FaultInjectionService for Api {
    async fn inject_fault(
        &self,
        request: Request<pb::InjectFaultRequest>,
    ) -> Result<Response<pb::InjectFaultResponse>, Status> {
        let order = FaultOrder::try_from(request.into_inner()).map_err(ApiError::from)?;
        tracing::warn!(kind = %order.fault.kind, target = %order.target, "a fault is injected");
        match order.target.worker().cloned() {
            None => self.end_soon()?,
            Some(worker) => self.order(worker, order).await?,
        }
        Ok(Response::new(pb::InjectFaultResponse {}))
    }

    async fn list_targets(
        &self,
        _request: Request<pb::ListTargetsRequest>,
    ) -> Result<Response<pb::ListTargetsResponse>, Status> {
        let targets = self.handle.query(|shell| targets(shell)).await?;
        Ok(Response::new(pb::ListTargetsResponse {
            targets: targets.iter().map(Into::into).collect(),
        }))
    }
}

impl Api {
    /// Passes an order on to its worker and waits for the answer.
    async fn order(&self, worker: WorkerId, order: FaultOrder) -> Result<(), ApiError> {
        let (number, answer) = self.faults.begin().ok_or_else(|| {
            ApiError::new(
                Reason::Overloaded,
                "too many faults wait for their workers' answers",
            )
        })?;
        let order = FaultOrder { number, ..order };
        let kind = order.fault.kind;
        let (faults, name) = (self.faults.clone(), worker.clone());
        let session = self
            .handle
            .query(move |shell| {
                let session = shell.order_fault(&name, &order);
                // At once: from now on the end of that session ends the wait.
                session.inspect(|session| faults.sent(number, *session))
            })
            .await?;
        if session.is_none() {
            return Err(refused(&worker, format!("worker {worker} isn't connected")));
        }
        match tokio::time::timeout(self.handle.limit(), answer).await {
            Ok(Ok(FaultAnswer::Done)) => Ok(()),
            Ok(Ok(FaultAnswer::Refused(why))) => Err(refused(&worker, why)),
            // Faults that end the session may take the answer along.
            Ok(Err(_)) if matches!(kind, FaultKind::KillWorker | FaultKind::CutSession) => Ok(()),
            Ok(Err(_)) => Err(refused(
                &worker,
                format!("worker {worker} went away before it answered"),
            )),
            Err(_) => Err(refused(&worker, format!("worker {worker} didn't answer in time"))),
        }
    }

    /// Ends this process by SIGKILL, once the answer is out.
    fn end_soon(&self) -> Result<(), ApiError> {
        if !self.faults.begin_dying() {
            return Err(ApiError::new(
                Reason::FaultRefused,
                "the coordinator dies already",
            ));
        }
        self.tasks.spawn(async {
            tokio::time::sleep(ANSWER_FIRST).await;
            // SAFETY: neither call has memory effects; the pid is this process's own.
            unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
        });
        Ok(())
    }
}

fn refused(worker: &WorkerId, why: String) -> ApiError {
    ApiError::new(Reason::FaultRefused, why).about("worker", worker.as_str())
}

/// The coordinator, then each connected worker, followed by its trainers of jobs that haven't ended.
fn targets(shell: &Shell) -> Vec<FaultTarget> {
    let mut targets = vec![FaultTarget::Coordinator];
    let living: Vec<_> = shell
        .core
        .jobs()
        .into_iter()
        .filter(|job| !job.state.is_terminal())
        .collect();
    for worker in shell.core.workers().into_iter().filter(|worker| worker.connected) {
        targets.push(FaultTarget::Worker(worker.worker.clone()));
        for job in &living {
            let alive = job
                .ranks
                .iter()
                .filter(|rank| rank.worker == worker.worker && lives(rank.phase));
            targets.extend(alive.map(|rank| FaultTarget::Trainer {
                worker: worker.worker.clone(),
                job: job.job.clone(),
                rank: rank.rank,
            }));
        }
    }
    targets
}

fn lives(phase: rekindle_coordinator_core::RankPhase) -> bool {
    use rekindle_coordinator_core::RankPhase;
    !matches!(phase, RankPhase::Finished | RankPhase::Ended)
}
