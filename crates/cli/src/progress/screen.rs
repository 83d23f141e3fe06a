//! The live picture: lanes, state, a bar. Only on a terminal.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::lanes::wrap;

/// What fits on any terminal; longer lines are cut at its edge.
const WIDTH: usize = 79;

/// Bars on stderr.
#[derive(Debug)]
pub struct Screen {
    all: MultiProgress,
    state: ProgressBar,
    lanes: Vec<ProgressBar>,
    steps: ProgressBar,
}

impl Screen {
    /// A screen, if stderr is a terminal.
    #[must_use]
    pub fn open(total_steps: u64) -> Option<Self> {
        if !std::io::stderr().is_terminal() {
            return None;
        }
        let all = MultiProgress::new();
        let state = all.add(line());
        let steps = all.add(ProgressBar::new(total_steps));
        let color = if crate::output::stderr_color() {
            ".cyan"
        } else {
            ""
        };
        let template = format!("{{bar:28{color}}} step {{pos}}/{{len}}  {{msg}}");
        if let Ok(style) = ProgressStyle::with_template(&template) {
            steps.set_style(style.progress_chars("━━─"));
        }
        steps.enable_steady_tick(Duration::from_millis(250));
        Some(Self {
            all,
            state,
            lanes: Vec::new(),
            steps,
        })
    }

    /// Replaces the state.
    pub fn state(&self, text: &str) {
        self.state.set_message(text.to_owned());
        self.state.tick();
    }

    /// Replaces the lanes.
    pub fn lanes(&mut self, lanes: &[String]) {
        for old in self.lanes.drain(..) {
            old.finish_and_clear();
        }
        for text in wrap(lanes, WIDTH) {
            let bar = self.all.insert_before(&self.steps, line());
            bar.set_message(text);
            bar.tick();
            self.lanes.push(bar);
        }
    }

    /// Moves the bar.
    pub fn step(&self, step: u64, text: &str) {
        self.steps.set_message(text.to_owned());
        self.steps.set_position(step);
    }

    /// Leaves the picture as it is.
    pub fn close(self) {
        for bar in self.lanes.iter().chain([&self.state, &self.steps]) {
            bar.abandon();
        }
    }
}

fn line() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{wide_msg}") {
        bar.set_style(style);
    }
    bar
}
