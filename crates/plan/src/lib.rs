//! Rekindle: plan.
