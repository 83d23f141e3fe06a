//! Seeded runs of a small job whose processes are killed and stopped and whose network is cut, several times each:
//! every one ends with the bits of a run that nobody disturbed, and leaves no trainer behind.
//!
//! `REKINDLE_CHAOS_RUNS=100` for many runs, `REKINDLE_CHAOS_SEED=7` for one of them. Cuts need network namespaces
//! (root and iproute2): where there are none they are left out and that is said; with `REKINDLE_REQUIRE_NETNS=1` it
//! is a failure.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on panics")]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use common::net::{COORDINATOR, Net};
use common::random::Random;
use common::{
    Cluster, Job, LIMIT, Line, Service, children, metrics, reaches, signal, train, try_signal, until,
};

const STEPS: u64 = 350;
/// Runs by default: each kind but the last two comes first in one of them.
const RUNS: u64 = 8;
/// Runs at once: they wait for leases most of the time.
const AT_ONCE: usize = 5;
/// Longer than a lease (10 s) and than connections of a cut network are believed in (13 s).
const LONG: (u64, u64) = (11_000, 15_000);

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    KillTrainer,
    KillWorker,
    KillCoordinator,
    StopTrainer,
    StopWorker,
    /// A worker and its trainers stand still, as a machine that is suspended.
    StopMachine,
    StopCoordinator,
    /// A worker is cut off from everybody.
    CutWorker,
    /// A worker is cut off from the coordinator, not from the other workers.
    CutFromCoordinator,
    /// Two workers are cut off from each other, not from the coordinator.
    CutApart,
}

const KINDS: [Kind; 10] = [
    Kind::KillTrainer,
    Kind::KillWorker,
    Kind::KillCoordinator,
    Kind::StopMachine,
    Kind::StopCoordinator,
    Kind::CutWorker,
    Kind::CutFromCoordinator,
    Kind::CutApart,
    Kind::StopTrainer,
    Kind::StopWorker,
];

impl Kind {
    fn kills(self) -> bool {
        matches!(self, Self::KillTrainer | Self::KillWorker | Self::KillCoordinator)
    }

    fn cuts(self) -> bool {
        matches!(self, Self::CutWorker | Self::CutFromCoordinator | Self::CutApart)
    }
}

/// What is done later: the end of a fault.
#[derive(Debug, PartialEq, Eq)]
enum Mend {
    Continue(Vec<u32>),
    Join(usize),
    Meet(usize, usize),
    Coordinator,
    Worker(usize),
}

/// When the next fault comes.
enum Next {
    Step(u64),
    Time(Instant),
}

/// One run: its cluster, what is to be mended when, and what was done, for whoever has to find out why it failed.
struct Run {
    random: Random,
    cluster: Cluster,
    folder: PathBuf,
    started: Instant,
    mends: Vec<(Instant, Mend)>,
    /// Trainers of workers that were killed.
    orphans: Vec<u32>,
    had_long: bool,
    told: Vec<String>,
}

impl Run {
    fn tell(&mut self, what: String) {
        let (at, step) = (self.started.elapsed().as_secs_f64(), last_step(&self.folder));
        self.told.push(format!("{at:>7.2} s, step {step:>3}: {what}"));
    }

    /// How long a fault lasts that lasts: mostly short, once a run longer than a lease.
    fn hold(&mut self) -> u64 {
        if !self.had_long && self.random.below(3) == 0 {
            self.had_long = true;
            return self.random.within(LONG.0, LONG.1);
        }
        self.random.within(50, 2_500)
    }

    fn later(&mut self, ms: u64, mend: Mend) {
        self.mends
            .push((Instant::now() + Duration::from_millis(ms), mend));
    }

    /// A worker, at random: one whose process lives.
    fn some_worker(&mut self) -> Option<usize> {
        let dead = |n: &usize| {
            let waits = |(_, mend): &(_, Mend)| matches!(mend, Mend::Worker(m) if m == n);
            self.mends.iter().any(waits)
        };
        let living: Vec<usize> = (0..self.cluster.workers.len()).filter(|n| !dead(n)).collect();
        self.random.pick(&living).copied()
    }

