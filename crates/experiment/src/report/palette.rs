//! One colour and one kind of line per method, the same in every picture.

use crate::method::{Method, Substitute};

/// How a method's line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// A colour that reads on white and is told apart by people who don't see red or green (after Okabe and Ito 2008).
    pub color: &'static str,
    /// SVG's dash pattern; empty for a full line.
    pub dash: &'static str,
}

const COLORS: [&str; 7] = [
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5C00",
];
const DASHES: [&str; 3] = ["", "6 3", "2 3"];

/// The look of the `index`-th method: controls are grey, exact methods dashed, so that colours last for the others.
pub fn look(index: usize, method: Method) -> Look {
    let (color, dash) = match method {
        Method::Undisturbed(crate::method::Control::Plain) => ("#000000", ""),
        Method::Undisturbed(_) => ("#888888", DASHES[1 + index % 2]),
        Method::Neighbour(n) if n.substitute == Substitute::Random => ("#AA0000", ""),
        _ => (
            COLORS[index % COLORS.len()],
            DASHES[index / COLORS.len() % DASHES.len()],
        ),
    };
    Look { color, dash }
}
