//! What is different between two checkpoints.
//!
//! In: two opened checkpoints. Out: keys, layouts, and for each layer and kind whether it is the same, from the
//! digests alone; if asked for, from the values too: how many differ, and by how much at most.

use rekindle_types::{LayerId, StateDigest, StateKind};

use crate::format::{Differences, Manifest, Span, Topology};
use crate::reader::{Checkpoint, Options};
use crate::state_error::Result;

/// The differences.
#[derive(Debug, Clone, PartialEq)]
pub struct Diff {
    /// Keys of model and recipe whose values differ; "the checkpoint" is the first, "here" the second.
    pub keys: Differences,
    /// The layouts of the runs, if they differ.
    pub topology: Option<(Topology, Topology)>,
    /// Every layer and kind of both, in pipeline order.
    pub layers: Vec<LayerDiff>,
}

impl Diff {
    /// Whether both hold the same state.
    #[must_use]
    pub fn same_state(&self) -> bool {
        self.layers.iter().all(|layer| layer.same == Some(true))
    }
}

/// One layer and kind.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerDiff {
    /// The layer.
    pub layer: LayerId,
    /// What of it.
    pub kind: StateKind,
    /// Whether the elements are the same; none when one of the two doesn't have them, or has another number of them.
    pub same: Option<bool>,
    /// What the values say, where they were compared.
    pub values: Option<ValueDiff>,
}

/// How values differ.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ValueDiff {
    /// Elements there are.
    pub elements: u64,
    /// Elements whose bits differ.
    pub differing: u64,
    /// The largest distance of two values; infinite or NaN when one of them is.
    pub largest: f64,
}

impl Manifest {
    /// Digest of a layer's elements of a kind. It doesn't depend on how they are cut into sections.
    #[must_use]
    pub fn layer_digest(&self, layer: LayerId, kind: StateKind) -> StateDigest {
        let sections = self.files.iter().flat_map(|file| &file.sections);
        sections
            .filter(|section| section.layer == layer && section.kind == kind)
            .flat_map(|section| &section.digests)
            .fold(StateDigest::default(), |sum, digest| sum.add(*digest))
    }

    fn numel(&self, layer: LayerId) -> Option<u64> {
        let known = self.model.layers().any(|own| own == layer);
        known.then(|| self.model.layout(layer).numel() as u64)
    }
}

/// Compares two checkpoints. With `values`, reads the layers that differ: memory holds one of them. Blocks, as
/// [`Checkpoint::read_ranges`] does.
///
/// # Errors
/// As [`Checkpoint::read_ranges`].
pub fn diff(a: &Checkpoint, b: &Checkpoint, values: bool) -> Result<Diff> {
    let (ours, theirs) = (a.manifest(), b.manifest());
    let mut layers = Vec::new();
    let mut all: Vec<LayerId> = ours.model.layers().chain(theirs.model.layers()).collect();
    all.sort_unstable();
    all.dedup();
    for layer in all {
        for kind in StateKind::ALL {
            layers.push(compare(a, b, layer, kind, values)?);
        }
    }
    let topology = (ours.topology.clone(), theirs.topology.clone());
    Ok(Diff {
        keys: ours.differences_to(&theirs.model, theirs.recipe.as_ref()),
        topology: (topology.0 != topology.1).then_some(topology),
        layers,
    })
}

fn compare(
    a: &Checkpoint,
    b: &Checkpoint,
    layer: LayerId,
    kind: StateKind,
    values: bool,
) -> Result<LayerDiff> {
    let (ours, theirs) = (a.manifest(), b.manifest());
    let numel = ours
        .numel(layer)
        .filter(|numel| theirs.numel(layer) == Some(*numel));
    let same = numel.map(|_| ours.layer_digest(layer, kind) == theirs.layer_digest(layer, kind));
    let read = numel.filter(|_| values && same == Some(false));
    let values = match read {
        Some(numel) => Some(compare_values(a, b, &Span::new(layer, kind, 0..numel))?),
        None => None,
    };
    Ok(LayerDiff {
        layer,
        kind,
        same,
        values,
    })
}

fn compare_values(a: &Checkpoint, b: &Checkpoint, span: &Span) -> Result<ValueDiff> {
    let mut first = vec![0.0; usize::try_from(span.len()).unwrap_or(0)];
    a.read_into(&mut [(span.clone(), &mut first)], &Options::default())?;
    let mut found = ValueDiff {
        elements: span.len(),
        differing: 0,
        largest: 0.0,
    };
    b.read_ranges(
        std::slice::from_ref(span),
        &Options::default(),
        |_, start, values| {
            let start = usize::try_from(start).unwrap_or(0);
            for (a, b) in first[start..].iter().zip(values) {
                if a.to_bits() != b.to_bits() {
                    found.differing += 1;
                    let distance = (f64::from(*a) - f64::from(*b)).abs();
                    // A NaN stays.
                    if distance > found.largest || distance.is_nan() {
                        found.largest = distance;
                    }
                }
            }
        },
    )?;
    Ok(found)
}
