//! Listening for the peers and meeting them, by TCP or, as the job says, with NCCL beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use rekindle_compute::cuda::nccl::{Calls, Nccl};
use rekindle_transport::nccl::{NcclEndpoint, NcclOptions, NcclTransport};
use rekindle_transport::tcp::Edit;
use rekindle_transport::{Deadline, Identity, Options, TcpEndpoint, TcpTransport};
use rekindle_types::{DeviceId, RankId, TransportKind};

use super::TrainerError;
use super::context::{Context, SharedTransport};
use super::standing::Met;

/// All links have to stand within this: every peer said that it listens before.
const MEET: Duration = Duration::from_secs(30);
/// The same where communicators have to be made as well.
const MEET_BY_NCCL: Duration = Duration::from_secs(60);
/// Longest frame that needs no look at the model's shape.
const FRAME_BYTES: usize = 512 << 20;

/// How this trainer is reached, and reaches others.
pub enum Endpoint {
    /// By TCP alone.
    Tcp(TcpEndpoint),
    /// By TCP, and NCCL where both ends have it.
    Nccl(NcclEndpoint),
}

/// Whom to meet.
struct Gang {
    me: Identity,
    links: BTreeSet<RankId>,
    addresses: BTreeMap<RankId, SocketAddr>,
    options: Options,
}

impl Endpoint {
    /// Listens on a free port of `host`.
    ///
    /// # Errors
    /// [`TrainerError`] when the host has no address or can't be listened on.
    pub fn listen(host: &str, kind: TransportKind, device: DeviceId) -> Result<Self, TrainerError> {
        let tcp = TcpEndpoint::bind(resolve(&format!("{host}:0"))?)?;
        Ok(match kind {
            TransportKind::Tcp => Self::Tcp(tcp),
            TransportKind::Nccl => Self::Nccl(NcclEndpoint::new(tcp, nccl(device), NcclOptions::default())),
        })
    }

    /// `host:port` that peers reach this trainer at.
    #[must_use]
    pub fn advertised(&self, host: &str) -> String {
        let address = match self {
            Self::Tcp(endpoint) => endpoint.local_addr(),
            Self::Nccl(endpoint) => endpoint.local_addr(),
        };
        format!("{host}:{}", address.port())
    }

    /// Connects to every rank this one exchanges frames with; `before` is the gang of the epoch before, if this
    /// process was in it and its connections can be kept. Returns what can be kept of this one.
    ///
    /// # Errors
    /// [`TrainerError`] naming who is missing, or refused.
    pub fn meet(
        &self,
        context: &Context,
        peers: BTreeMap<RankId, String>,
        before: Option<Met>,
    ) -> Result<(SharedTransport, Option<Met>), TrainerError> {
        let gang = Gang::of(context, &peers)?;
        match self {
            Self::Tcp(endpoint) => {
                let transport = Arc::new(gang.by_tcp(endpoint, &peers, before.as_ref())?);
                let met = Met {
                    transport: Arc::clone(&transport),
                    peers,
                };
                Ok((transport, Some(met)))
            }
            Self::Nccl(endpoint) => Ok((Arc::new(gang.by_nccl(endpoint)?), None)),
        }
    }
}

impl Gang {
    fn of(context: &Context, peers: &BTreeMap<RankId, String>) -> Result<Self, TrainerError> {
        let links = context.links();
        Ok(Self {
            me: Identity {
                job: context.plan.job.clone(),
                epoch: context.plan.epoch,
                rank: context.id(),
                world: context.plan.world(),
            },
            addresses: addresses(peers, &links)?,
            links,
            options: options(context),
        })
    }

    fn by_tcp(
        self,
        endpoint: &TcpEndpoint,
        peers: &BTreeMap<RankId, String>,
        before: Option<&Met>,
    ) -> Result<TcpTransport, TrainerError> {
        let (links, deadline) = (self.links.len(), Deadline::after(MEET));
        let Some(Met {
            transport,
            peers: were,
        }) = before
        else {
            tracing::info!(links, "connects");
            return Ok(endpoint.connect(self.me, &self.addresses, &self.links, &self.options, deadline)?);
        };
        let stays = |rank: &RankId| were.contains_key(rank) && were.get(rank) == peers.get(rank);
        let edit = Edit {
            me: self.me,
            peers: &self.addresses,
            links: &self.links,
            stay: &self.links.iter().copied().filter(stays).collect(),
            options: &self.options,
        };
        let (transport, kept) = endpoint.edit(transport, &edit, deadline)?;
        tracing::info!(links, kept = kept.len(), "connected over the links there were");
        Ok(transport)
    }

