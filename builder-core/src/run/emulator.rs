//! Programs of another processor (`features.md` E4): what this machine runs them with.
//!
//! In this order: the processor itself; the kernel, which was told of an emulator (`binfmt_misc`); the kernel's table of formats for this user namespace alone, which is
//! told of an emulator found on PATH (Linux 6.7; nothing of the machine changes); that emulator in front of the step's own command, which then can start no
//! other programs of its kind. Emulators are shown to the step on its own /dev, or where the kernel looks for them, and are in no key.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use builder_snapshot::user_namespace::IdMap;
use rustix::mount::MountFlags;

use super::program;
use crate::oci::Platform;

/// Where the kernel's table of formats is by custom.
const FORMATS: &str = "/proc/sys/fs/binfmt_misc";

/// Where an emulator is that stands in front of a command, as BuildKit has it.
pub(super) const PLACE: &str = "dev/.buildkit_qemu_emulator";

/// How programs of a platform run here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Emulation {
    /// The processor knows them, or nothing more is needed.
    None,
    /// The kernel starts this program, and looks for it in the step's root.
    Shown(PathBuf),
    /// This program, in front of the command.
    InFront(PathBuf),
    /// Not at all.
    Missing,
}

/// An ELF machine.
struct Machine {
    /// In a platform.
    architecture: &'static str,
    /// As QEMU calls it.
    qemu: &'static str,
    is_64_bit: bool,
    is_big_endian: bool,
    number: u16,
}

const fn machine(architecture: &'static str, qemu: &'static str, is_64_bit: bool, is_big_endian: bool, number: u16) -> Machine {
    Machine { architecture, qemu, is_64_bit, is_big_endian, number }
}

const MACHINES: [Machine; 9] = [
    machine("amd64", "x86_64", true, false, 62),
    machine("arm64", "aarch64", true, false, 183),
    machine("386", "i386", false, false, 3),
    machine("arm", "arm", false, false, 40),
    machine("riscv64", "riscv64", true, false, 243),
    machine("s390x", "s390x", true, true, 22),
    machine("ppc64le", "ppc64le", true, false, 21),
    machine("mips64le", "mips64el", true, false, 8),
    machine("loong64", "loongarch64", true, false, 258),
];

/// How programs for `platform` run on this machine. `path` is where emulators are searched, `tmp` a directory of this process's own.
pub(super) fn find(platform: &Platform, path: Option<&OsStr>, tmp: &Path) -> Emulation {
    let host = Platform::host();
    let is_native = |offered: &str| platform.architecture == offered;
    if is_native(&host.architecture) || (host.architecture == "amd64" && is_native("386")) || (host.architecture == "arm64" && is_native("arm")) {
        return Emulation::None;
    }
    let Some(machine) = MACHINES.iter().find(|machine| machine.architecture == platform.architecture) else { return Emulation::Missing };
    match registered(machine) {
        Some(Registered { is_open: true, .. }) => return Emulation::None,
        Some(Registered { interpreter, .. }) if is_static(&interpreter) => return Emulation::Shown(interpreter),
        _ => {}
    }
    let Some(emulator) = on_path(machine, path) else { return Emulation::Missing };
    if !IdMap::current().is_initial {
        match register(machine, &emulator, tmp) {
            Ok(()) => return Emulation::None,
            Err(error) => tracing::debug!(%error, "no table of formats for this user namespace"),
        }
    }
    Emulation::InFront(emulator)
}

/// What to do where [`Emulation::Missing`].
pub(super) fn remedy(platform: &Platform) -> String {
    let Platform { architecture, .. } = platform;
    let qemu = MACHINES.iter().find(|machine| machine.architecture == architecture).map_or(architecture.as_str(), |machine| machine.qemu);
    format!(
        "this machine is {} and has no emulator for {platform}: install qemu-user-static (and binfmt-support), put qemu-{qemu}-static on PATH, or build \
         this stage FROM --platform=$BUILDPLATFORM",
        Platform::host()
    )
}

struct Registered {
    interpreter: PathBuf,
    /// The kernel holds it open (flag F), wherever a step's root is.
    is_open: bool,
}

fn registered(machine: &Machine) -> Option<Registered> {
    let name = format!("qemu-{}", machine.qemu);
    fs::read_dir(FORMATS).ok()?.flatten().find_map(|entry| {
        let text = fs::read_to_string(entry.path()).ok().filter(|text| text.starts_with("enabled\n"))?;
        let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
        let interpreter = Path::new(value("interpreter ")?);
        let file = interpreter.file_name()?.to_string_lossy().into_owned();
        let is_ours = entry.file_name().to_string_lossy() == name || file == name || file.starts_with(&format!("{name}-"));
        is_ours.then(|| Registered { interpreter: interpreter.to_owned(), is_open: value("flags:").is_some_and(|flags| flags.contains('F')) })
    })
}

