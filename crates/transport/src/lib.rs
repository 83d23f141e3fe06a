//! Rekindle: transport.
