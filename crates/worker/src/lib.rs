//! Rekindle: worker.
