//! Faults on request: what is refused, what is done at once, what a moment later so that the answer gets out first.
//!
//! In: orders of the coordinator. Out: an answer to each, and effects on this worker's own trainers, session and
//! process (WC-10).
//!
//! Deliberately absent: which fault comes when; the coordinator's client decides.

use std::collections::BTreeMap;

use rekindle_types::clock::Mono;
use rekindle_types::{FaultKind, FaultOrder, FaultTarget, JobId, RankId};

use crate::effect::Effect;
use crate::machine::Worker;
use crate::{Millis, TrainerKey};

/// How long a fault that would take its own answer along waits for it to be sent.
const ANSWER_FIRST: Millis = 100;

/// Faults that are under way.
#[derive(Debug, Clone, Default)]
pub(crate) struct Faults {
    /// Trainers that stand still, and until when.
    held: BTreeMap<TrainerKey, Mono>,
    /// The process ends itself at this time.
    die_at: Option<Mono>,
    /// The session is dropped at this time, for so long.
    cut_at: Option<(Mono, Millis)>,
}

impl Worker {
    /// Does a fault or refuses it; answers in both cases.
    pub(crate) fn inject(&mut self, order: &FaultOrder) {
        let refusal = self.refusal(order).or_else(|| self.perform(order).err());
        if refusal.is_none() {
            let message = format!("injected: {} to {}", order.fault.kind, order.target);
            self.out.push(Effect::Warn { message });
        }
        self.out.push(Effect::AnswerFault {
            number: order.number,
            refusal,
        });
    }

    /// Why this worker won't do it.
    fn refusal(&self, order: &FaultOrder) -> Option<String> {
        let me = &self.config.worker;
        if !self.config.allow_chaos {
            return Some(format!("worker {me} was started without --allow-chaos"));
        }
        if order.target.worker() != Some(me) || !order.fault.kind.suits(&order.target) {
            return Some(format!(
                "worker {me} can't do {} to {}",
                order.fault.kind, order.target
            ));
        }
        None
    }

    fn perform(&mut self, order: &FaultOrder) -> Result<(), String> {
        let now = self.mono();
        match (order.fault.kind, &order.target) {
            (FaultKind::KillTrainer, FaultTarget::Trainer { job, rank, .. }) => {
                let key = self.living(job, *rank)?;
                self.out.push(Effect::Kill { key });
            }
            (FaultKind::StopTrainer, FaultTarget::Trainer { job, rank, .. }) => {
                let key = self.living(job, *rank)?;
                self.faults.held.insert(key.clone(), now + order.fault.hold_ms);
                self.out.push(Effect::Suspend { key });
            }
            (FaultKind::CutSession, _) => {
                self.faults.cut_at = Some((now + ANSWER_FIRST, order.fault.hold_ms));
            }
            (FaultKind::KillWorker, _) if self.faults.die_at.is_some() => {
                return Err(format!("worker {} dies already", self.config.worker));
            }
            (FaultKind::KillWorker, _) => self.faults.die_at = Some(now + ANSWER_FIRST),
            (FaultKind::KillTrainer | FaultKind::StopTrainer | FaultKind::KillCoordinator, _) => {
                return Err(format!("a worker can't do {}", order.fault.kind));
            }
        }
        Ok(())
    }

    /// The newest process of a rank that hasn't said its end.
    fn living(&self, job: &JobId, rank: RankId) -> Result<TrainerKey, String> {
        let of_rank = |key: &&TrainerKey| key.job == *job && key.rank == rank;
        let living = self
            .trainers
            .living
            .iter()
            .filter(|(_, trainer)| trainer.counts());
        let newest = living
            .map(|(key, _)| key)
            .filter(of_rank)
            .max_by_key(|key| key.epoch);
        newest.cloned().ok_or_else(|| {
            format!(
                "no trainer of {rank} of {job} runs on worker {}",
                self.config.worker
            )
        })
    }

    /// When a fault begins or ends.
    pub(crate) fn fault_deadlines(&self) -> [Option<Mono>; 3] {
        let held = self.faults.held.values().min().copied();
        [held, self.faults.die_at, self.faults.cut_at.map(|(at, _)| at)]
    }

    /// Does what is due.
    pub(crate) fn pass_faults(&mut self) {
        let now = self.mono();
        let dies = self.faults.die_at.is_some_and(|at| now >= at);
        // A process that stands still wouldn't notice that its worker is gone.
        let over = |until: &Mono| dies || now >= *until;
        let due: Vec<TrainerKey> = self
            .faults
            .held
            .iter()
            .filter(|(_, until)| over(until))
            .map(|(key, _)| key.clone())
            .collect();
        for key in due {
            self.faults.held.remove(&key);
            self.out.push(Effect::Resume { key });
        }
        if dies {
            self.faults.die_at = None;
            self.out.push(Effect::KillSelf);
        }
        if let Some((_, hold)) = self.faults.cut_at.take_if(|(at, _)| now >= *at) {
            self.out.push(Effect::CloseSession);
            self.link.cut(now, hold);
        }
    }
}

#[cfg(test)]
mod tests {
    use rekindle_types::{Fault, WorkerId};

    use super::*;
    use crate::machine::tests::{exited, key, open_worker, start};
    use crate::{Event, SessionTerms};

    fn worker() -> Worker {
        let mut worker = open_worker();
        worker.config.allow_chaos = true;
        worker.handle(0, start(1, 0));
        worker
    }

