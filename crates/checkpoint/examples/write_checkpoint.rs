//! Writes a checkpoint of made-up values to a location: `write_checkpoint LOCATION LANES STAGE [STAGE ...]`, a stage
//! being its number of layers, of 8 in all.
//!
//! For checking what is written with other programs, see `scripts/check_checkpoint_python.py`.

use std::error::Error;

use rekindle_checkpoint::testing::{State, plan, small_model, write_checkpoint};
use rekindle_checkpoint::{Blocking, Location};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [location, lanes, stages @ ..] = arguments.as_slice() else {
        return Err("usage: write_checkpoint LOCATION LANES STAGE [STAGE ...]".into());
    };
    let stages = stages
        .iter()
        .map(|layers| layers.parse())
        .collect::<Result<Vec<u32>, _>>()?;
    let disk = Blocking::open(&Location::parse(location)?)?;
    let state = State::random(&small_model(), 1);
    let manifest = disk.run(write_checkpoint(
        disk.store(),
        &state,
        &plan(lanes.parse()?, &stages),
        50,
    ))?;
    println!(
        "{} {}",
        disk.checkpoint(manifest.step)?.url(),
        manifest.state_digest
    );
    Ok(())
}
