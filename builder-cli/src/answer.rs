//! Results on standard output.
//!
//! # Invariants
//! - A reader that has gone away (`rbuild doctor | head`) has what it wanted: that is no failure.
//! - Anything else that keeps a result from being written is one: a script would go on with half of it.

use std::io::{self, ErrorKind, Write as _};

use anyhow::{Context as _, Result};

/// Writes all of `text`.
///
/// # Errors
/// As [`is_read`].
pub(crate) fn answer(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    is_read(out.write_all(text.as_bytes()).and_then(|()| out.flush())).map(|_| ())
}

/// Whether there is still a reader, after something was `written` to standard output.
///
/// # Errors
/// It could not be written, for another reason than that nobody reads.
pub(crate) fn is_read(written: io::Result<()>) -> Result<bool> {
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error).context("cannot write to standard output"),
    }
}
