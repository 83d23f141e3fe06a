//! Rekindle: coordinator.
