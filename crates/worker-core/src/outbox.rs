//! Reports that wait for the coordinator's acknowledgement (WC-1).
//!
//! Bounded: when it is full the oldest Step report makes room. Everything else is bounded by the number of trainers,
//! so it is kept beyond the bound: of a trainer's watermarks only the newest is.

use std::collections::VecDeque;

use rekindle_types::{NumberedReport, Report};

use crate::TrainerKey;

/// Numbered reports, oldest first.
#[derive(Debug, Clone)]
pub(crate) struct Outbox {
    most: usize,
    last: u64,
    waiting: VecDeque<NumberedReport>,
    dropped: u64,
}

impl Outbox {
    /// An empty one that holds about `most` reports.
    pub(crate) fn new(most: usize) -> Self {
        Self {
            most: most.max(1),
            last: 0,
            waiting: VecDeque::new(),
            dropped: 0,
        }
    }

    /// Numbers a report and keeps it. Gives it back for sending.
    pub(crate) fn push(&mut self, key: &TrainerKey, report: Report) -> NumberedReport {
        self.last += 1;
        if matches!(report, Report::Watermark(_)) {
            self.forget_watermark(key);
        }
        if self.waiting.len() >= self.most {
            self.make_room();
        }
        let report = NumberedReport {
            number: self.last,
            job: key.job.clone(),
            epoch: key.epoch,
            rank: key.rank,
            report,
        };
        self.waiting.push_back(report.clone());
        report
    }

    fn forget_watermark(&mut self, key: &TrainerKey) {
        let older = |kept: &NumberedReport| {
            let of = (kept.rank, kept.epoch, &kept.job) == (key.rank, key.epoch, &key.job);
            of && matches!(kept.report, Report::Watermark(_))
        };
        self.waiting.retain(|kept| !older(kept));
    }

    fn make_room(&mut self) {
        let step = self
            .waiting
            .iter()
            .position(|kept| matches!(kept.report, Report::Step(_)));
        if let Some(index) = step {
            self.waiting.remove(index);
            self.dropped += 1;
        }
    }

    /// Forgets what the coordinator has taken over.
    pub(crate) fn acknowledge(&mut self, up_to: u64) {
        while self.waiting.front().is_some_and(|kept| kept.number <= up_to) {
            self.waiting.pop_front();
        }
    }

    /// What waits, oldest first.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &NumberedReport> {
        self.waiting.iter()
    }

    /// Step reports dropped for room.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::tests::{key, step};

    #[test]
    fn a_full_outbox_drops_the_oldest_steps_and_nothing_else() {
        let mut outbox = Outbox::new(3);
        let ready = |port: u32| Report::Ready {
            in_memory: rekindle_types::InMemory::default(),
            data_address: format!("h:{port}"),
        };
        outbox.push(&key(1, 0), ready(1));
        for number in 1..=4 {
            outbox.push(&key(1, 0), Report::Step(step(number)));
        }
        outbox.push(&key(1, 0), Report::Finished);
        outbox.push(&key(1, 1), Report::Finished);
        outbox.push(&key(1, 2), Report::Finished);
        let numbers: Vec<u64> = outbox.waiting().map(|kept| kept.number).collect();
        assert_eq!(numbers, [1, 6, 7, 8], "the first report, and every end, is kept");
        assert_eq!(outbox.dropped(), 4);
    }

    #[test]
    fn of_a_trainers_watermarks_the_newest_is_kept() {
        let mut outbox = Outbox::new(10);
        let mark = |passes| {
            Report::Watermark(rekindle_types::Watermark {
                passes,
                ..Default::default()
            })
        };
        outbox.push(&key(1, 0), mark(1));
        outbox.push(&key(1, 1), mark(2));
        outbox.push(&key(1, 0), Report::Step(step(1)));
        outbox.push(&key(1, 0), mark(3));
        let numbers: Vec<u64> = outbox.waiting().map(|kept| kept.number).collect();
        assert_eq!(numbers, [2, 3, 4]);
        assert_eq!(outbox.dropped(), 0, "it isn't missed");
    }

    #[test]
    fn acknowledged_reports_are_forgotten_in_order() {
        let mut outbox = Outbox::new(10);
        for number in 1..=3 {
            outbox.push(&key(1, 0), Report::Step(step(number)));
        }
        outbox.push(&key(1, 0), Report::Stopped);
        outbox.acknowledge(2);
        assert_eq!(outbox.waiting().next().map(|kept| kept.number), Some(3));
        outbox.acknowledge(99);
        assert_eq!(outbox.waiting().count(), 0);
    }
}
