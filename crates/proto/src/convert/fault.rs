//! Injected faults and their targets.

use rekindle_types::fault::LONGEST_HOLD;
use rekindle_types::{Fault, FaultKind, FaultOrder, FaultTarget, RankId};

use super::time::{duration_from_ms, duration_to_ms};
use super::{ConvertError, job_id, required, worker_id};
use crate::pb::admin::v1 as pb;
use crate::pb::worker::v1 as worker;

impl From<FaultKind> for pb::FaultKind {
    fn from(kind: FaultKind) -> Self {
        match kind {
            FaultKind::KillTrainer => Self::KillTrainer,
            FaultKind::StopTrainer => Self::StopTrainer,
            FaultKind::KillWorker => Self::KillWorker,
            FaultKind::CutSession => Self::CutSession,
            FaultKind::KillCoordinator => Self::KillCoordinator,
        }
    }
}

fn kind(number: i32) -> Result<FaultKind, ConvertError> {
    match pb::FaultKind::try_from(number) {
        Ok(pb::FaultKind::KillTrainer) => Ok(FaultKind::KillTrainer),
        Ok(pb::FaultKind::StopTrainer) => Ok(FaultKind::StopTrainer),
        Ok(pb::FaultKind::KillWorker) => Ok(FaultKind::KillWorker),
        Ok(pb::FaultKind::CutSession) => Ok(FaultKind::CutSession),
        Ok(pb::FaultKind::KillCoordinator) => Ok(FaultKind::KillCoordinator),
        Ok(pb::FaultKind::Unspecified) | Err(_) => {
            Err(ConvertError::new("kind", format!("{number} is no kind of fault")))
        }
    }
}

impl From<&Fault> for pb::Fault {
    fn from(fault: &Fault) -> Self {
        Self {
            kind: pb::FaultKind::from(fault.kind).into(),
            hold: fault.kind.lasts().then(|| duration_from_ms(fault.hold_ms)),
        }
    }
}

impl TryFrom<pb::Fault> for Fault {
    type Error = ConvertError;

    fn try_from(fault: pb::Fault) -> Result<Self, ConvertError> {
        let kind = kind(fault.kind)?;
        let hold_ms = match fault.hold {
            Some(hold) if kind.lasts() => duration_to_ms(&hold),
            _ => 0,
        };
        if kind.lasts() && !(1..=LONGEST_HOLD).contains(&hold_ms) {
            let why = format!("is {hold_ms} ms; {kind} lasts from 1 ms to {LONGEST_HOLD} ms");
            return Err(ConvertError::new("hold", why));
        }
        Ok(Self { kind, hold_ms })
    }
}

impl From<&FaultTarget> for pb::FaultTarget {
    fn from(target: &FaultTarget) -> Self {
        let worker_id = target.worker().map_or_else(String::new, ToString::to_string);
        let (job_id, rank) = match target {
            FaultTarget::Trainer { job, rank, .. } => (job.to_string(), rank.0),
            FaultTarget::Coordinator | FaultTarget::Worker(_) => (String::new(), 0),
        };
        Self {
            worker_id,
            job_id,
            rank,
        }
    }
}

impl TryFrom<pb::FaultTarget> for FaultTarget {
    type Error = ConvertError;

    fn try_from(target: pb::FaultTarget) -> Result<Self, ConvertError> {
        match (target.worker_id.as_str(), target.job_id.as_str()) {
            ("", "") => Ok(Self::Coordinator),
            ("", _) => Err(ConvertError::new("worker_id", "is not set, though job_id is")),
            (worker, "") => Ok(Self::Worker(worker_id(worker)?)),
            (worker, job) => Ok(Self::Trainer {
                worker: worker_id(worker)?,
                job: job_id(job)?,
                rank: RankId(target.rank),
            }),
        }
    }
}

