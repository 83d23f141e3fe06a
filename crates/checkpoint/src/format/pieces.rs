//! How the elements of a span are named: Hugging Face tensors, whole or in pieces.
//!
//! A tensor that lies in a span as a whole keeps its name and shape. Of one that is cut, the span holds a piece:
//! flat, named `<name>@<first>-<end>` by its elements inside that tensor. Moments are named after their weights.

use std::ops::Range;

use rekindle_types::{ModelConfig, StateKind};

use super::Span;

/// One entry of a tensor file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The entry's name.
    pub name: String,
    /// The entry's shape: the tensor's, or `[elements]` for a piece.
    pub shape: Vec<usize>,
    /// Elements of the layer's flat buffer.
    pub elements: Range<u64>,
    /// The tensor's whole shape, if this is a piece of it.
    pub piece_of: Option<Vec<usize>>,
}

/// What to name the elements of `span`, in order, without gaps. A layer that the model hasn't gives nothing.
#[must_use]
pub fn pieces(config: &ModelConfig, span: &Span) -> Vec<Piece> {
    let ending = match span.kind {
        StateKind::Weights => "",
        StateKind::ExpAvg => ".exp_avg",
        StateKind::ExpAvgSq => ".exp_avg_sq",
    };
    let mut found = Vec::new();
    for spec in config.layout(span.layer).tensors {
        let (first, end) = (spec.offset as u64, spec.range().end as u64);
        let elements = first.max(span.start)..end.min(span.end);
        if elements.is_empty() {
            continue;
        }
        let name = format!("{}{ending}", spec.name);
        found.push(if elements == (first..end) {
            Piece {
                name,
                shape: spec.shape,
                elements,
                piece_of: None,
            }
        } else {
            Piece {
                name: format!("{name}@{}-{}", elements.start - first, elements.end - first),
                shape: vec![usize::try_from(elements.end - elements.start).unwrap_or(usize::MAX)],
                elements,
                piece_of: Some(spec.shape),
            }
        });
    }
    found
}