    fn trainer(worker: &Worker, rank: u32) -> FaultTarget {
        FaultTarget::Trainer {
            worker: worker.config.worker.clone(),
            job: key(1, 0).job,
            rank: RankId(rank),
        }
    }

    fn order(kind: FaultKind, hold_ms: u64, target: FaultTarget) -> Event {
        Event::Fault(FaultOrder {
            number: 5,
            fault: Fault { kind, hold_ms },
            target,
        })
    }

    fn itself(worker: &Worker) -> FaultTarget {
        FaultTarget::Worker(worker.config.worker.clone())
    }

    /// What was done, without words for the log and signs of life; the refusal, if there was an answer.
    fn outcome(effects: Vec<Effect>) -> (Vec<Effect>, Option<Option<String>>) {
        let mut answer = None;
        let mut rest = effects;
        rest.retain(|effect| match effect {
            Effect::AnswerFault { number, refusal } => {
                assert_eq!(*number, 5);
                assert!(answer.replace(refusal.clone()).is_none(), "one answer");
                false
            }
            Effect::Warn { .. } | Effect::Heartbeat => false,
            _ => true,
        });
        (rest, answer)
    }

    #[test]
    fn without_leave_everything_is_refused_by_name() {
        let mut worker = worker();
        worker.config.allow_chaos = false;
        for kind in FaultKind::ALL {
            let target = if kind.suits(&itself(&worker)) {
                itself(&worker)
            } else {
                trainer(&worker, 0)
            };
            let effects = worker.handle(1, order(*kind, 10, target));
            let (done, answer) = outcome(effects);
            assert_eq!(done, []);
            let refusal = answer.unwrap().unwrap();
            assert!(refusal.contains(worker.config.worker.as_str()), "{refusal}");
            assert!(refusal.contains("--allow-chaos"), "{refusal}");
        }
        let (done, _) = outcome(worker.handle(1_000, Event::Tick));
        assert_eq!(done, [], "nothing comes later either");
    }

    #[test]
    fn a_trainer_is_killed_only_if_it_runs_here() {
        let mut worker = worker();
        let target = trainer(&worker, 0);
        let effects = worker.handle(1, order(FaultKind::KillTrainer, 0, target.clone()));
        assert_eq!(
            outcome(effects),
            (vec![Effect::Kill { key: key(1, 0) }], Some(None))
        );
        worker.handle(2, exited(key(1, 0), None, Some(9)));
        let elsewhere = FaultTarget::Worker(WorkerId::new("other").unwrap());
        for (kind, target) in [
            (FaultKind::KillTrainer, target),
            (FaultKind::StopTrainer, trainer(&worker, 3)),
            (FaultKind::KillWorker, elsewhere),
            (FaultKind::KillCoordinator, FaultTarget::Coordinator),
        ] {
            let (done, answer) = outcome(worker.handle(3, order(kind, 10, target)));
            assert_eq!(done, []);
            assert!(answer.unwrap().is_some(), "{kind} was agreed to");
        }
    }

    #[test]
    fn a_stopped_trainer_goes_on_after_its_time() {
        let mut worker = worker();
        let target = trainer(&worker, 0);
        let effects = worker.handle(10, order(FaultKind::StopTrainer, 500, target));
        assert_eq!(
            outcome(effects),
            (vec![Effect::Suspend { key: key(1, 0) }], Some(None))
        );
        assert!(worker.next_deadline().unwrap() <= 510);
        assert_eq!(outcome(worker.handle(509, Event::Tick)).0, []);
        let effects = worker.handle(510, Event::Tick);
        assert_eq!(outcome(effects).0, [Effect::Resume { key: key(1, 0) }]);
        assert_eq!(outcome(worker.handle(900, Event::Tick)).0, [], "once");
    }

    #[test]
    fn a_worker_answers_before_it_dies_and_lets_its_trainers_see_it() {
        let mut worker = worker();
        let target = trainer(&worker, 0);
        worker.handle(0, order(FaultKind::StopTrainer, 60_000, target));
        let target = itself(&worker);
        let (done, answer) = outcome(worker.handle(1, order(FaultKind::KillWorker, 0, target)));
        assert_eq!((done, answer), (vec![], Some(None)));
        assert_eq!(worker.next_deadline(), Some(101));
        let target = itself(&worker);
        let (_, answer) = outcome(worker.handle(50, order(FaultKind::KillWorker, 0, target)));
        assert!(answer.unwrap().is_some(), "it dies once");
        let effects = worker.handle(101, Event::Tick);
        assert_eq!(
            outcome(effects).0,
            [Effect::Resume { key: key(1, 0) }, Effect::KillSelf]
        );
    }

    #[test]
    fn a_cut_session_stays_away_for_its_time_and_trainers_go_on() {
        let mut worker = worker();
        let target = itself(&worker);
        let (done, answer) = outcome(worker.handle(0, order(FaultKind::CutSession, 2_000, target)));
        assert_eq!((done, answer), (vec![], Some(None)));
        assert_eq!(outcome(worker.handle(100, Event::Tick)).0, [Effect::CloseSession]);
        let mut opened_at = None;
        for now in (100..5_000).step_by(100) {
            let (done, _) = outcome(worker.handle(now, Event::Tick));
            match &done[..] {
                [] => {}
                [Effect::OpenSession { registration }] => {
                    assert_eq!(registration.trainers.len(), 1, "it lives");
                    opened_at.get_or_insert(now);
                    let terms = SessionTerms { heartbeat: 60_000 };
                    worker.handle(now, Event::SessionOpened { terms });
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(opened_at, Some(2_100));
    }
}
