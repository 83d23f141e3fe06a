//! Every loss that a group is made for, on whole groups: all members encode, some are lost, the others give their
//! states back.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::expect_used,
    reason = "a test that can't go on panics"
)]

use std::collections::BTreeSet;

use rekindle_types::{Epoch, RankId};
use rekindle_vault::parity::{Damaged, Group, ParityError, Part, SEAL, Seal, Term, add_scaled, checksum};

/// One member's memory.
#[derive(Clone)]
struct Member {
    state: Vec<u8>,
    parities: Vec<u8>,
}

fn state(member: usize, bytes: u64) -> Vec<u8> {
    let byte = |n: u64| (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 29) as u8 ^ member as u8;
    (0..bytes).map(|n| byte(n + 1000 * member as u64)).collect()
}

fn at(bytes: &std::ops::Range<u64>) -> std::ops::Range<usize> {
    bytes.start as usize..bytes.end as usize
}

/// Adds terms up, each in two chunks, the last one first: neither order nor cuts matter.
fn add_up(terms: &[Term], bytes: u64, members: &[Option<Member>]) -> Vec<u8> {
    let mut sum = vec![0; bytes as usize];
    for term in terms.iter().rev() {
        let member = members[term.member]
            .as_ref()
            .expect("nothing is asked of who is lost");
        let part = match &term.part {
            Part::State(bytes) => &member.state[at(bytes)],
            Part::Parity(bytes) => &member.parities[at(bytes)],
        };
        let into = &mut sum[at(&term.into)];
        assert!(part.len() <= into.len());
        let half = part.len() / 2;
        add_scaled(&mut into[half..], term.factor, &part[half..]);
        add_scaled(&mut into[..half], term.factor, &part[..half]);
    }
    sum
}

fn encoded(group: &Group) -> Vec<Option<Member>> {
    let bare = |member| Member {
        state: state(member, group.size(member)),
        parities: Vec::new(),
    };
    let all: Vec<_> = (0..group.members()).map(|member| Some(bare(member))).collect();
    let whole = |(number, member): (usize, &Option<Member>)| {
        let parities = add_up(&group.encode(number), group.parity_bytes(number), &all);
        Some(Member {
            parities,
            ..member.clone().unwrap()
        })
    };
    all.iter().enumerate().map(whole).collect()
}

fn sets_of(members: usize, size: usize) -> impl Iterator<Item = BTreeSet<usize>> {
    let sets = (0..1_u32 << members).filter(move |set| set.count_ones() as usize == size);
    sets.map(move |set| (0..members).filter(|n| set >> n & 1 == 1).collect())
}

/// Loses every set of up to `losses` members and rebuilds each of them from the others.
fn every_loss_is_mended(sizes: &[u64], losses: usize) {
    let group = Group::new(sizes.to_vec(), losses).unwrap();
    let whole = encoded(&group);
    for lost in (1..=losses).flat_map(|size| sets_of(sizes.len(), size)) {
        let mut members = whole.clone();
        lost.iter().for_each(|member| members[*member] = None);
        let left = (0..sizes.len()).filter(|member| !lost.contains(member)).collect();
        for member in &lost {
            let terms = group.rebuild(*member, &left).unwrap();
            let rebuilt = add_up(&terms, group.size(*member), &members);
            let wanted = &whole[*member].as_ref().unwrap().state;
            assert!(
                rebuilt == *wanted,
                "{member} of {sizes:?} without {lost:?}, {losses} losses"
            );
        }
    }
}

/// Even and uneven sizes: none, below and above a piece, and no multiple of anything.
fn sizes(members: usize) -> [Vec<u64>; 4] {
    let mixed = [1000, 0, 4097, 63, 640, 1, 12_345, 65, 777];
    [
        vec![1200; members],
        mixed[..members].to_vec(),
        (0..members as u64).map(|n| 997 * n).collect(),
        vec![0; members],
    ]
}

#[test]
fn every_single_loss_is_mended() {
    for members in 2..=9 {
        sizes(members)
            .iter()
            .for_each(|sizes| every_loss_is_mended(sizes, 1));
    }
}

#[test]
fn every_two_losses_are_mended() {
    for members in 3..=9 {
        sizes(members)
            .iter()
            .for_each(|sizes| every_loss_is_mended(sizes, 2));
    }
}

