//! Waits for a communicator by looking at it now and then.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rekindle_compute::ComputeError;
use rekindle_compute::cuda::nccl::{Calls, Code, Comm};

use super::Fault;
use super::judge::{Bounds, Seen, Verdict, judge};

/// What a wait heeds besides NCCL.
pub(crate) struct Watch<'a> {
    /// This rank gives up.
    pub(crate) stop: &'a AtomicBool,
    /// Whether the peer's connection is at its end.
    pub(crate) hung_up: &'a mut dyn FnMut() -> bool,
}

pub(super) static NEVER: AtomicBool = AtomicBool::new(false);

/// Whether what was asked for has happened, as far as the device can tell.
pub(super) type Done<'a> = &'a dyn Fn(&dyn Calls, Comm) -> Result<bool, ComputeError>;

/// Looks often at first, then every millisecond.
#[derive(Default)]
struct Pace(u32);

impl Pace {
    fn rest(&mut self) {
        const YIELDS: u32 = 64;
        self.0 = self.0.saturating_add(1);
        match self.0.checked_sub(YIELDS) {
            None => std::thread::yield_now(),
            Some(rests) => {
                std::thread::sleep(Duration::from_micros(20 << rests.min(6)).min(Duration::from_millis(1)))
            }
        }
    }
}

/// Looks until what is under way is over.
pub(super) fn look(
    (calls, comm): (&dyn Calls, Comm),
    call: &'static str,
    bounds: Bounds,
    watch: &mut Watch<'_>,
    done: Done<'_>,
) -> Result<(), Fault> {
    let began = Instant::now();
    let mut hung_up = None;
    let mut pace = Pace::default();
    loop {
        let state = calls.state(comm);
        if (watch.hung_up)() {
            hung_up.get_or_insert_with(Instant::now);
        }
        let seen = Seen {
            state,
            done: state == Code::SUCCESS && done(calls, comm)?,
            stopped: watch.stop.load(Ordering::Relaxed),
            hung_up: hung_up.map(|at: Instant| at.elapsed()),
            waited: began.elapsed(),
        };
        match judge(seen, bounds) {
            Verdict::Wait => pace.rest(),
            Verdict::Done => return Ok(()),
            Verdict::Failed => return Err(Fault::of(calls, call, state)),
            Verdict::Stopped => return Err(Fault::Stopped { call }),
            Verdict::HungUp => return Err(Fault::HungUp { call }),
            Verdict::Hung => {
                let waited = seen.waited;
                return Err(Fault::Hung { call, waited });
            }
        }
    }
}
