//! Threads for blocking work that belongs to a build and to no vertex: layers that are unpacked or packed, outputs that are written.
//!
//! # Invariants
//! - Whoever stops waiting for such work stops the work: dropping the future sets the signal that the work was given.
//! - A build that ends waits for all of them ([`Threads::ended`]): nothing goes on behind the back of its caller.

use builder_snapshot::StopSignal;
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The threads of one build.
#[derive(Debug, Clone, Default)]
pub struct Threads(TaskTracker);

impl Threads {
    /// Runs `work` on a thread that may block.
    ///
    /// # Errors
    /// A panic of `work`.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce(StopSignal) -> T + Send + 'static) -> Result<T, JoinError> {
        let wanted = CancellationToken::new();
        let unwanted = wanted.clone();
        let stop = StopSignal::new(move || unwanted.is_cancelled());
        let working = self.0.spawn_blocking(move || work(stop));
        let _not_wanted_any_more = wanted.drop_guard();
        working.await
    }

    /// Waits until the last of them has ended. None may be begun meanwhile.
    pub async fn ended(&self) {
        self.0.close();
        self.0.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn who_does_not_wait_any_more_stops_the_work() {
        let threads = Threads::default();
        let (begun, has_begun) = mpsc::channel();
        let (stopped, was_stopped) = mpsc::channel();
        let mut working = Box::pin(threads.run(move |stop| {
            begun.send(()).expect("the test waits");
            while !stop.is_set() {
                std::thread::yield_now();
            }
            stopped.send(()).expect("the test waits");
        }));
        assert!(futures_util::poll!(&mut working).is_pending());
        has_begun.recv().expect("it begins");
        drop(working);
        threads.ended().await;
        was_stopped.try_recv().expect("it has ended by now");
    }
}
