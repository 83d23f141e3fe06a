//! Which faults come when (CM-6): at a rate, from a file, or from a recorded trace of lost machines.
//!
//! In: a seed and text. Out: [`Planned`] faults in order of time. Whom a fault hits is drawn here as a number; it
//! picks among those that are there when the time has come.

use rekindle_types::FaultKind;
use rekindle_types::fault::LONGEST_HOLD;

use super::random::Random;

/// A fault to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// Milliseconds after the start.
    pub at_ms: u64,
    /// What goes wrong.
    pub kind: FaultKind,
    /// Picks the target: the one at `pick` modulo their number.
    pub pick: u64,
    /// How long it lasts, milliseconds; 0 for a kind that doesn't last.
    pub hold_ms: u64,
}

/// What all schedules share.
#[derive(Debug, Clone)]
pub struct Draws {
    random: Random,
    kinds: Vec<FaultKind>,
    longest_ms: u64,
}

impl Draws {
    /// Draws kinds from `kinds` (at least one; all equally often) and lengths of up to `longest_ms` milliseconds.
    #[must_use]
    pub fn new(seed: u64, kinds: &[FaultKind], longest_ms: u64) -> Self {
        Self {
            random: Random::new(seed),
            kinds: kinds.to_vec(),
            longest_ms: longest_ms.max(1),
        }
    }

    /// The next fault, at this time. Takes the same number of draws whatever it draws.
    fn fault(&mut self, at_ms: u64) -> Option<Planned> {
        let kind = *self
            .kinds
            .get(self.random.draw() as usize % self.kinds.len().max(1))?;
        Some(self.fault_of(at_ms, kind))
    }

    /// The next fault, of this kind.
    fn fault_of(&mut self, at_ms: u64, kind: FaultKind) -> Planned {
        let (pick, hold) = (self.random.draw(), 1 + self.random.draw() % self.longest_ms);
        Planned {
            at_ms,
            kind,
            pick,
            hold_ms: if kind.lasts() { hold } else { 0 },
        }
    }
}

/// Faults without end, on average `per_minute` a minute: the gaps are exponentially distributed (a Poisson process).
pub fn at_rate(mut draws: Draws, per_minute: f64) -> impl Iterator<Item = Planned> {
    let mut at = 0.0_f64;
    std::iter::from_fn(move || {
        let gap = -(1.0 - draws.random.fraction()).ln() * 60_000.0 / per_minute;
        at += gap;
        draws.fault(at as u64)
    })
}

/// The faults of a schedule file: one a line, `SECONDS,KIND` or `SECONDS,KIND,HOLD_SECONDS`; empty lines and what
/// follows `#` don't count.
///
/// # Errors
/// The line that can't be read, and why.
pub fn from_file(text: &str, mut draws: Draws) -> Result<Vec<Planned>, String> {
    let mut planned = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let fault = line_of_file(line, &mut draws).map_err(|why| format!("line {number}: {why}"))?;
        planned.push(fault);
    }
    planned.sort_by_key(|fault| fault.at_ms);
    Ok(planned)
}

fn line_of_file(line: &str, draws: &mut Draws) -> Result<Planned, String> {
    let mut cells = line.split(',').map(str::trim);
    let at_ms = milliseconds(cells.next().unwrap_or_default())?;
    let name = cells.next().ok_or("no kind of fault; write SECONDS,KIND")?;
    let kind = FaultKind::parse(name).ok_or_else(|| format!("{name:?} is no kind of fault"))?;
    let hold = cells.next().map(milliseconds).transpose()?;
    if let Some(more) = cells.next() {
        return Err(format!("{more:?} is one value too many"));
    }
    let drawn = draws.fault_of(at_ms, kind);
    let hold_ms = match hold {
        Some(hold) if kind.lasts() => hold.clamp(1, LONGEST_HOLD),
        _ => drawn.hold_ms,
    };
    Ok(Planned { hold_ms, ..drawn })
}

fn milliseconds(text: &str) -> Result<u64, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| format!("{text:?} is no number of seconds"))?;
    if !(0.0..1e9).contains(&seconds) {
        return Err(format!("{text:?} is no possible number of seconds"));
    }
    Ok((seconds * 1e3) as u64)
}

