//! `loss.svg`: held-out loss over iterations that were run, one panel per rate, the first seed.

use crate::method::Method;
use crate::results::{Outcome, Results, RunResult};

use super::palette::look;
use super::svg::{Anchor, Scale, Svg, label};

const PANEL: (f64, f64) = (760.0, 420.0);
const LEFT: f64 = 56.0;
const TOP: f64 = 34.0;
const LEGEND: f64 = 340.0;

/// The picture.
pub fn draw(results: &Results) -> String {
    let rates = &results.config.rates;
    let mut svg = Svg::new(PANEL.0 + LEGEND, rates.len() as f64 * PANEL.1);
    for (n, &rate) in rates.iter().enumerate() {
        panel(&mut svg, results, rate, n as f64 * PANEL.1);
    }
    svg.finish()
}

fn panel(svg: &mut Svg, results: &Results, rate: f64, top: f64) {
    let runs = runs(results, rate);
    let longest = runs
        .iter()
        .filter_map(|(_, r)| {
            r.points
                .last()
                .map(|p| p.usage.iterations)
                .max(Some(r.at_end.iterations))
        })
        .max();
    let x = Scale::new((0.0, longest.unwrap_or(1) as f64), (LEFT, PANEL.0 - 10.0));
    let (lowest, top_loss) = range(&runs);
    let y = Scale::new((lowest, top_loss), (top + PANEL.1 - 44.0, top + TOP));
    let seed = results.config.seeds.first().copied().unwrap_or(0);
    let title = format!(
        "held-out loss (nats per byte), each stage lost with probability {rate} per iteration, seed {seed}"
    );
    svg.text((LEFT, top + 20.0), Anchor::Start, 13.0, &title);
    axes(svg, &x, &y, top);
    for (index, run) in &runs {
        let look = look(*index, run.method);
        let points: Vec<_> = shown(run, top_loss).map(|(i, l)| (x.at(i), y.at(l))).collect();
        svg.polyline(&points, look.color, look.dash);
    }
    legend(svg, &runs, top);
}

/// The first seed's runs with their methods' places in the list.
fn runs(results: &Results, rate: f64) -> Vec<(usize, &RunResult)> {
    let seed = results.config.seeds.first();
    let of = |method: &Method| {
        let wanted = (!method.is_undisturbed()).then_some(rate);
        results
            .runs
            .iter()
            .find(|r| r.method == *method && r.rate == wanted && Some(&r.seed) == seed)
    };
    let methods = results.config.methods.iter().enumerate();
    methods.filter_map(|(i, m)| Some((i, of(m)?))).collect()
}

/// From the lowest loss to that after a quarter of the first run: the beginning would hide the rest.
fn range(runs: &[(usize, &RunResult)]) -> (f64, f64) {
    let losses = runs.iter().flat_map(|(_, r)| r.points.iter().map(|p| p.loss));
    let lowest = losses.fold(f64::INFINITY, f64::min);
    let highest = runs
        .first()
        .and_then(|(_, r)| r.points.get(r.points.len() / 4))
        .map_or(f64::INFINITY, |p| p.loss);
    if lowest < highest && highest.is_finite() {
        (lowest - 0.02, highest)
    } else {
        (0.0, 1.0)
    }
}

/// Iterations and losses, from where the run comes into the picture. One that got stuck is drawn on to its end.
fn shown(run: &RunResult, top: f64) -> impl Iterator<Item = (f64, f64)> {
    let stuck = run
        .points
        .last()
        .filter(|_| run.outcome == Outcome::OutOfIterations);
    let end = stuck.map(|p| (run.at_end.iterations as f64, p.loss));
    let points = run.points.iter().map(|p| (p.usage.iterations as f64, p.loss));
    points.skip_while(move |(_, loss)| *loss > top).chain(end)
}

fn axes(svg: &mut Svg, x: &Scale, y: &Scale, top: f64) {
    let bottom = top + PANEL.1 - 44.0;
    for tick in y.ticks(6) {
        svg.line((LEFT, y.at(tick)), (PANEL.0 - 10.0, y.at(tick)), "#dddddd", 1.0);
        svg.text((LEFT - 6.0, y.at(tick) + 4.0), Anchor::End, 11.0, &label(tick));
    }
    for tick in x.ticks(8) {
        svg.line((x.at(tick), bottom), (x.at(tick), bottom + 4.0), "#888888", 1.0);
        svg.text((x.at(tick), bottom + 17.0), Anchor::Middle, 11.0, &label(tick));
    }
    svg.line((LEFT, bottom), (PANEL.0 - 10.0, bottom), "#888888", 1.0);
    svg.text(
        (PANEL.0 / 2.0, bottom + 34.0),
        Anchor::Middle,
        12.0,
        "iterations run, those run again included",
    );
}

fn legend(svg: &mut Svg, runs: &[(usize, &RunResult)], top: f64) {
    for (row, (index, run)) in runs.iter().enumerate() {
        let (look, y) = (look(*index, run.method), top + TOP + 8.0 + row as f64 * 20.0);
        svg.polyline(&[(PANEL.0, y), (PANEL.0 + 28.0, y)], look.color, look.dash);
        svg.text(
            (PANEL.0 + 36.0, y + 4.0),
            Anchor::Start,
            11.0,
            &run.method.title(),
        );
    }
}
