//! Tells the worker how far this trainer is while a step takes long, and whom it waits for, from a thread of its own.
//!
//! ```text
//!   a step lasts longer than a while --> watermark, again whenever whom it waits for changes, and every SAY_AGAIN
//!   the next step begins, or it waits no more --> a last one, where a wait was told
//! ```
//!
//! In: the counters of [`super::progress`], what the transport says that it is blocked on. Out:
//! [`FromTrainer::Watermark`]. "A while" is twice the longest of the last steps, within bounds: what is said costs
//! little and decides nothing, so it may come early, and one that is slow but well must be heard within the upper
//! bound. Nothing here is on the way of a step: the thread looks every [`LOOK`].
//!
//! Deliberately absent: a verdict on who is at fault. That needs what the others say (the coordinator's `hang`).

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rekindle_types::{RankId, Wait, Watermark};
use rekindle_worker_core::trainer_messages::FromTrainer;

use super::TrainerError;
use super::context::SharedTransport;
use super::progress::{Progress, Seen};

/// How often the thread looks.
const LOOK: Duration = Duration::from_millis(500);
/// A step that doesn't last so long is not worth a word, nor is such a wait.
const SHORTEST: Duration = Duration::from_secs(2);
/// A step that lasts so long is, however long the ones before took. With `SAY_AGAIN` well within the coordinator's
/// `Config::silence`.
const LONGEST: Duration = Duration::from_secs(5);
/// What lasts is said again.
const SAY_AGAIN: Duration = Duration::from_secs(3);

/// A wait for a peer, as it is seen now.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Waiting {
    on: RankId,
    what: String,
    lasts: Duration,
}

/// What was said, and when. Pure: times come in.
#[derive(Debug, Default)]
struct Teller {
    said: Option<(Duration, Watermark)>,
}

impl Teller {
    /// What to say at `now` (since any fixed moment), if anything.
    fn look(&mut self, now: Duration, seen: Seen, waiting: Option<Waiting>) -> Option<Watermark> {
        let a_while = seen
            .longest
            .map_or(LONGEST, |longest| (longest * 2).clamp(SHORTEST, LONGEST));
        let overdue = seen.lasts >= a_while;
        let long = waiting.filter(|waiting| overdue && waiting.lasts >= SHORTEST);
        let mark = Watermark {
            step: seen.step,
            passes: seen.passes,
            waits: long.map(|waiting| Wait {
                on: waiting.on,
                what: waiting.what,
                ms: u64::try_from(waiting.lasts.as_millis()).unwrap_or(u64::MAX),
            }),
        };
        let on = |mark: &Watermark| mark.waits.as_ref().map(|wait| wait.on);
        let due = match &self.said {
            // Whoever heard of a wait hears of its end.
            Some((_, before)) if !overdue => before.waits.is_some(),
            Some((at, before)) => on(before) != on(&mark) || now >= *at + SAY_AGAIN,
            None => overdue,
        };
        due.then(|| {
            self.said = overdue.then(|| (now, mark.clone()));
            mark
        })
    }
}

/// The thread. Dropping it ends it.
pub struct Watch {
    transport: Arc<OnceLock<SharedTransport>>,
    ends: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Says something to the worker, from any thread.
pub type Says = Box<dyn Fn(&FromTrainer) -> Result<(), TrainerError> + Send>;

impl Watch {
    /// Begins to watch.
    ///
    /// # Errors
    /// The thread can't be started.
    pub fn start(progress: Arc<Progress>, says: Says) -> Result<Self, TrainerError> {
        let transport = Arc::new(OnceLock::new());
        let (ends, ended) = channel::<()>();
        let seen_through = Arc::clone(&transport);
        let watch = move || {
            let (began, mut teller) = (Instant::now(), Teller::default());
            while ended.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                let waiting = seen_through.get().and_then(waiting);
                if let Some(mark) = teller.look(began.elapsed(), progress.seen(Instant::now()), waiting)
                    && says(&FromTrainer::Watermark(mark)).is_err()
                {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("watch".to_owned())
            .spawn(watch)?;
        Ok(Self {
            transport,
            ends: Some(ends),
            thread: Some(thread),
        })
    }

    /// From now on waits for peers show.
    pub fn sees(&self, transport: &SharedTransport) {
        let _ = self.transport.set(Arc::clone(transport));
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.ends.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn waiting(transport: &SharedTransport) -> Option<Waiting> {
    let blocked = transport.blocked()?;
    Some(Waiting {
        on: blocked.on,
        what: blocked.to_string(),
        lasts: blocked.since.elapsed(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn seen(step: u64, lasts: u64, longest: Option<u64>) -> Seen {
        Seen {
            step,
            passes: 7,
            lasts: s(lasts),
            longest: longest.map(s),
        }
    }

    fn on(rank: u32, lasts: u64) -> Option<Waiting> {
        Some(Waiting {
            on: RankId(rank),
            what: "a frame".to_owned(),
            lasts: s(lasts),
        })
    }

    /// Whom the watermark said waits for; the outer None: nothing was said.
    fn told(mark: Option<Watermark>) -> Option<Option<u32>> {
        mark.map(|mark| mark.waits.map(|wait| wait.on.0))
    }

    #[test]
    fn a_gang_that_gets_on_says_nothing() {
        let mut teller = Teller::default();
        for now in 0..100 {
            assert_eq!(teller.look(s(now), seen(now, 1, Some(1)), on(1, 0)), None);
        }
        let slow = (0..30).map(|now| teller.look(s(now), seen(3, 4, Some(20)), on(1, 3)));
        assert_eq!(slow.flatten().count(), 0, "its steps are as long as they were");
    }

    #[test]
    fn a_wait_is_told_and_told_again_and_so_is_its_end() {
        let mut teller = Teller::default();
        let mut at = |now, lasts, waiting| told(teller.look(s(now), seen(9, lasts, Some(1)), waiting));
        assert_eq!(at(1, 1, on(2, 1)), None, "not for a while yet");
        assert_eq!(at(2, 2, on(2, 2)), Some(Some(2)));
        assert_eq!(at(4, 4, on(2, 4)), None);
        assert_eq!(at(5, 5, on(2, 5)), Some(Some(2)), "again");
        assert_eq!(
            at(7, 7, on(1, 0)),
            Some(None),
            "it went on, and waits for another one since just now"
        );
        assert_eq!(at(9, 9, on(1, 2)), Some(Some(1)));
        assert_eq!(at(10, 1, None), Some(None), "the next step");
        assert_eq!(at(11, 1, None), None);
    }

    #[test]
    fn a_trainer_that_computes_for_long_is_heard_however_long_its_steps_were() {
        let mut teller = Teller::default();
        let mut heard = 0;
        for lasts in 0..=40 {
            let mark = teller.look(s(lasts), seen(2, lasts, Some(3_600)), None);
            heard += u64::from(mark.is_some_and(|mark| mark.progress() == (2, 7)));
        }
        assert_eq!(heard, 12, "at 5, 8, ..., 38");
        let first = Teller::default().look(s(9), seen(0, 9, None), None);
        assert_eq!(told(first), Some(None), "before the first step too");
    }
}
