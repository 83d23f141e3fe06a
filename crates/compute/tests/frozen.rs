//! Frozen buffers of the CPU device: shared, replaced from a bounded pool, waited for with an end.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rekindle_compute::{
    AdamPart, AdamSource, AdamStep, AdamTarget, ComputeError, Cpu, CpuBuffer, Device, Frozen, Hashing,
    SumKind, part_mut, whole, whole_mut,
};

const LEN: usize = 3000;
const SOON: Duration = Duration::from_millis(2);
const LATE: Duration = Duration::from_secs(60);

const STEP: AdamStep = AdamStep {
    lr: 0.1,
    betas: [0.9, 0.9],
    eps: 1e-8,
    step: 1,
    tokens: 1,
    clip: 1.0,
};

fn device() -> Cpu<f32> {
    Cpu::new(1).unwrap()
}

fn filled(cpu: &Cpu<f32>, len: usize, value: f32) -> CpuBuffer<f32> {
    let mut buffer = cpu.alloc(len).unwrap();
    cpu.write(whole_mut(&mut buffer, len), &vec![value; len]).unwrap();
    buffer
}

fn address(cpu: &Cpu<f32>, buffer: &CpuBuffer<f32>) -> usize {
    cpu.read(whole(buffer, 1)).unwrap().as_ptr() as usize
}

#[test]
fn every_kind_of_write_to_a_frozen_buffer_is_refused_by_name() {
    let cpu = device();
    let (mut buffer, other) = (filled(&cpu, LEN, 1.0), filled(&cpu, LEN, 2.0));
    let handle = cpu.freeze(&buffer, 10..20).unwrap();
    let refused = |what: &str, result: Result<(), ComputeError>| {
        let named = matches!(result, Err(ComputeError::Frozen { op }) if op == what);
        assert!(named, "{what}: {result:?}");
    };
    refused("fill_zero", cpu.fill_zero(whole_mut(&mut buffer, LEN)));
    refused("write", cpu.write(part_mut(&mut buffer, 0..1), &[3.0]));
    refused(
        "write_bytes",
        cpu.write_bytes(part_mut(&mut buffer, 100..101), &[0; 4]),
    );
    refused("add", cpu.add(whole_mut(&mut buffer, LEN), whole(&other, LEN)));
    let (mut m, mut v) = (filled(&cpu, LEN, 0.0), filled(&cpu, LEN, 0.0));
    let target = AdamTarget {
        weights: whole_mut(&mut buffer, LEN),
        exp_avg: whole_mut(&mut m, LEN),
        exp_avg_sq: whole_mut(&mut v, LEN),
    };
    let part = AdamPart {
        end: LEN,
        weight_decay: 0.0,
    };
    let mut sums = cpu.alloc_sums(SumKind::Float, LEN).unwrap();
    refused(
        "adamw",
        cpu.adamw(
            target,
            AdamSource::default(),
            &mut sums,
            0..LEN,
            &STEP,
            &[part],
            None,
        )
        .map(|_| ()),
    );
    assert_eq!(handle.bytes().unwrap(), 1.0_f32.to_ne_bytes().repeat(10));
    drop(handle);
    cpu.fill_zero(whole_mut(&mut buffer, LEN)).unwrap();
}

#[test]
fn spares_go_round_and_nothing_more_is_allocated() {
    let cpu = device();
    cpu.reserve_spares(&[LEN, LEN]).unwrap();
    let mut buffer = filled(&cpu, LEN, 0.0);
    let mut addresses = BTreeSet::new();
    let mut held = std::collections::VecDeque::new();
    for round in 1..200_u16 {
        let old = cpu.thaw([&mut buffer], LATE).unwrap();
        assert_eq!(old[0].is_some(), round > 1, "round {round}");
        let value = f32::from(round);
        cpu.write(whole_mut(&mut buffer, LEN), &vec![value; LEN]).unwrap();
        addresses.insert(address(&cpu, &buffer));
        held.push_back((value, cpu.freeze(&buffer, 0..LEN).unwrap()));
        if held.len() == 2 {
            let (value, handle) = held.pop_front().unwrap();
            assert_eq!(handle.bytes().unwrap(), value.to_ne_bytes().repeat(LEN));
        }
    }
    assert!(addresses.len() <= 3, "{} pieces of memory", addresses.len());
}

