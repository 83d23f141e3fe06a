//! Many ranks: split, shrink and grow keep the plan's numbers whatever NCCL's are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use rekindle_compute::cuda::nccl::{Calls, Code, Shrink};
use rekindle_transport::nccl::{Communicator, Fault, Group, Members, NcclOptions};
use rekindle_types::RankId;

use super::simulated::{Cluster, VERSION};

fn options() -> NcclOptions {
    NcclOptions {
        transfer: Duration::from_secs(30),
        ..NcclOptions::default()
    }
}

fn ranks(ranks: &[u32]) -> Vec<RankId> {
    ranks.iter().copied().map(RankId).collect()
}

fn members(of: &[u32]) -> Members {
    Members::new(ranks(of)).unwrap()
}

/// Runs `body` as each of these ranks at once, with its group of all of them; process `i` is the `i`th.
fn as_group<T: Send>(
    cluster: &Cluster,
    of: &[u32],
    body: impl Fn(&Arc<dyn Calls>, RankId, Group) -> T + Sync,
) -> Vec<T> {
    let processes: Vec<_> = of.iter().map(|_| cluster.process()).collect();
    let id = processes[0].unique_id().unwrap();
    std::thread::scope(|scope| {
        let (body, id) = (&body, &id);
        let threads: Vec<_> = processes
            .iter()
            .zip(of)
            .map(|(calls, &me)| {
                scope.spawn(move || {
                    let group = Group::meet(calls, members(of), RankId(me), id, &options()).unwrap();
                    body(calls, RankId(me), group)
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    })
}

/// Everybody sends its number to everybody, one pair at a time.
fn everybody_reaches_everybody(calls: &Arc<dyn Calls>, me: RankId, group: &mut Group) {
    let piece = calls.memory(4).unwrap();
    let all = group.members().ranks().to_vec();
    for &from in &all {
        for &to in all.iter().filter(|&&to| to != from) {
            if me == from {
                put(&piece, me.0);
                group.send(&piece, 4, to).unwrap();
            } else if me == to {
                group.recv(&piece, 4, from).unwrap();
                assert_eq!(get(&piece), from.0);
            }
        }
    }
}

fn put(piece: &rekindle_compute::cuda::nccl::Piece, value: u32) {
    let memory = super::simulated::memory(piece);
    memory.lock().unwrap()[..4].copy_from_slice(&value.to_le_bytes());
}

fn get(piece: &rekindle_compute::cuda::nccl::Piece) -> u32 {
    let memory = super::simulated::memory(piece);
    let bytes = memory.lock().unwrap();
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

#[test]
fn a_group_splits_into_lanes() {
    let cluster = Cluster::default();
    let lanes: BTreeMap<_, _> = [(3, 0), (5, 1), (9, 0), (1, 1), (7, 1)]
        .map(|(rank, lane)| (RankId(rank), lane))
        .into();
    as_group(&cluster, &[3, 5, 9, 1, 7], |calls, me, mut group| {
        let mut lane = group.split(me, &lanes).unwrap();
        let expected: &[u32] = if lanes[&me] == 0 { &[3, 9] } else { &[5, 1, 7] };
        assert_eq!(lane.members(), &members(expected));
        everybody_reaches_everybody(calls, me, &mut lane);
        everybody_reaches_everybody(calls, me, &mut group);
        lane.finish().unwrap();
        group.finish().unwrap();
    });
    assert_eq!((cluster.calls("destroy"), cluster.calls("abort")), (10, 0));
    cluster.check();
}

#[test]
fn those_that_are_left_shrink_and_keep_their_numbers() {
    let cluster = Cluster::default();
    let lost = BTreeSet::from([RankId(1)]);
    as_group(&cluster, &[0, 1, 2, 3], |calls, me, group| {
        if me == RankId(1) {
            return;
        }
        let mut left = group.shrink(&lost, Shrink::Quiet).unwrap();
        assert_eq!(left.members(), &members(&[0, 2, 3]));
        everybody_reaches_everybody(calls, me, &mut left);
    });
    cluster.check();
}

/// Rank 2 dies in the middle of a transfer. Those that hang on it, and those that don't, go on without it.
#[test]
fn a_hung_transfer_is_stopped_by_shrinking() {
    let cluster = Cluster::default();
    let lost = BTreeSet::from([RankId(2)]);
    let impatient = Barrier::new(3);
    as_group(&cluster, &[0, 1, 2], |calls, me, mut group| {
        impatient.wait();
        if me == RankId(2) {
            cluster.die(2, false);
            return;
        }
        if me == RankId(0) {
            let quick = NcclOptions {
                transfer: Duration::from_millis(100),
                ..options()
            };
            group.communicator().set_options(&quick);
            let error = group.recv(&calls.memory(4).unwrap(), 4, RankId(2)).unwrap_err();
            assert!(matches!(error, Fault::Hung { .. }), "{error}");
            let error = group.send(&calls.memory(4).unwrap(), 4, RankId(1)).unwrap_err();
            assert!(matches!(error, Fault::State { state: "broken", .. }), "{error}");
        }
        let mut left = group.shrink(&lost, Shrink::Abort).unwrap();
        everybody_reaches_everybody(calls, me, &mut left);
    });
    cluster.check();
}

#[test]
fn ranks_join_behind_those_that_are_there() {
    let cluster = Cluster::default();
    let newcomer = cluster.process();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let id = told.recv().unwrap();
            let mut group = Group::join(&newcomer, members(&[4, 8, 6]), RankId(6), &id, &options()).unwrap();
            everybody_reaches_everybody(&newcomer, RankId(6), &mut group);
        });
        as_group(&cluster, &[4, 8], |calls, me, group| {
            let id = (me == RankId(8)).then(|| group.grow_id().unwrap());
            if let Some(id) = id {
                tell.send(id).unwrap();
            }
            let mut grown = group.grow(&ranks(&[6]), id.as_ref()).unwrap();
            assert_eq!(grown.members(), &members(&[4, 8, 6]));
            everybody_reaches_everybody(calls, me, &mut grown);
        });
    });
    cluster.check();
}

#[test]
fn a_replaced_rank_leaves_no_hole_for_nccl_and_keeps_its_number_for_the_plan() {
    let cluster = Cluster::default();
    let newcomer = cluster.process();
    let (tell, told) = std::sync::mpsc::channel();
    let lost = BTreeSet::from([RankId(0)]);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let id = told.recv().unwrap();
            let mut group = Group::join(&newcomer, members(&[1, 2, 0]), RankId(0), &id, &options()).unwrap();
            everybody_reaches_everybody(&newcomer, RankId(0), &mut group);
        });
        as_group(&cluster, &[0, 1, 2], |calls, me, group| {
            if me == RankId(0) {
                return;
            }
            let left = group.shrink(&lost, Shrink::Abort).unwrap();
            let id = (me == RankId(1)).then(|| left.grow_id().unwrap());
            if let Some(id) = id {
                tell.send(id).unwrap();
            }
            let mut whole = left.grow(&ranks(&[0]), id.as_ref()).unwrap();
            assert_eq!(whole.members().number(RankId(0)), Ok(2));
            everybody_reaches_everybody(calls, me, &mut whole);
        });
    });
    cluster.check();
}

