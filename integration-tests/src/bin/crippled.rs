//! Runs a program without some system calls, as an engine's or a service manager's filter would: `crippled ERRNO CALL,CALL… PROGRAM [ARGUMENT]…`.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [errno, calls, program, args @ ..] = &words[..] else { bail!("crippled ERRNO CALL,CALL… PROGRAM [ARGUMENT]…") };
    let errno = match errno.as_str() {
        "EPERM" => rustix::io::Errno::PERM,
        "ENOSYS" => rustix::io::Errno::NOSYS,
        other => bail!("{other} is neither EPERM nor ENOSYS"),
    };
    let calls: Vec<&str> = calls.split(',').collect();
    builder_snapshot::exec::deny_calls(&calls, u16::try_from(errno.raw_os_error())?).context("filter")?;
    Err(Command::new(program).args(args).exec()).with_context(|| program.clone())
}
