//! Frames on their way out to one peer: a bounded queue between callers and the one writer thread.
//!
//! In: frames from callers ([`Outbox::push`]). Out: batches for the writer ([`Outbox::take`]), which reports
//! what it has written. A small frame that finds the line idle is written by its caller, without waiting
//! ([`Line::write_now`]): that saves waking a thread. What doesn't go at once is left to the writer.
//!
//! Invariants: TR-1 (one queue, and one at a time writes: `writing`), TR-3 (bytes and frames are counted
//! until they are written). A frame that was begun is written to its end, whatever happens to the rest: what follows
//! on the connection would make no sense otherwise. The writer's own wait has no deadline: it is an owned thread and
//! ends with [`Outbox::close`] or [`Outbox::end`].

mod apart;

use std::collections::VecDeque;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use rekindle_types::RankId;

use crate::error::End;
use crate::inbox::{Inbox, wait_timeout};
use crate::stats::{Counters, add, add_time, raise};
use crate::wire::HEADER_BYTES;
use crate::{Blocked, Deadline, Operation, Payload, Tag, TagKind, TransportError};

/// The longest payload a caller writes itself: about what is copied while another thread wakes up.
const INLINE_BYTES: usize = 64 * 1024;

/// A connection that takes bytes without waiting.
pub(crate) trait Line: Send + Sync {
    /// Writes what fits at once of the frame's header and payload; the number of bytes taken, 0 on any error.
    fn write_now(&self, tag: Tag, payload: &[u8]) -> usize;
}

/// A frame to write, without its first `skip` bytes (header included), which are already written.
pub(crate) struct Outgoing {
    pub(crate) tag: Tag,
    pub(crate) payload: Payload,
    pub(crate) skip: usize,
}

pub(crate) struct Outbox {
    to: RankId,
    line: OnceLock<Box<dyn Line>>,
    state: Mutex<State>,
    filled: Condvar,
    drained: Condvar,
    counters: Arc<Counters>,
    max_bytes: usize,
    max_frames: usize,
    /// Payloads of this length and more go apart.
    apart_from: AtomicUsize,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Outgoing>,
    /// Queued and being written.
    bytes: usize,
    frames: usize,
    /// Frames ever pushed and ever written, for `flush`.
    pushed: u64,
    written: u64,
    writing: bool,
    closing: bool,
    end: Option<End>,
    /// The writer has said goodbye, or is about to.
    said_goodbye: bool,
    /// This rank is ready for a payload apart and hasn't said so: each end has announced one at most.
    owed: bool,
    /// A payload apart is announced that the peer hasn't said anything about.
    announced: bool,
    /// The peer is ready for it, and it hasn't gone.
    ready: bool,
}

/// What the writer shall do next.
pub(crate) enum Next {
    /// Write these, then call [`Outbox::written`].
    Write(Vec<Outgoing>),
    /// Say that this rank is ready, then call [`Outbox::told_ready`].
    Ready,
    /// Everything is written and nothing more will come: say goodbye.
    Goodbye,
    /// Stop at once.
    Stop,
}

fn cost(payload: &Payload) -> usize {
    payload.len() + HEADER_BYTES
}

