//! Channels between epochs: what both ends have at rest is used again, everything else is made anew or aborted.

use std::time::Duration;

use rekindle_transport::conformance::{EPOCH, job};
use rekindle_transport::nccl::{NcclEndpoint, NcclOptions, NcclTransport};
use rekindle_transport::{Deadline, Identity, Options, Payload, Tag, TagKind, Transport};
use rekindle_types::{Epoch, RankId};

use super::conformance::{connect, endpoint};
use super::simulated::Cluster;

const TAG: Tag = Tag::new(TagKind::Activation, 1, 2);

fn far() -> Deadline {
    Deadline::after(Duration::from_secs(60))
}

fn options() -> NcclOptions {
    NcclOptions {
        required: true,
        least_bytes: 1,
        ..NcclOptions::default()
    }
}

/// Connects the endpoints in rank order under the `n`th epoch, and sends something over every link.
fn epoch(n: u64, endpoints: &[&NcclEndpoint]) -> Vec<NcclTransport> {
    let world = u32::try_from(endpoints.len()).unwrap();
    let members: Vec<_> = (0..world)
        .map(|rank| Identity {
            job: job(),
            epoch: Epoch(EPOCH.0 + n),
            rank: RankId(rank),
            world,
        })
        .collect();
    let world: Vec<_> = connect(&members, endpoints, &Options::default(), far())
        .into_iter()
        .map(Result::unwrap)
        .collect();
    for from in &world {
        for to in world.iter().filter(|to| to.rank() != from.rank()) {
            from.send(to.rank(), TAG, Payload::vec(vec![n; 1000]), far())
                .unwrap();
            assert_eq!(
                to.recv(from.rank(), TAG, far())
                    .unwrap()
                    .as_slice::<u64>()
                    .unwrap(),
                [n; 1000]
            );
        }
    }
    world
}

/// Both directions at both ends.
const OF_A_PAIR: usize = 4;

#[test]
fn a_new_plan_makes_only_the_pairs_that_changed() {
    let cluster = Cluster::default();
    let [a, b, c, d] = [0; 4].map(|_| endpoint(&cluster, &options()));
    drop(epoch(0, &[&a, &b, &c]));
    assert_eq!(cluster.calls("init"), 3 * OF_A_PAIR);
    // The same ranks at the same places: nothing is made.
    drop(epoch(1, &[&a, &b, &c]));
    assert_eq!(cluster.calls("init"), 3 * OF_A_PAIR);
    // Another process takes the place of the last.
    drop(c);
    drop(epoch(2, &[&a, &b, &d]));
    assert_eq!(cluster.calls("init"), 5 * OF_A_PAIR);
    drop(epoch(3, &[&a, &b]));
    assert_eq!(cluster.calls("init"), 5 * OF_A_PAIR);
    drop([a, b, d]);
    cluster.check();
}

#[test]
fn an_abort_between_transfers_costs_no_channel() {
    let cluster = Cluster::default();
    let [a, b] = [0; 2].map(|_| endpoint(&cluster, &options()));
    let world = epoch(0, &[&a, &b]);
    world[0].abort("new plan");
    drop(world);
    drop(epoch(1, &[&a, &b]));
    assert_eq!(cluster.calls("init"), OF_A_PAIR);
    drop([a, b]);
    cluster.check();
}

/// One end took part in a transfer that the other one wasn't through with: both make new ones.
#[test]
fn a_channel_that_was_in_the_middle_of_something_is_not_used_again() {
    let cluster = Cluster::default();
    let [a, b] = [0; 2].map(|_| endpoint(&cluster, &options()));
    let world = epoch(0, &[&a, &b]);
    cluster.freeze(1);
    world[0]
        .send(RankId(1), TAG, Payload::vec(vec![1_u8; 1000]), far())
        .unwrap();
    let deadline = far();
    while !(cluster.waits(0) && cluster.waits(1)) {
        assert!(deadline.remaining().is_some());
        std::thread::yield_now();
    }
    world[1].abort("new plan");
    drop(world);
    cluster.thaw(1);
    drop(epoch(1, &[&a, &b]));
    assert_eq!(cluster.calls("init"), 2 * OF_A_PAIR);
    drop([a, b]);
    cluster.check();
}
