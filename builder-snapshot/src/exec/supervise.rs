//! Watching a sandboxed process: its output, its end, its cancellation.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use rustix::io::Errno;
use rustix::process::WaitIdStatus;

use super::control_group::ControlGroup;
use super::error::ExecError;
use super::plan::SandboxPlan;
use super::{Cancel, ExitReport, OutputSink, OutputStream, ProcessSpec, ownership};
use crate::sys::child::{DETAIL_FORGIVEN, Step};
use crate::sys::process::{self, Child};

/// How much is read at once: what a pipe holds.
const BUFFER_BYTES: usize = 64 * 1024;

/// Runs a process to its end. Many threads may call this at once.
///
/// The calling thread waits, and the process is tied to it: it is killed if the thread ends, and with it all that it started. What runs on in
/// the background when the process ends is killed too.
///
/// # Errors
/// The sandbox could not be made or the program not be started; a program that runs and fails is no error but an [`ExitReport`].
pub fn run(spec: ProcessSpec, output: &mut dyn OutputSink, cancel: Option<&Cancel>) -> Result<ExitReport, ExecError> {
    let timeout = spec.timeout;
    let mut plan = SandboxPlan::new(spec)?;
    for warning in &plan.warnings {
        output.warning(warning);
    }
    let out_of_memory_before = out_of_memory_kills();
    let mut child = process::spawn(&mut plan.steps, plan.new_network, plan.group.as_ref().and_then(ControlGroup::birthplace))
        .map_err(|source| ExecError::refused("start a process in namespaces of its own".to_owned(), source, ""))?;
    let lost = |source| ExecError::refused("watch the process".to_owned(), source, "");
    // A time beyond the clock's end is none.
    let until = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let killed = answering(&mut plan, |plan| watch(&child, [&plan.stdout, &plan.stderr], output, cancel, until)).map_err(lost)?;
    let status = child.wait().map_err(|source| {
        let remedy = "; nothing else in this program may wait for children it did not start, nor ignore SIGCHLD";
        ExecError::refused("learn how the process ended".to_owned(), source, remedy)
    })?;
    if killed == Some(Killed::Cancelled) {
        return Ok(ExitReport::Cancelled);
    }
    while let Some((index, failure)) = child.next_failure() {
        if failure.detail != DETAIL_FORGIVEN {
            return Err(plan.explain(index, failure));
        }
        output.warning(&plan.forgiven(index, failure));
    }
    if killed == Some(Killed::TimedOut) {
        return Ok(ExitReport::TimedOut);
    }
    Ok(match (report(&status), &plan.group) {
        (ExitReport::Exited(0), _) => ExitReport::Exited(0),
        // Whatever status a shell or a build tool made of it: the first cause is that one of its processes was killed.
        (_, Some(group)) if group.kills() > 0 => ExitReport::OutOfMemory { limit_bytes: group.memory_bytes },
        // The kernel counts for the whole machine. That something else was killed at the same time as this ended so is not worth a control group of its own.
        (ExitReport::Exited(STATUS_OF_KILLED) | ExitReport::Signalled(libc::SIGKILL), _) if out_of_memory_kills() > out_of_memory_before => {
            ExitReport::OutOfMemory { limit_bytes: None }
        }
        (report, _) => report,
    })
}

/// Watches, and answers what the process asks meanwhile, on a thread of its own.
fn answering<T>(plan: &mut SandboxPlan, watch: impl FnOnce(&SandboxPlan) -> std::io::Result<T>) -> std::io::Result<T> {
    let Some(questions) = plan.questions.take() else { return watch(plan) };
    // The child has its copy: what is left of this end would hide that the child's is gone. The place in the list stays, for failures to be explained by.
    for step in plan.steps.iter_mut().filter(|step| matches!(step, Step::AskingSeccomp { .. })) {
        *step = Step::Seccomp { program: Vec::new() };
    }
    let (stop, stopping) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let owners = Arc::clone(&plan.owners);
    std::thread::scope(|scope| {
        std::thread::Builder::new().name("owners".to_owned()).spawn_scoped(scope, || ownership::serve(questions, &stop, &owners))?;
        let watched = watch(plan);
        drop(stopping);
        watched
    })
}

/// Why a process was killed here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Killed {
    Cancelled,
    TimedOut,
}

/// What a shell ends with when its command was killed by SIGKILL.
const STATUS_OF_KILLED: i32 = 137;

/// How often the kernel has killed a process for lack of memory, of the machine or of a control group; 0 where it does not say.
fn out_of_memory_kills() -> u64 {
    let counters = std::fs::read_to_string("/proc/vmstat").unwrap_or_default();
    counters.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok()).unwrap_or(0)
}

fn report(status: &WaitIdStatus) -> ExitReport {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => ExitReport::Exited(code),
        (None, Some(signal)) => ExitReport::Signalled(signal),
        // waitid was asked for ends only.
        (None, None) => ExitReport::Signalled(libc::SIGKILL),
    }
}

/// Hands the output on until the process has ended; says why if it was killed.
fn watch(
    child: &Child,
    streams: [&OwnedFd; 2],
    output: &mut dyn OutputSink,
    cancel: Option<&Cancel>,
    until: Option<Instant>,
) -> std::io::Result<Option<Killed>> {
    let mut buffer = vec![0_u8; BUFFER_BYTES];
    let mut open = [true, true];
    let mut killed = None;
    loop {
        let wanted = |index: usize, open: &[bool; 2]| open[index].then(|| streams[index].as_fd());
        let cancel = cancel.filter(|_| killed.is_none()).map(|cancel| cancel.0.as_fd());
        let [first, second, ended, stop] =
            process::wait_readable([wanted(0, &open), wanted(1, &open), Some(child.pidfd()), cancel], until.filter(|_| killed.is_none()))?;
        if stop {
            child.kill();
            killed = Some(Killed::Cancelled);
        } else if !ended && killed.is_none() && until.is_some_and(|until| Instant::now() >= until) {
            child.kill();
            killed = Some(Killed::TimedOut);
        }
        for (index, ready) in [first, second].into_iter().enumerate() {
            if ready && open[index] {
                open[index] = read_some(streams[index], stream(index), output, &mut buffer)?;
            }
        }
        if ended {
            break;
        }
    }
    // Every process that could write is gone; what is left in the pipes is all there is. Other sandboxes being cloned at this moment may hold the
    // writing ends for an instant, so that the end of the pipe is not waited for.
    for (index, open) in open.iter_mut().enumerate() {
        while *open && process::wait_readable_now(streams[index].as_fd())? {
            *open = read_some(streams[index], stream(index), output, &mut buffer)?;
        }
    }
    Ok(killed)
}

fn stream(index: usize) -> OutputStream {
    if index == 0 { OutputStream::Stdout } else { OutputStream::Stderr }
}

/// Reads once; whether there can be more.
fn read_some(from: &OwnedFd, stream: OutputStream, output: &mut dyn OutputSink, buffer: &mut [u8]) -> std::io::Result<bool> {
    match rustix::io::read(from, &mut *buffer) {
        Ok(0) => Ok(false),
        Ok(length) => {
            output.output(stream, &buffer[..length]);
            Ok(true)
        }
        Err(Errno::AGAIN | Errno::INTR) => Ok(true),
        Err(errno) => Err(errno.into()),
    }
}
