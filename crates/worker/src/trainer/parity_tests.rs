//! Whole trainers that lose as many workers with their memory as their groups outlive, and go on with the bits of an
//! undisturbed run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rekindle_plan::parity_groups;
use rekindle_transport::{MemoryMesh, Options};
use rekindle_types::spec::RecoverySource;
use rekindle_types::{DeviceId, Epoch, JobSpec, Parities, Plan, RankId, Refill, StepReport};

use super::context::SharedTransport;
use super::device::Computing;
use super::left::Memory;
use super::parity::{self, Parity};
use super::shadow::Shadows;
use super::step::Trainer;
use super::tests::{STEPS, essence, folder, plan, spec, start, train};
use super::{TrainerError, setup};

/// Steps between exchanges, and the last step before the end that is exchanged.
const EVERY: u64 = 4;
const LAST: u64 = 48;

/// Where ranks get their state from, and the step.
type Start = Option<(u64, BTreeMap<RankId, Refill>)>;

/// A trainer from `from` to the end, which waits after every step for its exchange, so that it is known what is there.
fn one(
    spec: &JobSpec,
    plan: &Plan,
    rank: RankId,
    transport: SharedTransport,
    folder: &Path,
    from: Start,
) -> Result<Vec<StepReport>, TrainerError> {
    let mut context = setup::context(start(spec, plan, rank), Duration::from_secs(60))?;
    let computing = Computing {
        device: DeviceId::Cpu,
        threads: 1,
    };
    let mut engine = setup::engine(&context, computing, None)?;
    let memory = Memory::find(folder, &context, false);
    match from {
        None => setup::fill(&mut engine, &context)?,
        Some((step, refills)) => (context.memory_step, context.refills) = (Some(step), refills),
    }
    let sets = parity::reserve(Some(folder), &context)?;
    let parity = Parity::start(sets, Some(folder), &context, &transport)?;
    let text = setup::text(&context)?;
    let mut trainer = Trainer {
        shadows: Shadows::new(None, &context)?,
        context,
        transport,
        engine,
        text,
        saver: None,
        told: Box::new(|_| Ok(())),
        local: None,
        reports: None,
        parity,
        last_commit: Instant::now(),
    };
    trainer.begin(&memory, false)?;
    drop(memory);
    let mut reports = Vec::new();
    for step in trainer.context.started_after() + 1..=STEPS {
        reports.extend(trainer.step(step, false)?);
        let parity = trainer.parity.as_ref().unwrap();
        let by = Instant::now() + Duration::from_secs(60);
        while parity.published() == 0 {
            assert!(Instant::now() < by, "the exchange of step {step} doesn't end");
            std::thread::yield_now();
        }
    }
    Ok(reports)
}

/// All ranks; the reports of rank 0.
fn all(spec: &JobSpec, plan: &Plan, memory: &Path, from: Start) -> Vec<StepReport> {
    let transports = MemoryMesh::connect(&plan.job, plan.epoch, plan.world(), &Options::default());
    let ranks: Vec<_> = plan
        .ranks()
        .zip(transports.unwrap())
        .map(|(rank, transport)| {
            let (spec, plan, from) = (spec.clone(), plan.clone(), from.clone());
            let folder = folder_of(&plan, memory, rank);
            std::thread::spawn(move || one(&spec, &plan, rank, Arc::new(transport), &folder, from))
        })
        .collect();
    let reports = ranks.into_iter().map(|thread| thread.join().unwrap().unwrap());
    reports.collect::<Vec<_>>().remove(0)
}

fn folder_of(plan: &Plan, memory: &Path, rank: RankId) -> PathBuf {
    memory.join(plan.worker_of(rank).unwrap().as_str())
}

/// A copy of all workers' memory but that of the lost ones.
fn without(memory: &Path, workers: &[&str], lost: &[&str]) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for worker in workers {
        let _ = std::fs::create_dir(copy.path().join(worker));
        let files = std::fs::read_dir(memory.join(worker)).unwrap().flatten();
        for file in files.filter(|_| !lost.contains(worker)) {
            std::fs::copy(file.path(), copy.path().join(worker).join(file.file_name())).unwrap();
        }
    }
    copy
}

/// What the coordinator would say: every rank goes back to its set, or to what its group has.
fn decided(spec: &JobSpec, plan: &Plan, lost: &[&str]) -> BTreeMap<RankId, Refill> {
    let is_left = |rank: &RankId| !lost.contains(&plan.worker_of(*rank).unwrap().as_str());
    let of = |members: &Vec<RankId>| {
        Refill::Parity(Parities {
            epoch: Epoch(1),
            members: members.clone(),
            from: members.iter().copied().filter(is_left).collect(),
        })
    };
    let groups = parity_groups(plan, &spec.recovery.parity);
    let each = groups
        .iter()
        .flat_map(|group| group.iter().map(|rank| (*rank, of(group))));
    each.collect()
}

