//! Connections between workers and the coordinator: ordered both ways, delayed, frozen, cut.

use rekindle_coordinator_core::{Event, SessionId};
use rekindle_worker_core::SessionTerms;

use crate::world::{Conn, Down, Due, Up, World};

impl World {
    /// A worker opens a connection to whoever is the coordinator now.
    pub(crate) fn connect(&mut self, worker: usize) -> u64 {
        let id = self.conns.len() as u64 + 1;
        let conn = Conn {
            worker,
            worker_life: self.hosts[worker].life,
            coordinator_life: self.coordinator_life,
            cut: self.coordinator.is_none(),
            up_at: self.now,
            down_at: self.now,
            frozen_until: 0,
        };
        let refused = conn.cut;
        self.conns.insert(id, conn);
        if refused {
            let delay = self.rng.within(1, 50);
            self.after(
                delay,
                Due::ToWorker {
                    conn: id,
                    message: Down::Gone,
                },
            );
        }
        id
    }

    pub(crate) fn send_up(&mut self, id: u64, message: Up) {
        let delay = self.rng.within(1, 30);
        let Some(conn) = self.conns.get_mut(&id).filter(|conn| !conn.cut) else {
            return;
        };
        conn.up_at = conn.up_at.max(self.now + delay).max(conn.frozen_until);
        let at = conn.up_at;
        self.at(at, Due::ToCoordinator { conn: id, message });
    }

    pub(crate) fn send_down(&mut self, id: u64, message: Down) {
        let delay = self.rng.within(1, 30);
        let Some(conn) = self.conns.get_mut(&id).filter(|conn| !conn.cut) else {
            return;
        };
        conn.down_at = conn.down_at.max(self.now + delay).max(conn.frozen_until);
        let at = conn.down_at;
        self.at(at, Due::ToWorker { conn: id, message });
    }

    /// Nothing passes any more, what is under way is lost; both ends notice sooner or later.
    pub(crate) fn cut(&mut self, id: u64) {
        let (up, down) = (self.rng.within(1, 1_000), self.rng.within(1, 1_000));
        let Some(conn) = self.conns.get_mut(&id).filter(|conn| !conn.cut) else {
            return;
        };
        conn.cut = true;
        self.after(
            up,
            Due::ToCoordinator {
                conn: id,
                message: Up::Gone,
            },
        );
        self.after(
            down,
            Due::ToWorker {
                conn: id,
                message: Down::Gone,
            },
        );
    }

    /// The coordinator closes in an orderly way: what it said before still arrives.
    pub(crate) fn close(&mut self, id: u64) {
        let Some(conn) = self.conns.get_mut(&id).filter(|conn| !conn.cut) else {
            return;
        };
        conn.cut = true;
        let at = conn.down_at;
        self.at(
            at,
            Due::ToWorker {
                conn: id,
                message: Down::Gone,
            },
        );
        self.after(
            1,
            Due::ToCoordinator {
                conn: id,
                message: Up::Gone,
            },
        );
    }

    pub(crate) fn deliver_up(&mut self, id: u64, message: Up) {
        let Some(conn) = self.conns.get(&id) else { return };
        if conn.coordinator_life != self.coordinator_life || self.coordinator.is_none() {
            return;
        }
        let session = SessionId(id);
        if conn.cut && !matches!(message, Up::Gone) {
            return;
        }
        if let Up::Register(registration) = &message {
            let worker = registration.worker.clone();
            self.ledger.registered.insert(worker, self.now);
        }
        let event = match message {
            Up::Register(registration) => Event::WorkerRegistered {
                session,
                registration,
            },
            Up::Report(report) => Event::WorkerReport { session, report },
            Up::Heartbeat => Event::Heartbeat { session },
            Up::Draining(grace) => Event::WorkerDraining { session, grace },
            Up::Gone => Event::SessionLost { session },
        };
        self.tell_coordinator(event);
    }

    pub(crate) fn deliver_down(&mut self, id: u64, message: Down) {
        let Some(conn) = self.conns.get(&id) else { return };
        let (worker, life) = (conn.worker, conn.worker_life);
        let lost = conn.cut && matches!(message, Down::Command(_) | Down::Opened(_));
        if lost || self.hosts[worker].life != life || self.hosts[worker].conn != Some(id) {
            return;
        }
        let event = match message {
            Down::Opened(heartbeat) => rekindle_worker_core::Event::SessionOpened {
                terms: SessionTerms { heartbeat },
            },
            Down::Refused { message, fatal } => {
                self.hosts[worker].conn = None;
                rekindle_worker_core::Event::SessionRefused { message, fatal }
            }
            Down::Gone => {
                self.hosts[worker].conn = None;
                let message = "connection lost".to_owned();
                rekindle_worker_core::Event::SessionClosed { message }
            }
            Down::Command(command) => {
                if let rekindle_types::Command::Start(start) = &command {
                    self.hosts[worker].starts.push((**start).clone());
                }
                rekindle_worker_core::Event::Command(command)
            }
        };
        self.tell_worker(worker, life, event);
    }
}
