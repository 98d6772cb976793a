//! A process that stays in the namespaces that this one has left, and runs programs there.
//!
//! It is forked before, answers one request after the other on a socket, and ends when the socket's other end is gone: it outlives nobody. A message is a
//! number of byte strings, each with its length in front.

use std::ffi::{OsStr, OsString};
use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use rustix::process::{Pid, WaitOptions};

use crate::sys;

/// Longest string in a message: more than any credential, little enough to be held.
const STRING_MAX_BYTES: u32 = 16 << 20;

/// Most strings in a message.
const STRINGS_MAX: u32 = 4096;

/// Runs programs where this process came from: with the invoking user's own ids, which a credential helper may be asked for by its keyring.
#[derive(Debug)]
pub struct Outside {
    socket: Mutex<UnixStream>,
    child: Option<Pid>,
}

impl Drop for Outside {
    fn drop(&mut self) {
        // It ends when this end is gone, and is waited for: not every container has a process that waits for orphans.
        let socket = self.socket.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let (Ok(()), Some(child)) = (socket.shutdown(Shutdown::Both), self.child) {
            // Somebody else may have waited for it already.
            let _ = rustix::process::waitpid(Some(child), WaitOptions::empty());
        }
    }
}

/// What a program came to.
#[derive(Clone, PartialEq, Eq)]
pub struct Output {
    /// Whether it ended well.
    pub success: bool,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Never the bytes: a credential may be among them.
        f.debug_struct("Output").field("success", &self.success).finish_non_exhaustive()
    }
}

impl Outside {
    /// Forks it. Only while there is one thread.
    pub(super) fn start() -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let mut ours = Some(ours);
        let ours_of_child = &mut ours;
        let child = sys::fork::fork(move || {
            // With a copy of it here, the end of the other process would not be seen.
            drop(ours_of_child.take());
            serve(theirs);
        })?;
        let socket = ours.ok_or(io::ErrorKind::NotConnected)?;
        Ok(Self { socket: Mutex::new(socket), child: Some(child) })
    }

    /// Runs a program to its end, with `input` on its standard input. `path` replaces its PATH, in which a name without a slash is searched.
    ///
    /// # Errors
    /// It cannot be started, or the process outside is gone.
    pub fn run(&self, program: &OsStr, args: &[OsString], input: &[u8], path: Option<&OsStr>) -> io::Result<Output> {
        let mut request = vec![program.as_bytes(), input, path.map_or(&b""[..], OsStrExt::as_bytes)];
        request.extend(args.iter().map(|arg| arg.as_bytes()));
        self.ask(&request)
    }

    /// Writes to an existing file, in one call.
    pub(super) fn write(&self, file: &Path, content: &[u8]) -> io::Result<()> {
        // No program has an empty name.
        self.ask(&[b"", content, file.as_os_str().as_bytes()]).map(|_| ())
    }

    fn ask(&self, request: &[&[u8]]) -> io::Result<Output> {
        let mut socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        send(&mut socket, request)?;
        let [status, stdout, stderr] = <[Vec<u8>; 3]>::try_from(receive(&mut socket)?).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        match &status[..] {
            b"good" | b"bad" => Ok(Output { success: status == b"good", stdout, stderr }),
            _ => Err(io::Error::other(String::from_utf8_lossy(&stderr).into_owned())),
        }
    }
}

fn serve(mut socket: UnixStream) {
    while let Ok(request) = receive(&mut socket) {
        let answer = match carry_out(request) {
            Ok(output) => [if output.success { b"good".to_vec() } else { b"bad".to_vec() }, output.stdout, output.stderr],
            Err(error) => [b"not started".to_vec(), Vec::new(), error.to_string().into_bytes()],
        };
        if send(&mut socket, &answer).is_err() {
            return;
        }
    }
}

fn carry_out(request: Vec<Vec<u8>>) -> io::Result<Output> {
    let mut strings = request.into_iter().map(OsString::from_vec);
    let (Some(program), Some(input), Some(path)) = (strings.next(), strings.next(), strings.next()) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    if program.is_empty() {
        // Not made where it does not exist: these are files of the kernel's.
        OpenOptions::new().write(true).open(path)?.write_all(input.as_bytes())?;
        return Ok(Output { success: true, stdout: Vec::new(), stderr: Vec::new() });
    }
    let args: Vec<OsString> = strings.collect();
    run(&program, &args, input.as_bytes(), Some(&*path).filter(|path| !path.is_empty()))
}

/// Runs a program right here, as [`Outside::run`] does outside: for a process that entered no namespace.
///
/// # Errors
/// It cannot be started.
pub fn run(program: &OsStr, args: &[OsString], input: &[u8], path: Option<&OsStr>) -> io::Result<Output> {
    let mut command = Command::new(program);
    if let Some(path) = path {
        command.env("PATH", path);
    }
    let mut child = command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not read its input answers all the same.
        drop(stdin.write_all(input));
    }
    let output = child.wait_with_output()?;
    Ok(Output { success: output.status.success(), stdout: output.stdout, stderr: output.stderr })
}

pub(crate) fn send(socket: &mut UnixStream, strings: &[impl AsRef<[u8]>]) -> io::Result<()> {
    let length = |length: usize| u32::try_from(length).map(u32::to_ne_bytes).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
    let mut message = length(strings.len())?.to_vec();
    for string in strings {
        message.extend(length(string.as_ref().len())?);
        message.extend_from_slice(string.as_ref());
    }
    socket.write_all(&message)
}

pub(crate) fn receive(socket: &mut UnixStream) -> io::Result<Vec<Vec<u8>>> {
    let number = |socket: &mut UnixStream, limit: u32| {
        let mut bytes = [0; 4];
        socket.read_exact(&mut bytes)?;
        let number = u32::from_ne_bytes(bytes);
        if number > limit { Err(io::Error::from(io::ErrorKind::InvalidData)) } else { Ok(number) }
    };
    let count = number(socket, STRINGS_MAX)?;
    let mut strings = Vec::new();
    for _ in 0..count {
        let mut string = vec![0; number(socket, STRING_MAX_BYTES)? as usize];
        socket.read_exact(&mut string)?;
        strings.push(string);
    }
    Ok(strings)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The server on a thread: forking is for programs.
    fn outside() -> Outside {
        let (ours, theirs) = UnixStream::pair().expect("socket pair");
        std::thread::spawn(move || serve(theirs));
        Outside { socket: Mutex::new(ours), child: None }
    }

    #[test]
    fn programs_get_input_and_give_output() {
        let outside = outside();
        let output = outside.run("cat".as_ref(), &[], b"text", None).expect("cat");
        assert!(output.success && output.stdout == b"text");
        let output =
            outside.run("sh".as_ref(), &["-c".into(), "echo $PATH; echo no >&2; exit 3".into()], b"", Some("/bin:/usr/bin".as_ref())).expect("sh");
        assert!(!output.success && output.stdout == b"/bin:/usr/bin\n" && output.stderr == b"no\n");
        let error = outside.run("/nonexistent/program".as_ref(), &[], b"", None).expect_err("missing");
        assert!(error.to_string().contains("No such file"), "{error}");
        // It goes on after a failure.
        assert!(outside.run("true".as_ref(), &[], b"", None).expect("true").success);
    }
}
