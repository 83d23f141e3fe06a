//! What of a trainer outlives its epoch: process, text, endpoint, connections.
//!
//! ```text
//!   epoch e: lost a peer or told to halt --> Halted --> its parts are dropped, its files stay --Edit--> epoch e+1: looks for its state, Ready
//!            connections stand, aborted                                             --Connect--> those to peers that stay are kept
//! ```
//!
//! A peer stays that listens where it did: a process that takes another one's place has another address. In: messages
//! of the worker, the ends of epochs. Out: what the next epoch begins with. Deliberately absent: keeping the engine,
//! which would save copying the state, not finding it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use rekindle_transport::TcpTransport;
use rekindle_types::{RankId, TransportKind};
use rekindle_worker_core::trainer_messages::ToTrainer;

use super::connect::Endpoint;
use super::context::{Context, SharedTransport};
use super::device::Computing;
use super::pipe::Pipe;
use super::setup::{self, Text};
use super::step::Trainer;
use super::{CONNECT_WAIT, End, PATIENCE, TrainerError, left, unexpected};

/// See the module.
pub struct Standing {
    /// What computes.
    pub computing: Computing,
    /// The worker's folder for state in shared memory.
    pub vault: Option<PathBuf>,
    listen_host: String,
    endpoint: Endpoint,
    /// Once it was opened, between epochs.
    text: Option<Option<Text>>,
    met: Option<Met>,
}

/// The gang of an epoch, whose connections may be kept.
pub struct Met {
    /// The way to it.
    pub transport: Arc<TcpTransport>,
    /// Where each rank listens.
    pub peers: BTreeMap<RankId, String>,
}

impl Standing {
    /// Begins to listen.
    ///
    /// # Errors
    /// [`TrainerError`] when the host has no address or can't be listened on.
    pub fn new(
        computing: Computing,
        transport: TransportKind,
        listen_host: String,
        vault: Option<PathBuf>,
    ) -> Result<Self, TrainerError> {
        let endpoint = Endpoint::listen(&listen_host, transport, computing.device)?;
        Ok(Self {
            computing,
            vault,
            listen_host,
            endpoint,
            text: None,
            met: None,
        })
    }

    /// Where peers reach this trainer.
    #[must_use]
    pub fn data_address(&self) -> String {
        self.endpoint.advertised(&self.listen_host)
    }

    /// The job's text, opened once.
    ///
    /// # Errors
    /// [`TrainerError::Data`] naming the file at fault.
    pub fn text(&mut self, context: &Context) -> Result<Option<Text>, TrainerError> {
        match self.text.take() {
            Some(text) => Ok(text),
            None => setup::text(context),
        }
    }

    /// Connects to every rank that this one exchanges frames with, over the connections there are where the peer is
    /// the one it was.
    ///
    /// # Errors
    /// [`TrainerError`] naming who is missing, or refused.
    pub fn meet(
        &mut self,
        context: &Context,
        peers: BTreeMap<RankId, String>,
    ) -> Result<SharedTransport, TrainerError> {
        let before = self.met.take();
        let (transport, met) = self.endpoint.meet(context, peers, before)?;
        self.met = met;
        Ok(transport)
    }

    /// The epoch has ended. Peers of one that is through hear a goodbye, so that they don't take the end of this
    /// process for a loss.
    pub fn leave(&mut self, end: End, trainer: &mut Trainer) {
        self.text = Some(trainer.text.take());
        if end == End::Through {
            self.met = None;
        }
    }

    /// Waits for the next epoch.
    ///
    /// # Errors
    /// [`TrainerError`] when none comes in time, or this process can't take part in it.
    pub fn next(&self, pipe: &Pipe) -> Result<Context, TrainerError> {
        let start = match pipe.next(CONNECT_WAIT)? {
            ToTrainer::Edit { start } => start,
            other => return Err(unexpected("Edit", &other)),
        };
        let context = setup::context(*start, PATIENCE)?;
        match self.vault.as_deref().map(|folder| left::held(folder, &context)) {
            Some(true) => Err(TrainerError::Protocol {
                what: "something of the epoch before still holds its state; another process finds it"
                    .to_owned(),
            }),
            _ => Ok(context),
        }
    }
}
