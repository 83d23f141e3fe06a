//! Connects a rank by TCP, agrees with each peer on NCCL, and keeps what can be used again under the next epoch.
//!
//! In: what [`TcpEndpoint::connect`] takes, and NCCL where there is some. Out: an [`NcclTransport`].
//!
//! All ranks of a world connect in this way, also those without NCCL: an end that doesn't answer is waited for until
//! the deadline.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rekindle_compute::cuda::nccl::{Calls, UniqueId};
use rekindle_types::RankId;

use super::agreement::{Answer, Offer, answer, birth};
use super::channel::Channel;
use super::transport::Channels;
use super::{Fault, NcclOptions, NcclTransport};
use crate::{
    Deadline, Identity, Options, ProtocolError, Tag, TagKind, TcpEndpoint, TcpTransport, Transport,
    TransportError,
};

const OFFER: Tag = Tag::new(TagKind::Pair, 0, 0);
const ANSWER: Tag = Tag::new(TagKind::Pair, 0, 1);
const READY: Tag = Tag::new(TagKind::Pair, 0, 2);

/// A listener that outlives its transports, as [`TcpEndpoint`] does, and with it the channels between epochs.
pub struct NcclEndpoint {
    tcp: TcpEndpoint,
    calls: Option<Arc<dyn Calls>>,
    options: NcclOptions,
    kept: Arc<Kept>,
}

/// Channels at rest, by peer.
pub(crate) struct Kept {
    channels: Mutex<BTreeMap<RankId, Arc<Channel>>>,
    /// How long aborts are waited for.
    abort: Duration,
}

impl Kept {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<RankId, Arc<Channel>>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps those that are at rest; aborts the others, all at once.
    pub(crate) fn take_back(&self, channels: BTreeMap<RankId, Arc<Channel>>) {
        let (rest, broken): (BTreeMap<_, _>, BTreeMap<_, _>) = channels
            .into_iter()
            .partition(|(_, channel)| channel.held().is_some());
        self.abort_all(broken.into_values());
        let replaced: Vec<_> = {
            let mut kept = self.lock();
            rest.into_iter()
                .filter_map(|(peer, channel)| kept.insert(peer, channel))
                .collect()
        };
        self.abort_all(replaced);
    }

    fn abort_all(&self, channels: impl IntoIterator<Item = Arc<Channel>>) {
        let deadline = Deadline::after(self.abort);
        let begun: Vec<_> = channels
            .into_iter()
            .flat_map(|channel| channel.begin_abort())
            .collect();
        begun.into_iter().for_each(|aborting| aborting.wait(deadline));
    }

    /// Aborts those of ranks that the plan no longer links with this one.
    fn only(&self, links: &BTreeSet<RankId>) {
        let gone: Vec<_> = self
            .lock()
            .extract_if(.., |peer, _| !links.contains(peer))
            .collect();
        self.abort_all(gone.into_iter().map(|(_, channel)| channel));
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // The peers may be gone, so not in order.
        let all = std::mem::take(&mut *self.lock());
        self.abort_all(all.into_values());
    }
}

impl NcclEndpoint {
    /// Over a TCP endpoint; without `calls` this rank has no NCCL.
    #[must_use]
    pub fn new(tcp: TcpEndpoint, calls: Option<Arc<dyn Calls>>, options: NcclOptions) -> Self {
        Self {
            tcp,
            calls,
            kept: Arc::new(Kept {
                channels: Mutex::default(),
                abort: options.abort,
            }),
            options,
        }
    }

    /// Changes the bounds from the next epoch on; communicators that are kept go on with those that they were made
    /// with, but for the least length.
    pub fn set_options(&mut self, options: NcclOptions) {
        self.options = options;
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.tcp.local_addr()
    }

    /// As [`TcpEndpoint::connect`]; then agrees with each peer on NCCL, at most until the deadline.
    ///
    /// # Errors
    /// Those of [`TcpEndpoint::connect`] and of the first frames; `Nccl` where it can't be used and is required.
    pub fn connect(
        &self,
        me: Identity,
        peers: &BTreeMap<RankId, SocketAddr>,
        links: &BTreeSet<RankId>,
        options: &Options,
        deadline: Deadline,
    ) -> Result<NcclTransport, TransportError> {
        let linked = self.tcp.connect(me, peers, links, options, deadline)?;
        self.kept.only(links);
        let plans = self.agree(&linked, links, deadline)?;
        let channels = self.stand(&linked, plans, deadline)?;
        for &peer in channels.all.keys() {
            linked.link(peer)?.outbox.set_apart_from(self.options.least_bytes);
        }
        Ok(NcclTransport::new(linked, channels))
    }

    fn version(&self) -> i32 {
        self.calls.as_ref().map_or(0, |calls| calls.version())
    }

