//! The system call filter of a sandboxed process: what docker's default profile allows to a process with the default capabilities.
//!
//! [`table`] says what is allowed; [`program`] turns it into a BPF program: one branch for the machine's own calls and one for those of 32-bit
//! programs, each a balanced tree over ranges of numbers, so that loading it (which the kernel does once per exec, evaluating every number) costs
//! microseconds. Everything here is pure; loading is a step of the child (`sys::child`), done while it is privileged, so that
//! `no_new_privs` stays off and setuid programs work as they do in docker.

mod deny;
mod table;

use std::sync::LazyLock;

pub use deny::deny_calls;
use libc::sock_filter;
use table::{CONDITIONS, SYSCALLS};

/// Number of the newest call that the table's author knew. Newer ones answer ENOSYS, so that programs fall back as on an older kernel.
const NEWEST_SYSCALL: u32 = 466;

/// Answer to a call that is not allowed.
const EPERM: u16 = 1;
/// Answer to a call that programs shall do without.
const ENOSYS: u16 = 38;

/// Where the kernel puts the number, the architecture and the low halves of the arguments (little endian) into what the filter reads.
const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCHITECTURE: u32 = 4;
const OFFSET_ARGUMENT: u32 = 16;

const AUDIT_ARCH_X86_64: u32 = 0xC000_003E;
const AUDIT_ARCH_I386: u32 = 0x4000_0003;
const AUDIT_ARCH_AARCH64: u32 = 0xC000_00B7;

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const JUMP_IF_AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Allow,
    /// The builder answers, see `exec::ownership`.
    Ask,
    Refuse(u16),
    When(Condition),
}

/// What an argument must be for a call to be allowed; otherwise it is EPERM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Condition {
    /// The first argument has none of these bits.
    NoneOf(u32),
    /// The first argument is one of these.
    OneOf(&'static [u32]),
}

/// One of the numberings in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Architecture {
    X86_64,
    I386,
    Aarch64,
}

/// Whether there is a filter for this machine's processor.
#[must_use]
pub fn has_filter() -> bool {
    program().is_some()
}

/// The filter for this machine; none where no table was written for it.
pub(crate) fn program() -> Option<Vec<sock_filter>> {
    static PROGRAM: LazyLock<Option<Vec<sock_filter>>> = LazyLock::new(assemble_for_this_machine);
    PROGRAM.clone()
}

/// The same filter, but that of what it allows the builder is asked about the calls of these numbers, in the machine's own numbering.
pub(crate) fn program_asking(asked: &[u32]) -> Option<Vec<sock_filter>> {
    let native = native_architecture()?;
    let architectures: Vec<(u32, Architecture)> = architectures_of_this_machine();
    Some(assemble_with(&architectures, |audit, number, action| match action {
        Action::Allow if audit == native && asked.contains(&number) => Action::Ask,
        action => action,
    }))
}

/// A filter that allows everything and asks about these calls.
pub(crate) fn program_only_asking(asked: &[u32]) -> Option<Vec<sock_filter>> {
    let native = native_architecture()?;
    let mut program =
        vec![instruction(LOAD, OFFSET_ARCHITECTURE), jump(JUMP_IF_EQUAL, native, 1, 0), answer(Action::Allow), instruction(LOAD, OFFSET_NUMBER)];
    for number in asked {
        program.push(jump(JUMP_IF_EQUAL, *number, 0, 1));
        program.push(answer(Action::Ask));
    }
    program.push(answer(Action::Allow));
    Some(program)
}

/// How the kernel calls this program's architecture; none where no table was written for it.
fn native_architecture() -> Option<u32> {
    if cfg!(target_arch = "x86_64") {
        Some(AUDIT_ARCH_X86_64)
    } else if cfg!(target_arch = "aarch64") {
        Some(AUDIT_ARCH_AARCH64)
    } else {
        None
    }
}

fn assemble_for_this_machine() -> Option<Vec<sock_filter>> {
    let architectures = architectures_of_this_machine();
    (!architectures.is_empty()).then(|| assemble(&architectures))
}

fn architectures_of_this_machine() -> Vec<(u32, Architecture)> {
    if cfg!(target_arch = "x86_64") {
        vec![(AUDIT_ARCH_X86_64, Architecture::X86_64), (AUDIT_ARCH_I386, Architecture::I386)]
    } else if cfg!(target_arch = "aarch64") {
        vec![(AUDIT_ARCH_AARCH64, Architecture::Aarch64)]
    } else {
        Vec::new()
    }
}

fn assemble(architectures: &[(u32, Architecture)]) -> Vec<sock_filter> {
    assemble_with(architectures, |_, _, action| action)
}

