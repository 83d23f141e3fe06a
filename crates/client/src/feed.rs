//! A stream from the coordinator that opens itself again when it breaks (CL-3).

use std::collections::VecDeque;
use std::time::Duration;

use rekindle_proto::ConvertError;
use tokio::time::Instant;
use tonic::{Code, Status, Streaming};

use crate::retry::backoff;
use crate::{Client, ClientError};

/// Where a feed's items come from.
pub trait Source: Send {
    /// What a caller gets.
    type Item: Send;
    /// What comes over the wire.
    type Message: Send;

    /// Opens the stream, from where it ended before.
    fn open(&self, client: &Client) -> impl Future<Output = Result<Streaming<Self::Message>, Status>> + Send;

    /// Takes a message apart and remembers how far the stream is.
    ///
    /// # Errors
    /// [`ConvertError`] for a message that can't be read.
    fn take(&mut self, message: Self::Message) -> Result<Vec<Self::Item>, ConvertError>;

    /// Whether it can be opened again without losing or repeating items.
    fn can_resume(&self) -> bool;
}

/// A stream of items. Ends with `Ok(None)`.
#[derive(Debug)]
pub struct Feed<S: Source> {
    client: Client,
    source: S,
    stream: Option<Streaming<S::Message>>,
    items: VecDeque<S::Item>,
    ended: bool,
    /// When the stream broke and how often opening it failed since.
    broken: Option<(Instant, u32)>,
}

impl<S: Source> Feed<S> {
    /// Opens the stream; the first attempt isn't repeated, so that a wrong job is refused at once.
    pub(crate) async fn open(client: &Client, source: S) -> Result<Self, ClientError> {
        let mut feed = Self {
            client: client.clone(),
            source,
            stream: None,
            items: VecDeque::new(),
            ended: false,
            broken: None,
        };
        feed.stream = Some(feed.attempt().await?);
        Ok(feed)
    }

    /// The next item; none when the stream has ended as it should.
    ///
    /// # Errors
    /// [`ClientError`] when the coordinator refused, or didn't come back within `Options::reconnect_limit`.
    pub async fn next(&mut self) -> Result<Option<S::Item>, ClientError> {
        loop {
            if let Some(item) = self.items.pop_front() {
                return Ok(Some(item));
            }
            if self.ended {
                return Ok(None);
            }
            let Some(stream) = &mut self.stream else {
                self.reopen().await?;
                continue;
            };
            match stream.message().await {
                Ok(Some(message)) => {
                    self.broken = None;
                    self.items.extend(self.source.take(message)?);
                }
                Ok(None) => self.ended = true,
                Err(status) => self.break_off(&status)?,
            }
        }
    }

    /// The stream broke: opened again later, if that can help.
    fn break_off(&mut self, status: &Status) -> Result<(), ClientError> {
        self.stream = None;
        let error = ClientError::of(&self.client.endpoint, status);
        // A coordinator that is killed mid-stream shows as one of several codes.
        let passing = error.is_retryable()
            || (error.reason().is_none()
                && matches!(status.code(), Code::Unknown | Code::Internal | Code::Cancelled));
        if !(passing && self.source.can_resume()) {
            self.ended = true;
            return Err(error);
        }
        self.broken.get_or_insert((Instant::now(), 0));
        Ok(())
    }

    async fn reopen(&mut self) -> Result<(), ClientError> {
        let (since, failures) = *self.broken.get_or_insert((Instant::now(), 0));
        tokio::time::sleep(backoff(failures + 1)).await;
        match self.attempt().await {
            Ok(stream) => {
                self.stream = Some(stream);
                Ok(())
            }
            Err(error) if (error.is_retryable() || error.is_unreachable()) && !self.expired(since) => {
                self.broken = Some((since, failures + 1));
                Ok(())
            }
            Err(error) => {
                self.ended = true;
                Err(error)
            }
        }
    }

    fn expired(&self, since: Instant) -> bool {
        since.elapsed() >= self.client.options.reconnect_limit
    }

    async fn attempt(&self) -> Result<Streaming<S::Message>, ClientError> {
        let limit: Duration = self.client.options.timeout;
        match tokio::time::timeout(limit, self.source.open(&self.client)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(status)) => Err(ClientError::of(&self.client.endpoint, &status)),
            Err(_) => Err(ClientError::TimedOut {
                endpoint: self.client.endpoint.clone(),
                seconds: limit.as_secs(),
            }),
        }
    }
}
