//! `time-to-target.svg`: how long until the target loss, relative to the undisturbed run; mean and range over seeds.

use crate::results::Results;
use crate::summary::Row;

use super::palette::look;
use super::svg::{Anchor, Scale, Svg, label};

const NAMES: f64 = 330.0;
const WIDTH: f64 = 900.0;
const ROW: f64 = 22.0;
const HEAD: f64 = 36.0;

/// The picture.
pub fn draw(results: &Results) -> String {
    let rates = &results.config.rates;
    let height = rates.iter().map(|&r| panel_height(results, r)).sum();
    let mut svg = Svg::new(WIDTH, height);
    let mut top = 0.0;
    for &rate in rates {
        panel(&mut svg, results, rate, top);
        top += panel_height(results, rate);
    }
    svg.finish()
}

fn rows(results: &Results, rate: f64) -> impl Iterator<Item = &Row> {
    results.rows.iter().filter(move |r| r.rate == rate)
}

fn panel_height(results: &Results, rate: f64) -> f64 {
    HEAD + rows(results, rate).count() as f64 * ROW + 34.0
}

fn panel(svg: &mut Svg, results: &Results, rate: f64, top: f64) {
    let title = format!(
        "time to the target loss, relative to no failure; each stage lost with probability {rate} per iteration"
    );
    svg.text((10.0, top + 20.0), Anchor::Start, 13.0, &title);
    let longest = rows(results, rate)
        .filter_map(|r| Some(r.seconds_ratio?.max))
        .fold(1.0, f64::max);
    let x = Scale::new((0.0, longest * 1.02), (NAMES, WIDTH - 60.0));
    let bottom = top + HEAD + rows(results, rate).count() as f64 * ROW;
    for tick in x.ticks(8) {
        svg.line(
            (x.at(tick), top + HEAD - 6.0),
            (x.at(tick), bottom),
            "#dddddd",
            1.0,
        );
        svg.text((x.at(tick), bottom + 16.0), Anchor::Middle, 11.0, &label(tick));
    }
    for (n, row) in rows(results, rate).enumerate() {
        bar(svg, results, row, &x, top + HEAD + n as f64 * ROW);
    }
}

fn bar(svg: &mut Svg, results: &Results, row: &Row, x: &Scale, y: f64) {
    svg.text((NAMES - 8.0, y + 13.0), Anchor::End, 11.0, &row.title);
    let index = results.config.methods.iter().position(|m| *m == row.method);
    let Some(ratio) = row.seconds_ratio else {
        svg.text((NAMES + 6.0, y + 13.0), Anchor::Start, 11.0, "never");
        return;
    };
    let color = look(index.unwrap_or(0), row.method).color;
    svg.rect(
        (x.at(0.0), y + 3.0),
        x.at(ratio.mean) - x.at(0.0),
        ROW - 8.0,
        color,
    );
    svg.line(
        (x.at(ratio.min), y + 10.0),
        (x.at(ratio.max), y + 10.0),
        "#222222",
        1.5,
    );
    let missed = row.runs - ratio.count;
    let missed = if missed > 0 {
        format!(" ({missed} of {} never)", row.runs)
    } else {
        String::new()
    };
    let text = format!("{:.2}{missed}", ratio.mean);
    svg.text((x.at(ratio.max) + 6.0, y + 13.0), Anchor::Start, 11.0, &text);
}
