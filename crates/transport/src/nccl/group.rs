//! A communicator of several of a plan's ranks under the plan's numbers, which splits, shrinks and grows where NCCL
//! can.
//!
//! In: who is in it. Out: another group, or a [`Fault`] and the old one as it is. All members that are meant to call,
//! do so at about the same time, with the same arguments.
//!
//! Deliberately absent: finding out who is lost, and passing ids on (both are the control plane's), collectives.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rekindle_compute::cuda::nccl::{Calls, Piece, Shrink, Since, UniqueId};
use rekindle_types::RankId;

use super::{Communicator, Fault, Members, NcclOptions};

/// Some ranks that can send to each other.
pub struct Group {
    members: Members,
    communicator: Communicator,
}

impl Group {
    /// Meets the members under `id`, which one of them made and told the others.
    ///
    /// # Errors
    /// [`Fault::Ranks`] when `me` isn't a member; [`Fault::Code`], [`Fault::Hung`].
    pub fn meet(
        calls: &Arc<dyn Calls>,
        members: Members,
        me: RankId,
        id: &UniqueId,
        options: &NcclOptions,
    ) -> Result<Self, Fault> {
        let rank = members.number(me)?;
        let communicator = Communicator::meet(calls, members.count(), rank, id, options)?;
        Self::stand(members, communicator)
    }

    /// Joins a group that grows: `members` as they will be, `me` among the last.
    ///
    /// # Errors
    /// As [`Group::meet`].
    pub fn join(
        calls: &Arc<dyn Calls>,
        members: Members,
        me: RankId,
        id: &UniqueId,
        options: &NcclOptions,
    ) -> Result<Self, Fault> {
        needs(calls.version(), Since::Grow)?;
        let rank = members.number(me)?;
        let communicator = Communicator::join(calls, members.count(), rank, id, options)?;
        Self::stand(members, communicator)
    }

    fn stand(members: Members, mut communicator: Communicator) -> Result<Self, Fault> {
        communicator.ready()?;
        Ok(Self {
            members,
            communicator,
        })
    }

    /// Who is in it.
    #[must_use]
    pub fn members(&self) -> &Members {
        &self.members
    }

    /// Sends the first `bytes` of `from` to a member that receives them.
    ///
    /// # Errors
    /// Any [`Fault`]; after it, [`Group::shrink`] with [`Shrink::Abort`] may still give a group of those that are left.
    pub fn send(&mut self, from: &Piece, bytes: usize, to: RankId) -> Result<(), Fault> {
        let peer = self.members.number(to)?;
        self.communicator.send(from, bytes, peer)
    }

    /// Receives `bytes` from a member that sends them.
    ///
    /// # Errors
    /// As [`Group::send`].
    pub fn recv(&mut self, into: &Piece, bytes: usize, from: RankId) -> Result<(), Fault> {
        let peer = self.members.number(from)?;
        self.communicator.recv(into, bytes, peer)
    }

    /// The communicator itself, in NCCL's numbers.
    pub fn communicator(&mut self) -> &mut Communicator {
        &mut self.communicator
    }

    /// The group of the members with the same colour as `me`: the lanes of a stage, say. This one stays.
    ///
    /// # Errors
    /// [`Fault::Ranks`] when a member has no colour; any other, which breaks this group.
    pub fn split(&mut self, me: RankId, colours: &BTreeMap<RankId, u32>) -> Result<Self, Fault> {
        for &rank in self.members.ranks() {
            if !colours.contains_key(&rank) {
                let why = format!("{rank} has no colour to split by");
                return Err(Fault::Ranks { why });
            }
        }
        let mine = colours.get(&me).copied();
        let members = self.members.those(|rank| colours.get(&rank).copied() == mine)?;
        let key = self.members.number(me)?;
        let communicator = self
            .communicator
            .derive("ncclCommSplit", |calls, parent| calls.split(parent, mine, key))?;
        Ok(Self {
            members,
            communicator,
        })
    }

    /// The group of those that are left when `lost` are gone, who don't call this. This one is aborted.
    ///
    /// # Errors
    /// [`Fault::Missing`] before NCCL 2.27; any other: meet anew.
    pub fn shrink(mut self, lost: &BTreeSet<RankId>, how: Shrink) -> Result<Self, Fault> {
        const CALL: &str = "ncclCommShrink";
        needs(self.communicator.version(), Since::Shrink)?;
        let (members, out) = self.members.without(lost)?;
        let communicator = match how {
            Shrink::Quiet => self
                .communicator
                .derive(CALL, |calls, parent| calls.shrink(parent, &out, how))?,
            Shrink::Abort => self
                .communicator
                .rescue(CALL, move |calls, parent| calls.shrink(parent, &out, how))?,
        };
        Ok(Self {
            members,
            communicator,
        })
    }

    /// An id for others to join this group under. One member calls it, before all of them call [`Group::grow`].
    ///
    /// # Errors
    /// [`Fault::Missing`] before NCCL 2.29; [`Fault::Ranks`] in a group of one, which can't grow: meet anew;
    /// [`Fault::Code`].
    pub fn grow_id(&self) -> Result<UniqueId, Fault> {
        self.can_grow()?;
        self.communicator.grow_id()
    }

    /// The group with those that join, who come last; `id` where this member made it. This one is aborted.
    ///
    /// # Errors
    /// As [`Group::grow_id`].
    pub fn grow(mut self, joining: &[RankId], id: Option<&UniqueId>) -> Result<Self, Fault> {
        self.can_grow()?;
        let members = self.members.with(joining)?;
        let ranks = members.count();
        let communicator = self
            .communicator
            .derive("ncclCommGrow", |calls, parent| calls.grow(parent, ranks, id))?;
        Ok(Self {
            members,
            communicator,
        })
    }

    fn can_grow(&self) -> Result<(), Fault> {
        needs(self.communicator.version(), Since::Grow)?;
        match self.members.count() {
            1 => Err(Fault::Ranks {
                why: "a group of one can't grow; meet anew".to_owned(),
            }),
            _ => Ok(()),
        }
    }

    /// Lets go of it in order; all members do at about the same time.
    ///
    /// # Errors
    /// Any [`Fault`]; it is gone in any case.
    pub fn finish(self) -> Result<(), Fault> {
        self.communicator.finish()
    }
}

fn needs(version: i32, since: Since) -> Result<(), Fault> {
    let (what, first) = match since {
        Since::Shrink => ("leave ranks out of a communicator", "2.27.3"),
        Since::Grow => ("add ranks to a communicator", "2.29.2"),
    };
    match since.in_version(version) {
        true => Ok(()),
        false => Err(Fault::Missing {
            what,
            version,
            since: first,
        }),
    }
}
