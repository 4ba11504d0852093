// SPDX-License-Identifier: MIT OR Apache-2.0
//! Messages between threads: receiving, and sending into a full channel, may wait.
//!
//! Thin covers over `std::sync::mpsc`, whose error types they return. Sending without a bound
//! never waits, so its sender is the plain one of `std`.

use super::try_then_wait;
use crate::pool::concurrency::blocking;
use std::sync::mpsc::{
    self, RecvError, RecvTimeoutError, SendError, Sender, TryRecvError, TrySendError,
};
use std::time::Duration;

/// A channel that takes any number of messages; see [`std::sync::mpsc::channel`].
pub fn channel<T>() -> (Sender<T>, Receiver<T>) {
    let (sender, inner) = mpsc::channel();
    (sender, Receiver { inner })
}

/// A channel that holds so many messages; with 0, each send waits for its receive. See
/// [`std::sync::mpsc::sync_channel`].
pub fn sync_channel<T>(bound: usize) -> (SyncSender<T>, Receiver<T>) {
    let (sender, inner) = mpsc::sync_channel(bound);
    (SyncSender { inner: sender }, Receiver { inner })
}

/// The receiving end.
#[derive(Debug)]
pub struct Receiver<T> {
    inner: mpsc::Receiver<T>,
}

impl<T> Receiver<T> {
    /// The next message, waited for in a [`crate::blocking`] section if there is none yet. An
    /// error if there never will be one.
    pub fn recv(&self) -> Result<T, RecvError> {
        let attempt = || match self.inner.try_recv() {
            Ok(message) => Some(Ok(message)),
            Err(TryRecvError::Disconnected) => Some(Err(RecvError)),
            Err(TryRecvError::Empty) => None,
        };
        try_then_wait(attempt, || self.inner.recv())
    }

    /// The next message, if there is one.
    pub fn try_recv(&self) -> Result<T, TryRecvError> {
        self.inner.try_recv()
    }

    /// As [`Receiver::recv`], for `limit` at most.
    pub fn recv_timeout(&self, limit: Duration) -> Result<T, RecvTimeoutError> {
        match self.inner.try_recv() {
            Ok(message) => Ok(message),
            Err(TryRecvError::Disconnected) => Err(RecvTimeoutError::Disconnected),
            Err(TryRecvError::Empty) if limit.is_zero() => Err(RecvTimeoutError::Timeout),
            Err(TryRecvError::Empty) => blocking(|| self.inner.recv_timeout(limit)),
        }
    }

    /// All messages until the last sender is gone.
    pub fn iter(&self) -> impl Iterator<Item = T> + '_ {
        std::iter::from_fn(|| self.recv().ok())
    }
}

/// The sending end of a bounded channel.
#[derive(Debug)]
pub struct SyncSender<T> {
    inner: mpsc::SyncSender<T>,
}

impl<T> Clone for SyncSender<T> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
        }
    }
}

impl<T> SyncSender<T> {
    /// Sends, waiting in a [`crate::blocking`] section if the channel is full. The message comes
    /// back if nobody will ever receive it.
    pub fn send(&self, message: T) -> Result<(), SendError<T>> {
        match self.inner.try_send(message) {
            Ok(()) => Ok(()),
            Err(TrySendError::Disconnected(message)) => Err(SendError(message)),
            Err(TrySendError::Full(message)) => blocking(|| self.inner.send(message)),
        }
    }

    /// Sends if there is room.
    pub fn try_send(&self, message: T) -> Result<(), TrySendError<T>> {
        self.inner.try_send(message)
    }
}
