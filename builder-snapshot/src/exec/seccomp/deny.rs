//! A process without some system calls: what engines and service managers do to those whom they start, made on purpose.
//!
//! Programs of tests use it to be on a machine that forbids something; builds never do.

use std::io;

use libc::sock_filter;

use super::{JUMP_IF_EQUAL, LOAD, OFFSET_ARCHITECTURE, OFFSET_NUMBER, RETURN, instruction, jump};
use crate::sys;

/// Those that can be denied, by name.
const CALLS: [(&str, libc::c_long); 17] = [
    ("clone3", libc::SYS_clone3),
    ("close_range", libc::SYS_close_range),
    ("fsconfig", libc::SYS_fsconfig),
    ("fsmount", libc::SYS_fsmount),
    ("fsopen", libc::SYS_fsopen),
    ("keyctl", libc::SYS_keyctl),
    ("mount", libc::SYS_mount),
    ("mount_setattr", libc::SYS_mount_setattr),
    ("move_mount", libc::SYS_move_mount),
    ("open_tree", libc::SYS_open_tree),
    ("openat2", libc::SYS_openat2),
    ("pidfd_send_signal", libc::SYS_pidfd_send_signal),
    ("pivot_root", libc::SYS_pivot_root),
    ("seccomp", libc::SYS_seccomp),
    ("sethostname", libc::SYS_sethostname),
    ("umount2", libc::SYS_umount2),
    ("unshare", libc::SYS_unshare),
];

/// Answers these system calls with `errno`, for this thread and all that it starts, for ever. Needs CAP_SYS_ADMIN.
///
/// # Errors
/// A call is not in the list; the kernel refuses the filter.
pub fn deny_calls(names: &[&str], errno: u16) -> io::Result<()> {
    let native = super::native_architecture().ok_or(io::ErrorKind::Unsupported)?;
    let mut program = vec![instruction(LOAD, OFFSET_ARCHITECTURE), jump(JUMP_IF_EQUAL, native, 1, 0), allow(), instruction(LOAD, OFFSET_NUMBER)];
    for name in names {
        let unknown = || io::Error::new(io::ErrorKind::InvalidInput, format!("{name} is not among the calls that can be denied"));
        let (_, number) = CALLS.iter().find(|(known, _)| known == name).ok_or_else(unknown)?;
        program.push(jump(JUMP_IF_EQUAL, u32::try_from(*number).map_err(|_| unknown())?, 0, 1));
        program.push(instruction(RETURN, libc::SECCOMP_RET_ERRNO | u32::from(errno)));
    }
    program.push(allow());
    sys::child::load_filter(&program).map_err(|failure| failure.errno.into())
}

fn allow() -> sock_filter {
    instruction(RETURN, libc::SECCOMP_RET_ALLOW)
}
