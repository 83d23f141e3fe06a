//! Reading all of a checkpoint to see whether it is what was written.

use std::sync::{Mutex, PoisonError};

use rekindle_types::{StateDigest, StateKind};

use super::engine::{Outcome, Work};
use super::place::to_show;
use super::{Checkpoint, Options, Progress, ReadReport};
use crate::format::Span;
use crate::state_error::{Damage, Result};

/// Damages told at most; there may be more.
const MOST_DAMAGES: usize = 1000;

/// What was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// What isn't as it was written, in order of files and bytes; at most a thousand.
    pub damages: Vec<Damage>,
    /// How many there are.
    pub damage_count: u64,
    /// Digest of the state as it was read, damaged chunks left out.
    pub state_digest: StateDigest,
    /// What it took.
    pub report: ReadReport,
}

impl Verdict {
    /// Whether everything is as it was written.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.damage_count == 0
    }
}

impl Checkpoint {
    /// Reads every byte and checks it: each chunk and header against its digest, headers for what they say, and the
    /// sum of what was read against the manifest's state digest. Blocks, as [`Checkpoint::read_ranges`] does.
    ///
    /// # Errors
    /// What the store says. Damages aren't errors, they are the result.
    pub fn verify(&self, progress: Option<Progress<'_>>) -> Result<Verdict> {
        let model = &self.manifest().model;
        let mut spans = Vec::new();
        for layer in model.layers() {
            let elements = 0..model.layout(layer).numel() as u64;
            spans.extend(StateKind::ALL.map(|kind| Span::new(layer, kind, elements.clone())));
        }
        let damages = Mutex::new((Vec::new(), 0_u64));
        let options = Options {
            parallelism: 0,
            progress,
        };
        let judge = |damage| {
            let mut found = damages.lock().unwrap_or_else(PoisonError::into_inner);
            found.1 += 1;
            if found.0.len() < MOST_DAMAGES {
                found.0.push(damage);
            }
            Ok(())
        };
        let reads = self.plan(&spans)?;
        let work = Work {
            reads: &reads,
            jobs: &to_show(&reads),
            show: &|_, _| {},
            judge: &judge,
            parse: true,
        };
        let Outcome {
            mut report,
            state_digest,
        } = self.run(&work, &options)?;
        report.bytes_wanted = spans.iter().map(|span| span.len() * 4).sum();
        let (mut damages, mut damage_count) = damages.into_inner().unwrap_or_else(PoisonError::into_inner);
        damages.sort_by(|a, b| (&a.url, a.bytes.start).cmp(&(&b.url, b.bytes.start)));
        let wanted = self.manifest().state_digest;
        if damages.is_empty() && state_digest != wanted {
            damage_count += 1;
            damages.push(Damage {
                url: self.url(),
                bytes: 0..self.manifest().total_bytes,
                span: None,
                why: format!("the state's digest is {state_digest}, the manifest has {wanted}"),
            });
        }
        Ok(Verdict {
            damages,
            damage_count,
            state_digest,
            report,
        })
    }
}