#[test]
fn every_three_losses_and_all_but_one_are_mended() {
    for members in 4..=7 {
        for sizes in &sizes(members) {
            every_loss_is_mended(sizes, 3);
            every_loss_is_mended(sizes, members - 1);
        }
    }
}

#[test]
fn a_large_group_is_mended() {
    let group = Group::new(vec![1000; 255], 5).unwrap();
    let whole = encoded(&group);
    let lost = BTreeSet::from([0, 1, 100, 200, 254]);
    let left = (0..255).filter(|member| !lost.contains(member)).collect();
    for member in lost {
        let rebuilt = add_up(&group.rebuild(member, &left).unwrap(), 1000, &whole);
        assert!(rebuilt == state(member, 1000), "{member}");
    }
}

#[test]
fn more_losses_are_refused_by_name() {
    let group = Group::new(vec![100; 4], 1).unwrap();
    let error = group.rebuild(1, &BTreeSet::from([0, 2])).unwrap_err();
    assert_eq!(
        error.to_string(),
        "members [1, 3] of a group of 4 are lost, and it outlives 1 losses"
    );
    let left = BTreeSet::from([0, 1, 2, 3]);
    assert!(matches!(
        group.rebuild(2, &left),
        Err(ParityError::NotLost { member: 2, .. })
    ));
    for (members, losses) in [(0, 0), (2, 2), (1, 1), (256, 1)] {
        let error = Group::new(vec![1; members], losses).unwrap_err();
        assert!(matches!(error, ParityError::Shape { .. }), "{error}");
    }
}

#[test]
fn a_group_of_one_keeps_nothing() {
    let group = Group::new(vec![100], 0).unwrap();
    assert_eq!((group.parity_bytes(0), group.encode(0).len()), (0, 0));
}

fn seal(group: &Group, members: &[Option<Member>], member: usize) -> Seal {
    let own = members[member].as_ref().unwrap();
    let parities = group.parities(member);
    Seal {
        epoch: Epoch(3),
        step: 40,
        members: (0..group.members() as u32).map(RankId).collect(),
        member,
        losses: group.losses(),
        sizes: (0..group.members()).map(|member| group.size(member)).collect(),
        states: members
            .iter()
            .map(|m| checksum(&m.as_ref().unwrap().state))
            .collect(),
        parities: parities
            .iter()
            .map(|range| checksum(&own.parities[at(range)]))
            .collect(),
    }
}

#[test]
fn a_set_that_was_changed_is_refused_with_what_was_changed() {
    let group = Group::new(vec![1000, 300, 0, 70], 2).unwrap();
    let members = encoded(&group);
    let seal = seal(&group, &members, 0);
    let mut place = vec![0; SEAL];
    assert_eq!(Seal::read(&place), Err(Damaged::Seal));
    seal.write(&mut place).unwrap();
    assert_eq!(Seal::read(&place).as_ref(), Ok(&seal));
    let Member { state, parities } = members[0].clone().unwrap();
    seal.check(&state, &parities).unwrap();
    for byte in 0..state.len() {
        let mut state = state.clone();
        state[byte] ^= 1;
        assert_eq!(seal.check(&state, &parities), Err(Damaged::State));
    }
    for byte in 0..parities.len() {
        let number = group
            .parities(0)
            .iter()
            .position(|range| at(range).contains(&byte));
        let mut parities = parities.clone();
        parities[byte] ^= 0x80;
        let number = number.unwrap();
        assert_eq!(seal.check(&state, &parities), Err(Damaged::Parity { number }));
    }
    assert_eq!(seal.check(&state[1..], &parities), Err(Damaged::State));
    assert_eq!(
        seal.check(&state, &parities[1..]),
        Err(Damaged::Parity { number: 0 })
    );
    for byte in 0..100 {
        place[byte] ^= 4;
        assert_eq!(Seal::read(&place), Err(Damaged::Seal), "byte {byte}");
        place[byte] ^= 4;
    }
}

#[test]
fn the_seal_of_the_largest_group_fits() {
    let seal = Seal {
        epoch: Epoch(u64::MAX),
        step: u64::MAX,
        members: (0..255).map(|_| RankId(u32::MAX)).collect(),
        member: 254,
        losses: 254,
        sizes: vec![u64::MAX; 255],
        states: vec![u64::MAX; 255],
        parities: vec![u64::MAX; 254],
    };
    seal.write(&mut vec![0; SEAL]).unwrap();
}
