//! Orders for faults that went to workers and wait for their answers.
//!
//! In: an order's session and number. Out: what the worker said, or that its session ended first. Bounded by [`MOST`].

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rekindle_coordinator_core::SessionId;
use rekindle_proto::pb::worker::v1 as pb;
use tokio::sync::oneshot;

/// Orders that may wait at once.
const MOST: usize = 64;

/// What became of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FaultAnswer {
    /// The worker does it.
    Done,
    /// It doesn't, in its words.
    Refused(String),
}

/// The orders that wait.
#[derive(Debug, Default)]
pub(crate) struct FaultAnswers {
    waiting: Mutex<Waiting>,
    /// Whether this process is about to end itself.
    dying: AtomicBool,
}

#[derive(Debug, Default)]
struct Waiting {
    last: u64,
    orders: BTreeMap<u64, Order>,
}

#[derive(Debug)]
struct Order {
    /// Where it went, once that is known.
    session: Option<SessionId>,
    reply: oneshot::Sender<FaultAnswer>,
}

impl FaultAnswers {
    /// A new order's number, and where its answer comes; the wait fails when the worker's session ends. None: too
    /// many wait.
    pub(crate) fn begin(&self) -> Option<(u64, oneshot::Receiver<FaultAnswer>)> {
        let mut waiting = self.lock();
        waiting.orders.retain(|_, order| !order.reply.is_closed());
        if waiting.orders.len() >= MOST {
            return None;
        }
        waiting.last += 1;
        let number = waiting.last;
        let (reply, answer) = oneshot::channel();
        waiting.orders.insert(number, Order { session: None, reply });
        Some((number, answer))
    }

    /// The order goes through `session`.
    pub(crate) fn sent(&self, number: u64, session: SessionId) {
        if let Some(order) = self.lock().orders.get_mut(&number) {
            order.session = Some(session);
        }
    }

    /// A worker has answered. An answer that nobody waits for, or to another session's order, is dropped.
    pub(crate) fn answered(&self, session: SessionId, answer: pb::FaultAnswer) {
        let mut waiting = self.lock();
        let asked = |order: &Order| order.session.is_none_or(|asked| asked == session);
        if !waiting.orders.get(&answer.number).is_some_and(asked) {
            return;
        }
        if let Some(order) = waiting.orders.remove(&answer.number) {
            let answer = match answer.refusal {
                why if why.is_empty() => FaultAnswer::Done,
                why => FaultAnswer::Refused(why),
            };
            // Who asked may have given up.
            let _ = order.reply.send(answer);
        }
    }

    /// No more answers come through this session.
    pub(crate) fn session_ended(&self, session: SessionId) {
        self.lock()
            .orders
            .retain(|_, order| order.session != Some(session));
    }

    /// Takes note that this process ends itself; false when that was so already.
    pub(crate) fn begin_dying(&self) -> bool {
        !self.dying.swap(true, Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Every change is complete in itself, so that a panic elsewhere leaves nothing half done.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(number: u64, refusal: &str) -> pb::FaultAnswer {
        pb::FaultAnswer {
            number,
            refusal: refusal.to_owned(),
        }
    }

    #[test]
    fn answers_find_their_orders_and_ended_sessions_end_the_wait() {
        let answers = FaultAnswers::default();
        let (first, mut done) = answers.begin().unwrap();
        let (second, mut refused) = answers.begin().unwrap();
        let (third, mut lost) = answers.begin().unwrap();
        for number in [first, second, third] {
            answers.sent(number, SessionId(number));
        }
        answers.answered(SessionId(second), says(first, ""));
        assert!(done.try_recv().is_err(), "another worker can't answer");
        answers.answered(SessionId(first), says(first, ""));
        answers.answered(SessionId(second), says(second, "no"));
        assert_eq!(done.try_recv(), Ok(FaultAnswer::Done));
        assert_eq!(refused.try_recv(), Ok(FaultAnswer::Refused("no".to_owned())));
        answers.session_ended(SessionId(third));
        assert_eq!(lost.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        answers.answered(SessionId(9), says(99, ""));
    }

    #[test]
    fn orders_are_bounded_and_given_up_ones_make_room() {
        let answers = FaultAnswers::default();
        let waits: Vec<_> = (0..MOST).map(|_| answers.begin().unwrap()).collect();
        assert!(answers.begin().is_none());
        drop(waits);
        assert!(answers.begin().is_some());
    }
}