    fn by_nccl(self, endpoint: &NcclEndpoint) -> Result<NcclTransport, TrainerError> {
        let (links, deadline) = (self.links.len(), Deadline::after(MEET_BY_NCCL));
        tracing::info!(links, "connects, by NCCL where that can be");
        let transport = endpoint.connect(self.me, &self.addresses, &self.links, &self.options, deadline)?;
        let by_nccl = transport.through_nccl().count();
        tracing::info!(links, by_nccl, "connected");
        Ok(transport)
    }
}

/// NCCL on a CUDA device, if this machine has it. Without it links use TCP.
fn nccl(device: DeviceId) -> Option<Arc<dyn Calls>> {
    let DeviceId::Cuda(ordinal) = device else {
        return None;
    };
    match Nccl::open(i32::from(ordinal)) {
        Ok(calls) => Some(Arc::new(calls)),
        Err(error) => {
            tracing::warn!(%error, "parallelism.transport = \"nccl\" has no NCCL to use here; tensors go through TCP");
            None
        }
    }
}

fn addresses(
    peers: &BTreeMap<RankId, String>,
    links: &BTreeSet<RankId>,
) -> Result<BTreeMap<RankId, SocketAddr>, TrainerError> {
    let mut addresses = BTreeMap::new();
    for (rank, address) in peers.iter().filter(|(rank, _)| links.contains(rank)) {
        addresses.insert(*rank, resolve(address)?);
    }
    Ok(addresses)
}

fn resolve(address: &str) -> Result<SocketAddr, TrainerError> {
    let bad = |why: String| TrainerError::Protocol {
        what: format!("address {address:?}: {why}"),
    };
    let mut found = address.to_socket_addrs().map_err(|e| bad(e.to_string()))?;
    found
        .next()
        .ok_or_else(|| bad("has no address; check the worker's --data-host".to_owned()))
}

/// Bounds large enough for the largest layer's gradient (8 bytes an element), a micro-batch's activations, and what
/// is on its way to guards.
fn options(context: &Context) -> Options {
    let spec = &context.spec;
    let layer = spec
        .model
        .layers()
        .map(|layer| context.numel(layer))
        .max()
        .unwrap_or(0)
        * 8;
    let rows = spec.training.micro_batch as usize * spec.data.seq_len as usize;
    let activations = rows * spec.model.hidden_size as usize * 4;
    let defaults = Options::default();
    // Every swapped micro-batch in flight may lie unasked in one inbox (PL-3).
    let unasked = match spec.recovery.swaps() {
        true => (context.plan.stage_count() as usize + 2) * activations,
        false => 0,
    };
    let max_frame_bytes = FRAME_BYTES.max(layer).max(activations);
    // Gradients for guards wait in queues until they are asked for at the commit point.
    let out = match context.own_guards() {
        [] => 0,
        _ => context.gradient_bytes(context.id()),
    };
    let of_wards = context.wards().map(|ward| context.gradient_bytes(ward));
    let (most, all) = of_wards.fold((0, 0), |(most, all), bytes| (bytes.max(most), all + bytes));
    Options {
        max_frame_bytes,
        outbox_bytes: defaults.outbox_bytes + out,
        inbox_soft_bytes: defaults.inbox_soft_bytes + most,
        inbox_hard_bytes: defaults.inbox_hard_bytes.max(2 * max_frame_bytes).max(unasked) + most,
        pool_bytes: defaults.pool_bytes + out + 2 * all,
        ..defaults
    }
}

#[cfg(test)]
mod tests {
    use rekindle_types::Rank;

    use super::super::context::tests::context;
    use super::*;

    /// A ward's whole gradient may lie unasked in its guard's inbox, on top of what else comes.
    #[test]
    fn queues_have_room_for_what_goes_to_guards() {
        let mut context = context(1, 6, Rank { lane: 0, stage: 1 });
        let alone = options(&context);
        assert_eq!(alone.inbox_soft_bytes, Options::default().inbox_soft_bytes);
        let me = context.id();
        context.guards = [
            (RankId(0), vec![me]),
            (RankId(2), vec![RankId(3), me]),
            (me, vec![RankId(5), RankId(3)]),
        ]
        .into();
        let with = options(&context);
        let owned = |rank| context.gradient_bytes(RankId(rank));
        assert_eq!(
            with.inbox_soft_bytes,
            alone.inbox_soft_bytes + owned(0).max(owned(2))
        );
        assert_eq!(
            with.inbox_hard_bytes,
            alone.inbox_hard_bytes + owned(0).max(owned(2))
        );
        assert_eq!(with.outbox_bytes, alone.outbox_bytes + owned(me.0));
        let layers = context.owned_layers(me).into_iter();
        let elements: usize = layers.map(|layer| context.owned(layer).len()).sum();
        assert!(elements > 0 && owned(me.0) == 4 * elements);
        with.validate().unwrap();
    }
}
