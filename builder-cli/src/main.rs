//! `rbuild`: a Dockerfile and a context in, an image out.
//!
//! What was typed ([`args`]) becomes a checked plan ([`request`]); the engine carries it out while [`progress`] shows what happens; [`render`] says what
//! went wrong, and [`exit_code`] says it to scripts.
//!
//! # Invariants
//! - The environment is read once ([`environment`]) and by nobody below this crate.
//! - Results go to standard output, everything else to standard error.
//! - A wrong command line is refused before a store is opened.
//! - No thread is started before the command is known: entering a user namespace must come first.

mod answer;
mod args;
mod base64;
mod commands;
mod config;
mod credentials;
mod engine;
mod environment;
mod exit_code;
mod progress;
mod render;
mod request;
mod signals;
mod stdin_context;

use std::io::Write as _;

use crate::answer::{answer, is_read};
use anyhow::Context as _;
use clap::Parser as _;
use clap::error::ErrorKind;

use args::{Command, CommandLine};
use environment::Environment;
use exit_code::ExitCode;
use progress::palette::Palette;

fn main() -> std::process::ExitCode {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map_or(String::new(), |place| format!(" ({}:{})", place.file(), place.line()));
        let what = words_of(panic.payload());
        let message = match limit_reached(what) {
            Some(message) => message,
            None => format!("internal fault of rbuild: {what}{place}; please report it with what you ran"),
        };
        // Standard error may be gone; there is nobody else to tell.
        let _ = writeln!(std::io::stderr(), "ERROR: {message}");
    }));
    let code = std::panic::catch_unwind(run).unwrap_or_else(|panic| match limit_reached(words_of(&*panic)) {
        Some(_) => ExitCode::ResourceExhausted,
        None => ExitCode::Internal,
    });
    std::process::ExitCode::from(code.code())
}

fn words_of(payload: &(dyn std::any::Any + Send)) -> &str {
    payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no reason given")
}

/// What to say of a panic that stands for a limit of the machine: tokio has no other way to say that it can start no thread, or open no
/// descriptor, of its own.
fn limit_reached(panic: &str) -> Option<String> {
    if let Some(reason) = panic.strip_prefix("OS can't spawn worker thread: ") {
        return Some(format!("cannot start a thread: {reason}; raise the limit on processes (ulimit -u, pids.max), or run fewer builds at once"));
    }
    let reason = panic.strip_prefix("failed to create UnixStream: ")?;
    Some(format!("cannot listen for signals: {reason}; raise the limit on open files (ulimit -n)"))
}

fn run() -> ExitCode {
    let environment = match Environment::read().context("cannot use the current directory") {
        Ok(environment) => environment,
        Err(error) => return refuse(&error, &Palette::default()),
    };
    let line = match CommandLine::try_parse_from(args::with_command(std::env::args_os())) {
        Ok(line) => line,
        Err(error) => return explain(&error, &Palette::of(&environment)),
    };
    if line.global.debug {
        let filter = tracing_subscriber::EnvFilter::new(environment.get("RUST_LOG").unwrap_or("debug"));
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    }
    let outcome = match &line.command {
        Command::Build(build) => {
            commands::enter_user_namespace(&environment).and_then(|entered| commands::build::run(&line.global, build, &environment, entered))
        }
        Command::Convert(convert) => commands::enter_user_namespace(&environment)
            .and_then(|entered| commands::build::run(&line.global, &convert.build(), &environment, entered)),
        Command::Context(args) => {
            commands::enter_user_namespace(&environment).and_then(|entered| commands::context::run(&line.global, args, &environment, entered))
        }
        Command::Doctor(args) => commands::doctor::run(&line.global, args, &environment),
        Command::Debug { filter } => commands::debug::run(*filter, &environment),
        Command::Version => answer(concat!("rbuild ", env!("CARGO_PKG_VERSION"), "\n")).map(|()| ExitCode::Success),
    };
    outcome.unwrap_or_else(|error| refuse(&error, &Palette::of(&environment)))
}

fn refuse(error: &anyhow::Error, palette: &Palette) -> ExitCode {
    commands::build::say(&render::usage(error, palette));
    ExitCode::of_message(&format!("{error:#}"))
}

/// What clap has to say: help on standard output, a wrong command line as an error of ours.
fn explain(error: &clap::Error, palette: &Palette) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return match is_read(error.print()) {
            Ok(_) => ExitCode::Success,
            Err(error) => refuse(&error, palette),
        };
    }
    let text = error.render().to_string();
    // Called without a word it explains itself; everything else that clap refuses is an error of usage.
    match text.strip_prefix("error: ") {
        Some(reason) => commands::build::say(&format!("ERROR: {reason}")),
        None => commands::build::say(&text),
    }
    ExitCode::Failure
}
