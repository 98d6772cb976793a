//! Carrying out operations: the only concurrent room.
//!
//! [`TreeValue`] is what travels along the edges of the graph. Work that blocks (files, processes, hashing) crosses to threads of its own
//! through one bridge, [`Blocking`], whose permits bound how many there are.

mod apt;
mod caches;
mod emulator;
pub mod exec;
pub mod file;
mod host_ca;
pub mod log;
mod program;
mod ssh;
pub mod vertex;

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::content::Stack;
use crate::error::StepError;
use crate::source::local::LocalTree;

/// What an operation leaves for its readers.
#[derive(Debug, Clone)]
pub enum TreeValue {
    /// Layers, in the store or to be brought from where their image is.
    Stack(Stack),
    /// A directory of the request. Only file operations read it.
    Local(Arc<LocalTree>),
}

impl TreeValue {
    /// The stack.
    ///
    /// # Errors
    /// For a local directory: frontends copy those into a layer before anything but a file operation reads them.
    pub fn stack(&self) -> Result<&Stack, StepError> {
        match self {
            Self::Stack(stack) => Ok(stack),
            Self::Local(_) => Err(StepError::other("a directory of the request was given to an operation that reads layers only")),
        }
    }
}

/// The bridge to blocking work.
#[derive(Debug, Clone)]
pub struct Blocking {
    permits: Arc<Semaphore>,
}

impl Blocking {
    /// A bridge for at most `limit` calls at a time.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { permits: Arc::new(Semaphore::new(limit.max(1))) }
    }

    /// Runs `work` on a thread that may block, when a permit is free.
    ///
    /// # Errors
    /// A panic of `work`, as an internal fault.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, StepError> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.expect("the permits are never closed");
        let done = tokio::task::spawn_blocking(move || {
            let value = work();
            drop(permit);
            value
        });
        done.await.map_err(|e| StepError::other(format!("internal fault: {e}")))
    }
}
