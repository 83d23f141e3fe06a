//! The weighted mean of flat slices.

use super::{AverageError, Result};

/// `sum of share * slice`, element by element, in `f64` and rounded once. One source of share 1 is copied bit for bit.
///
/// # Errors
/// [`AverageError::Length`] for slices of different lengths, [`AverageError::NotFinite`] naming the element that
/// isn't finite.
pub fn blend(sources: &[(&[f32], f64)]) -> Result<Vec<f32>> {
    let Some(((first, share), rest)) = sources.split_first() else {
        return Ok(Vec::new());
    };
    check(sources, first.len())?;
    if rest.is_empty() && *share == 1.0 {
        return Ok(first.to_vec());
    }
    let element = |i: usize| {
        let start = f64::from(first[i]) * share;
        rest.iter()
            .fold(start, |sum, (s, share)| sum + f64::from(s[i]) * share) as f32
    };
    Ok((0..first.len()).map(element).collect())
}

fn check(sources: &[(&[f32], f64)], left: usize) -> Result<()> {
    for (source_index, (slice, _)) in sources.iter().enumerate() {
        if slice.len() != left {
            let right = slice.len();
            return Err(AverageError::Length { left, right });
        }
        if let Some(index) = slice.iter().position(|v| !v.is_finite()) {
            let value = slice[index];
            return Err(AverageError::NotFinite {
                source_index,
                index,
                value,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn t3_slices_of_different_lengths_are_refused() {
        let refused = blend(&[(&[1.0, 2.0], 0.5), (&[1.0], 0.5)]);
        assert_eq!(refused, Err(AverageError::Length { left: 2, right: 1 }));
    }

    #[test]
    fn dead_data_is_refused_wherever_it_stands() {
        for bad in [f32::NAN, f32::INFINITY] {
            let refused = blend(&[(&[1.0, 2.0], 1.0), (&[1.0, bad], 0.0)]);
            assert!(matches!(
                refused,
                Err(AverageError::NotFinite {
                    source_index: 1,
                    index: 1,
                    ..
                })
            ));
        }
    }

    #[test]
    fn a_copy_keeps_every_bit() {
        let copy = blend(&[(&[-0.0, 1e-45, 3.5], 1.0)]).unwrap();
        assert_eq!(
            copy.iter().map(|v| v.to_bits()).collect::<Vec<_>>()[0],
            (-0.0f32).to_bits()
        );
        assert_eq!(copy[1..], [1e-45, 3.5]);
    }

    proptest! {
        #[test]
        fn a_blend_lies_between_its_sources(a in -1e3f32..1e3, b in -1e3f32..1e3, share in 0.0f64..=1.0) {
            let mixed = blend(&[(&[a], share), (&[b], 1.0 - share)]).unwrap()[0];
            let slack = 1e-6 * a.abs().max(b.abs());
            prop_assert!(a.min(b) - slack <= mixed && mixed <= a.max(b) + slack);
        }
    }
}
