//! What every transport must do, as functions over a [`Harness`] that makes connected transports. A new
//! implementation runs all of [`ALL`], one that goes over to other epochs all of [`EDITS`], too (see
//! `tests/conformance.rs`); each function panics with what went wrong.
//!
//! In: a harness. Out: nothing, or a panic. No assertion is about time: waits that must be freed have a
//! deadline far away, and the check is that they end with another error than the deadline's.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "these are tests, kept in the library for other crates"
)]

mod collectives;
mod edit;
mod ends;
mod fence;
mod harnesses;
mod order;
mod pressure;

use std::collections::BTreeSet;
use std::time::Duration;

use rekindle_types::{Epoch, JobId, RankId};

pub use harnesses::{Memory, Tcp};

use crate::wire::HEADER_BYTES;
use crate::{Deadline, Identity, Options, Tag, TagKind, Transport, TransportError};

/// A transport of some kind.
pub type Boxed = Box<dyn Transport>;

/// Makes transports of one kind.
pub trait Harness {
    /// Connects these members with each other, everybody to everybody; a result for each, in their order.
    fn connect(
        &self,
        members: &[Identity],
        options: &Options,
        deadline: Deadline,
    ) -> Vec<Result<Boxed, TransportError>>;

    /// A real rank 1 of a world of 2 (job "conformance", epoch 5), and a peer "rank 0" that sends whatever it
    /// is told.
    fn forge(&self, options: &Options) -> (Boxed, Box<dyn Forger>);
}

/// Makes transports that can go over to other epochs.
pub trait EditHarness: Harness {
    /// As [`Harness::connect`] of `world` members.
    fn mesh(&self, world: u32, options: &Options) -> Box<dyn Mesh>;

    /// As [`Harness::forge`].
    fn forge_mesh(&self, options: &Options) -> (Box<dyn Mesh>, Box<dyn Forger>);
}

/// Connected members that go over to other epochs.
pub trait Mesh: Send {
    /// The members in rank order.
    fn members(&self) -> Vec<&dyn Transport>;

    /// All go over to `epoch`, at once; those in `replaced` are other processes from then on. For each the peers
    /// whose links it kept, in rank order.
    fn edit(&mut self, epoch: Epoch, replaced: &[RankId]) -> Vec<Result<BTreeSet<RankId>, TransportError>>;
}

/// A peer that passed the handshake and then sends arbitrary bytes.
pub trait Forger: Send {
    /// Sends these bytes as they are.
    fn send(&mut self, header: &[u8; HEADER_BYTES], payload: &[u8]);
}

