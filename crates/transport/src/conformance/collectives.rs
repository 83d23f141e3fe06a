//! Collectives against a plain loop over all members' data, for 1 to 5 members (TR-8, TR-9).

use std::ops::Range;

use rekindle_types::RankId;

use super::{Harness, Numbers, far, on_each, small_queues, tag, world};
use crate::collective::{
    AllGather, AllReduce, Element, Group, ReduceScatter, all_reduce, barrier, broadcast,
};
use crate::{Options, Transport, TransportError};

/// A group in another order than the ranks', so that a place isn't a rank.
fn group(t: &dyn Transport) -> Group {
    let n = t.world();
    Group::new((0..n).map(|i| RankId((i + n / 2) % n)).collect(), t.rank()).unwrap()
}

/// Uneven parts, the first one empty when there are several.
fn parts(len: usize, n: usize) -> Vec<Range<usize>> {
    let bound = |i: usize| len * i * i / (n * n);
    (0..n)
        .map(|i| {
            if n > 2 && i == 0 {
                0..0
            } else {
                bound(i)..bound(i + 1)
            }
        })
        .collect()
}

fn data<T>(rank: RankId, len: usize, make: fn(u64) -> T) -> Vec<T> {
    let mut numbers = Numbers(u64::from(rank.0) + 1);
    (0..len).map(|_| make(numbers.next())).collect()
}

/// Runs a reduce-scatter and compares with adding up in the group's order.
fn reduce_scatter<T: Element + PartialEq + std::fmt::Debug>(
    t: &dyn Transport,
    len: usize,
    make: fn(u64) -> T,
) {
    let group = group(t);
    let mut own = data(t.rank(), len, make);
    let parts = parts(len, group.len());
    let started = ReduceScatter::start(t, &group, tag(1), &own, &parts, far()).unwrap();
    let mine = started.own();
    assert_eq!(mine, parts[group.place()]);
    let mut sum = data(group.members()[0], len, make);
    for &rank in &group.members()[1..] {
        T::add(&mut sum, &data(rank, len, make));
    }
    started.finish(t, &mut own[mine.clone()], far()).unwrap();
    assert!(
        own[mine.clone()] == sum[mine.clone()],
        "place {} of {}",
        group.place(),
        group.len()
    );
}

pub(super) fn reduce_scatter_equals_reference(harness: &dyn Harness) {
    for n in 1..=5 {
        let world = world(harness, n, &Options::default());
        on_each(&world, |t| {
            reduce_scatter::<i64>(t, 10_007, |x| (x as i64) >> 8);
            // Numbers of very different size, so that the order of adding shows in the bits.
            reduce_scatter::<f32>(t, 10_007, |x| {
                (x as u32 as f32 - 2e9) * f32::powi(2.0, (x >> 58) as i32)
            });
        });
    }
}

pub(super) fn all_gather_equals_reference(harness: &dyn Harness) {
    for n in 1..=5 {
        let world = world(harness, n, &Options::default());
        on_each(&world, |t| {
            let group = group(t);
            let parts = parts(9_001, group.len());
            let whole_of = |rank| data(rank, 9_001, |x| x as u32);
            let mut whole = vec![0_u32; 9_001];
            let mine = parts[group.place()].clone();
            whole[mine.clone()].copy_from_slice(&whole_of(t.rank())[mine.clone()]);
            let started = AllGather::start(t, &group, tag(2), &whole[mine], far()).unwrap();
            started.finish_into(t, &mut whole, &parts, far()).unwrap();
            for (place, part) in parts.into_iter().enumerate() {
                assert_eq!(whole[part.clone()], whole_of(group.members()[place])[part]);
            }
        });
    }
}

pub(super) fn all_reduce_equals_reference(harness: &dyn Harness) {
    for n in 1..=5 {
        let world = world(harness, n, &Options::default());
        on_each(&world, |t| {
            let group = group(t);
            let of = |rank| data(rank, 9, |x| i128::from(x as i64) << 40);
            let mut values = of(t.rank());
            all_reduce(t, &group, tag(3), &mut values, far()).unwrap();
            let sums: Vec<i128> = (0..9)
                .map(|i| group.members().iter().map(|&rank| of(rank)[i]).sum())
                .collect();
            assert_eq!(values, sums);
            let mut digest = [u128::MAX, 5];
            all_reduce(t, &group, tag(3), &mut digest, far()).unwrap();
            assert_eq!(
                digest,
                [0_u128.wrapping_sub(u128::from(n)), 5 * u128::from(n)],
                "modulo 2^128"
            );
        });
    }
}

pub(super) fn broadcast_and_barrier(harness: &dyn Harness) {
    for n in 1..=5 {
        let world = world(harness, n, &Options::default());
        let arrived = std::sync::atomic::AtomicU32::new(0);
        on_each(&world, |t| {
            let group = group(t);
            for root in 0..group.len() {
                let mut values = data(t.rank(), 100, |x| x);
                broadcast(t, &group, tag(4), root, &mut values, far()).unwrap();
                assert_eq!(values, data(group.members()[root], 100, |x| x));
            }
            assert!(broadcast(t, &group, tag(4), group.len(), &mut [0_u8], far()).is_err());
            for round in 1..=10 {
                arrived.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                barrier(t, &group, tag(5), far()).unwrap();
                assert!(arrived.load(std::sync::atomic::Ordering::SeqCst) >= round * n);
                barrier(t, &group, tag(5), far()).unwrap();
            }
        });
    }
}

/// Many operations between their phases at once, more than the queues hold, finished in another order.
pub(super) fn phases_overlap(harness: &dyn Harness) {
    const LAYERS: u32 = 20;
    const LEN: usize = 40_000;
    let world = world(harness, 3, &small_queues());
    on_each(&world, |t| {
        let group = group(t);
        let parts = parts(LEN, group.len());
        let mine = parts[group.place()].clone();
        let own = |layer: u32| vec![i64::from(layer * 10 + t.rank().0); LEN];
        let started: Vec<_> = (0..LAYERS)
            .map(|l| ReduceScatter::start(t, &group, tag(l), &own(l), &parts, far()).unwrap())
            .collect();
        let losses = AllReduce::start(t, &group, tag(LAYERS), &[1_i128], far()).unwrap();
        for (layer, started) in (0..LAYERS).zip(started).rev() {
            let mut sum = own(layer)[mine.clone()].to_vec();
            started.finish(t, &mut sum, far()).unwrap();
            assert!(
                sum.iter().all(|&v| v == i64::from(layer * 30 + 3)),
                "layer {layer}"
            );
        }
        assert_eq!(losses.finish(t, far()).unwrap(), [3]);
    });
}

pub(super) fn integer_overflow_reaches_everybody(harness: &dyn Harness) {
    let world = world(harness, 3, &Options::default());
    let errors = on_each(&world, |t| {
        all_reduce(t, &group(t), tag(6), &mut [i128::MAX / 2], far()).unwrap_err()
    });
    for error in &errors {
        assert!(matches!(error, TransportError::Overflow { .. }), "{error}");
        assert_eq!(error.to_string(), errors[0].to_string(), "all members fail alike");
    }
    let overflows = on_each(&world, |t| {
        let group = group(t);
        let own = [i64::MAX / 2; 6];
        let started = ReduceScatter::start(t, &group, tag(7), &own, &[0..2, 2..4, 4..6], far()).unwrap();
        matches!(
            started.finish(t, &mut [i64::MAX / 2; 2], far()),
            Err(TransportError::Overflow { .. })
        )
    });
    assert_eq!(overflows, [true; 3]);
}
