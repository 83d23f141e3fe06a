//! A device that was chosen at run time is the device inside, to the bit.
#![allow(clippy::unwrap_used, clippy::panic)]

use rekindle_compute::conformance::{check_all, fingerprint};
use rekindle_compute::{AnyDevice, Cpu};

const SEED: u64 = 20;
const ROUNDS: usize = 6;

fn any(threads: usize) -> AnyDevice {
    Cpu::<f32>::new(threads).unwrap().into()
}

#[test]
fn it_conforms() {
    let wrong = check_all(&any(2), 2e-5, SEED, ROUNDS).unwrap();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn it_has_the_bits_of_the_device_inside() {
    let inside = fingerprint(&Cpu::<f32>::new(1).unwrap(), SEED, ROUNDS).unwrap();
    assert!(fingerprint(&any(1), SEED, ROUNDS).unwrap() == inside);
    assert!(
        fingerprint(&any(1), SEED + 1, ROUNDS).unwrap() != inside,
        "it can differ"
    );
}
