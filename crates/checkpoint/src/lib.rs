//! Rekindle: checkpoint.
