//! Rekindle: worker-core.
