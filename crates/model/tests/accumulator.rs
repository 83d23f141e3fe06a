//! Properties of the fixed-point gradient sums: exact whatever the order and the owner, and never silently wrong.

#![allow(clippy::unwrap_used, clippy::panic)]

use proptest::prelude::*;
use rekindle_compute::{Cpu, CpuSums, Device, POISON, SumKind, part_mut, whole};

const LEN: usize = 21;

fn sums_of(cpu: &Cpu<f32>, shift: u32, gradients: &[Vec<f32>]) -> CpuSums<f32> {
    let mut sums = cpu.alloc_sums(SumKind::Fixed { shift }, LEN).unwrap();
    for gradient in gradients {
        let mut buffer = cpu.alloc(LEN).unwrap();
        cpu.write(part_mut(&mut buffer, 0..LEN), gradient).unwrap();
        cpu.accumulate(&mut sums, 0, whole(&buffer, LEN)).unwrap();
    }
    sums
}

fn values(cpu: &Cpu<f32>, sums: &CpuSums<f32>) -> Vec<i64> {
    let bytes = cpu.sums_bytes(sums, 0..LEN).unwrap();
    bytes
        .chunks_exact(8)
        .map(|b| i64::from_ne_bytes(b.try_into().unwrap()))
        .collect()
}

/// `round_ties_even(g * 2^shift)` in 128 bits; None when it isn't finite or doesn't fit.
fn exact(g: f32, shift: u32) -> Option<i128> {
    let scaled = (f64::from(g) * 2f64.powi(shift as i32)).round_ties_even();
    (scaled.abs() < 2f64.powi(63)).then_some(scaled as i128)
}

fn gradients(elements: impl Strategy<Value = f32> + Clone) -> impl Strategy<Value = Vec<Vec<f32>>> {
    prop::collection::vec(prop::collection::vec(elements, LEN), 1..7)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn order_and_owner_do_not_show(all in gradients(-1e3f32..1e3), shift in 20u32..44, cut in 0usize..7) {
        let cpu = Cpu::<f32>::new(1).unwrap();
        let want = values(&cpu, &sums_of(&cpu, shift, &all));
        let mut turned = all.clone();
        turned.reverse();
        prop_assert_eq!(&values(&cpu, &sums_of(&cpu, shift, &turned)), &want);
        let (low, high) = all.split_at(cut.min(all.len()));
        let mut here = sums_of(&cpu, shift, low);
        let there = sums_of(&cpu, shift, high);
        let bytes = cpu.sums_bytes(&there, 0..LEN).unwrap().into_owned();
        cpu.add_sums_bytes(&mut here, 0..LEN, &bytes).unwrap();
        prop_assert_eq!(&values(&cpu, &here), &want);
        for (i, &value) in want.iter().enumerate() {
            let sum: i128 = all.iter().map(|g| exact(g[i], shift).unwrap()).sum();
            prop_assert_eq!(i128::from(value), sum);
        }
    }

    /// Any bits at all: an element is exact or marked, and marked whenever a summand or the sum doesn't fit.
    #[test]
    fn never_silently_wrong(all in gradients(any::<u32>().prop_map(f32::from_bits)), shift in 0u32..61) {
        let cpu = Cpu::<f32>::new(1).unwrap();
        let sums = sums_of(&cpu, shift, &all);
        let squares = cpu.block_squares(&sums, 0..LEN, LEN, 1).unwrap();
        let have = values(&cpu, &sums);
        for (i, &value) in have.iter().enumerate() {
            let parts: Option<Vec<i128>> = all.iter().map(|g| exact(g[i], shift)).collect();
            let sum = parts.as_ref().map(|p| p.iter().sum::<i128>());
            let size = parts.map(|p| p.iter().map(|x| x.abs()).sum::<i128>());
            match sum {
                Some(sum) if value != POISON => prop_assert_eq!(i128::from(value), sum),
                _ => prop_assert_eq!(value, POISON),
            }
            if size.is_some_and(|s| s < i128::from(i64::MAX)) {
                prop_assert_ne!(value, POISON);
            }
        }
        prop_assert_eq!(squares[0].is_nan(), have.contains(&POISON));
    }
}

/// Many sums that fit one by one and not together.
#[test]
fn overflow_of_the_sum_is_marked() {
    let cpu = Cpu::<f32>::new(1).unwrap();
    let all = vec![vec![2f32.powi(60); LEN]; 9];
    assert!(
        values(&cpu, &sums_of(&cpu, 0, &all[..7]))
            .iter()
            .all(|&v| v == 7 << 60)
    );
    assert!(values(&cpu, &sums_of(&cpu, 0, &all)).iter().all(|&v| v == POISON));
}
