//! Receives the events of a build: `events CONTEXT STORE` prints every step with how it ended, and what steps print.

#![expect(clippy::print_stdout, reason = "a program for people")]

use std::collections::HashMap;
use std::path::absolute;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, bail};
use builder_core::builder::{Builder, BuilderConfig, CancellationToken};
use builder_core::event::{BuildEvent, EventKind, EventSink, TaskId};
use builder_core::oci::Platform;
use builder_core::request::{BuildRequest, LocalContext};
use builder_frontend::compile::{DockerfileFrontend, DockerfileSource, FrontendOptions};

/// Prints events. Called from several threads.
#[derive(Default)]
struct Printer {
    names: Mutex<HashMap<TaskId, String>>,
}

impl EventSink for Printer {
    fn event(&self, event: BuildEvent) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let mut name = |task| names.entry(task).or_default().clone();
        match event.kind {
            EventKind::Planned { task, name, .. } => drop(names.insert(task, name)),
            EventKind::Started { task } => println!("started    {}", name(task)),
            EventKind::Cached { task } => println!("cached     {}", name(task)),
            EventKind::Done { task } => println!("done       {}", name(task)),
            EventKind::Failed { task, message } => println!("failed     {}: {message}", name(task)),
            EventKind::Cancelled { task } => println!("cancelled  {}", name(task)),
            EventKind::Log { bytes, .. } => println!("           | {}", String::from_utf8_lossy(&bytes).trim_end().escape_debug()),
            EventKind::Warning(found) => println!("warning    {}: {}", found.code, found.message),
            EventKind::Note(text) => println!("note       {text}"),
            EventKind::Status { .. } => {}
        }
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let [_, context, store] = &std::env::args().collect::<Vec<_>>()[..] else { bail!("usage: events CONTEXT STORE") };
    let text = std::fs::read_to_string(format!("{context}/Dockerfile"))?;
    let source = DockerfileSource::Text { name: "Dockerfile".into(), text };
    let frontend = DockerfileFrontend::new(FrontendOptions::new(source, Platform::host()));
    let mut request = BuildRequest::new(Arc::new(frontend));
    request.contexts.insert("context".into(), LocalContext::new(absolute(context)?));

    let builder = Builder::new(BuilderConfig::new(store))?;
    builder.build(request, Arc::new(Printer::default()), CancellationToken::new()).await?;
    Ok(())
}
