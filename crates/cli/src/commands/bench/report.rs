//! What `rekindle bench train` says.

use serde::Serialize;

use super::capture::Captured;
use super::steps::Timed;
use crate::output::{self, Format};
use crate::problem::Problem;

/// A measurement.
#[derive(Serialize)]
pub struct Report {
    device: String,
    dtype: String,
    numerics: String,
    parameters: u64,
    tokens_per_step: u64,
    /// Median, least and greatest.
    step_seconds: f64,
    step_seconds_range: [f64; 2],
    tokens_per_second: f64,
    tflops: f64,
    /// Of a large product in the same process.
    peak_tflops: f64,
    /// Model FLOP utilisation: `tflops / peak_tflops`.
    mfu: f64,
    loss: f64,
    engine_bytes: u64,
    /// Of the whole device, others' included, after the last step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_memory_used: Option<u64>,
    /// Captures, where asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub captured: Option<Captured>,
    /// By time, where asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kernels: Vec<Kernel>,
}

/// One kind of kernel.
#[derive(Serialize)]
pub struct Kernel {
    name: &'static str,
    /// Launches of a step.
    launches: usize,
    /// Of a step.
    pub seconds: f64,
}

impl Kernel {
    /// From what `steps` steps took.
    pub fn new(name: &'static str, (launches, seconds): (usize, f64), steps: usize) -> Self {
        Self {
            name,
            launches: launches / steps,
            seconds: seconds / steps as f64,
        }
    }
}

impl Report {
    /// (device, precision, sums), (parameters, tokens of a step), (steps, operations of a token, operations a second
    /// of the device).
    pub fn new(
        (device, dtype, numerics): (String, String, String),
        (parameters, tokens): (u64, u64),
        (timed, flops, peak): (&Timed, f64, f64),
    ) -> Self {
        let mut seconds = timed.seconds.clone();
        seconds.sort_by(f64::total_cmp);
        let at = |n: usize| seconds.get(n).copied().unwrap_or(f64::NAN);
        let (median, last) = (at(seconds.len() / 2), seconds.len().saturating_sub(1));
        let rate = tokens as f64 / median;
        Self {
            device,
            dtype,
            numerics,
            parameters,
            tokens_per_step: tokens,
            step_seconds: median,
            step_seconds_range: [at(0), at(last)],
            tokens_per_second: rate,
            tflops: rate * flops / 1e12,
            peak_tflops: peak / 1e12,
            mfu: rate * flops / peak,
            loss: timed.loss,
            engine_bytes: timed.memory.total(),
            device_memory_used: None,
            captured: None,
            kernels: Vec::new(),
        }
    }

    /// Prints it.
    ///
    /// # Errors
    /// When the output is closed.
    pub fn print(&self, format: Format) -> Result<(), Problem> {
        if format == Format::Json {
            return output::json(self);
        }
        let ms = |seconds: f64| format!("{:.2} ms", seconds * 1e3);
        let mib = |bytes: u64| format!("{} MiB", bytes >> 20);
        let [least, greatest] = self.step_seconds_range;
        let mut rows = vec![
            (
                "device",
                format!("{}, {}, {} sums", self.device, self.dtype, self.numerics),
            ),
            (
                "model",
                format!("{:.1} M parameters", self.parameters as f64 / 1e6),
            ),
            (
                "step",
                format!(
                    "{} tokens in {} ({} to {})",
                    self.tokens_per_step,
                    ms(self.step_seconds),
                    ms(least),
                    ms(greatest)
                ),
            ),
            ("rate", format!("{:.0} tokens/s", self.tokens_per_second)),
            (
                "arithmetic",
                format!(
                    "{:.2} of {:.2} TFLOP/s (MFU {:.1} %)",
                    self.tflops,
                    self.peak_tflops,
                    self.mfu * 1e2
                ),
            ),
            ("memory", format!("{} in the engine", mib(self.engine_bytes))),
            ("loss", format!("{:.4}", self.loss)),
        ];
        rows.extend(
            self.device_memory_used
                .map(|bytes| ("device memory", format!("{} used", mib(bytes)))),
        );
        if let Some(c) = &self.captured {
            let rate = |bytes: f64| format!("{:.1} GB/s", bytes / 1e9);
            let inflation = (c.step_seconds / self.step_seconds - 1.0) * 1e2;
            rows.push((
                "step with captures",
                format!("{} ({inflation:+.2} %)", ms(c.step_seconds)),
            ));
            let (alone, beside) = (rate(c.alone_bytes_per_second), rate(c.bytes as f64 / c.seconds));
            let text = format!("{} in {}, {beside} ({alone} alone)", mib(c.bytes), ms(c.seconds));
            rows.push(("a capture", format!("{text}; {} to begin", ms(c.begin_seconds))));
        }
        output::table(
            &["WHAT", "MEASURED"],
            rows.into_iter().map(|(a, b)| vec![a.to_owned(), b]).collect(),
        )?;
        if self.kernels.is_empty() {
            return Ok(());
        }
        let row = |k: &Kernel| {
            vec![
                k.name.to_owned(),
                k.launches.to_string(),
                ms(k.seconds),
                format!("{:.1} %", k.seconds / self.step_seconds * 1e2),
            ]
        };
        output::table(
            &["KERNEL", "LAUNCHES", "TIME", "OF A STEP"],
            self.kernels.iter().map(row).collect(),
        )
    }
}