    /// What to do with each link. Offers go out before any is waited for.
    fn agree(
        &self,
        linked: &TcpTransport,
        links: &BTreeSet<RankId>,
        deadline: Deadline,
    ) -> Result<BTreeMap<RankId, Answer>, TransportError> {
        let me = linked.rank();
        let (lower, higher): (Vec<_>, Vec<_>) = links.iter().copied().partition(|&peer| peer < me);
        for &peer in &higher {
            let offer = Offer {
                version: self.version(),
                held: self.held(peer),
            };
            (linked as &dyn Transport).send_slice(peer, OFFER, &offer.encode(), deadline)?;
        }
        let mut plans = BTreeMap::new();
        for peer in lower {
            let frame = linked.recv(peer, OFFER, deadline)?;
            let offer = Offer::decode(frame.bytes()).map_err(|why| nonsense(peer, why))?;
            let answer = answer(&offer, self.version(), self.held(peer), || self.ids());
            (linked as &dyn Transport).send_slice(peer, ANSWER, &answer.encode(), deadline)?;
            plans.insert(peer, answer);
        }
        for peer in higher {
            let frame = linked.recv(peer, ANSWER, deadline)?;
            let answer = Answer::decode(frame.bytes()).map_err(|why| nonsense(peer, why))?;
            plans.insert(peer, answer);
        }
        Ok(plans)
    }

    fn held(&self, peer: RankId) -> Option<super::agreement::Held> {
        self.kept.lock().get(&peer)?.held()
    }

    /// To meet under anew.
    fn ids(&self) -> Result<[UniqueId; 2], String> {
        let calls = self.calls.as_ref().ok_or("there is no NCCL")?;
        let id = || {
            calls
                .unique_id()
                .map_err(|code| format!("ncclGetUniqueId gave {}", calls.explain(code)))
        };
        Ok([id()?, id()?])
    }

    /// Makes the channels, all at once, and hears from each peer whether it could. A link gets its channel before its
    /// peer may use it.
    fn stand(
        &self,
        linked: &TcpTransport,
        plans: BTreeMap<RankId, Answer>,
        deadline: Deadline,
    ) -> Result<Channels, TransportError> {
        let mut channels = Channels {
            all: BTreeMap::new(),
            kept: Arc::clone(&self.kept),
        };
        let mut failed = BTreeMap::new();
        let mut meant = BTreeSet::new();
        for (peer, answer) in plans {
            match self.begin(peer, linked.rank() < peer, answer) {
                Ok(channel) => drop((meant.insert(peer), channels.all.insert(peer, channel))),
                Err((why, told)) => {
                    failed.insert(peer, why);
                    if !told {
                        meant.insert(peer);
                    }
                }
            }
        }
        // What is left of the deadline is for hearing of it: a link that doesn't stand by then uses TCP (TR-12).
        let meeting = Deadline::after(deadline.remaining().unwrap_or_default() / 2);
        for &peer in &meant {
            let mut word = failed.get(&peer).cloned().unwrap_or_default();
            if let Some(channel) = channels.all.get(&peer) {
                match channel.ready(meeting) {
                    Ok(()) => drop(linked.link(peer)?.apart.set(Arc::clone(channel) as _)),
                    Err(fault) => word = fault.to_string(),
                }
            }
            (linked as &dyn Transport).send_slice(peer, READY, word.as_bytes(), deadline)?;
            if !word.is_empty() {
                failed.insert(peer, word);
            }
        }
        for &peer in &meant {
            let frame = linked.recv(peer, READY, deadline)?;
            if !frame.is_empty() {
                let theirs = String::from_utf8_lossy(frame.bytes());
                failed
                    .entry(peer)
                    .or_insert_with(|| format!("at the other end: {theirs}"));
            }
        }
        self.drop_failed(&mut channels, failed)?;
        Ok(channels)
    }

    /// A channel, perhaps not standing yet; or why there is none, and whether the peer knows that already.
    fn begin(&self, peer: RankId, first: bool, answer: Answer) -> Result<Arc<Channel>, (String, bool)> {
        let kept = self.kept.lock().remove(&peer);
        let calls = self.calls.as_ref();
        match (answer, calls, kept) {
            (Answer::Neither(why), _, kept) => {
                self.kept.abort_all(kept);
                Err((why, true))
            }
            (Answer::Keep, Some(_), Some(kept)) => {
                kept.take_up();
                Ok(kept)
            }
            (Answer::Make(ids), Some(calls), kept) => {
                self.kept.abort_all(kept);
                Channel::meet(calls, birth(&ids), &ids, first, &self.options)
                    .map(Arc::new)
                    .map_err(|fault: Fault| (fault.to_string(), false))
            }
            (_, _, kept) => {
                self.kept.abort_all(kept);
                Err(("it isn't held here any more".to_owned(), false))
            }
        }
    }

    fn drop_failed(
        &self,
        channels: &mut Channels,
        failed: BTreeMap<RankId, String>,
    ) -> Result<(), TransportError> {
        let broken: Vec<_> = failed
            .keys()
            .filter_map(|peer| channels.all.remove(peer))
            .collect();
        self.kept.abort_all(broken);
        for (rank, detail) in failed {
            if self.options.required {
                return Err(TransportError::Nccl { rank, detail });
            }
            tracing::info!(%rank, detail, "this link uses TCP");
        }
        Ok(())
    }
}

fn nonsense(rank: RankId, why: &'static str) -> TransportError {
    let source = ProtocolError::Malformed { why };
    TransportError::Protocol { rank, source }
}
