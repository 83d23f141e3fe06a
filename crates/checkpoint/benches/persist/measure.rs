//! Time on the clock and of the processor, and what many of them say.

use std::time::Instant;

use super::Error;

/// Processor time of this process so far, user and system, seconds.
pub fn cpu_seconds() -> f64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the pointer is valid for a write of one rusage, and an all-zero one is a valid value should the call
    // fail.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
        usage.assume_init()
    };
    let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 * 1e-6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

/// Processor time of this process's threads whose name starts so, seconds.
pub fn thread_seconds(prefix: &str) -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten();
    let seconds = tasks.filter_map(|task| {
        let read = |name: &str| std::fs::read_to_string(task.path().join(name)).ok();
        read("comm").filter(|comm| comm.starts_with(prefix))?;
        read("schedstat")?.split_whitespace().next()?.parse::<f64>().ok()
    });
    seconds.sum::<f64>() * 1e-9
}

/// Where this thread's time goes while it does something short.
#[derive(Default)]
pub struct Whereabouts {
    /// Seconds of the processor.
    pub runs: f64,
    /// Seconds in which it could have run, but others did.
    pub waits: f64,
}

impl Whereabouts {
    /// So far. What reading it takes doesn't count as run.
    pub fn now() -> Self {
        let waits = waited();
        Self {
            runs: thread_cpu(),
            waits,
        }
    }

    pub fn since(before: &Self) -> Self {
        let runs = thread_cpu() - before.runs;
        Self {
            runs,
            waits: waited() - before.waits,
        }
    }
}

fn thread_cpu() -> f64 {
    let mut time = std::mem::MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: the pointer is valid for a write of one timespec, and an all-zero one is a valid value should the call
    // fail.
    let time = unsafe {
        libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, time.as_mut_ptr());
        time.assume_init()
    };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

fn waited() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = stat.split_whitespace().nth(1);
    nanos.and_then(|word| word.parse::<f64>().ok()).unwrap_or(0.0) * 1e-9
}

pub fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = ((sorted.len() - 1) as f64 * q).round() as usize;
    sorted[at]
}

pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

pub fn spread(values: &[f64], digits: usize) -> String {
    format!(
        "{:.digits$} ({:.digits$} to {:.digits$})",
        median(values),
        quantile(values, 0.0),
        quantile(values, 1.0)
    )
}

/// Seconds on the clock and of the processor, round by round.
#[derive(Default)]
pub struct Runs {
    pub seconds: Vec<f64>,
    pub cpu: Vec<f64>,
}

impl Runs {
    pub fn time<T>(&mut self, keep: bool, work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        let (began, cpu) = (Instant::now(), cpu_seconds());
        let result = work()?;
        if keep {
            self.seconds.push(began.elapsed().as_secs_f64());
            self.cpu.push(cpu_seconds() - cpu);
        }
        Ok(result)
    }
}
