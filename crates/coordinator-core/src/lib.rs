//! Rekindle: coordinator-core.
