//! The coordinator's shell in the virtual world: effects in order, the journal, crash and restart.

use rekindle_coordinator_core::{CloseReason, Config, Coordinator, Durable, Effect, Event, Record, Seq};

use crate::PlantedBug;
use crate::world::{Down, Due, World};

/// Shorter limits than the usual ones, so that a run takes fewer events.
pub(crate) fn limits() -> Config {
    Config {
        start_limit: 20_000,
        first_step_limit: 20_000,
        progress_floor: 15_000,
        silence: 12_000,
        finish_limit: 20_000,
        ..Config::default()
    }
}

impl World {
    pub(crate) fn start_coordinator(&mut self) {
        if self.coordinator.is_some() {
            return;
        }
        self.coordinator_life += 1;
        match Coordinator::restore(limits(), self.journal.clone()) {
            Ok(machine) => self.coordinator = Some(machine),
            Err(error) => {
                self.violate("SM-7", format!("the journal can't be taken up: {error}"));
                return;
            }
        }
        self.note(&format!("coordinator starts with {} records", self.journal.len()));
        self.check_fold();
        self.tell_coordinator(Event::Tick);
    }

    /// The process dies. A record that was being written is durable or not, as chance has it.
    pub(crate) fn crash_coordinator(&mut self) {
        if self.coordinator.take().is_none() {
            return;
        }
        self.note("coordinator crashes");
        let half_written = self.effects.front().cloned();
        if let Some(Effect::Persist { seq, record }) = half_written
            && self.writing
            && self.rng.one_in(2)
        {
            self.keep(seq, *record);
        }
        if self.config.planted == Some(PlantedBug::LostRecords) {
            self.journal.pop();
        }
        self.effects.clear();
        self.writing = false;
        let life = self.coordinator_life;
        let mine: Vec<u64> = self
            .conns
            .iter()
            .filter(|(_, conn)| conn.coordinator_life == life)
            .map(|(id, _)| *id)
            .collect();
        for conn in mine {
            self.cut(conn);
        }
        let down = self.rng.within(50, 8_000);
        self.after(down, Due::CoordinatorStart);
    }

    pub(crate) fn coordinator_tick(&mut self, life: u32, version: u64) {
        if life == self.coordinator_life && version == self.coordinator_version {
            self.tell_coordinator(Event::Tick);
        }
    }

    /// Hands an event to the machine and takes up what it wants done.
    pub(crate) fn tell_coordinator(&mut self, event: Event) {
        let wall = self.now.saturating_add(self.clock_offset);
        let Some(machine) = &mut self.coordinator else {
            return;
        };
        let effects = machine.handle(wall, event);
        let next = machine.next_deadline();
        self.check_decisions(&effects);
        self.effects.extend(effects);
        self.coordinator_version += 1;
        if let Some(next) = next {
            let due = Due::CoordinatorTick {
                life: self.coordinator_life,
                version: self.coordinator_version,
            };
            self.after(next.saturating_sub(wall).max(1), due);
        }
        self.do_effects();
    }

    fn do_effects(&mut self) {
        while !self.writing
            && let Some(effect) = self.effects.front().cloned()
        {
            if let Effect::Persist { seq, record } = effect {
                let delay = self.rng.within(1, 15);
                let life = self.coordinator_life;
                self.after(delay, Due::Persisted { life, seq, record });
                if self.config.planted == Some(PlantedBug::EarlyEffects) {
                    self.effects.pop_front();
                    continue;
                }
                self.writing = true;
                return;
            }
            self.effects.pop_front();
            self.do_effect(effect);
        }
    }

    pub(crate) fn persisted(&mut self, life: u32, seq: Seq, record: Record) {
        if life != self.coordinator_life || self.coordinator.is_none() {
            return;
        }
        self.keep(seq, record);
        if self.writing {
            self.effects.pop_front();
            self.writing = false;
        }
        let cut = self.config.cut.filter(|cut| cut.record == seq.0);
        if cut.is_some_and(|cut| !cut.heard) {
            return self.crash_coordinator();
        }
        self.tell_coordinator(Event::Persisted { seq });
        self.check_fold();
        if cut.is_some() {
            self.crash_coordinator();
        }
    }

    /// The record is on the disk.
    fn keep(&mut self, seq: Seq, record: Record) {
        self.note(&format!("durable {seq} {:?}", kind(&record)));
        if seq.0 != self.journal.len() as u64 + 1 {
            self.violate(
                "SM-2",
                format!("record {seq} is written after {} records", self.journal.len()),
            );
        }
        self.ledger_record(&record);
        self.journal.push((seq, record));
    }

    /// CO-2: the fold of what is on the disk is what the machine shows.
    fn check_fold(&mut self) {
        let mut fold = Durable::new(&limits());
        for (seq, record) in &self.journal {
            if let Err(error) = fold.apply(record) {
                let detail = format!("record {seq}: {error}");
                self.violate("SM-7", detail);
                return;
            }
        }
        let equal = self
            .coordinator
            .as_ref()
            .is_none_or(|machine| *machine.durable() == fold);
        if !equal {
            self.violate(
                "SM-7",
                "the durable state isn't the fold of the journal".to_owned(),
            );
        }
    }

    fn do_effect(&mut self, effect: Effect) {
        self.check_effect(&effect);
        match effect {
            Effect::Send { session, command, .. } => self.send_down(session.0, Down::Command(command)),
            Effect::Reply { token, answer, .. } => self.answered(token, answer),
            Effect::AcceptSession { session, terms, .. } => {
                self.send_down(session.0, Down::Opened(terms.heartbeat))
            }
            Effect::CloseSession { session, reason, .. } => {
                let fatal = matches!(reason, CloseReason::Unusable { .. });
                let message = reason.to_string();
                self.note(&format!("closes conn {}: {message}", session.0));
                self.send_down(session.0, Down::Refused { message, fatal });
                self.close(session.0);
            }
            Effect::FindStart {
                job, search, refused, ..
            } => self.search_later(job, search, refused),
            Effect::CommitCheckpoint(commit) => self.commit_later(commit),
            Effect::AppendMetrics { job, report, .. } => self.ledger_step(&job, &report),
            Effect::Halt { message } => self.violate("SM-8", format!("the coordinator halts: {message}")),
            Effect::Persist { .. }
            | Effect::AppendEvent { .. }
            | Effect::PrepareOutput { .. }
            | Effect::Publish { .. } => {}
        }
    }
}

fn kind(record: &Record) -> String {
    let text = format!("{:?}", record.change);
    let name: String = text.chars().take_while(|c| c.is_alphanumeric()).collect();
    match &record.change {
        rekindle_coordinator_core::Change::Noted { kind, detail, .. } => {
            format!("{name} {} {kind} {detail}", record.change.job())
        }
        rekindle_coordinator_core::Change::FailureNoted { failure, .. } => {
            format!(
                "{name} {} {} {:?} {:?}",
                record.change.job(),
                failure.class,
                failure.rank,
                failure.worker
            )
        }
        rekindle_coordinator_core::Change::Ended { state, failure, .. } => {
            format!("{name} {} {state} {failure:?}", record.change.job())
        }
        _ => format!("{name} {}", record.change.job()),
    }
}