fn on_path(machine: &Machine, path: Option<&OsStr>) -> Option<PathBuf> {
    let names = [format!("buildkit-qemu-{}", machine.qemu), format!("qemu-{}-static", machine.qemu), format!("qemu-{}", machine.qemu)];
    names.iter().flat_map(|name| program::candidates(name, path)).find(|file| is_static(file))
}

/// Whether a program needs no loader, so that it runs in a root that has none for it.
fn is_static(path: &Path) -> bool {
    const PT_INTERP: u32 = 3;
    let read = || -> Option<bool> {
        let mut start = vec![0; 4096];
        let length = io::Read::read(&mut fs::File::open(path).ok()?, &mut start).ok()?;
        start.truncate(length);
        let number = |at: usize, bytes: usize| -> Option<u64> {
            Some(start.get(at..at + bytes)?.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
        };
        if !start.starts_with(b"\x7fELF\x02\x01") {
            return None;
        }
        let (table, size, count) =
            (usize::try_from(number(32, 8)?).ok()?, usize::try_from(number(54, 2)?).ok()?, usize::try_from(number(56, 2)?).ok()?);
        let mut kinds = (0..count).map(|index| number(table.checked_add(index.checked_mul(size)?)?, 4));
        Some(!kinds.any(|kind| kind == Some(u64::from(PT_INTERP))))
    };
    path.is_file() && read().unwrap_or(false)
}

/// Tells the kernel about `emulator`, in a table of formats that only this process's user namespace has. The mount lies in this process's own mount namespace.
fn register(machine: &Machine, emulator: &Path, tmp: &Path) -> io::Result<()> {
    use std::sync::Mutex;
    // One registration after another, and none twice: several steps may ask at once.
    static TABLE: Mutex<Option<PathBuf>> = Mutex::new(None);
    let mut table = TABLE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let dir = match table.as_ref() {
        Some(dir) => dir.clone(),
        None => {
            let dir = tmp.join("binfmt");
            fs::create_dir_all(&dir)?;
            rustix::mount::mount("binfmt_misc", &dir, "binfmt_misc", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, None)?;
            table.insert(dir).clone()
        }
    };
    if dir.join(format!("qemu-{}", machine.qemu)).exists() {
        return Ok(());
    }
    fs::write(dir.join("register"), registration(machine, emulator))
}

/// As QEMU's own script writes it: any ABI, executables and shared objects; open the program for the emulator (O), with its credentials (C), its
/// name (P), and hold the emulator (F).
fn registration(machine: &Machine, emulator: &Path) -> Vec<u8> {
    let escape = |bytes: &[u8]| bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect::<String>();
    let order = |bytes: [u8; 2]| if machine.is_big_endian { [bytes[1], bytes[0]] } else { bytes };
    let mut magic = vec![0x7f, b'E', b'L', b'F', 1 + u8::from(machine.is_64_bit), 1 + u8::from(machine.is_big_endian), 1];
    magic.resize(16, 0);
    magic.extend(order([2, 0]));
    magic.extend(order(machine.number.to_le_bytes()));
    let mut mask = vec![0xff; 16];
    mask[7] = 0;
    mask.extend(order([0xfe, 0xff]));
    mask.extend([0xff, 0xff]);
    let mut text = format!(":qemu-{}:M:0:{}:{}:", machine.qemu, escape(&magic), escape(&mask)).into_bytes();
    text.extend_from_slice(emulator.as_os_str().as_bytes());
    text.extend_from_slice(b":OCPF");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e4_2_registrations_are_those_of_qemu() {
        let text = |architecture: &str| {
            let machine = MACHINES.iter().find(|machine| machine.architecture == architecture).expect("known");
            String::from_utf8(registration(machine, Path::new("/q"))).expect("text")
        };
        let arm64 = r":qemu-aarch64:M:0:\x7f\x45\x4c\x46\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:/q:OCPF";
        assert_eq!(text("arm64"), arm64);
        let s390x = r":qemu-s390x:M:0:\x7f\x45\x4c\x46\x02\x02\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x16:\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff:/q:OCPF";
        assert_eq!(text("s390x"), s390x);
        assert!(text("arm").contains(r"\x46\x01\x01\x01") && text("arm").contains(r"\x02\x00\x28\x00"));
    }

    #[test]
    fn e4_1_native_programs_need_nothing_and_unknown_ones_have_no_emulator() {
        let tmp = Path::new("/nonexistent");
        assert_eq!(find(&Platform::host(), None, tmp), Emulation::None);
        let strange = Platform { os: "linux".into(), architecture: "pdp11".into(), variant: String::new() };
        assert_eq!(find(&strange, None, tmp), Emulation::Missing);
        assert!(remedy(&strange).contains("linux/pdp11"));
    }

    #[test]
    fn static_programs_are_told_from_others() {
        assert!(is_static(Path::new("/bin/busybox")) && !is_static(Path::new("/bin/ls")) && !is_static(Path::new("/etc/passwd")));
    }
}
