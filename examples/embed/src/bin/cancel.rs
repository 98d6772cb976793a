//! Cancels a build: `cancel CONTEXT STORE` ends it as soon as the first step prints something.
//!
//! When `build` returns, every process of the build has ended and been awaited; nothing goes on behind the caller's back.

#![expect(clippy::print_stdout, reason = "a program for people")]

use std::path::absolute;
use std::sync::Arc;

use anyhow::{Result, bail};
use builder_core::builder::{Builder, BuilderConfig, CancellationToken};
use builder_core::error::BuildError;
use builder_core::event::{BuildEvent, EventKind};
use builder_core::oci::Platform;
use builder_core::request::{BuildRequest, LocalContext};
use builder_frontend::compile::{DockerfileFrontend, DockerfileSource, FrontendOptions};

#[tokio::main]
async fn main() -> Result<()> {
    let [_, context, store] = &std::env::args().collect::<Vec<_>>()[..] else { bail!("usage: cancel CONTEXT STORE") };
    let text = std::fs::read_to_string(format!("{context}/Dockerfile"))?;
    let source = DockerfileSource::Text { name: "Dockerfile".into(), text };
    let frontend = DockerfileFrontend::new(FrontendOptions::new(source, Platform::host()));
    let mut request = BuildRequest::new(Arc::new(frontend));
    request.contexts.insert("context".into(), LocalContext::new(absolute(context)?));

    let cancel = CancellationToken::new();
    let on_output = cancel.clone();
    // Any closure that takes an event will do.
    let events = move |event: BuildEvent| {
        if matches!(event.kind, EventKind::Log { .. }) {
            on_output.cancel();
        }
    };
    let builder = Builder::new(BuilderConfig::new(store))?;
    match builder.build(request, Arc::new(events), cancel).await {
        Err(BuildError::Cancelled) => println!("cancelled; nothing is left running"),
        Ok(_) => println!("built before any step printed something"),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