/// Every choice of up to `losses` of the workers.
fn choices<'a>(workers: &[&'a str], losses: u32) -> Vec<Vec<&'a str>> {
    let mut names = workers.to_vec();
    names.sort_unstable();
    names.dedup();
    let sets = 1..1_u32 << names.len();
    let sets = sets.filter(|set| set.count_ones() <= losses);
    let chosen = |set: u32| names.iter().enumerate().filter(move |(n, _)| set >> n & 1 == 1);
    sets.map(|set| chosen(set).map(|(_, name)| *name).collect())
        .collect()
}

fn survives(lanes: u32, ends: &[u32], workers: &[&str], losses: u32) {
    let text = folder();
    let mut spec = spec(text.path(), "tie_word_embeddings = true", "");
    let undisturbed = train(&spec, 1, &[5], 1).unwrap();
    spec.recovery.sources = vec![RecoverySource::Local, RecoverySource::Parity];
    (spec.recovery.parity.every, spec.recovery.parity.losses) = (EVERY, losses);
    let (plan, memory) = (plan(lanes, ends, workers), tempfile::tempdir().unwrap());
    for worker in workers {
        std::fs::create_dir_all(memory.path().join(worker)).unwrap();
    }
    let reports = all(&spec, &plan, memory.path(), None);
    assert_eq!(essence(&reports), essence(&undisturbed), "{workers:?}");
    let next = Plan {
        epoch: Epoch(2),
        ..plan.clone()
    };
    for lost in choices(workers, losses) {
        let left = without(memory.path(), workers, &lost);
        for rank in plan.ranks() {
            let context = setup::context(start(&spec, &next, rank), Duration::from_secs(1)).unwrap();
            let offers = Memory::find(&folder_of(&plan, left.path(), rank), &context, false).offers(&context);
            let steps: Vec<u64> = offers.parity.iter().map(|set| set.step).collect();
            let gone = lost.contains(&plan.worker_of(rank).unwrap().as_str());
            assert_eq!(
                steps,
                if gone { vec![] } else { vec![LAST] },
                "{rank} without {lost:?}"
            );
        }
        let from = Some((LAST, decided(&spec, &plan, &lost)));
        let again = all(&spec, &next, left.path(), from);
        let wanted = &undisturbed[LAST as usize..];
        assert_eq!(essence(&again), essence(wanted), "{workers:?} without {lost:?}");
    }
}

#[test]
fn any_worker_of_a_pipeline_may_be_lost() {
    survives(1, &[2, 5], &["a", "b"], 1);
    survives(1, &[1, 3, 4, 5], &["a", "b", "c", "d"], 1);
}

#[test]
fn any_two_workers_may_be_lost_where_the_job_says_so() {
    survives(1, &[1, 3, 4, 5], &["a", "b", "c", "d"], 2);
    survives(1, &[1, 4, 5], &["a", "b", "c"], 2);
}

#[test]
fn lanes_and_workers_with_several_ranks_may_be_lost() {
    survives(2, &[3, 5], &["a", "b", "c", "d"], 1);
    survives(2, &[3, 5], &["a", "a", "b", "b"], 1);
    survives(3, &[4, 5], &["a", "b", "c", "a", "b", "c"], 2);
}

#[test]
fn a_set_that_was_changed_is_not_offered() {
    let (text, memory) = (folder(), tempfile::tempdir().unwrap());
    let mut spec = spec(text.path(), "", "");
    spec.recovery.sources = vec![RecoverySource::Local, RecoverySource::Parity];
    spec.recovery.parity.every = EVERY;
    let plan = plan(1, &[2, 5], &["a", "b"]);
    for worker in ["a", "b"] {
        std::fs::create_dir(memory.path().join(worker)).unwrap();
    }
    all(&spec, &plan, memory.path(), None);
    let next = Plan {
        epoch: Epoch(2),
        ..plan.clone()
    };
    let context = setup::context(start(&spec, &next, RankId(0)), Duration::from_secs(1)).unwrap();
    let folder = folder_of(&plan, memory.path(), RankId(0));
    let offered = || {
        Memory::find(&folder, &context, false)
            .offers(&context)
            .parity
            .len()
    };
    assert_eq!(offered(), 1);
    let file = folder.join("exact-1+p0+e1");
    let whole = std::fs::read(&file).unwrap();
    // One byte in every page behind the table: of states, seals and parities.
    let pages = (264 << 10..whole.len()).step_by(4096);
    let mut changed = 0;
    for at in pages {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        std::fs::write(&file, bytes).unwrap();
        changed += usize::from(offered() == 0);
    }
    // Half of the pages are of a set that isn't listed any more, and a seal has room to spare.
    assert!(changed > 3, "{changed} of {} bytes", whole.len());
    std::fs::write(&file, &whole).unwrap();
    assert_eq!(offered(), 1);
}
