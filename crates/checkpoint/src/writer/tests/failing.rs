//! Calls that fail, a few times or for good.

use std::time::Duration;

use super::faulty_files::{Call, Fault, FaultyFiles};
use super::{Bench, EIO, LONG, durable, failed, names, options};

const ENOSPC: i32 = 28;
const EINVAL: i32 = 22;
/// For captures that must fail.
const SHORT_BUDGET: Duration = Duration::from_millis(60);

/// A capture that meets `faults` and then works is durable and right; returns what was called.
fn survives(faults: &[(Call, usize, Fault)]) -> FaultyFiles {
    let bench = Bench::new();
    for &(call, count, fault) in faults {
        bench.files.next(call, count, fault);
    }
    let writer = bench.writer(options());
    writer.begin(bench.capture(7)).unwrap();
    bench.check(&durable(writer.finish(LONG)));
    bench.files
}

#[test]
fn small_layers_share_files_and_everything_is_there() {
    let files = survives(&[]);
    // 8 layers of 66 k to 180 k parameters; files of at least 300 KiB of weights.
    assert!(
        (4..=12).contains(&files.count(Call::Create)),
        "{}",
        files.count(Call::Create)
    );
    assert_eq!(files.count(Call::Create), files.count(Call::Sync));
}

#[test]
fn short_writes_are_continued() {
    let files = survives(&[(Call::Write, 40, Fault::Short(3))]);
    assert_eq!(
        files.count(Call::Create),
        survives(&[]).count(Call::Create),
        "without another attempt"
    );
    survives(&[
        (Call::Write, 5, Fault::Nothing),
        (Call::Write, 30, Fault::Short(2)),
    ]);
}

#[test]
fn what_fails_is_tried_again_from_the_start() {
    let plain = survives(&[]).count(Call::Create);
    for call in [Call::Create, Call::Reserve, Call::Write, Call::Sync] {
        for errno in [EIO, ENOSPC] {
            let files = survives(&[(call, 3, Fault::Errno(errno))]);
            assert_eq!(
                files.count(Call::Create),
                plain + 3,
                "{call:?} fails with {errno}"
            );
        }
    }
    let files = survives(&[(Call::SyncParents, 3, Fault::Errno(EIO))]);
    assert_eq!(
        files.count(Call::Create),
        plain,
        "names are synced again, not files"
    );
}

#[test]
fn a_file_system_that_takes_no_direct_writes_after_all_gets_others() {
    survives(&[(Call::Write, 1, Fault::Errno(EINVAL))]);
}

#[test]
fn a_full_disk_fails_the_capture_after_the_budget_and_not_the_next_one() {
    for call in [Call::Reserve, Call::Write, Call::SyncParents] {
        let bench = Bench::new();
        bench.files.next(call, usize::MAX, Fault::Errno(ENOSPC));
        let mut options = options();
        options.retry.budget = SHORT_BUDGET;
        let writer = bench.writer(options);
        writer.begin(bench.capture(1)).unwrap();
        let (error, attempts) = failed(writer.finish(LONG));
        assert!(
            error.contains("no space") && error.contains("step-00000001/w/"),
            "{error}"
        );
        assert!(attempts > 2, "{call:?}: {attempts}");
        bench.files.heal();
        writer.begin(bench.capture(2)).unwrap();
        bench.check(&durable(writer.finish(LONG)));
        drop(writer);
        assert_eq!(names(&bench.dir.path().join("step-00000001")), 0, "{call:?}");
    }
}

#[test]
fn a_panic_is_an_outcome_and_the_next_capture_has_a_thread() {
    let bench = Bench::new();
    let mut options = options();
    options.threads = 1;
    let writer = bench.writer(options);
    for call in [Call::Create, Call::Write, Call::SyncParents] {
        bench.files.next(call, 1, Fault::Panic);
        writer.begin(bench.capture(1)).unwrap();
        let (error, _) = failed(writer.wait(LONG));
        assert!(error.contains("panicked") && error.contains("ordered"), "{error}");
    }
    writer.begin(bench.capture(2)).unwrap();
    bench.check(&durable(writer.finish(LONG)));
}

#[test]
fn somebody_elses_file_is_an_error_at_once_and_stays() {
    let bench = Bench::new();
    let path = bench.dir.path().join("step-00000001/w/optim/head.safetensors");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, "theirs").unwrap();
    let mut options = options();
    options.group_bytes = 1;
    let writer = bench.writer(options);
    writer.begin(bench.capture(1)).unwrap();
    let (error, attempts) = failed(writer.finish(LONG));
    assert!(
        error.contains("head.safetensors") && error.contains("already"),
        "{error}"
    );
    assert_eq!(attempts, 1);
    drop(writer);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "theirs");
    assert_eq!(names(bench.dir.path()), 1, "ours are removed");
}
