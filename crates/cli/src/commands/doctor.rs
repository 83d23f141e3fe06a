//! `rekindle doctor`

use clap::Args;
use rekindle_compute::cuda::survey::{DeviceState, LibraryState, Survey, survey};
use serde::Serialize;

use crate::device;
use crate::exit::Exit;
use crate::output::{self, Format};
use crate::problem::Problem;

/// Arguments of `rekindle doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {}

#[derive(Serialize)]
struct Report {
    cpu: Processor,
    libraries: Vec<Library>,
    devices: Vec<Device>,
    troubles: Vec<Trouble>,
    /// Where trainers compute unless `--device` says otherwise.
    trains_on: String,
}

#[derive(Serialize)]
struct Processor {
    threads: usize,
    /// None where the system doesn't say.
    memory_bytes: Option<u64>,
}

#[derive(Serialize)]
struct Library {
    name: &'static str,
    path: Option<String>,
    version: Option<String>,
}

#[derive(Serialize)]
struct Device {
    ordinal: i32,
    name: String,
    compute_capability: String,
    multiprocessors: i32,
    memory_bytes: u64,
    free_bytes: Option<u64>,
}

#[derive(Serialize)]
struct Trouble {
    what: String,
    fix: String,
}

impl From<LibraryState> for Library {
    fn from(state: LibraryState) -> Self {
        Self {
            name: state.kind.title(),
            path: state.path.map(|p| p.display().to_string()),
            version: state.version,
        }
    }
}

impl From<DeviceState> for Device {
    fn from(state: DeviceState) -> Self {
        Self {
            ordinal: state.ordinal,
            name: state.name,
            compute_capability: format!("{}.{}", state.capability.0, state.capability.1),
            multiprocessors: state.multiprocessors,
            memory_bytes: state.memory as u64,
            free_bytes: state.free.map(|bytes| bytes as u64),
        }
    }
}

impl Report {
    fn of(survey: Survey) -> Self {
        let trouble = |t: rekindle_compute::cuda::survey::Trouble| Trouble {
            what: t.what,
            fix: t.fix,
        };
        let trains_on = device::best(&survey).first().to_string();
        Self {
            trains_on,
            cpu: Processor {
                threads: std::thread::available_parallelism().map_or(1, usize::from),
                memory_bytes: memory(),
            },
            libraries: survey.libraries.into_iter().map(Library::from).collect(),
            devices: survey.devices.into_iter().map(Device::from).collect(),
            troubles: survey.troubles.into_iter().map(trouble).collect(),
        }
    }
}

/// Bytes of memory of this machine.
fn memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

fn rows(report: &Report) -> Vec<Vec<String>> {
    let row = |what: &str, state: String, detail: String| vec![what.to_owned(), state, detail];
    let memory = report
        .cpu
        .memory_bytes
        .map_or_else(String::new, |m| format!(", {}", gib(m)));
    let mut rows = vec![row(
        "CPU",
        "there".to_owned(),
        format!("{} threads{memory}", report.cpu.threads),
    )];
    for library in &report.libraries {
        let state = match (&library.version, &library.path) {
            (Some(version), _) => version.clone(),
            (None, Some(_)) => "unusable".to_owned(),
            (None, None) => "missing".to_owned(),
        };
        rows.push(row(library.name, state, library.path.clone().unwrap_or_default()));
    }
    for d in &report.devices {
        let free = d
            .free_bytes
            .map_or_else(String::new, |free| format!(" ({} free)", gib(free)));
        let detail = format!(
            "{}, {} multiprocessors, {}{free}",
            d.name,
            d.multiprocessors,
            gib(d.memory_bytes)
        );
        rows.push(row(
            &format!("cuda:{}", d.ordinal),
            format!("sm_{}", d.compute_capability.replace('.', "")),
            detail,
        ));
    }
    rows
}

/// Says what this machine has to train on, and what is missing for GPUs.
///
/// # Errors
/// Stdout can't be written.
pub fn run(_args: &DoctorArgs, format: Format) -> Result<Exit, Problem> {
    let report = Report::of(survey());
    if format == Format::Json {
        output::json(&report)?;
        return Ok(Exit::Ok);
    }
    output::table(&["WHAT", "STATE", "DETAIL"], rows(&report))?;
    for trouble in &report.troubles {
        output::data(&format!("\n{}\n  fix: {}", trouble.what, trouble.fix))?;
    }
    output::data(&format!(
        "\nTrainers compute on {} unless --device says otherwise; nothing that is missing for GPUs keeps them from the CPU.",
        report.trains_on
    ))?;
    Ok(Exit::Ok)
}
