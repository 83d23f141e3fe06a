//! NCCL's calls on the simulated world.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rekindle_compute::ComputeError;
use rekindle_compute::cuda::nccl::{Calls, Code, Comm, Piece, Shrink, Since, UniqueId};

use super::Process;
use super::world::{Comer, Key, Kind, Member, Op, World, memory};

type Result<T> = std::result::Result<T, ComputeError>;

impl Process {
    /// The world, and a code to give instead of making the call.
    fn enter(&self, call: &'static str) -> (MutexGuard<'_, World>, Option<Code>) {
        let mut world = self.cluster.lock();
        *world.calls.entry(call).or_default() += 1;
        let planted = world.planted.remove(&(self.number, call));
        (world, planted)
    }

    /// As `enter`, for a call on a communicator that must be at rest.
    fn at_rest(&self, call: &'static str, comm: Comm) -> (MutexGuard<'_, World>, Option<Code>) {
        let (mut world, planted) = self.enter(call);
        let member = world.member(comm);
        if member.error != Code::SUCCESS && !member.told && !member.ended {
            // Nobody could know.
            member.told = true;
            let code = member.error;
            return (world, Some(code));
        }
        let wrong = wrong(member);
        if let Some(wrong) = wrong {
            world.violation(self.number, format!("{call} on {comm:?}, which is {wrong}"));
        }
        (world, planted.or(wrong.map(|_| Code::INVALID_USAGE)))
    }

    fn derive(
        &self,
        call: &'static str,
        parent: Comm,
        broken: bool,
        key: impl FnOnce(usize, u32) -> Key,
        ranks: impl FnOnce(u32) -> u32,
        comer: (Option<u32>, Option<u32>),
    ) -> (Comm, Code) {
        let (mut world, planted) = match broken {
            true => self.enter(call),
            false => self.at_rest(call, parent),
        };
        let comm = world.add(self.number);
        let member = world.member(parent);
        member.derived += 1;
        member.ops.clear();
        let (Some(clique), nth, rank) = (member.clique, member.derived, member.rank) else {
            return (comm, Code::INVALID_USAGE);
        };
        // What upstream does, too: an error that was met before stays.
        let code = planted.unwrap_or(member.error);
        if code != Code::SUCCESS {
            return (comm, code);
        }
        let all = world.cliques[clique].len() as u32;
        let (colour, place) = comer;
        let comer = Comer {
            comm,
            parent: Some(parent),
            colour,
            place: place.unwrap_or(rank),
        };
        world.come(key(clique, nth), ranks(all), comer);
        (comm, Code::IN_PROGRESS)
    }

    fn transfer(&self, call: &'static str, comm: Comm, op: Op) -> Code {
        let (mut world, refused) = self.at_rest(call, comm);
        if let Some(code) = refused {
            return code;
        }
        assert!(op.bytes <= op.piece.bytes(), "past the end of a piece");
        let member = world.member(comm);
        member.lag = 1;
        member.ops.push_back(op);
        Code::IN_PROGRESS
    }

    fn idle_for(&self, what: &str, comm: Comm) -> Result<()> {
        let mut world = self.cluster.lock();
        if !world.member(comm).ops.is_empty() || world.member(comm).ended {
            world.violation(self.number, format!("{what} while a transfer is under way"));
        }
        Ok(())
    }
}

fn wrong(member: &Member) -> Option<&'static str> {
    match member {
        Member { ended: true, .. } => Some("gone"),
        Member { error, .. } if *error != Code::SUCCESS => Some("broken"),
        Member { waiting: Some(_), .. } => Some("in progress"),
        Member { lag, .. } if *lag > 0 => Some("in progress"),
        Member { clique: None, .. } => Some("nothing"),
        Member { ops, .. } if !ops.is_empty() => Some("busy"),
        _ => None,
    }
}

impl Calls for Process {
    fn version(&self) -> i32 {
        self.version
    }

    fn unique_id(&self) -> std::result::Result<UniqueId, Code> {
        let (mut world, planted) = self.enter("unique_id");
        planted.map_or_else(|| Ok(UniqueId(world.new_id())), Err)
    }

    fn init(&self, ranks: u32, rank: u32, id: &UniqueId) -> (Comm, Code) {
        let (mut world, planted) = self.enter("init");
        let comm = world.add(self.number);
        if let Some(code) = planted {
            return (comm, code);
        }
        let comer = Comer {
            comm,
            parent: None,
            colour: Some(0),
            place: rank,
        };
        world.come(Key::Init(id.0), ranks, comer);
        (comm, Code::IN_PROGRESS)
    }

    fn split(&self, parent: Comm, colour: Option<u32>, key: u32) -> (Comm, Code) {
        self.derive("split", parent, false, Key::Split, |all| all, (colour, Some(key)))
    }

    fn shrink(&self, parent: Comm, leave_out: &[u32], how: Shrink) -> (Comm, Code) {
        assert!(Since::Shrink.in_version(self.version), "this NCCL has no shrink");
        let out = leave_out.to_vec();
        let left = u32::try_from(out.len()).unwrap();
        let key = |clique, nth| Key::Shrink(clique, nth, out);
        self.derive(
            "shrink",
            parent,
            how == Shrink::Abort,
            key,
            |all| all - left,
            (Some(0), None),
        )
    }

