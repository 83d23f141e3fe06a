//! What a run that goes on from a checkpoint does otherwise than the run that wrote it.
//!
//! In: a manifest and a job. Out: the keys that differ: those that make the state unusable, and those that only
//! change what follows.

use std::collections::{BTreeMap, BTreeSet};

use rekindle_types::{JobSpec, ModelConfig};
use serde_json::Value;

use super::{Manifest, Recipe};

/// Keys of a job file whose value is another one than the checkpoint's, each with both values.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Differences {
    /// The state means something else under these: the model's shape and arithmetic, the way gradients are added.
    pub refused: Vec<String>,
    /// What is learnt from here on changes; the state is still good.
    pub noted: Vec<String>,
}

/// Keys of `[model]` that no number depends on.
const HARMLESS: [&str; 2] = ["model.initializer_range", "model.max_position_embeddings"];
/// Keys of `recipe` that the state's own meaning depends on.
const NUMERICS: &str = "training.numerics";

impl Manifest {
    /// Compares with a job that is to start from this checkpoint.
    #[must_use]
    pub fn differences(&self, spec: &JobSpec) -> Differences {
        let mut found = self.differences_to(&spec.model, Some(&Recipe::of(spec)));
        found.noted.retain(|line| !line.starts_with("config_digest:"));
        found
    }

    /// Compares with another checkpoint's model and recipe.
    #[must_use]
    pub fn differences_to(&self, model: &ModelConfig, recipe: Option<&Recipe>) -> Differences {
        let mut found = Differences::default();
        for (key, text) in compare(&flat("model", &self.model), &flat("model", model)) {
            let list = if HARMLESS.contains(&key.as_str()) {
                &mut found.noted
            } else {
                &mut found.refused
            };
            list.push(text);
        }
        if let (Some(ours), Some(theirs)) = (&self.recipe, recipe) {
            for (key, text) in compare(&flat("", ours), &flat("", theirs)) {
                let list = if key == NUMERICS {
                    &mut found.refused
                } else {
                    &mut found.noted
                };
                list.push(text);
            }
        }
        found
    }
}

/// Keys with dots and their values; a list is a value.
fn flat(name: &str, value: &impl serde::Serialize) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    let mut open = vec![(
        name.to_owned(),
        serde_json::to_value(value).unwrap_or(Value::Null),
    )];
    while let Some((name, value)) = open.pop() {
        match value {
            Value::Object(keys) => {
                let dot = if name.is_empty() { "" } else { "." };
                open.extend(
                    keys.into_iter()
                        .map(|(key, value)| (format!("{name}{dot}{key}"), value)),
                );
            }
            value => {
                found.insert(name, value);
            }
        }
    }
    found
}

fn compare(ours: &BTreeMap<String, Value>, theirs: &BTreeMap<String, Value>) -> Vec<(String, String)> {
    let none = Value::Null;
    let keys: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    let differs = |key: &&String| ours.get(*key).unwrap_or(&none) != theirs.get(*key).unwrap_or(&none);
    let text = |key: &String| {
        let value = |keys: &BTreeMap<String, Value>| keys.get(key).unwrap_or(&none).to_string();
        let (ours, theirs) = (value(ours), value(theirs));
        // In a job file the seed is the job's.
        let key = if key == "seed" { "job.seed" } else { key };
        format!("{key}: {ours} in the checkpoint, {theirs} here")
    };
    keys.into_iter()
        .filter(differs)
        .map(|key| (key.clone(), text(key)))
        .collect()
}
