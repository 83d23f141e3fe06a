//! Who has the lines of a job's metrics when rank 0's machine is lost, in whole trainers.

use super::*;

/// As many other machines as may be lost at once have every line that rank 0 told, with the values that only sums
/// over all ranks give.
#[test]
fn keepers_have_the_lines_that_rank_0_told() {
    let text = folder();
    let mut spec = spec(text.path(), "", "");
    spec.recovery.sources = vec![RecoverySource::Local, RecoverySource::Shadow];
    let keepers = ["a", "b"];
    let cases: [(u32, &[u32], &[&str]); 2] = [
        (1, &[1, 3, 5], &["a", "b", "c"]),
        (2, &[3, 5], &["a", "a", "b", "c"]),
    ];
    for (lanes, ends, workers) in cases {
        let memory = tempfile::tempdir().unwrap();
        for worker in workers {
            std::fs::create_dir_all(memory.path().join(worker)).unwrap();
        }
        let mut plan = plan(lanes, ends, workers);
        let ranks = train_on(&spec, &plan, 1, Some(memory.path()), &Options::default()).unwrap();
        let told = essence(&ranks[0].0);
        assert_eq!(told.len() as u64, STEPS);
        assert!(
            ranks[1..].iter().all(|(told, _)| told.is_empty()),
            "one rank tells"
        );
        plan.epoch = plan.epoch.next();
        for rank in rekindle_plan::first_on_workers(&plan) {
            let mut context = setup::context(start(&spec, &plan, rank), Duration::from_secs(1)).unwrap();
            context.memory_step = Some(STEPS);
            let worker = plan.worker_of(rank).unwrap().as_str();
            let reports = Reports::start(Some(&memory.path().join(worker)), &context);
            let found = essence(&reports.unwrap().take_over(&context));
            match keepers.contains(&worker) {
                true => assert_eq!(found, told, "{worker}"),
                false => assert_eq!(found, [], "{worker}"),
            }
        }
        std::fs::remove_dir_all(text.path().join("run")).unwrap();
    }
}
