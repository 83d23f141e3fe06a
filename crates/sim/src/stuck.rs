//! Gangs that stand still: one trainer says and does nothing any more, the others wait for it, and say so.

use rekindle_types::{Epoch, JobId, RankId, Wait, Watermark};
use rekindle_worker_core::TrainerKey;
use rekindle_worker_core::trainer_messages::FromTrainer;

use crate::world::{Due, World};

impl World {
    pub(crate) fn hang_a_gang(&mut self) {
        let running = self
            .gangs
            .iter()
            .filter(|(_, gang)| !gang.complete && !gang.broken);
        let running: Vec<_> = running.map(|(key, _)| key.clone()).collect();
        if let Some(index) = self.rng.index(running.len()) {
            let (job, epoch) = running[index].clone();
            let members = self.members(&job, epoch);
            let drawn = self.rng.index(members.len()).map(|index| members[index].1.rank);
            let (Some(drawn), Some(gang)) = (drawn, self.gangs.get_mut(&(job.clone(), epoch))) else {
                return;
            };
            let stuck = *gang.hung.get_or_insert(drawn);
            self.blame_hang(&job, stuck);
            self.after(5_000, Due::GangSpeaks { job, epoch });
        }
    }

    /// All but the one that stands still say that they wait, each for its neighbour on the way there; and again, as
    /// long as that lasts.
    pub(crate) fn gang_speaks(&mut self, job: &JobId, epoch: Epoch) {
        let gang = self.gangs.get(&(job.clone(), epoch));
        let Some((stuck, step)) = gang
            .filter(|gang| !gang.broken)
            .and_then(|gang| Some((gang.hung?, gang.step)))
        else {
            return;
        };
        let members = self.members(job, epoch);
        let speak = |(worker, key): &&(usize, TrainerKey)| {
            let process = self.hosts[*worker].processes.get(key);
            process.is_some_and(|process| process.training && !process.stopping) && key.rank != stuck
        };
        let speaking: Vec<_> = members.iter().filter(speak).collect();
        for (worker, key) in speaking {
            let on = match key.rank < stuck {
                true => RankId(key.rank.0 + 1),
                false => RankId(key.rank.0 - 1),
            };
            let mark = Watermark {
                step: step + 1,
                passes: step,
                waits: Some(Wait {
                    on,
                    what: "a frame".to_owned(),
                    ms: 2_000,
                }),
            };
            self.says(*worker, key, FromTrainer::Watermark(mark));
        }
        // Those that haven't met it yet speak later.
        if !members.is_empty() {
            let job = job.clone();
            self.after(3_000, Due::GangSpeaks { job, epoch });
        }
    }
}