/// A named check.
pub type Check = (&'static str, fn(&dyn Harness));

/// Every check that all transports pass.
pub const ALL: &[Check] = &[
    ("order_per_tag", order::order_per_tag),
    ("any_tag_order", order::any_tag_order),
    ("big_frames_both_ways", order::big_frames_both_ways),
    ("many_small_frames", order::many_small_frames),
    ("payload_kinds", order::payload_kinds),
    ("sizes_are_checked", order::sizes_are_checked),
    (
        "slow_receiver_slows_the_sender",
        pressure::slow_receiver_slows_the_sender,
    ),
    ("frame_count_is_bounded", pressure::frame_count_is_bounded),
    (
        "waiting_receiver_reads_past_the_soft_bound",
        pressure::waiting_receiver_reads_past_the_soft_bound,
    ),
    ("stuck_receiver_is_told", pressure::stuck_receiver_is_told),
    ("many_threads_one_peer", pressure::many_threads_one_peer),
    ("crossing_sends_complete", pressure::crossing_sends_complete),
    (
        "waiting_for_each_other_through_a_third",
        pressure::waiting_for_each_other_through_a_third,
    ),
    ("deadlines_name_peer_and_tag", ends::deadlines_name_peer_and_tag),
    ("a_wait_shows_whom_it_is_for", ends::a_wait_shows_whom_it_is_for),
    ("abort_frees_everybody", ends::abort_frees_everybody),
    ("close_delivers_what_was_sent", ends::close_delivers_what_was_sent),
    (
        "close_ends_waits_for_this_rank_only",
        ends::close_ends_waits_for_this_rank_only,
    ),
    ("misuse_is_named", ends::misuse_is_named),
    ("foreign_members_are_refused", fence::foreign_members_are_refused),
    (
        "older_frames_are_dropped_and_counted",
        fence::older_frames_are_dropped_and_counted,
    ),
    (
        "foreign_frames_end_the_connection",
        fence::foreign_frames_end_the_connection,
    ),
    (
        "malformed_frames_end_the_connection",
        fence::malformed_frames_end_the_connection,
    ),
    (
        "reduce_scatter_equals_reference",
        collectives::reduce_scatter_equals_reference,
    ),
    (
        "all_gather_equals_reference",
        collectives::all_gather_equals_reference,
    ),
    (
        "all_reduce_equals_reference",
        collectives::all_reduce_equals_reference,
    ),
    ("broadcast_and_barrier", collectives::broadcast_and_barrier),
    ("phases_overlap", collectives::phases_overlap),
    (
        "integer_overflow_reaches_everybody",
        collectives::integer_overflow_reaches_everybody,
    ),
];

/// A named check of going over to another epoch.
pub type EditCheck = (&'static str, fn(&dyn EditHarness));

/// Every such check.
pub const EDITS: &[EditCheck] = &[
    (
        "an_edit_keeps_links_of_those_that_stay",
        edit::an_edit_keeps_links_of_those_that_stay,
    ),
    (
        "an_edit_frees_those_that_wait_for_each_other",
        edit::an_edit_frees_those_that_wait_for_each_other,
    ),
    (
        "an_edit_amid_large_frames_stays_in_step",
        edit::an_edit_amid_large_frames_stays_in_step,
    ),
    (
        "frames_of_the_epoch_before_come_late_in_vain",
        edit::frames_of_the_epoch_before_come_late_in_vain,
    ),
];

/// The job of every check.
#[must_use]
pub fn job() -> JobId {
    JobId::new("conformance").unwrap()
}

/// The epoch of every check.
pub const EPOCH: Epoch = Epoch(5);

/// Member `rank` of `world`.
#[must_use]
pub fn member(rank: u32, world: u32) -> Identity {
    Identity {
        job: job(),
        epoch: EPOCH,
        rank: RankId(rank),
        world,
    }
}

/// Small queues and kernel buffers, so that bounds are reached fast.
#[must_use]
pub fn small_queues() -> Options {
    Options {
        max_frame_bytes: 1 << 20,
        outbox_bytes: 256 << 10,
        outbox_frames: 64,
        inbox_soft_bytes: 256 << 10,
        inbox_hard_bytes: 16 << 20,
        socket_buffer_bytes: Some(64 << 10),
        linger: Duration::from_millis(300),
        ..Options::default()
    }
}

/// Far enough away that only a hang reaches it.
fn far() -> Deadline {
    Deadline::after(Duration::from_secs(60))
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_millis(100))
}

fn tag(index: u32) -> Tag {
    Tag::new(TagKind::Activation, 7, index)
}

fn world(harness: &dyn Harness, n: u32, options: &Options) -> Vec<Boxed> {
    let members: Vec<_> = (0..n).map(|rank| member(rank, n)).collect();
    harness
        .connect(&members, options, far())
        .into_iter()
        .map(|t| t.unwrap())
        .collect()
}

/// Runs `body` as every rank at once; returns the results in rank order.
fn on_each<T: Send>(world: &[Boxed], body: impl Fn(&dyn Transport) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let body = &body;
        let threads: Vec<_> = world.iter().map(|t| scope.spawn(move || body(&**t))).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    })
}

/// A reproducible stream of numbers (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}
