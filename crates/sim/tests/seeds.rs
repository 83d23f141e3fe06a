//! Many seeds, equal bytes, and bugs put in on purpose.

use rekindle_sim::{Cut, PlantedBug, SimConfig, SimReport, run};
use rekindle_types::JobState;

fn seeds(range: std::ops::Range<u64>) -> Vec<SimReport> {
    range.map(|seed| run(SimConfig::new(seed))).collect()
}

#[test]
fn no_rule_is_broken() {
    let reports = seeds(0..500);
    for report in &reports {
        let broken: Vec<String> = report.violations.iter().map(ToString::to_string).collect();
        assert!(
            broken.is_empty(),
            "{}\nreplay: {}",
            broken.join("\n"),
            report.replay_command()
        );
    }
    let edits = reports.iter().map(|report| report.edits);
    let edits = edits.fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1));
    assert!(
        edits.0 > 200 && edits.1 > 30,
        "{edits:?} trainers edited, and in vain"
    );
    // The seeds must reach every end, or the rules were checked on nothing.
    let ends = |state: JobState| {
        reports
            .iter()
            .flat_map(|report| report.jobs.values())
            .filter(|(end, _)| *end == state)
            .count()
    };
    for (state, least) in [
        (JobState::Succeeded, 300),
        (JobState::Failed, 60),
        (JobState::Cancelled, 20),
    ] {
        let found = ends(state);
        assert!(
            found >= least,
            "{found} jobs ended {state}, at least {least} expected"
        );
    }
}

/// The journal is cut at every record of an otherwise undisturbed run: before anybody heard that it is durable, and
/// after what waited for it was done. No rule may be broken (among them: the fold is the live state, no step is lost
/// or committed twice), and every job must end as it would have. `REKINDLE_CUT_SEEDS=200` for more seeds.
#[test]
fn a_coordinator_that_dies_at_any_record_changes_no_jobs_end() {
    let many = std::env::var("REKINDLE_CUT_SEEDS")
        .ok()
        .and_then(|n| n.parse().ok());
    let mut cuts = 0;
    for seed in 0..many.unwrap_or(8) {
        let quiet = |cut| SimConfig {
            faults: Some(0),
            cut,
            ..SimConfig::new(seed)
        };
        let undisturbed = run(quiet(None));
        assert_eq!(undisturbed.coordinator_starts, 1);
        for record in 1..=undisturbed.records {
            for heard in [false, true] {
                let report = run(quiet(Some(Cut { record, heard })));
                let what = format!("seed {seed}, record {record}, heard {heard}");
                let broken: Vec<String> = report.violations.iter().map(ToString::to_string).collect();
                assert!(broken.is_empty(), "{what}: {}", broken.join("\n"));
                assert_eq!(report.coordinator_starts, 2, "{what}");
                let ends = |report: &SimReport| -> Vec<JobState> {
                    report.jobs.values().map(|(end, _)| *end).collect()
                };
                assert_eq!(ends(&report), ends(&undisturbed), "{what}");
                cuts += 1;
            }
        }
    }
    assert!(cuts > 500, "{cuts} cuts");
}

#[test]
fn a_seed_gives_the_same_bytes_every_time() {
    for seed in [1, 2, 3, 77, 1234] {
        let config = SimConfig {
            trace: true,
            ..SimConfig::new(seed)
        };
        let (first, second) = (run(config.clone()), run(config));
        assert_eq!(first, second);
        assert!(!first.trace.is_empty());
    }
    assert_ne!(
        run(SimConfig::new(1)).trace_hash,
        run(SimConfig::new(2)).trace_hash
    );
}

fn caught_by(planted: PlantedBug, count: u64) -> Vec<&'static str> {
    let mut rules = Vec::new();
    for seed in 0..count {
        let config = SimConfig {
            planted: Some(planted),
            faults: Some(8),
            ..SimConfig::new(seed)
        };
        rules.extend(run(config).violations.first().map(|violation| violation.rule));
    }
    rules
}

#[test]
fn effects_before_their_records_are_caught() {
    let rules = caught_by(PlantedBug::EarlyEffects, 5);
    assert_eq!(rules, ["SM-2"; 5]);
}

#[test]
fn a_worker_without_fences_is_caught() {
    let rules = caught_by(PlantedBug::UnfencedEpochs, 40);
    assert!(rules.contains(&"SM-3"), "{rules:?}");
}

#[test]
fn a_journal_that_loses_records_is_caught() {
    let rules = caught_by(PlantedBug::LostRecords, 40);
    assert!(!rules.is_empty());
}
