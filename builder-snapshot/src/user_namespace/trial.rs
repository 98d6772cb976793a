//! A child that enters a user namespace as this process is about to, and tells how far it came.
//!
//! Some policies let the namespace be made and forbid everything in it (AppArmor's for programs without a profile), and there is no way back out. So
//! somebody else goes first: under a millisecond, against a build that dies half way.

use std::io::{PipeWriter, Read, Write};

use rustix::io::Errno;
use rustix::process::{WaitOptions, getegid, geteuid};

use crate::diagnosis::{NamespaceRefusal, NamespaceStage};
use crate::sys;

/// What the child says when all went well.
const DONE: u8 = b'.';

const STAGES: [(u8, NamespaceStage); 3] = [(b'u', NamespaceStage::Unshare), (b'i', NamespaceStage::Map), (b'm', NamespaceStage::Mount)];

/// Whether a process like this one can enter a user namespace and mount something in it. Only while there is one thread.
pub(crate) fn enter_in_a_child() -> Result<(), NamespaceRefusal> {
    let unshare = |errno| NamespaceRefusal { stage: NamespaceStage::Unshare, errno };
    let failed = |error: std::io::Error| unshare(Errno::from_io_error(&error).unwrap_or(Errno::IO));
    let (mut answer, tell) = std::io::pipe().map_err(failed)?;
    let child = sys::fork::fork(|| tell_how_far(tell)).map_err(failed)?;
    let mut said = Vec::new();
    // What cannot be read was not said.
    let _ = answer.read_to_end(&mut said);
    let _ = rustix::process::waitpid(Some(child), WaitOptions::empty());
    match said[..] {
        [DONE] => Ok(()),
        [stage, a, b, c, d] => {
            let stage = STAGES.iter().find(|(letter, _)| *letter == stage).map_or(NamespaceStage::Unshare, |(_, stage)| *stage);
            Err(NamespaceRefusal { stage, errno: Errno::from_raw_os_error(i32::from_ne_bytes([a, b, c, d])) })
        }
        // A filter that kills says nothing.
        _ => Err(unshare(Errno::PERM)),
    }
}

fn tell_how_far(mut tell: PipeWriter) {
    let message = match attempt() {
        Ok(()) => vec![DONE],
        Err((stage, errno)) => {
            let letter = STAGES.iter().find(|(_, of)| *of == stage).map_or(b'u', |(letter, _)| *letter);
            [&[letter][..], &errno.raw_os_error().to_ne_bytes()].concat()
        }
    };
    // Nobody else is there to be told.
    let _ = tell.write_all(&message);
}

fn attempt() -> Result<(), (NamespaceStage, Errno)> {
    let at = |stage| move |error: std::io::Error| (stage, Errno::from_io_error(&error).unwrap_or(Errno::IO));
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    sys::fork::unshare_user_and_mounts().map_err(at(NamespaceStage::Unshare))?;
    for (file, text) in [("setgroups", "deny".to_owned()), ("uid_map", format!("0 {uid} 1")), ("gid_map", format!("0 {gid} 1"))] {
        std::fs::write(format!("/proc/self/{file}"), text).map_err(at(NamespaceStage::Map))?;
    }
    // By the oldest call there is: that newer ones are filtered is another lack, with another remedy.
    let flags = rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
    rustix::mount::mount_change(c"/", flags).map_err(|errno| (NamespaceStage::Mount, errno))
}
