//! Rekindle: sim.