/// Reads a fault and its target, which must suit each other.
fn pair(
    fault: Option<pb::Fault>,
    target: Option<pb::FaultTarget>,
) -> Result<(Fault, FaultTarget), ConvertError> {
    let fault: Fault = required("fault", fault)?
        .try_into()
        .map_err(|e: ConvertError| e.inside("fault"))?;
    let target: FaultTarget = required("target", target)?
        .try_into()
        .map_err(|e: ConvertError| e.inside("target"))?;
    if !fault.kind.suits(&target) {
        let why = format!("{} can't be done to {target}", fault.kind);
        return Err(ConvertError::new("target", why));
    }
    Ok((fault, target))
}

impl TryFrom<pb::InjectFaultRequest> for FaultOrder {
    type Error = ConvertError;

    /// The order has no number yet: 0.
    fn try_from(request: pb::InjectFaultRequest) -> Result<Self, ConvertError> {
        let (fault, target) = pair(request.fault, request.target)?;
        Ok(Self {
            number: 0,
            fault,
            target,
        })
    }
}

/// Puts an order into the message that carries it.
#[must_use]
pub fn order_to_pb(order: &FaultOrder) -> worker::SessionResponse {
    let message = worker::InjectFault {
        number: order.number,
        fault: Some((&order.fault).into()),
        target: Some((&order.target).into()),
    };
    worker::SessionResponse {
        message: Some(worker::session_response::Message::InjectFault(message)),
    }
}

/// Reads an order.
///
/// # Errors
/// [`ConvertError`] naming the field at fault.
pub fn order_from_pb(order: worker::InjectFault) -> Result<FaultOrder, ConvertError> {
    let (fault, target) = pair(order.fault, order.target).map_err(|e| e.inside("inject_fault"))?;
    Ok(FaultOrder {
        number: order.number,
        fault,
        target,
    })
}

#[cfg(test)]
mod tests {
    use rekindle_types::{JobId, WorkerId};

    use super::*;
    use crate::pb::worker::v1::session_response::Message;

    fn targets() -> [FaultTarget; 3] {
        let worker = WorkerId::new("w").unwrap();
        [
            FaultTarget::Coordinator,
            FaultTarget::Worker(worker.clone()),
            FaultTarget::Trainer {
                worker,
                job: JobId::new("j").unwrap(),
                rank: RankId(0),
            },
        ]
    }

    #[test]
    fn orders_come_back_as_they_were() {
        for (number, kind) in (7..).zip(FaultKind::ALL) {
            let hold_ms = if kind.lasts() { 1_234 } else { 0 };
            let fault = Fault { kind: *kind, hold_ms };
            let target = targets().into_iter().find(|target| kind.suits(target)).unwrap();
            let order = FaultOrder {
                number,
                fault,
                target,
            };
            let Some(Message::InjectFault(message)) = order_to_pb(&order).message else {
                panic!("another message");
            };
            assert_eq!(order_from_pb(message).unwrap(), order);
        }
    }

    #[test]
    fn what_doesnt_fit_is_named() {
        let [_, worker, trainer] = targets();
        let ask = |kind, hold_ms, target: &FaultTarget| {
            let request = pb::InjectFaultRequest {
                fault: Some((&Fault { kind, hold_ms }).into()),
                target: Some(target.into()),
            };
            FaultOrder::try_from(request).map_err(|e| e.to_string())
        };
        assert!(ask(FaultKind::KillTrainer, 0, &trainer).is_ok());
        let refused = ask(FaultKind::KillTrainer, 0, &worker).unwrap_err();
        assert!(
            refused.contains("target") && refused.contains("kill-trainer"),
            "{refused}"
        );
        for hold in [0, LONGEST_HOLD + 1] {
            let refused = ask(FaultKind::CutSession, hold, &worker).unwrap_err();
            assert!(refused.contains("fault.hold"), "{refused}");
        }
        let unknown = pb::InjectFaultRequest {
            fault: Some(pb::Fault { kind: 99, hold: None }),
            target: Some((&worker).into()),
        };
        assert!(
            FaultOrder::try_from(unknown)
                .unwrap_err()
                .to_string()
                .contains("fault.kind")
        );
        let rank_of_nobody = pb::FaultTarget {
            job_id: "j".to_owned(),
            ..pb::FaultTarget::default()
        };
        assert!(FaultTarget::try_from(rank_of_nobody).is_err());
    }
}
