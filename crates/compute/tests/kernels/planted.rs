//! Defects put into the kernels' sources must be found.

use rekindle_compute::cuda::kernels::MODULES;

use crate::attention::{check, shape};
use crate::emulator::{Arg, Emulator, Launch};
use crate::rows::call;
use crate::values::{Brain, Element, Single, value};

/// What goes wrong with a defect in attention, for a shape that needs more than one tile both ways: what a launch
/// reports, or what a comparison says.
fn attention_with(from: &str, to: &str) -> String {
    let emulator = Emulator::patched(&MODULES[3], 16, &[(from, to)]);
    let run = || {
        check::<Brain>(&mut emulator.start(), shape(16, 100, 2, 1), 1)?;
        check::<Single>(&mut emulator.start(), shape(16, 100, 2, 1), 1)
    };
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
    match caught {
        Ok(Ok(())) => panic!("nobody noticed {to:?} instead of {from:?}"),
        Ok(Err(text)) => text,
        Err(panic) => panic.downcast_ref::<String>().cloned().unwrap_or_default(),
    }
}

#[test]
fn a_missing_barrier_before_a_tile_is_overwritten() {
    needs_compiler!();
    let text = attention_with(
        "mix<T>(o, p, v, at);\n        __syncthreads();",
        "mix<T>(o, p, v, at);",
    );
    assert!(text.contains("race in shared memory"), "{text}");
}

#[test]
fn a_missing_barrier_before_a_tile_is_read() {
    needs_compiler!();
    let text = attention_with(
        "__syncthreads();\n        const int at = n % U::STAGES * OTHER;",
        "const int at = n % U::STAGES * OTHER;",
    );
    assert!(
        text.contains("race in shared memory") || text.contains("nobody wrote"),
        "{text}"
    );
}

#[test]
fn a_tile_that_is_read_while_it_is_on_its_way() {
    needs_compiler!();
    let text = attention_with(
        "wait_for_copies<U::STAGES - 1>();",
        "wait_for_copies<U::STAGES>();",
    );
    assert!(
        text.contains("instead of")
            || text.contains("race in shared memory")
            || text.contains("nobody wrote"),
        "{text}"
    );
}

#[test]
fn a_mask_that_is_off_by_one() {
    needs_compiler!();
    let text = attention_with(
        "x = key <= row + 8 * h ? x : NONE;",
        "x = key < row + 8 * h ? x : NONE;",
    );
    assert!(text.contains("instead of"), "{text}");
}

#[test]
fn a_last_tile_that_is_left_out() {
    needs_compiler!();
    let text = attention_with(
        "count = (end + OTHER - 1) / OTHER;",
        "count = (end + OTHER - 1) / OTHER - 1;",
    );
    assert!(text.contains("instead of"), "{text}");
}

#[test]
fn operands_of_a_tensor_core_in_another_order() {
    needs_compiler!();
    let text = attention_with(
        "a.r[1] = bf16_pair(c[2 * step][2]",
        "a.r[1] = bf16_pair(c[2 * step][1]",
    );
    assert!(text.contains("instead of"), "{text}");
}

#[test]
fn a_store_beyond_the_last_row() {
    needs_compiler!();
    let text = attention_with("if (row >= end) continue;", "if (row > end) continue;");
    assert!(
        text.contains("outside a buffer") || text.contains("was written") || text.contains("shows"),
        "{text}"
    );
}

#[test]
fn less_launch_memory_than_tiles() {
    needs_compiler!();
    let text = attention_with(
        "launch_shared<typename U::Cell>((OWN + U::STAGES * OTHER) * TILE_BYTES)",
        "launch_shared<typename U::Cell>((OWN + 2 * U::STAGES * OTHER) * TILE_BYTES)",
    );
    assert!(text.contains("shared memory"), "{text}");
}

fn norm(patches: &[(&str, &str)], width: usize, skip: usize) -> Result<Vec<Vec<u8>>, String> {
    let x: Vec<f32> = (0..3 * width).map(|i| (i % 13) as f32 - 5.0).collect();
    let args = vec![
        Single::buffer(&x, skip),
        Arg::Null,
        Arg::Null,
        Single::buffer(&x[..width], 0),
        Single::buffer(&vec![0.0; 3 * width], 0),
        Single::buffer(&[0.0; 3], 0),
        value(width as u32),
        value(1e-5f32),
    ];
    let launch: Launch = call::<Single>("norm", 3, 128, args);
    Emulator::patched(&MODULES[0], 0, patches).start().run(&launch)
}

#[test]
fn a_missing_barrier_in_a_sum_over_a_block() {
    needs_compiler!();
    norm(&[], 200, 0).unwrap();
    let text = norm(
        &[(
            "space.set(threadIdx.x / 32, x);\n    __syncthreads();",
            "space.set(threadIdx.x / 32, x);",
        )],
        200,
        0,
    );
    let text = text.unwrap_err();
    assert!(
        text.contains("race in shared memory") || text.contains("nobody wrote"),
        "{text}"
    );
}

#[test]
fn sixteen_bytes_at_an_address_that_does_not_allow_it() {
    needs_compiler!();
    norm(&[], 200, 1).unwrap();
    let text = norm(&[("return aligned(p) && width", "return width")], 200, 1).unwrap_err();
    assert!(text.contains("multiple of 16"), "{text}");
}

#[test]
fn a_loop_that_reads_beyond_the_row() {
    needs_compiler!();
    let text = norm(
        &[(
            "p.v[i] = i < count ? widen(from[i]) : 0.0f",
            "p.v[i] = i <= count ? widen(from[i]) : 0.0f",
        )],
        201,
        0,
    );
    // Behind the last row is nothing.
    assert!(text.is_err() || text != norm(&[], 201, 0), "nobody noticed");
}

#[test]
fn half_a_warp_in_a_shuffle() {
    needs_compiler!();
    let text = norm(
        &[(
            "x += __shfl_xor_sync(ALL_LANES, x, far);",
            "if (threadIdx.x % 32 < 16) x += __shfl_xor_sync(ALL_LANES, x, far);",
        )],
        64,
        0,
    );
    let text = text.unwrap_err();
    assert!(
        text.contains("different operations") || text.contains("wait"),
        "{text}"
    );
}

#[test]
fn a_barrier_that_only_some_threads_reach() {
    needs_compiler!();
    let patch = (
        "__syncthreads();\n    return sum;",
        "if (threadIdx.x < 96) __syncthreads();\n    return sum;",
    );
    let text = norm(&[patch], 64, 0).unwrap_err();
    assert!(text.contains("waits at line"), "{text}");
}
