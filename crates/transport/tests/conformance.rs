//! Runs every conformance check against both transports.

use rekindle_transport::conformance::{ALL, EDITS, EditHarness, Harness, Memory, Tcp};

fn run(harness: &dyn Harness, name: &str) {
    let (_, check) = ALL.iter().find(|(n, _)| *n == name).expect("a check of the list");
    check(harness);
}

macro_rules! conformance {
    ($($name:ident),* $(,)?) => {
        mod memory {
            $(#[test] fn $name() { super::run(&super::Memory, stringify!($name)); })*
        }
        mod tcp {
            $(#[test] fn $name() { super::run(&super::Tcp, stringify!($name)); })*
        }
        #[test]
        fn the_list_is_complete() {
            let listed = [$(stringify!($name)),*];
            assert!(ALL.iter().map(|(name, _)| *name).eq(listed));
        }
    };
}

conformance!(
    order_per_tag,
    any_tag_order,
    big_frames_both_ways,
    many_small_frames,
    payload_kinds,
    sizes_are_checked,
    slow_receiver_slows_the_sender,
    frame_count_is_bounded,
    waiting_receiver_reads_past_the_soft_bound,
    stuck_receiver_is_told,
    many_threads_one_peer,
    crossing_sends_complete,
    waiting_for_each_other_through_a_third,
    deadlines_name_peer_and_tag,
    a_wait_shows_whom_it_is_for,
    abort_frees_everybody,
    close_delivers_what_was_sent,
    close_ends_waits_for_this_rank_only,
    misuse_is_named,
    foreign_members_are_refused,
    older_frames_are_dropped_and_counted,
    foreign_frames_end_the_connection,
    malformed_frames_end_the_connection,
    reduce_scatter_equals_reference,
    all_gather_equals_reference,
    all_reduce_equals_reference,
    broadcast_and_barrier,
    phases_overlap,
    integer_overflow_reaches_everybody,
);

fn edit(harness: &dyn EditHarness, name: &str) {
    let (_, check) = EDITS
        .iter()
        .find(|(n, _)| *n == name)
        .expect("a check of the list");
    check(harness);
}

macro_rules! edits {
    ($($name:ident),* $(,)?) => {
        mod edits_in_memory {
            $(#[test] fn $name() { super::edit(&super::Memory, stringify!($name)); })*
        }
        mod edits_over_tcp {
            $(#[test] fn $name() { super::edit(&super::Tcp, stringify!($name)); })*
        }
        #[test]
        fn the_list_of_edits_is_complete() {
            let listed = [$(stringify!($name)),*];
            assert!(EDITS.iter().map(|(name, _)| *name).eq(listed));
        }
    };
}

edits!(
    an_edit_keeps_links_of_those_that_stay,
    an_edit_frees_those_that_wait_for_each_other,
    an_edit_amid_large_frames_stays_in_step,
    frames_of_the_epoch_before_come_late_in_vain,
);