#[test]
fn what_an_older_nccl_can_not_is_refused_by_name_and_never_called() {
    let cluster = Cluster::default();
    let old = cluster.process_with(22_600);
    let alone = |calls: &Arc<dyn Calls>| {
        let id = calls.unique_id().unwrap();
        Group::meet(calls, members(&[0]), RankId(0), &id, &options()).unwrap()
    };
    let missing = |fault: Option<Fault>| {
        assert!(
            matches!(fault, Some(Fault::Missing { version: 22_600, .. })),
            "{fault:?}"
        );
    };
    missing(
        alone(&old)
            .shrink(&BTreeSet::from([RankId(0)]), Shrink::Quiet)
            .err(),
    );
    missing(alone(&old).grow_id().err());
    missing(alone(&old).grow(&ranks(&[1]), None).err());
    let new = cluster.process_with(VERSION);
    // It has no network of its own to be found by.
    assert!(matches!(alone(&new).grow_id(), Err(Fault::Ranks { .. })));
    cluster.check();
}

#[test]
fn a_communicator_that_never_stands_is_aborted_at_its_bound() {
    let cluster = Cluster::default();
    let calls = cluster.process();
    let id = calls.unique_id().unwrap();
    let quick = NcclOptions {
        meet: Duration::from_millis(50),
        ..options()
    };
    // The other one never comes.
    let mut waiting = Communicator::meet(&calls, 2, 0, &id, &quick).unwrap();
    assert!(matches!(waiting.ready(), Err(Fault::Hung { .. })));
    assert!(!waiting.is_at_rest());
    assert!(matches!(
        waiting.finish(),
        Err(Fault::State { state: "broken", .. })
    ));
    assert_eq!((cluster.calls("abort"), cluster.calls("finalize")), (1, 0));
    cluster.check();
}

#[test]
fn a_failure_of_letting_go_in_order_ends_in_an_abort() {
    let cluster = Cluster::default();
    let calls = cluster.process();
    let id = calls.unique_id().unwrap();
    for (call, code) in [("finalize", Code::SYSTEM), ("state", Code(42))] {
        let mut alone = Communicator::meet(&calls, 1, 0, &id, &options()).unwrap();
        alone.ready().unwrap();
        cluster.plant(0, call, code);
        assert!(matches!(alone.finish(), Err(Fault::Code { code: got, .. }) if got == code));
    }
    assert_eq!((cluster.calls("abort"), cluster.calls("destroy")), (2, 0));
    cluster.check();
}