    fn coordinator_lives(&self) -> bool {
        !self
            .mends
            .iter()
            .any(|(_, mend)| matches!(mend, Mend::Coordinator))
    }

    fn inject(&mut self, kind: Kind) {
        let hold = if kind.kills() {
            self.random.within(0, 1_500)
        } else {
            self.hold()
        };
        let victim = match kind {
            Kind::KillCoordinator | Kind::StopCoordinator => self.coordinator_lives().then_some(0),
            _ => self.some_worker(),
        };
        let Some(n) = victim else { return };
        self.tell(format!("{kind:?} {n} {hold} ms"));
        match kind {
            Kind::KillTrainer => {
                for pid in self.some_trainer(n) {
                    try_signal(pid, "KILL");
                }
            }
            Kind::KillWorker => self.kill_worker(n, hold),
            Kind::KillCoordinator => {
                signal(self.cluster.coordinator.pid(), "KILL");
                assert_eq!(self.cluster.coordinator.ended(), -1);
                self.later(hold, Mend::Coordinator);
            }
            Kind::StopTrainer => {
                let pids = self.some_trainer(n);
                self.stop(pids, hold);
            }
            Kind::StopWorker => self.stop(vec![self.cluster.workers[n].pid()], hold),
            Kind::StopMachine => {
                let worker = self.cluster.workers[n].pid();
                self.stop([vec![worker], children(worker)].concat(), hold);
            }
            Kind::StopCoordinator => self.stop(vec![self.cluster.coordinator.pid()], hold),
            Kind::CutWorker | Kind::CutFromCoordinator | Kind::CutApart => self.cut(kind, n + 1, hold),
        }
    }

    fn some_trainer(&mut self, n: usize) -> Vec<u32> {
        let trainers = children(self.cluster.workers[n].pid());
        self.random.pick(&trainers).copied().into_iter().collect()
    }

    fn kill_worker(&mut self, n: usize, hold: u64) {
        let pid = self.cluster.workers[n].pid();
        self.orphans.extend(children(pid));
        signal(pid, "KILL");
        assert_eq!(self.cluster.workers[n].ended(), -1);
        self.later(hold, Mend::Worker(n));
    }

    fn stop(&mut self, pids: Vec<u32>, hold: u64) {
        for pid in &pids {
            try_signal(*pid, "STOP");
        }
        self.later(hold, Mend::Continue(pids));
    }

    fn cut(&mut self, kind: Kind, node: usize, hold: u64) {
        let Some(net) = &self.cluster.net else { return };
        let mend = match kind {
            Kind::CutWorker => {
                net.cut(node, true);
                Mend::Join(node)
            }
            _ => {
                let workers = self.cluster.workers.len();
                let other = match kind {
                    Kind::CutFromCoordinator => COORDINATOR,
                    _ => node % workers + 1,
                };
                net.part(node, other, true);
                Mend::Meet(node.min(other), node.max(other))
            }
        };
        self.later(hold, mend);
    }

    fn mend(&mut self, mend: Mend) {
        self.tell(format!("{mend:?}"));
        // What two faults hold down comes back with the later end.
        let held = |wanted: &Mend| self.mends.iter().any(|(_, mend)| mend == wanted);
        let stopped = |pid: &u32| {
            let stops = |(_, mend): &(_, Mend)| matches!(mend, Mend::Continue(pids) if pids.contains(pid));
            self.mends.iter().any(stops)
        };
        let net = self.cluster.net.as_ref();
        match mend {
            Mend::Continue(pids) => {
                for pid in pids.into_iter().filter(|pid| !stopped(pid)) {
                    try_signal(pid, "CONT");
                }
            }
            Mend::Join(_) | Mend::Meet(..) if held(&mend) => {}
            Mend::Join(node) => net.unwrap().cut(node, false),
            Mend::Meet(a, b) => net.unwrap().part(a, b, false),
            Mend::Coordinator => self.cluster.new_coordinator(),
            Mend::Worker(n) => self.cluster.workers[n] = self.cluster.new_worker(n),
        }
    }

