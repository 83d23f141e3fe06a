//! Rekindle: store.
