//! Which lane runs which micro-batch.

/// The micro-batches of `lane`, in the order in which it runs them: every `lanes`-th.
///
/// The sum of their gradients doesn't depend on this choice (exactness contract, point 4); it only balances the lanes.
#[must_use]
pub fn micro_batches_of(lane: u32, lanes: u32, micro_batches: u32) -> Vec<u32> {
    (lane..micro_batches).step_by(lanes.max(1) as usize).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_micro_batch_has_one_lane() {
        for lanes in 1..5 {
            for micro_batches in lanes..12 {
                let mut all: Vec<u32> = (0..lanes)
                    .flat_map(|l| micro_batches_of(l, lanes, micro_batches))
                    .collect();
                all.sort_unstable();
                assert_eq!(all, (0..micro_batches).collect::<Vec<_>>());
            }
        }
    }
}
