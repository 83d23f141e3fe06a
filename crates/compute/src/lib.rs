//! Rekindle: compute.
