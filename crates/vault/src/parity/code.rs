//! A systematic Reed-Solomon code: parities that are sums of data symbols times constants, such that any as many
//! symbols as there are data determine all.
//!
//! The constants are 1 / (x_q + y_d) for distinct x and y (a Cauchy matrix: every square part of it can be inverted),
//! column d divided by its first entry, which leaves that so. The first parity is thus the XOR of the data.

use super::ParityError;
use super::field::{div, mul};

/// Symbols of a word at most: x and y are different bytes. One is left out, so that numbers of members fit into a byte.
pub(super) const MOST: usize = 255;

/// A part of a code word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Symbol {
    /// Data symbol of this number.
    Data(usize),
    /// Parity of this number.
    Parity(usize),
}

/// The code with so many symbols of each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code {
    data: usize,
    parities: usize,
}

impl Code {
    /// One data symbol at least, and as many parities as are to be lost at once.
    ///
    /// # Errors
    /// [`ParityError::Shape`].
    pub fn new(data: usize, parities: usize) -> Result<Self, ParityError> {
        match data {
            1.. if data + parities <= MOST => Ok(Self { data, parities }),
            _ => Err(ParityError::Shape {
                members: data + parities,
                losses: parities,
                most: MOST,
            }),
        }
    }

    /// The constant that data symbol `data` has in parity `parity`.
    #[must_use]
    pub fn factor(&self, parity: usize, data: usize) -> u8 {
        let y = self.parities + data;
        // (x_0 + y) / (x_q + y) with x_q = q; a sum is XOR.
        div(y as u8, (parity ^ y) as u8)
    }

    /// The constants with which the symbols of `present` add up to data symbol `lost`, which isn't among them. They
    /// are different ones.
    ///
    /// # Errors
    /// [`ParityError::TooManyLosses`], with the data symbols that are lost, when there are fewer symbols than data.
    pub fn rebuild(&self, lost: usize, present: &[Symbol]) -> Result<Vec<(Symbol, u8)>, ParityError> {
        let missing: Vec<usize> = (0..self.data)
            .filter(|data| !present.contains(&Symbol::Data(*data)))
            .collect();
        let parity = |symbol: &Symbol| match symbol {
            Symbol::Parity(number) => Some(*number),
            Symbol::Data(_) => None,
        };
        let parities: Vec<usize> = present.iter().filter_map(parity).take(missing.len()).collect();
        let weights = match parities.len() == missing.len() {
            true => self.solve(lost, &missing, &parities),
            false => None,
        };
        let weights = weights.ok_or_else(|| ParityError::TooManyLosses {
            lost: missing.clone(),
            members: self.data + self.parities,
            losses: self.parities,
        })?;
        let weighted = || parities.iter().zip(&weights);
        // What the parities that are used have of the data that is there has to go away again.
        let rest = |data: usize| weighted().fold(0, |sum, (q, w)| sum ^ mul(*w, self.factor(*q, data)));
        let there = (0..self.data).filter(|data| !missing.contains(data));
        let from_data = there.map(|data| (Symbol::Data(data), rest(data)));
        let from_parities = weighted().map(|(q, weight)| (Symbol::Parity(*q), *weight));
        Ok(from_data.chain(from_parities).collect())
    }

    /// The weights with which `parities` add up to 1 times data symbol `lost` and none of the others that are
    /// `missing`. Elimination with a row for each missing symbol and a column for each parity.
    fn solve(&self, lost: usize, missing: &[usize], parities: &[usize]) -> Option<Vec<u8>> {
        let row = |data: &usize| -> Vec<u8> {
            let factors = parities.iter().map(|parity| self.factor(*parity, *data));
            factors.chain([u8::from(*data == lost)]).collect()
        };
        let mut rows: Vec<Vec<u8>> = missing.iter().map(row).collect();
        for column in 0..rows.len() {
            let pivot = (column..rows.len()).find(|row| rows[*row][column] != 0)?;
            rows.swap(column, pivot);
            let by = rows[column][column];
            rows[column].iter_mut().for_each(|value| *value = div(*value, by));
            let taken = rows[column].clone();
            for (_, row) in rows
                .iter_mut()
                .enumerate()
                .filter(|(number, _)| *number != column)
            {
                let times = row[column];
                row.iter_mut().zip(&taken).for_each(|(a, b)| *a ^= mul(times, *b));
            }
        }
        rows.iter().map(|row| row.last().copied()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All ways to keep `wanted` of the numbers below `of`.
    fn choices(of: usize, wanted: usize) -> Vec<Vec<usize>> {
        let all = (0..1_u32 << of).filter(|set| set.count_ones() as usize == wanted);
        all.map(|set| (0..of).filter(|n| set >> n & 1 == 1).collect())
            .collect()
    }

    #[test]
    fn any_as_many_symbols_as_there_are_data_give_every_lost_one() {
        for (data, parities) in [(1, 1), (1, 4), (3, 1), (4, 2), (5, 3), (4, 4), (2, 6)] {
            let code = Code::new(data, parities).unwrap();
            let values: Vec<u8> = (0..data).map(|n| (n * 77 + 13) as u8).collect();
            let parity = |q| (0..data).fold(0, |sum, d| sum ^ mul(code.factor(q, d), values[d]));
            let value = |symbol: Symbol| match symbol {
                Symbol::Data(d) => values[d],
                Symbol::Parity(q) => parity(q),
            };
            for kept in choices(data + parities, data) {
                let symbol = |n: usize| match n.checked_sub(data) {
                    None => Symbol::Data(n),
                    Some(q) => Symbol::Parity(q),
                };
                let present: Vec<Symbol> = kept.iter().map(|n| symbol(*n)).collect();
                for lost in (0..data).filter(|d| !kept.contains(d)) {
                    let terms = code.rebuild(lost, &present).unwrap();
                    assert!(terms.iter().all(|(symbol, _)| present.contains(symbol)));
                    let sum = terms.iter().fold(0, |sum, (s, f)| sum ^ mul(*f, value(*s)));
                    assert_eq!(sum, values[lost], "{lost} of {data}+{parities} from {present:?}");
                }
            }
        }
    }

    #[test]
    fn the_first_parity_is_xor_and_no_constant_is_zero() {
        for (data, parities) in [(8, 1), (7, 2), (200, 55), (1, 254), (254, 1)] {
            let code = Code::new(data, parities).unwrap();
            assert!((0..data).all(|d| code.factor(0, d) == 1), "{data}+{parities}");
            let all = || (0..parities).flat_map(|q| (0..data).map(move |d| (q, d)));
            assert!(all().all(|(q, d)| code.factor(q, d) != 0), "{data}+{parities}");
        }
    }

    #[test]
    fn what_no_code_can_do_is_refused() {
        assert!(Code::new(0, 1).is_err());
        assert!(Code::new(200, 56).is_err());
        let code = Code::new(3, 1).unwrap();
        let error = code
            .rebuild(0, &[Symbol::Data(1), Symbol::Parity(0)])
            .unwrap_err();
        let lost = vec![0, 2];
        assert_eq!(
            error,
            ParityError::TooManyLosses {
                lost,
                members: 4,
                losses: 1
            }
        );
    }
}
