//! Rekindle: data.