/// With the actions of the table changed by `change`, which gets the architecture, the number and the action.
fn assemble_with(architectures: &[(u32, Architecture)], change: impl Fn(u32, u32, Action) -> Action) -> Vec<sock_filter> {
    let mut program = vec![instruction(LOAD, OFFSET_ARCHITECTURE)];
    for (audit, architecture) in architectures {
        let mut branch = vec![instruction(LOAD, OFFSET_NUMBER)];
        branch.extend(tree(&ranges(*architecture, |number, action| change(*audit, number, action))));
        // Equal: over the jump, into the branch. Otherwise over the branch.
        program.push(jump(JUMP_IF_EQUAL, *audit, 1, 0));
        program.push(instruction(JUMP, branch.len() as u32));
        program.extend(branch);
    }
    // Calls of yet another architecture, which have no business on this kernel.
    program.push(answer(Action::Refuse(ENOSYS)));
    program
}

/// The actions as ranges: each entry holds from its number up to the next one's.
fn ranges(architecture: Architecture, change: impl Fn(u32, Action) -> Action) -> Vec<(u32, Action)> {
    let mut known: Vec<(u32, Action)> = Vec::new();
    for &(_, x86_64, i386, aarch64) in SYSCALLS {
        known.extend(pick(architecture, x86_64, i386, aarch64).map(|number| (number, Action::Allow)));
    }
    for &(_, [x86_64, i386, aarch64], action) in CONDITIONS {
        known.extend(pick(architecture, x86_64, i386, aarch64).map(|number| (number, action)));
    }
    for (number, action) in &mut known {
        *action = change(*number, *action);
    }
    known.sort_by_key(|(number, _)| *number);

    let mut ranges = vec![(0, Action::Refuse(EPERM))];
    let mut add = |number: u32, action: Action| match ranges.last_mut() {
        Some(last) if last.0 == number => last.1 = action,
        Some(last) if last.1 == action => {}
        _ => ranges.push((number, action)),
    };
    for (number, action) in known {
        add(number, action);
        add(number + 1, Action::Refuse(EPERM));
    }
    add(NEWEST_SYSCALL + 1, Action::Refuse(ENOSYS));
    // A range of one that got the action of its predecessor merges with it.
    ranges.dedup_by(|next, previous| next.1 == previous.1);
    ranges
}

fn pick(architecture: Architecture, x86_64: i16, i386: i16, aarch64: i16) -> Option<u32> {
    let number = match architecture {
        Architecture::X86_64 => x86_64,
        Architecture::I386 => i386,
        Architecture::Aarch64 => aarch64,
    };
    u32::try_from(number).ok()
}

/// Binary search for the number that is loaded.
fn tree(ranges: &[(u32, Action)]) -> Vec<sock_filter> {
    if let [(_, action)] = ranges {
        return leaf(*action);
    }
    let (low, high) = ranges.split_at(ranges.len() / 2);
    let (low, high, middle) = (tree(low), tree(high), high[0].0);
    let mut program = match u8::try_from(low.len()) {
        Ok(distance) => vec![jump(JUMP_IF_AT_LEAST, middle, distance, 0)],
        // Conditional jumps reach 255 instructions, unconditional ones any number.
        Err(_) => vec![jump(JUMP_IF_AT_LEAST, middle, 0, 1), instruction(JUMP, low.len() as u32)],
    };
    program.extend(low);
    program.extend(high);
    program
}

fn leaf(action: Action) -> Vec<sock_filter> {
    let Action::When(condition) = action else { return vec![answer(action)] };
    let mut program = vec![instruction(LOAD, OFFSET_ARGUMENT)];
    match condition {
        Condition::NoneOf(bits) => {
            program.push(instruction(AND, bits));
            program.push(jump(JUMP_IF_EQUAL, 0, 1, 0));
        }
        Condition::OneOf(values) => {
            for (index, value) in values.iter().enumerate() {
                // To the last instruction, over the remaining comparisons and the refusal.
                program.push(jump(JUMP_IF_EQUAL, *value, (values.len() - index) as u8, 0));
            }
        }
    }
    program.push(answer(Action::Refuse(EPERM)));
    program.push(answer(Action::Allow));
    program
}

fn answer(action: Action) -> sock_filter {
    match action {
        Action::Refuse(errno) => instruction(RETURN, libc::SECCOMP_RET_ERRNO | u32::from(errno)),
        Action::Ask => instruction(RETURN, libc::SECCOMP_RET_USER_NOTIF),
        _ => instruction(RETURN, libc::SECCOMP_RET_ALLOW),
    }
}

fn instruction(code: u16, k: u32) -> sock_filter {
    jump(code, k, 0, 0)
}

