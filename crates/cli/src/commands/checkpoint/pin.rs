//! `rekindle checkpoint pin` and `unpin`

use clap::Args;
use rekindle_checkpoint::catalog::{Pin, pin, pins, unpin as remove};
use serde_json::json;

use super::now;
use super::place::{self, PlaceArgs};
use crate::exit::Exit;
use crate::output::{self, Format};
use crate::problem::Problem;

/// Arguments of `rekindle checkpoint pin`.
#[derive(Debug, Args)]
pub struct PinArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// The checkpoint to keep
    #[arg(long, value_name = "N")]
    step: Option<u64>,
    /// The pin's name (default: step-N)
    #[arg(long, requires = "step", value_name = "NAME")]
    name: Option<String>,
    /// What for
    #[arg(long, requires = "step", default_value = "", value_name = "TEXT")]
    reason: String,
}

/// Arguments of `rekindle checkpoint unpin`.
#[derive(Debug, Args)]
pub struct UnpinArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// The pin's name
    name: String,
}

/// Pins, or lists the pins.
///
/// # Errors
/// There is no such checkpoint, or the place can't be written.
pub fn run(args: &PinArgs, format: Format) -> Result<Exit, Problem> {
    let place = place::open(&args.place.place)?;
    let failed = |e| Problem::new(format!("can't pin in {}", args.place.place)).cause(e);
    if let Some(step) = args.step {
        let name = args.name.clone().unwrap_or_else(|| format!("step-{step}"));
        let wanted = Pin {
            step,
            by: std::env::var("USER").unwrap_or_default(),
            reason: args.reason.clone(),
            time_unix_ms: now(),
        };
        place.run(pin(place.store(), &name, &wanted)).map_err(failed)?;
    }
    let all = place.run(pins(place.store())).map_err(failed)?;
    match format {
        Format::Json => output::json(&all)?,
        Format::Table => {
            let row = |(name, pin): (&String, &Pin)| {
                vec![
                    name.clone(),
                    pin.step.to_string(),
                    pin.by.clone(),
                    pin.reason.clone(),
                ]
            };
            output::table(&["PIN", "STEP", "BY", "REASON"], all.iter().map(row).collect())?;
        }
    }
    Ok(Exit::Ok)
}

/// Takes a pin away.
///
/// # Errors
/// There is no such pin, or the place can't be written.
pub fn unpin(args: &UnpinArgs, format: Format) -> Result<Exit, Problem> {
    let place = place::open(&args.place.place)?;
    let gone = place
        .run(remove(place.store(), &args.name))
        .map_err(|e| Problem::new(format!("can't unpin in {}", args.place.place)).cause(e))?;
    match format {
        Format::Json => output::json(&json!({"name": args.name, "step": gone.step}))?,
        Format::Table => output::say(&format!("step {} is no longer kept by {}", gone.step, args.name)),
    }
    Ok(Exit::Ok)
}