    fn grow_id(&self, parent: Comm) -> std::result::Result<UniqueId, Code> {
        assert!(Since::Grow.in_version(self.version), "this NCCL has no grow");
        let (mut world, refused) = self.at_rest("grow_id", parent);
        let id = world.new_id();
        let member = world.member(parent);
        let key = Key::Grow(member.clique.unwrap_or(usize::MAX), member.derived + 1);
        world.grow_ids.insert(id, key);
        refused.map_or(Ok(UniqueId(id)), Err)
    }

    fn grow(&self, parent: Comm, ranks: u32, _id: Option<&UniqueId>) -> (Comm, Code) {
        self.derive("grow", parent, false, Key::Grow, |_| ranks, (Some(0), None))
    }

    fn join(&self, ranks: u32, rank: u32, id: &UniqueId) -> (Comm, Code) {
        let (mut world, planted) = self.enter("join");
        let comm = world.add(self.number);
        let key = world.grow_ids.get(&id.0).cloned();
        match (planted, key) {
            (Some(code), _) => (comm, code),
            (_, None) => (comm, Code::INVALID_ARGUMENT),
            (_, Some(key)) => {
                let comer = Comer {
                    comm,
                    parent: None,
                    colour: Some(0),
                    place: rank,
                };
                world.come(key, ranks, comer);
                (comm, Code::IN_PROGRESS)
            }
        }
    }

    fn state(&self, comm: Comm) -> Code {
        let (mut world, planted) = self.enter("state");
        let member = world.member(comm);
        if let Some(code) = planted {
            member.error = code;
        }
        if member.error != Code::SUCCESS {
            member.told = true;
            return member.error;
        }
        if member.waiting.is_some() {
            return Code::IN_PROGRESS;
        }
        if member.lag > 0 {
            member.lag -= 1;
            return Code::IN_PROGRESS;
        }
        match member.clique {
            Some(clique) => world.get_on(clique),
            None => return Code::INTERNAL,
        }
        Code::SUCCESS
    }

    fn send(&self, comm: Comm, from: &Piece, bytes: usize, peer: u32) -> Code {
        let op = Op {
            kind: Kind::Send,
            peer,
            piece: from.clone(),
            bytes,
        };
        self.transfer("send", comm, op)
    }

    fn recv(&self, comm: Comm, into: &Piece, bytes: usize, peer: u32) -> Code {
        let op = Op {
            kind: Kind::Recv,
            peer,
            piece: into.clone(),
            bytes,
        };
        self.transfer("recv", comm, op)
    }

    fn idle(&self, comm: Comm) -> Result<bool> {
        let mut world = self.cluster.lock();
        let member = world.member(comm);
        Ok(member.lag == 0 && member.ops.is_empty())
    }

    fn finalize(&self, comm: Comm) -> Code {
        let (mut world, refused) = self.at_rest("finalize", comm);
        if let Some(clique) = world.member(comm).clique
            && world.is_broken(clique)
        {
            world.violation(
                self.number,
                format!("finalize on {comm:?}, whose peer is gone: it would hang"),
            );
        }
        let member = world.member(comm);
        (member.finalized, member.lag) = (true, 2);
        refused.unwrap_or(Code::IN_PROGRESS)
    }

    fn destroy(&self, comm: Comm) -> Code {
        let (mut world, refused) = self.at_rest("destroy", comm);
        if !world.member(comm).finalized {
            world.violation(self.number, format!("destroy on {comm:?}, which isn't finalized"));
        }
        world.member(comm).ended = true;
        refused.unwrap_or(Code::SUCCESS)
    }

    fn abort(&self, comm: Comm) -> Code {
        while self.cluster.lock().stuck.contains(&self.number) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let (mut world, planted) = self.enter("abort");
        if std::mem::replace(&mut world.member(comm).ended, true) && !world.frozen.contains(&self.number) {
            world.violation(self.number, format!("abort on {comm:?}, which is gone"));
        }
        world.member(comm).ops.clear();
        planted.unwrap_or(Code::SUCCESS)
    }

    fn explain(&self, code: Code) -> String {
        format!("{} (simulated)", code.0)
    }

    fn memory(&self, bytes: usize) -> Result<Piece> {
        // SAFETY: the address isn't used: this NCCL finds its memory by what keeps it.
        Ok(unsafe { Piece::new(0, bytes, Arc::new(Mutex::new(vec![0_u8; bytes]))) })
    }

    fn copy_in(&self, comm: Comm, to: &Piece, from: &[u8]) -> Result<()> {
        self.idle_for("a copy to the device", comm)?;
        memory(to).lock().unwrap()[..from.len()].copy_from_slice(from);
        Ok(())
    }

    fn copy_out(&self, comm: Comm, from: &Piece, to: &mut [u8]) -> Result<()> {
        self.idle_for("a copy from the device", comm)?;
        to.copy_from_slice(&memory(from).lock().unwrap()[..to.len()]);
        Ok(())
    }
}