#[test]
fn an_empty_pool_makes_updates_wait_for_the_handle() {
    let cpu = device();
    let mut buffer = filled(&cpu, LEN, 1.0);
    let before = address(&cpu, &buffer);
    let handle = cpu.freeze(&buffer, 0..LEN).unwrap();
    let error = cpu.thaw([&mut buffer], SOON).unwrap_err();
    assert!(
        matches!(error, ComputeError::StillFrozen { elements: LEN, waited } if waited >= SOON),
        "{error}"
    );
    assert!(error.to_string().contains("larger pool"), "{error}");
    let (started, waits) = mpsc::channel();
    let began = Instant::now();
    std::thread::scope(|scope| {
        let cpu = &cpu;
        let waiting = scope.spawn(move || {
            started.send(()).unwrap();
            cpu.thaw([&mut buffer], LATE)
                .map(|old| (old[0].is_none(), buffer))
        });
        waits.recv().unwrap();
        drop(handle);
        let (in_place, buffer) = waiting.join().unwrap().unwrap();
        assert!(in_place);
        assert_eq!(address(cpu, &buffer), before);
    });
    assert!(began.elapsed() < LATE, "nobody woke the update");
}

#[test]
fn a_spare_that_comes_back_wakes_who_waits() {
    let cpu = device();
    cpu.reserve_spares(&[LEN]).unwrap();
    let (mut a, mut b) = (filled(&cpu, LEN, 1.0), filled(&cpu, LEN, 2.0));
    let (hold_a, _hold_b) = (cpu.freeze(&a, 0..LEN).unwrap(), cpu.freeze(&b, 0..LEN).unwrap());
    assert!(cpu.thaw([&mut a], SOON).unwrap()[0].is_some());
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| cpu.thaw([&mut b], LATE).unwrap()[0].is_some());
        // The memory that `a` left is the spare now.
        drop(hold_a);
        assert!(waiting.join().unwrap());
    });
}

#[test]
fn buffers_are_thawed_all_or_none() {
    let cpu = device();
    cpu.reserve_spares(&[LEN]).unwrap();
    let (mut a, mut b) = (filled(&cpu, LEN, 1.0), filled(&cpu, LEN + 1, 2.0));
    let before = address(&cpu, &a);
    let hold_a = cpu.freeze(&a, 0..LEN).unwrap();
    let hold_b = cpu.freeze(&b, 0..1).unwrap();
    assert!(cpu.thaw([&mut a, &mut b], SOON).is_err());
    assert_eq!(address(&cpu, &a), before);
    drop(hold_b);
    let old = cpu.thaw([&mut a, &mut b], SOON).unwrap();
    assert!(old[0].is_some() && old[1].is_none());
    assert_eq!(hold_a.bytes().unwrap(), 1.0_f32.to_ne_bytes().repeat(LEN));
}

/// Handles that live longer than the buffer and its device.
#[test]
fn handles_outlive_their_buffer() {
    let cpu = device();
    cpu.reserve_spares(&[LEN]).unwrap();
    let buffer = filled(&cpu, LEN, 4.0);
    let handles: Vec<_> = (0..3).map(|n| cpu.freeze(&buffer, n..LEN).unwrap()).collect();
    drop((buffer, cpu));
    assert_eq!(handles[2].bytes().unwrap(), 4.0_f32.to_ne_bytes().repeat(LEN - 2));
}

#[test]
fn parts_and_hashes_that_do_not_fit_are_refused() {
    let cpu = device();
    let refused = |parts: &[AdamPart], block: usize, blocks: usize, what: &str| {
        let mut state = [0.0, 0.0, 0.0].map(|value| filled(&cpu, LEN, value));
        let [w, m, v] = &mut state;
        let target = AdamTarget {
            weights: whole_mut(w, LEN),
            exp_avg: whole_mut(m, LEN),
            exp_avg_sq: whole_mut(v, LEN),
        };
        let mut sums = cpu.alloc_sums(SumKind::Float, LEN).unwrap();
        let mut hashes = [0, 1, 2].map(|_| vec![0; blocks]);
        let hashing = Hashing {
            block,
            hash: &|_, _, _| 1,
            out: hashes.each_mut().map(Vec::as_mut_slice),
        };
        let result = cpu.adamw(
            target,
            AdamSource::default(),
            &mut sums,
            0..LEN,
            &STEP,
            parts,
            Some(hashing),
        );
        assert!(
            matches!(result, Err(ComputeError::Shape { op: "adamw", what: found, .. }) if found == what),
            "{what}: {result:?}"
        );
    };
    let part = |end| AdamPart {
        end,
        weight_decay: 0.0,
    };
    refused(&[], 1024, 3, "parts");
    refused(&[part(LEN - 1)], 1024, 3, "parts");
    refused(&[part(5), part(4), part(LEN)], 1024, 3, "parts");
    refused(&[part(LEN)], 0, 3, "block");
    refused(&[part(LEN)], 1000, 3, "block");
    refused(&[part(LEN)], 1024, 2, "hashes");
}
