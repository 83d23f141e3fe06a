//! Rekindle: client.