fn jump(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would do, in ten lines.
    fn evaluate(program: &[sock_filter], architecture: u32, number: u32, argument: u32) -> u32 {
        let (mut at, mut value) = (0, 0);
        loop {
            let instruction = program[at];
            at += 1;
            match instruction.code {
                LOAD => {
                    value = match instruction.k {
                        OFFSET_NUMBER => number,
                        OFFSET_ARCHITECTURE => architecture,
                        _ => argument,
                    }
                }
                AND => value &= instruction.k,
                JUMP => at += instruction.k as usize,
                JUMP_IF_EQUAL => at += usize::from(if value == instruction.k { instruction.jt } else { instruction.jf }),
                JUMP_IF_AT_LEAST => at += usize::from(if value >= instruction.k { instruction.jt } else { instruction.jf }),
                _ => return instruction.k,
            }
        }
    }

    #[test]
    fn every_number_of_every_architecture_is_answered_as_the_table_says() {
        let refused = libc::SECCOMP_RET_ERRNO | u32::from(EPERM);
        let all = [(AUDIT_ARCH_X86_64, Architecture::X86_64), (AUDIT_ARCH_I386, Architecture::I386), (AUDIT_ARCH_AARCH64, Architecture::Aarch64)];
        let program = assemble(&all);
        assert!(program.len() < 1500, "{} instructions", program.len());
        for (audit, architecture) in all {
            for number in 0..NEWEST_SYSCALL + 50 {
                let listed = SYSCALLS.iter().any(|&(_, x, i, a)| pick(architecture, x, i, a) == Some(number));
                let condition = CONDITIONS.iter().find(|&&(_, [x, i, a], _)| pick(architecture, x, i, a) == Some(number));
                let expected = match condition {
                    _ if listed => libc::SECCOMP_RET_ALLOW,
                    Some((_, _, Action::When(_))) => continue,
                    Some((_, _, action)) => answer(*action).k,
                    None if number > NEWEST_SYSCALL => libc::SECCOMP_RET_ERRNO | u32::from(ENOSYS),
                    None => refused,
                };
                assert_eq!(evaluate(&program, audit, number, 0), expected, "{architecture:?} {number}");
            }
        }
        assert_eq!(evaluate(&program, 0x1234, 0, 0), libc::SECCOMP_RET_ERRNO | u32::from(ENOSYS));
        // Calls of the x32 numbering.
        assert_eq!(evaluate(&program, AUDIT_ARCH_X86_64, 0x4000_0000, 0), libc::SECCOMP_RET_ERRNO | u32::from(ENOSYS));
    }

    #[test]
    fn only_what_is_allowed_is_asked_about() {
        let (fchown, mount) = (libc::SYS_fchown as u32, libc::SYS_mount as u32);
        let native = native_architecture().expect("a processor with a table");
        let (plain, asking) = (program().expect("a filter"), program_asking(&[fchown, mount]).expect("a filter"));
        for number in 0..NEWEST_SYSCALL + 50 {
            let expected = if number == fchown { libc::SECCOMP_RET_USER_NOTIF } else { evaluate(&plain, native, number, 0) };
            assert_eq!(evaluate(&asking, native, number, 0), expected, "{number}");
            assert_eq!(evaluate(&asking, AUDIT_ARCH_I386, number, 0), evaluate(&plain, AUDIT_ARCH_I386, number, 0), "{number}");
        }
        let only = program_only_asking(&[fchown]).expect("a filter");
        assert_eq!(evaluate(&only, native, fchown, 0), libc::SECCOMP_RET_USER_NOTIF);
        assert_eq!(
            (evaluate(&only, native, mount, 0), evaluate(&only, AUDIT_ARCH_I386, fchown, 0)),
            (libc::SECCOMP_RET_ALLOW, libc::SECCOMP_RET_ALLOW)
        );
    }

    #[test]
    fn conditions_look_at_the_first_argument() {
        let program = assemble(&[(AUDIT_ARCH_X86_64, Architecture::X86_64)]);
        let allowed = |number, argument| evaluate(&program, AUDIT_ARCH_X86_64, number, argument) == libc::SECCOMP_RET_ALLOW;
        let clone = 56;
        assert!(allowed(clone, libc::SIGCHLD as u32));
        for flag in [libc::CLONE_NEWNS, libc::CLONE_NEWUSER, libc::CLONE_NEWNET, libc::CLONE_NEWPID, libc::CLONE_NEWCGROUP] {
            assert!(!allowed(clone, flag as u32 | libc::SIGCHLD as u32));
        }
        let socket = 41;
        for family in [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK, libc::AF_PACKET] {
            assert!(allowed(socket, family as u32), "{family}");
        }
        for family in [libc::AF_VSOCK, libc::AF_ALG, 46, u32::MAX as libc::c_int] {
            assert!(!allowed(socket, family as u32), "{family}");
        }
        let personality = 135;
        assert!(allowed(personality, 0x0002_0008) && allowed(personality, u32::MAX) && !allowed(personality, 0x0040_0000));
    }

    #[test]
    fn the_table_is_sorted_and_names_no_number_twice() {
        assert!(SYSCALLS.is_sorted_by_key(|row| row.0));
        for architecture in [Architecture::X86_64, Architecture::I386, Architecture::Aarch64] {
            let mut numbers: Vec<u32> = SYSCALLS.iter().filter_map(|&(_, x, i, a)| pick(architecture, x, i, a)).collect();
            let count = numbers.len();
            numbers.sort_unstable();
            numbers.dedup();
            assert_eq!(numbers.len(), count, "{architecture:?}");
        }
    }
}
