//! The coordinator's machine by its effects.

mod average;
mod away;
mod checkpoints;
mod desk;
mod devices;
mod edits;
mod failures;
mod gang;
mod hangs;
mod incidents;
mod memory;
mod odd_events;
mod parity;
mod properties;
mod requests;
mod restart;
mod workers;
