//! Interrupts (`features.md` C6.2): the first SIGINT or SIGTERM ends the build in good order, the second skips what is left of the clean-up, the third
//! ends the process on the spot.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// What interrupts set off.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interrupts {
    /// Set by the first: the build ends its processes and waits for them.
    pub(crate) cancel: CancellationToken,
    /// Set by the second: nobody waits for the build any more.
    pub(crate) abandon: CancellationToken,
}

impl Interrupts {
    /// Begins to listen. Must be called inside the runtime.
    pub(crate) fn listen() -> std::io::Result<Self> {
        let interrupts = Self::default();
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let taken = interrupts.clone();
        // Nobody joins this task: it waits for the user, and ends with the process.
        tokio::spawn(async move {
            next(&mut interrupt, &mut terminate).await;
            taken.cancel.cancel();
            next(&mut interrupt, &mut terminate).await;
            taken.abandon.cancel();
            next(&mut interrupt, &mut terminate).await;
            std::process::exit(i32::from(crate::exit_code::ExitCode::Cancelled.code()));
        });
        Ok(interrupts)
    }
}

async fn next(interrupt: &mut Signal, terminate: &mut Signal) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
