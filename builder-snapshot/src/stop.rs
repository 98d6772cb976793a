//! A question asked between the pieces of long work: is this still wanted?
//!
//! Copying and hashing a file of many gigabytes must end soon when a build is cancelled. Who does such work asks [`StopSignal::check`] once a piece;
//! what it answers is decided by whoever gave the signal. Work that was stopped fails like any other, and its caller, who knows that it
//! was cancelled, throws the failure away.

use std::fmt;
use std::io;
use std::sync::Arc;

/// Says whether work is still wanted. The default one says yes for ever.
#[derive(Clone, Default)]
pub struct StopSignal(Option<Arc<dyn Fn() -> bool + Send + Sync>>);

impl StopSignal {
    /// A signal that stops work once `is_set` answers true. It is asked from many threads, once for some hundred KiB.
    #[must_use]
    pub fn new(is_set: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(is_set)))
    }

    /// Whether the work is to be left.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.as_ref().is_some_and(|is_set| is_set())
    }

    /// The same as an error, for work that reads and writes.
    ///
    /// # Errors
    /// When the work is to be left.
    pub fn check(&self) -> io::Result<()> {
        if self.is_set() { Err(io::Error::other("canceled")) } else { Ok(()) }
    }
}

impl fmt::Debug for StopSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StopSignal").field(&self.is_set()).finish()
    }
}

/// A reader or writer that fails once the signal is set.
#[derive(Debug)]
pub struct Stoppable<T> {
    inner: T,
    stop: StopSignal,
}

impl<T> Stoppable<T> {
    /// `inner`, until `stop` is set.
    pub fn new(inner: T, stop: StopSignal) -> Self {
        Self { inner, stop }
    }

    /// What it stands before.
    pub fn into_inner(self) -> T {
        self.inner
    }
}

impl<R: io::Read> io::Read for Stoppable<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stop.check()?;
        self.inner.read(buffer)
    }
}

impl<W: io::Write> io::Write for Stoppable<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stop.check()?;
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
