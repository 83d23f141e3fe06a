//! Ctrl-C and SIGTERM as something to wait for: the first asks for a clean stop, a second ends the process at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::problem::Problem;

/// Counts how often the user asked to stop.
#[derive(Debug, Clone)]
pub struct Shutdown(watch::Receiver<u32>);

impl Shutdown {
    /// Starts listening for SIGINT and SIGTERM. The task lives as long as the runtime.
    ///
    /// # Errors
    /// The signal handlers can't be installed.
    pub fn listen() -> Result<Self, Problem> {
        let broken = |e| Problem::new("can't listen for signals").cause(e);
        let mut interrupt = signal(SignalKind::interrupt()).map_err(broken)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(broken)?;
        let (sender, receiver) = watch::channel(0);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                sender.send_modify(|n| *n += 1);
            }
        });
        Ok(Self(receiver))
    }

    /// Returns once the user has asked `times` times.
    pub async fn asked(&mut self, times: u32) {
        if self.0.wait_for(|n| *n >= times).await.is_err() {
            // The listener only ends with the runtime.
            std::future::pending::<()>().await;
        }
    }
}
