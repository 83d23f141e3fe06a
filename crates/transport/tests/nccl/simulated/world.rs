//! What is, and how it gets on.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};

use rekindle_compute::cuda::nccl::{Code, Comm, Piece};

/// Looks for which whatever begins is in progress.
const LAG: u32 = 2;

pub type Bytes = Arc<Mutex<Vec<u8>>>;

/// What ranks gather for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    Init([u8; 128]),
    Split(usize, u32),
    Shrink(usize, u32, Vec<u32>),
    Grow(usize, u32),
}

pub struct Comer {
    pub comm: Comm,
    pub parent: Option<Comm>,
    pub colour: Option<u32>,
    pub place: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Send,
    Recv,
}

pub struct Op {
    pub kind: Kind,
    pub peer: u32,
    pub piece: Piece,
    pub bytes: usize,
}

pub struct Member {
    pub process: u32,
    pub clique: Option<usize>,
    pub rank: u32,
    pub waiting: Option<Key>,
    pub lag: u32,
    pub error: Code,
    /// Its process has heard of the error.
    pub told: bool,
    pub ops: VecDeque<Op>,
    pub finalized: bool,
    pub ended: bool,
    /// Communicators made of it so far.
    pub derived: u32,
}

#[derive(Default)]
pub struct World {
    processes: u32,
    ids: u8,
    pub members: BTreeMap<Comm, Member>,
    /// The communicators of each clique, by rank.
    pub cliques: Vec<Vec<Comm>>,
    gathering: BTreeMap<Key, (u32, Vec<Comer>)>,
    pub grow_ids: BTreeMap<[u8; 128], Key>,
    pub frozen: BTreeSet<u32>,
    dead: BTreeSet<u32>,
    pub stuck: BTreeSet<u32>,
    pub planted: BTreeMap<(u32, &'static str), Code>,
    pub calls: BTreeMap<&'static str, usize>,
    pub transfers: usize,
    pub violations: Vec<String>,
}

pub fn memory(piece: &Piece) -> Bytes {
    let keep = Arc::clone(piece.keep());
    keep.downcast::<Mutex<Vec<u8>>>().expect("simulated memory")
}

impl World {
    pub fn new_process(&mut self) -> u32 {
        self.processes += 1;
        self.processes - 1
    }

    pub fn new_id(&mut self) -> [u8; 128] {
        self.ids += 1;
        [self.ids; 128]
    }

    /// A communicator that waits for `key`, or nothing yet.
    pub fn add(&mut self, process: u32) -> Comm {
        let comm = Comm(self.members.len() as u64);
        let member = Member {
            process,
            clique: None,
            rank: 0,
            waiting: None,
            lag: LAG,
            error: Code::SUCCESS,
            told: false,
            ops: VecDeque::new(),
            finalized: false,
            ended: false,
            derived: 0,
        };
        self.members.insert(comm, member);
        comm
    }

    /// One more has come; when all `ranks` are there, their communicators stand.
    pub fn come(&mut self, key: Key, ranks: u32, comer: Comer) {
        for comm in [Some(comer.comm), comer.parent].into_iter().flatten() {
            self.member(comm).waiting = Some(key.clone());
        }
        let (_, comers) = self.gathering.entry(key.clone()).or_insert((ranks, Vec::new()));
        comers.push(comer);
        let frozen = comers
            .iter()
            .any(|c| self.frozen.contains(&self.members[&c.comm].process));
        if comers.len() == ranks as usize && !frozen {
            let (_, comers) = self.gathering.remove(&key).expect("just seen");
            self.stand(comers);
        }
    }

    fn stand(&mut self, mut comers: Vec<Comer>) {
        comers.sort_by_key(|c| c.place);
        let colours: BTreeSet<_> = comers.iter().filter_map(|c| c.colour).collect();
        for colour in colours {
            let comms: Vec<Comm> = comers
                .iter()
                .filter(|c| c.colour == Some(colour))
                .map(|c| c.comm)
                .collect();
            for (rank, &comm) in (0..).zip(&comms) {
                let clique = self.cliques.len();
                let member = self.member(comm);
                (member.clique, member.rank) = (Some(clique), rank);
            }
            self.cliques.push(comms);
        }
        for comer in comers {
            for comm in [Some(comer.comm), comer.parent].into_iter().flatten() {
                let member = self.member(comm);
                (member.waiting, member.lag) = (None, LAG);
            }
        }
    }

    pub fn member(&mut self, comm: Comm) -> &mut Member {
        self.members.get_mut(&comm).expect("a communicator of this world")
    }

    /// Pairs up what is first in the streams of a clique.
    pub fn get_on(&mut self, clique: usize) {
        let comms = self.cliques[clique].clone();
        while let Some((from, to)) = self.pair(&comms) {
            let send = self.member(from).ops.pop_front().expect("paired");
            let recv = self.member(to).ops.pop_front().expect("paired");
            if send.bytes != recv.bytes {
                self.violations
                    .push(format!("{} bytes sent, {} received", send.bytes, recv.bytes));
            }
            let bytes = memory(&send.piece).lock().unwrap()[..send.bytes].to_vec();
            memory(&recv.piece).lock().unwrap()[..send.bytes].copy_from_slice(&bytes);
            self.transfers += 1;
        }
    }

    fn pair(&self, comms: &[Comm]) -> Option<(Comm, Comm)> {
        let first = |comm: &Comm| {
            let member = &self.members[comm];
            let moves = !member.ended && member.lag == 0 && !self.frozen.contains(&member.process);
            member.ops.front().filter(|_| moves)
        };
        comms.iter().find_map(|from| {
            let op = first(from).filter(|op| op.kind == Kind::Send)?;
            let to = comms.get(op.peer as usize)?;
            let rank = self.members[from].rank;
            first(to)
                .filter(|other| other.kind == Kind::Recv && other.peer == rank)
                .map(|_| (*from, *to))
        })
    }

    pub fn die(&mut self, process: u32, told: bool) {
        self.frozen.insert(process);
        self.dead.insert(process);
        let own: Vec<_> = self
            .members
            .iter()
            .filter(|(_, m)| m.process == process)
            .map(|(c, _)| *c)
            .collect();
        let cliques: BTreeSet<_> = own.iter().filter_map(|c| self.members[c].clique).collect();
        for member in self.members.values_mut() {
            if member.process == process {
                member.ended = true;
            } else if told && member.clique.is_some_and(|c| cliques.contains(&c)) {
                member.error = Code::REMOTE;
            }
        }
    }

    /// Notes a call that may deadlock. What a process does after its death, in this one process, doesn't count.
    pub fn violation(&mut self, process: u32, what: String) {
        if !self.dead.contains(&process) {
            self.violations.push(what);
        }
    }

    /// Whether somebody of the clique is gone or will never answer.
    pub fn is_broken(&self, clique: usize) -> bool {
        self.cliques[clique].iter().any(|comm| {
            let member = &self.members[comm];
            (member.ended && !member.finalized) || self.frozen.contains(&member.process)
        })
    }

    pub fn waits(&self, process: u32) -> bool {
        self.members
            .values()
            .any(|m| m.process == process && !m.ended && m.lag == 0 && !m.ops.is_empty())
    }

    pub fn left(&self) -> Vec<Comm> {
        self.members
            .iter()
            .filter(|(_, m)| !m.ended)
            .map(|(comm, _)| *comm)
            .collect()
    }
}
