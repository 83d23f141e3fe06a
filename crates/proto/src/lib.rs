//! Rekindle: proto.
