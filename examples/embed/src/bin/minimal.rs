//! A build inside another program: `minimal CONTEXT ARCHIVE STORE`.

#![expect(clippy::print_stdout, reason = "a program for people")]

use std::path::absolute;
use std::sync::Arc;

use anyhow::{Result, bail};
use builder_core::builder::{Builder, BuilderConfig, CancellationToken};
use builder_core::event::NoEvents;
use builder_core::oci::Platform;
use builder_core::request::{BuildRequest, LocalContext, Output, OutputDest, OutputKind};
use builder_frontend::compile::{DockerfileFrontend, DockerfileSource, FrontendOptions};

#[tokio::main]
async fn main() -> Result<()> {
    let [_, context, archive, store] = &std::env::args().collect::<Vec<_>>()[..] else { bail!("usage: minimal CONTEXT ARCHIVE STORE") };
    let text = std::fs::read_to_string(format!("{context}/Dockerfile"))?;
    let source = DockerfileSource::Text { name: "Dockerfile".into(), text };
    let frontend = DockerfileFrontend::new(FrontendOptions::new(source, Platform::host()));

    let mut request = BuildRequest::new(Arc::new(frontend));
    request.contexts.insert("context".into(), LocalContext::new(absolute(context)?));
    request.outputs.push(Output::new(OutputKind::Oci { tar: true }, OutputDest::Path(absolute(archive)?)));

    let builder = Builder::new(BuilderConfig::new(store))?;
    let report = builder.build(request, Arc::new(NoEvents), CancellationToken::new()).await?;
    println!("{} steps run, {} from the store, {:?}", report.steps_run, report.steps_cached, report.digest);
    Ok(())
}