    /// Mends what is due.
    fn tend(&mut self) {
        let now = Instant::now();
        while let Some(due) = self.mends.iter().position(|(at, _)| *at <= now) {
            let (_, mend) = self.mends.swap_remove(due);
            self.mend(mend);
        }
    }

    /// How the job ended, if it has.
    fn end(&self) -> Option<String> {
        let text = std::fs::read_to_string(self.folder.join("events.jsonl")).unwrap_or_default();
        let ends = ["job.succeeded", "job.failed", "job.cancelled"];
        let of = |line: &str| ends.iter().any(|end| line.contains(&format!("\"{end}\"")));
        text.lines().find(|line| of(line)).map(str::to_owned)
    }

    /// Mostly some steps later, so that the whole run is hit; now and then soon, whatever goes on: a recovery is hit
    /// as well.
    fn next(&mut self) -> Next {
        if self.random.below(3) == 0 {
            let wait = self.random.within(50, 1_500);
            return Next::Time(Instant::now() + Duration::from_millis(wait));
        }
        let last = last_step(&self.folder);
        Next::Step(last + self.random.within(5, 60))
    }

    fn is_due(&self, next: &Next) -> bool {
        match next {
            Next::Step(step) => last_step(&self.folder) >= *step,
            Next::Time(at) => *at <= Instant::now(),
        }
    }