/// The faults of a recorded trace: lines `MILLISECONDS,add|remove,NODE`. Each removal is a fault, at its time after
/// the trace's first line divided by `scale`; a node picks the same target every time. Additions aren't needed: what
/// dies is started again.
///
/// # Errors
/// The line that can't be read, and why.
pub fn from_trace(text: &str, mut draws: Draws, scale: f64) -> Result<Vec<Planned>, String> {
    let mut planned = Vec::new();
    let mut first = None;
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim().is_empty() {
            continue;
        }
        let (at, removed) = line_of_trace(line).map_err(|why| format!("line {number}: {why}"))?;
        let start = *first.get_or_insert(at);
        let Some(node) = removed else { continue };
        let at_ms = (at.saturating_sub(start) as f64 / scale) as u64;
        if let Some(fault) = draws.fault(at_ms) {
            let pick = node
                .bytes()
                .fold(0, |sum, byte| Random::new(sum ^ u64::from(byte)).draw());
            planned.push(Planned { pick, ..fault });
        }
    }
    planned.sort_by_key(|fault| fault.at_ms);
    Ok(planned)
}

/// When, and which node was removed.
fn line_of_trace(line: &str) -> Result<(u64, Option<&str>), String> {
    let cells: Vec<&str> = line.split(',').map(str::trim).collect();
    let [at, what, node] = cells[..] else {
        return Err(format!(
            "{} values in place of MILLISECONDS,add|remove,NODE",
            cells.len()
        ));
    };
    let at = at
        .parse()
        .map_err(|_| format!("{at:?} is no number of milliseconds"))?;
    match what {
        "add" => Ok((at, None)),
        "remove" => Ok((at, Some(node))),
        other => Err(format!("{other:?} is neither add nor remove")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draws(seed: u64) -> Draws {
        Draws::new(seed, FaultKind::ALL, 3_000)
    }

    fn first(seed: u64, count: usize) -> Vec<Planned> {
        at_rate(draws(seed), 30.0).take(count).collect()
    }

    #[test]
    fn the_same_seed_gives_the_same_faults_and_another_others() {
        assert_eq!(first(7, 200), first(7, 200));
        assert_ne!(first(7, 200), first(8, 200));
        assert_eq!(first(7, 200)[..50], first(7, 50)[..]);
    }

    #[test]
    fn a_rate_is_kept_on_average_and_every_kind_comes() {
        let faults = first(1, 4_000);
        let mean = faults.last().unwrap().at_ms as f64 / 4_000.0;
        assert!(
            (1_900.0..2_100.0).contains(&mean),
            "{mean} ms between two at 30 a minute"
        );
        for kind in FaultKind::ALL {
            let of_kind: Vec<_> = faults.iter().filter(|fault| fault.kind == *kind).collect();
            assert!((700..900).contains(&of_kind.len()), "{kind}: {}", of_kind.len());
            let holds = of_kind.iter().map(|fault| fault.hold_ms);
            assert!(holds.clone().all(|ms| (ms > 0) == kind.lasts() && ms <= 3_000));
        }
        assert!(faults.windows(2).all(|two| two[0].at_ms <= two[1].at_ms));
    }

    #[test]
    fn a_file_gives_its_faults_in_order_of_time() {
        let text = "# two\n12.5, kill-worker\n\n3,cut-session,2.5 # short\n";
        let faults = from_file(text, draws(1)).unwrap();
        let told: Vec<_> = faults.iter().map(|f| (f.at_ms, f.kind, f.hold_ms)).collect();
        assert_eq!(
            told,
            [
                (3_000, FaultKind::CutSession, 2_500),
                (12_500, FaultKind::KillWorker, 0)
            ]
        );
        assert_eq!(faults, from_file(text, draws(1)).unwrap());
        for (bad, why) in [
            ("1,kill", "\"kill\""),
            ("\nx,kill-worker", "line 2"),
            ("1", "KIND"),
            ("1,kill-worker,1,2", "too many"),
            ("-1,kill-worker", "-1"),
        ] {
            let told = from_file(bad, draws(1)).unwrap_err();
            assert!(told.contains(why), "{told}");
        }
    }

    #[test]
    fn removals_of_a_trace_are_faults_on_a_faster_clock() {
        let text = "1000,add,n1\n2000,remove,n1\n4000,remove,n2\n61000,remove,n1\n";
        let draws = || Draws::new(1, &[FaultKind::KillWorker], 1);
        let faults = from_trace(text, draws(), 10.0).unwrap();
        assert_eq!(
            faults.iter().map(|f| f.at_ms).collect::<Vec<_>>(),
            [100, 300, 6_000]
        );
        assert_eq!(faults[0].pick, faults[2].pick);
        assert_ne!(faults[0].pick, faults[1].pick);
        for bad in ["1000,gone,n1", "x,add,n1", "1000,add"] {
            assert!(from_trace(bad, draws(), 1.0).unwrap_err().contains("line 1"));
        }
    }
}
