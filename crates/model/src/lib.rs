//! Rekindle: model.