impl Outbox {
    pub(crate) fn new(to: RankId, counters: Arc<Counters>, max_bytes: usize, max_frames: usize) -> Self {
        Self {
            to,
            line: OnceLock::new(),
            state: Mutex::default(),
            filled: Condvar::new(),
            drained: Condvar::new(),
            counters,
            max_bytes,
            max_frames,
            apart_from: AtomicUsize::new(usize::MAX),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_room(&self, state: &State, cost: usize) -> bool {
        state.frames == 0
            || (state.frames < self.max_frames && state.bytes.saturating_add(cost) <= self.max_bytes)
    }

    fn check_open(&self, state: &State) -> Result<(), TransportError> {
        match &state.end {
            Some(end) => Err(end.error(self.to)),
            None if state.closing => Err(TransportError::Aborted {
                reason: "the transport is closing".to_owned(),
            }),
            None => Ok(()),
        }
    }

    fn blocked(&self, operation: Operation, tag: Option<Tag>, since: Instant) -> Blocked {
        Blocked {
            on: self.to,
            operation,
            tag,
            since,
        }
    }

    /// Queues a frame, waiting for room.
    pub(crate) fn push(
        &self,
        tag: Tag,
        payload: Payload,
        deadline: Deadline,
        inbox: &Inbox,
    ) -> Result<(), TransportError> {
        let cost = cost(&payload);
        let state = self.lock();
        self.check_open(&state)?;
        if self.has_room(&state, cost) {
            self.enqueue(state, tag, payload, cost);
            return Ok(());
        }
        drop(state);
        let began = Instant::now();
        let result = self.push_blocked(tag, payload, deadline, inbox, began);
        add_time(&self.counters.send_blocked_nanos, began.elapsed());
        result
    }

    fn push_blocked(
        &self,
        tag: Tag,
        payload: Payload,
        deadline: Deadline,
        inbox: &Inbox,
        began: Instant,
    ) -> Result<(), TransportError> {
        let _waiting = inbox.waiting(self.blocked(Operation::Send, Some(tag), began));
        let cost = cost(&payload);
        let mut state = self.lock();
        while !self.has_room(&state, cost) {
            let left = deadline
                .remaining()
                .ok_or_else(|| TransportError::DeadlineExceeded {
                    operation: Operation::Send,
                    peer: self.to,
                    tag: Some(tag),
                    waited: began.elapsed(),
                })?;
            state = wait_timeout(&self.drained, state, left);
            self.check_open(&state)?;
        }
        self.enqueue(state, tag, payload, cost);
        Ok(())
    }

    fn enqueue(&self, mut state: MutexGuard<'_, State>, tag: Tag, payload: Payload, cost: usize) {
        state.bytes += cost;
        state.frames += 1;
        state.pushed += 1;
        raise(&self.counters.outbox_peak_bytes, state.bytes);
        let apart = self.goes_apart(payload.len());
        let idle = state.frames == 1 && !state.writing && payload.len() <= INLINE_BYTES && !apart;
        match self.line.get() {
            Some(line) if idle => {
                state.writing = true;
                drop(state);
                self.write_inline(&**line, tag, payload, cost);
            }
            _ => {
                state.queue.push_back(Outgoing {
                    tag,
                    payload,
                    skip: 0,
                });
                drop(state);
                self.filled.notify_one();
            }
        }
    }

    /// Nobody writes before [`Outbox::release`]: the connection isn't this outbox's yet.
    pub(crate) fn hold(&self) {
        self.lock().writing = true;
    }

    /// The connection is this outbox's.
    pub(crate) fn release(&self) {
        self.lock().writing = false;
        self.filled.notify_all();
    }

    /// The caller has set `writing`, so the writer waits.
    fn write_inline(&self, line: &dyn Line, tag: Tag, payload: Payload, cost: usize) {
        let skip = line.write_now(tag, payload.bytes());
        if skip == cost {
            self.written(vec![Outgoing { tag, payload, skip }]);
        } else {
            let mut state = self.lock();
            state.writing = false;
            if state.end.is_none() || skip > 0 {
                state.queue.push_front(Outgoing { tag, payload, skip });
            }
        }
        // Somebody may have queued behind this frame meanwhile, or be closing.
        self.filled.notify_one();
    }

    /// Lets callers write small frames themselves.
    pub(crate) fn set_line(&self, line: Box<dyn Line>) {
        drop(self.line.set(line));
    }

    /// Waits for frames and takes up to `max_frames` of them and about `max_bytes`, at least one.
    pub(crate) fn take(&self, max_frames: usize, max_bytes: usize) -> Next {
        let mut state = self.lock();
        loop {
            // A caller that writes itself will wake this thread.
            if !state.writing {
                if state.owed && state.end.is_none() {
                    (state.writing, state.owed) = (true, false);
                    return Next::Ready;
                }
                // After an end only a frame that was begun is left.
                if !state.queue.is_empty() {
                    break;
                }
                if state.end.is_some() {
                    return Next::Stop;
                }
                if state.closing {
                    state.said_goodbye = true;
                    return Next::Goodbye;
                }
            }
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let mut batch = Vec::new();
        let mut bytes = 0;
        while batch.len() < max_frames && bytes < max_bytes {
            let Some(item) = state.queue.pop_front() else {
                break;
            };
            bytes += cost(&item.payload);
            batch.push(item);
        }
        state.writing = true;
        Next::Write(batch)
    }

    /// The batch is with the network.
    pub(crate) fn written(&self, batch: Vec<Outgoing>) {
        let frames = batch.len();
        let bytes: usize = batch.iter().map(|item| item.payload.len()).sum();
        // What the ends of a link agree on is no payload of anybody's.
        for item in batch.iter().filter(|item| item.tag.kind != TagKind::Pair) {
            add(&self.counters.bytes_sent, item.payload.len());
            add(&self.counters.frames_sent, 1);
        }
        // Payloads are freed before their bytes are, so that the bound holds for the memory itself.
        drop(batch);
        self.written_bytes(frames, bytes);
    }

    /// So many aren't queued any more.
    pub(crate) fn written_bytes(&self, frames: usize, bytes: usize) {
        let mut state = self.lock();
        state.writing = false;
        state.frames -= frames;
        state.bytes -= bytes + frames * HEADER_BYTES;
        state.written += frames as u64;
        drop(state);
        self.drained.notify_all();
    }

    /// Waits until what is queued now has been written.
    pub(crate) fn flush(&self, deadline: Deadline, inbox: &Inbox) -> Result<(), TransportError> {
        let target = self.lock().pushed;
        let began = Instant::now();
        let mut waiting = None;
        loop {
            let state = self.lock();
            if state.written >= target {
                return Ok(());
            }
            self.check_end(&state)?;
            let Some(waiting_guard) = waiting.take() else {
                drop(state);
                waiting = Some(inbox.waiting(self.blocked(Operation::Flush, None, began)));
                continue;
            };
            let left = deadline
                .remaining()
                .ok_or_else(|| TransportError::DeadlineExceeded {
                    operation: Operation::Flush,
                    peer: self.to,
                    tag: None,
                    waited: began.elapsed(),
                })?;
            drop(wait_timeout(&self.drained, state, left));
            waiting = Some(waiting_guard);
        }
    }

    fn check_end(&self, state: &State) -> Result<(), TransportError> {
        state.end.as_ref().map_or(Ok(()), |end| Err(end.error(self.to)))
    }

    /// No more frames from callers; the writer drains what there is.
    pub(crate) fn close(&self) {
        self.lock().closing = true;
        self.filled.notify_all();
        self.drained.notify_all();
    }

    /// Why this rank gave up, if that is how it ended.
    pub(crate) fn given_up(&self) -> Option<String> {
        match &self.lock().end {
            Some(End::Aborted(reason)) => Some(reason.clone()),
            _ => None,
        }
    }

    /// Throws away what is queued but a frame that was begun, and ends all waits. Returns whether somebody is in the
    /// middle of a frame. The first end stays.
    pub(crate) fn end(&self, end: End) -> bool {
        let mut state = self.lock();
        state.end.get_or_insert(end);
        let begun = |frame: &Outgoing| frame.skip > 0;
        let keep = usize::from(state.queue.front().is_some_and(begun));
        let dropped = state.queue.split_off(keep);
        let writing = state.writing || keep > 0;
        drop(state);
        self.filled.notify_all();
        self.drained.notify_all();
        drop(dropped);
        writing
    }
}

#[cfg(test)]
mod tests;
