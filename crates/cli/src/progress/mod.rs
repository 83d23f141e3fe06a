//! What a person sees of a job while it runs: a live picture on a terminal, a line now and then elsewhere. All of it
//! on stderr.
//!
//! In: state changes, plans and step reports. Out: text. Deliberately absent: any knowledge of where these come from.

mod bytes;
mod lanes;
mod rate;
mod screen;

use std::time::{Duration, Instant};

use rekindle_types::{Epoch, JobState, ModelConfig, Plan, StepReport};

use crate::output;
pub use bytes::Bar;
pub use lanes::draw as draw_lanes;
use rate::Rate;
pub use rate::duration;
use screen::Screen;

/// Without a terminal a line is written at most this often.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// The picture of one job.
#[derive(Debug)]
pub struct Progress {
    total_steps: u64,
    rate: Rate,
    screen: Option<Screen>,
    last_line: Option<Instant>,
    last_state: Option<JobState>,
    last_plan: Option<Plan>,
    last_step: Option<(Epoch, u64)>,
}

impl Progress {
    /// A picture of a job of so many steps.
    #[must_use]
    pub fn new(total_steps: u64) -> Self {
        Self {
            total_steps,
            rate: Rate::default(),
            screen: Screen::open(total_steps),
            last_line: None,
            last_state: None,
            last_plan: None,
            last_step: None,
        }
    }

    /// The job is in this state now. A screen also shows each new message; in lines every state is said once.
    pub fn state(&mut self, state: JobState, message: &str) {
        if self.screen.is_none() && self.last_state == Some(state) {
            return;
        }
        let line = if message.is_empty() {
            state.to_string()
        } else {
            format!("{state}: {message}")
        };
        match &self.screen {
            Some(screen) => screen.state(&line),
            None => output::say(&line),
        }
        self.last_state = Some(state);
    }

    /// Who does what, from now on.
    pub fn plan(&mut self, plan: &Plan, model: Option<&ModelConfig>) {
        if self.last_plan.as_ref() == Some(plan) {
            return;
        }
        let lanes = lanes::draw(plan, model);
        match &mut self.screen {
            Some(screen) => screen.lanes(&lanes),
            None => lanes.iter().for_each(|line| output::say(line)),
        }
        self.last_plan = Some(plan.clone());
    }

    /// A step was committed. The same report again changes nothing.
    pub fn step(&mut self, report: &StepReport) {
        if self.last_step == Some((report.epoch, report.step)) {
            return;
        }
        self.last_step = Some((report.epoch, report.step));
        self.rate.add(report);
        let text = self.rate.describe(report, self.total_steps);
        if let Some(screen) = &self.screen {
            screen.step(report.step, &text);
            return;
        }
        let due = self.last_line.is_none_or(|at| at.elapsed() >= LINE_EVERY);
        if due || report.step == self.total_steps {
            output::say(&format!("step {}/{}  {text}", report.step, self.total_steps));
            self.last_line = Some(Instant::now());
        }
    }

    /// Leaves the last picture on the screen.
    pub fn close(&mut self) {
        if let Some(screen) = self.screen.take() {
            screen.close();
        }
    }
}