    /// Lets so many faults happen until the job has ended, then mends everything.
    fn disturb(&mut self, first: Kind, faults: u64) -> Result<(), String> {
        let kinds: Vec<Kind> = KINDS
            .into_iter()
            .filter(|kind| !kind.cuts() || self.cluster.net.is_some())
            .collect();
        let mut left = faults;
        let mut next = Next::Step(self.random.within(2, 40));
        loop {
            self.tend();
            if let Some(end) = self.end() {
                return if end.contains("job.succeeded") {
                    Ok(())
                } else {
                    Err(end)
                };
            }
            if self.started.elapsed() > LIMIT {
                return Err("the job didn't end".to_owned());
            }
            if left > 0 && self.is_due(&next) {
                let drawn = *self.random.pick(&kinds).unwrap();
                self.inject(if left == faults { first } else { drawn });
                next = self.next();
                left -= 1;
            }
            for (n, worker) in self.cluster.workers.iter_mut().enumerate() {
                let ours = |(_, mend): &(_, Mend)| matches!(mend, Mend::Worker(m) if *m == n);
                let ended = worker.0.try_wait().unwrap();
                if let Some(status) = ended.filter(|_| !self.mends.iter().any(ours)) {
                    return Err(format!("worker {n} ended by itself: {status}"));
                }
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends all faults and waits until no trainer is left.
    fn settle(&mut self) {
        while let Some((_, mend)) = self.mends.pop() {
            self.mend(mend);
        }
        let mut watched = self.orphans.clone();
        until("the end of every trainer", || {
            watched.retain(|pid| is_trainer(*pid));
            let with_trainers = |worker: &Service| !children(worker.pid()).is_empty();
            (watched.is_empty() && !self.cluster.workers.iter().any(with_trainers)).then_some(())
        });
    }
}

/// The step of the last whole line of a run's metrics.jsonl.
fn last_step(run: &Path) -> u64 {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let last = whole
        .lines()
        .next_back()
        .map(serde_json::from_str::<serde_json::Value>);
    last.map_or(0, |line| line.unwrap()["step"].as_u64().unwrap())
}

/// Whether a trainer has this id: not a dead one, nor another process that got its number.
fn is_trainer(pid: u32) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line)
        .split('\0')
        .any(|arg| arg == "trainer")
}

/// (stages, lanes, workers)
const SHAPES: [(u32, u32, u32); 4] = [(2, 1, 2), (2, 1, 3), (1, 2, 2), (3, 1, 3)];

/// One seed's run. Err: what went wrong, with all that was done.
fn survive(
    folder: &Path,
    seed: u64,
    netns: bool,
    undisturbed: &BTreeMap<u64, Line>,
) -> Result<Vec<String>, String> {
    let mut random = Random::seeded(seed);
    let (stages, lanes, workers) = *random.pick(&SHAPES).unwrap();
    let name = format!("survives-{seed}");
    let here = folder.join(&name);
    std::fs::create_dir_all(&here).unwrap();
    let net =
        netns.then(|| Net::make(&format!("rk{}-{seed}", std::process::id()), workers as usize).unwrap());
    let cluster = Cluster::start_on(net, &here, workers, &[], &[]);
    let mut job = Job::new(STEPS).over(stages, lanes).saving(random.within(1, 25));
    // Every other run has only its checkpoints to go on from; the others go on from memory where they can.
    let sources = match seed % 2 {
        0 => r#"["local", "checkpoint"]"#,
        _ => r#"["checkpoint"]"#,
    };
    job.more += &format!("[recovery]\nmax_restarts = 1000\nsources = {sources}\n");
    let _ = cluster.submit(&job.write(folder, &name));
    let mut run = Run {
        random,
        cluster,
        folder: here,
        started: Instant::now(),
        mends: Vec::new(),
        orphans: Vec::new(),
        had_long: false,
        told: vec![format!(
            "{stages} stages, {lanes} lanes, {workers} workers, {}",
            job.more.trim()
        )],
    };
    reaches(&run.folder, 2);
    let mut first = KINDS[usize::try_from(seed).unwrap() % KINDS.len()];
    if first.cuts() && !netns {
        first = Kind::KillTrainer;
    }
    let faults = run.random.within(3, 8);
    let mut end = run.disturb(first, faults);
    if end.is_ok() {
        run.settle();
        let got = metrics(&run.folder);
        let differs = undisturbed
            .iter()
            .find(|(step, line)| got.get(step) != Some(line));
        if let Some((step, _)) = differs {
            end = Err(format!("step {step} isn't the undisturbed run's"));
        }
    }
    let folder = run.folder.display();
    match end {
        Ok(()) => Ok(run.told),
        Err(why) => Err(format!("{why}\n{}\nfolder {folder}", run.told.join("\n"))),
    }
}

/// The same, also where a part of it panics.
fn survived(
    folder: &Path,
    seed: u64,
    netns: bool,
    undisturbed: &BTreeMap<u64, Line>,
) -> Result<Vec<String>, String> {
    let run = || survive(folder, seed, netns, undisturbed);
    std::panic::catch_unwind(run).unwrap_or_else(|_| Err("a part of the test panicked".to_owned()))
}

/// Whether there are network namespaces; says so where there are none.
fn has_netns() -> bool {
    let Err(why) = Net::make(&format!("rk{}-try", std::process::id()), 1) else {
        return true;
    };
    let required = std::env::var("REKINDLE_REQUIRE_NETNS").is_ok_and(|v| v == "1");
    assert!(
        !required,
        "no network namespaces, which REKINDLE_REQUIRE_NETNS asks for: {why}"
    );
    println!("note: no network namespaces ({why}); faults that cut the network are left out");
    false
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|n| n.parse().unwrap())
}

#[test]
fn whatever_is_killed_stopped_or_cut_every_run_ends_with_the_undisturbed_bits() {
    let netns = has_netns();
    let folder = tempfile::tempdir().unwrap();
    let undisturbed = train(&Job::new(STEPS), folder.path(), "undisturbed", 1, 2);
    let seeds: Vec<u64> = match number("REKINDLE_CHAOS_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("REKINDLE_CHAOS_RUNS").unwrap_or(RUNS)).collect(),
    };
    let (left, failed) = (Mutex::new(seeds.into_iter()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let Some(seed) = left.lock().unwrap().next() else {
                        return;
                    };
                    let begun = Instant::now();
                    match survived(folder.path(), seed, netns, &undisturbed) {
                        Ok(told) => {
                            let took = begun.elapsed().as_secs_f64();
                            println!("seed {seed}, {took:.1} s:\n{}", told.join("\n"));
                        }
                        Err(why) => {
                            println!("seed {seed} FAILED: {why}");
                            failed.lock().unwrap().push(seed);
                        }
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    if !failed.is_empty() {
        let kept = folder.keep();
        panic!(
            "seeds {failed:?} failed; again: REKINDLE_CHAOS_SEED=N; their folders: {}",
            kept.display()
        );
    }
}
