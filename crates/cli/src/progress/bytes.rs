//! A bar for work that is counted in bytes or things: how far, how fast, how long still. On a terminal only.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar on stderr, or nothing where nobody looks.
#[derive(Debug)]
pub struct Bar(ProgressBar);

const BYTES: &str = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
const THINGS: &str = "{msg} {wide_bar} {pos}/{len} {per_sec} {eta}";

impl Bar {
    /// A bar of bytes.
    #[must_use]
    pub fn bytes(what: &str) -> Self {
        Self::new(what, BYTES)
    }

    /// A bar of things.
    #[must_use]
    pub fn things(what: &str) -> Self {
        Self::new(what, THINGS)
    }

    fn new(what: &str, template: &str) -> Self {
        let target = if std::io::stderr().is_terminal() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(None, target);
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(what.to_owned());
        Self(bar)
    }

    /// So much is done of so much.
    pub fn set(&self, done: u64, total: u64) {
        self.0.set_length(total);
        self.0.set_position(done);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
