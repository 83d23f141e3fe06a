//! As much SVG as two plots need: lines, boxes, text, and axes with round numbers.

use std::fmt::Write as _;

/// A picture that is being drawn, in pixels from the top left.
pub struct Svg {
    body: String,
    width: f64,
    height: f64,
}

/// Where a text stands relative to its point.
#[derive(Clone, Copy)]
pub enum Anchor {
    Start,
    Middle,
    End,
}

impl Svg {
    pub fn new(width: f64, height: f64) -> Self {
        Self {
            body: String::new(),
            width,
            height,
        }
    }

    pub fn line(&mut self, from: (f64, f64), to: (f64, f64), color: &str, width: f64) {
        let ((x1, y1), (x2, y2)) = (from, to);
        self.push(&format!(
            r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" stroke="{color}" stroke-width="{width}"/>"#
        ));
    }

    pub fn polyline(&mut self, points: &[(f64, f64)], color: &str, dash: &str) {
        let mut text = String::new();
        for (x, y) in points {
            let _ = write!(text, "{x:.1},{y:.1} ");
        }
        let points = text.trim_end();
        self.push(&format!(
            r#"<polyline points="{points}" fill="none" stroke="{color}" stroke-width="1.6" stroke-dasharray="{dash}"/>"#
        ));
    }

    pub fn rect(&mut self, (x, y): (f64, f64), width: f64, height: f64, color: &str) {
        self.push(&format!(
            r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" fill="{color}"/>"#
        ));
    }

    pub fn text(&mut self, (x, y): (f64, f64), anchor: Anchor, size: f64, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let text = escape(text);
        self.push(&format!(
            r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" font-size="{size}">{text}</text>"#
        ));
    }

    fn push(&mut self, element: &str) {
        self.body.push_str(element);
        self.body.push('\n');
    }

    /// The file.
    pub fn finish(self) -> String {
        let Self { body, width, height } = self;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
             font-family=\"sans-serif\" fill=\"#222222\">\n<rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n{body}</svg>\n"
        )
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// A straight scale from values to pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scale {
    from: f64,
    to: f64,
    pixels: (f64, f64),
}

impl Scale {
    /// `values` to `pixels`; an empty range is widened, so that nothing is divided by 0.
    pub fn new(values: (f64, f64), pixels: (f64, f64)) -> Self {
        let (from, to) = if values.1 > values.0 {
            values
        } else {
            (values.0, values.0 + 1.0)
        };
        Self { from, to, pixels }
    }

    /// Values outside the range are drawn at its border.
    pub fn at(&self, value: f64) -> f64 {
        let share = ((value - self.from) / (self.to - self.from)).clamp(0.0, 1.0);
        self.pixels.0 + share * (self.pixels.1 - self.pixels.0)
    }

    /// About `count` round values within the range.
    pub fn ticks(&self, count: usize) -> Vec<f64> {
        let rough = (self.to - self.from) / count.max(1) as f64;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0]
            .map(|m| m * power)
            .into_iter()
            .find(|s| *s >= rough);
        let step = step.unwrap_or(10.0 * power);
        let first = (self.from / step).ceil() as i64;
        let last = (self.to / step + 1e-9).floor() as i64;
        (first..=last).map(|i| i as f64 * step).collect()
    }
}

/// A tick's label, without needless zeroes.
pub fn label(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_keep_to_their_pixels_and_ticks_are_round() {
        let scale = Scale::new((2.0, 4.0), (100.0, 0.0));
        assert_eq!(
            [1.0, 2.0, 3.0, 9.0].map(|v| scale.at(v)),
            [100.0, 100.0, 50.0, 0.0]
        );
        let ticks: Vec<_> = scale.ticks(4).into_iter().map(label).collect();
        assert_eq!(ticks, ["2", "2.5", "3", "3.5", "4"]);
        assert!(Scale::new((1.0, 1.0), (0.0, 1.0)).at(1.0).is_finite());
    }

    #[test]
    fn text_is_escaped() {
        let mut svg = Svg::new(10.0, 10.0);
        svg.text((0.0, 0.0), Anchor::Start, 9.0, "a < b & c");
        assert!(svg.finish().contains("a &lt; b &amp; c"));
    }
}
