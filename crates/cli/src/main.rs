//! Rekindle: the one binary.
fn main() {}
