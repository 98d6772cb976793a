//! Which devices the processes of a control group may open, as a program in the kernel: version 2's form of the `devices` controller.
#![expect(unsafe_code, reason = "bpf(2) is in no safe library")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// One instruction: code, registers (destination in the low half), offset, constant.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    constant: i32,
}

// The instructions that are needed, by their codes in the kernel's documentation of the instruction set.
const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xbf;
const SET: u8 = 0xb7;
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP: u8 = 0x05;
const JUMP_IF_EQUAL: u8 = 0x15;
const JUMP_IF_NOT: u8 = 0x55;
const EXIT: u8 = 0x95;

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
/// Programs of the groups above go on to be asked as well: all must agree.
const BPF_F_ALLOW_MULTI: u32 = 2;

/// What is asked: `mknod` alone, and the kind of a device.
const MKNOD: i32 = 1;
const CHARACTER: i32 = 2;

/// A program that lets every node be made, and the character devices of `allowed` (major and minor number, none for all) be opened.
fn program(allowed: &[(u32, Option<u32>)]) -> Vec<Instruction> {
    let one = |code, registers, offset, constant| Instruction { code, registers, offset, constant };
    // A jump of one skips the jump to the end that follows it, so that no jump has to know how long the rest is.
    let mut code = vec![
        // r2: what is asked in the upper half, the kind in the lower. r4, r5: major and minor number.
        one(LOAD_WORD, 0x12, 0, 0),
        one(MOVE, 0x23, 0, 0),
        one(AND, 0x03, 0, 0xffff),
        one(SHIFT_RIGHT, 0x02, 0, 16),
        one(LOAD_WORD, 0x14, 4, 0),
        one(LOAD_WORD, 0x15, 8, 0),
        one(JUMP_IF_NOT, 0x02, 2, MKNOD),
        one(SET, 0x00, 0, 1),
        one(EXIT, 0, 0, 0),
        one(JUMP_IF_EQUAL, 0x03, 2, CHARACTER),
        one(SET, 0x00, 0, 0),
        one(EXIT, 0, 0, 0),
    ];
    for &(major, minor) in allowed {
        let number = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
        let minor = minor.map_or(one(JUMP, 0, 0, 0), |minor| one(JUMP_IF_NOT, 0x05, 2, number(minor)));
        code.extend([one(JUMP_IF_NOT, 0x04, 3, number(major)), minor, one(SET, 0x00, 0, 1), one(EXIT, 0, 0, 0)]);
    }
    code.extend([one(SET, 0x00, 0, 0), one(EXIT, 0, 0, 0)]);
    code
}

/// The kernel's structure, as far as these two commands use it. Zeroes mean nothing.
#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<libc::c_long> {
    // SAFETY: the structure is at least as long as it is said to be, and what it points to lives as long as the caller's references.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Gives the program to the kernel, which looks through it.
pub(crate) fn load(allowed: &[(u32, Option<u32>)]) -> io::Result<OwnedFd> {
    let code = program(allowed);
    let license = c"Apache-2.0";
    let load = Load {
        kind: BPF_PROG_TYPE_CGROUP_DEVICE,
        count: u32::try_from(code.len()).unwrap_or(u32::MAX),
        instructions: code.as_ptr() as u64,
        license: license.as_ptr() as u64,
        ..Load::default()
    };
    let number = bpf(BPF_PROG_LOAD, &load)?;
    let number = i32::try_from(number).map_err(io::Error::other)?;
    // SAFETY: the kernel made this descriptor, close-on-exec, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Makes the program rule over the processes of `group` and of those below it, until the group is removed.
pub(crate) fn attach(program: &OwnedFd, group: BorrowedFd<'_>) -> io::Result<()> {
    let number = |fd: i32| u32::try_from(fd).unwrap_or(u32::MAX);
    let attach =
        Attach { target: number(group.as_raw_fd()), program: number(program.as_raw_fd()), kind: BPF_CGROUP_DEVICE, flags: BPF_F_ALLOW_MULTI };
    bpf(BPF_PROG_ATTACH, &attach).map(drop)
}
