//! `RUN --mount` (`features.md` A8.3–A8.8, A8.12).

use builder_core::graph::{CopyAction, Dest, FileAction, FileOp, Mount, MountKind, Op, Sharing, TreePath, VertexId};

use super::Compiler;
use super::NamedContext;
use super::plan::{Asker, mount_from};
use super::platform::Origin;
use super::stages::Step;
use super::state::StageState;
use super::text::{absolute, base_name, clipped, go_clean};
use crate::ast::{MountFlag, Word};
use crate::diagnostic::Problem;
use crate::source::Span;
use crate::suggest;

/// Types, as they are suggested.
const TYPES: &[&str] = &["bind", "cache", "tmpfs", "secret", "ssh"];

/// Option names, as they are suggested.
const KEYS: &[&str] = &[
    "type",
    "from",
    "source",
    "src",
    "target",
    "dst",
    "destination",
    "readonly",
    "ro",
    "readwrite",
    "rw",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "env",
];

/// Where a context's part lies in the tree that is made of it for a mount.
const SELECTED: &str = "selected";

/// Default mode of a new cache mount's directory, of secrets and of agent sockets.
const CACHE_MODE: u32 = 0o755;
const SECRET_MODE: u32 = 0o400;
const SSH_MODE: u32 = 0o600;

/// The options of one mount, expanded and read.
#[derive(Debug, Default)]
struct Options {
    kind: String,
    source: Option<String>,
    target: Option<String>,
    read_only: Option<bool>,
    id: Option<String>,
    sharing: Option<Sharing>,
    required: Option<bool>,
    size_bytes: Option<u64>,
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    env: Option<String>,
}

impl Compiler<'_> {
    /// Compiles one mount; the trees it reads are added to `inputs`. Problems are noted.
    pub(crate) fn compile_mount(
        &mut self,
        flag: &MountFlag,
        state: &StageState,
        step: &Step<'_>,
        inputs: &mut Vec<VertexId>,
        earlier: &[Mount],
    ) -> Option<Mount> {
        let before = self.errors();
        let options = self.mount_options(flag, state, step);
        if self.errors() != before {
            return None;
        }
        let span = flag.raw.span;
        let target = absolute(state.workdir(), options.target.as_deref().unwrap_or_default());
        let in_tree = |options: &Options| TreePath::clipped(options.source.as_deref().unwrap_or_default().as_bytes()).ok();
        let mount = match options.kind.as_str() {
            "bind" => {
                let (input, source) = self.mount_tree(flag, &options, step, inputs)?;
                Mount { target, kind: MountKind::Bind { input, source, writable: options.read_only == Some(false) } }
            }
            "cache" => {
                let from = match mount_from(flag) {
                    Some(_) => Some(self.mount_tree(flag, &options, step, inputs)?.0),
                    None => None,
                };
                let written = options.target.as_deref().unwrap_or_default();
                let id = options.id.clone().filter(|id| !id.is_empty()).unwrap_or_else(|| go_clean(written));
                let source = in_tree(&options).unwrap_or_default();
                // Owner and mode are those of a directory made here, never of a seed's part.
                let own = source.is_root();
                let kind = MountKind::Cache {
                    id: format!("{}/{id}", self.cache_namespace()),
                    sharing: options.sharing.unwrap_or(Sharing::Shared),
                    from,
                    source,
                    read_only: options.read_only.unwrap_or(false),
                    mode: options.mode.filter(|_| own).unwrap_or(CACHE_MODE),
                    uid: options.uid.filter(|_| own).unwrap_or_default(),
                    gid: options.gid.filter(|_| own).unwrap_or_default(),
                };
                Mount { target, kind }
            }
            "tmpfs" => Mount { target, kind: MountKind::Tmpfs { size_bytes: options.size_bytes } },
            "secret" => return self.secret_mount(&options, state, step, span),
            _ => {
                let agents = earlier.iter().filter(|mount| matches!(mount.kind, MountKind::Ssh { .. })).count();
                let default = format!("/run/buildkit/ssh_agent.{agents}");
                let kind = MountKind::Ssh {
                    id: options.id.filter(|id| !id.is_empty()).unwrap_or_else(|| "default".to_owned()),
                    required: options.required.unwrap_or(false),
                    mode: options.mode.unwrap_or(SSH_MODE),
                    uid: options.uid.unwrap_or_default(),
                    gid: options.gid.unwrap_or_default(),
                };
                Mount { target: options.target.map_or(default, |target| absolute(state.workdir(), &target)), kind }
            }
        };
        if mount.target == "/" {
            let problem = Problem::error("mount-target", "invalid mount target \"/\"", span);
            self.fail(step.place(), problem.help("give target= a directory or file below /; without it the working directory is the target"));
            return None;
        }
        Some(mount)
    }

    fn secret_mount(&mut self, options: &Options, state: &StageState, step: &Step<'_>, span: Span) -> Option<Mount> {
        let id = match (&options.id, &options.source, &options.target) {
            (Some(_), Some(_), _) => {
                self.fail(step.place(), Problem::error("mount-secret", "both source and id can't be set for a secret mount", span));
                return None;
            }
            (Some(id), _, _) | (_, Some(id), _) => id.clone(),
            (None, None, Some(target)) => base_name(target).to_owned(),
            (None, None, None) => {
                let problem = Problem::error("mount-secret", "invalid secret mount: one of id, source, target is required", span);
                self.fail(step.place(), problem.help("name the secret with id="));
                return None;
            }
        };
        let target = options.target.clone().unwrap_or_else(|| format!("/run/secrets/{}", base_name(&id)));
        let kind = MountKind::Secret {
            id,
            file: options.target.is_some() || options.env.is_none(),
            env: options.env.clone(),
            required: options.required.unwrap_or(false),
            mode: options.mode.unwrap_or(SECRET_MODE),
            uid: options.uid.unwrap_or_default(),
            gid: options.gid.unwrap_or_default(),
        };
        Some(Mount { target: absolute(state.workdir(), &target), kind })
    }

    /// The tree that a bind mount or a cache mount's seed is taken from: its input, and the part of it.
    fn mount_tree(&mut self, flag: &MountFlag, options: &Options, step: &Step<'_>, inputs: &mut Vec<VertexId>) -> Option<(usize, TreePath)> {
        let source = clipped(options.source.as_deref().unwrap_or_default());
        let origin = match mount_from(flag) {
            // A bad origin was noted when the stage was planned.
            Some(from) => Self::seen_through(self.origin(&from.value, &step.asking(Asker::Mount)).ok()?, step.run),
            None => Origin::Context { name: None, context: self.options.context.clone() },
        };
        let vertex = self.origin_vertex(&origin, step)?.0;
        let Origin::Context { name, context: NamedContext::Local { .. } } = &origin else {
            inputs.push(vertex);
            return Some((inputs.len() - 1, TreePath::clipped(source.as_bytes()).ok()?));
        };
        // Of a directory on this machine only what is mounted is read: the part becomes a tree of its own.
        let dest = Dest { path: format!("/{SELECTED}"), is_dir: false };
        let copy = FileAction::Copy(CopyAction { reset_owner: true, ..CopyAction::plain(0, vec![source.clone()], dest) });
        let shown = format!("[internal] /{source} of {}", name.as_ref().map_or_else(|| "build context".to_owned(), |name| format!("context {name}")));
        let meta = self.meta(shown, step.place(), false);
        inputs.push(self.graph.add(Op::File(FileOp { base: false, actions: vec![copy] }), vec![vertex], meta));
        Some((inputs.len() - 1, TreePath::clipped(SELECTED.as_bytes()).ok()?))
    }

    fn cache_namespace(&self) -> &str {
        self.build_args.get("BUILDKIT_CACHE_MOUNT_NS").unwrap_or(&self.options.cache_mount_namespace)
    }

    fn mount_options(&mut self, flag: &MountFlag, state: &StageState, step: &Step<'_>) -> Options {
        let mut options = Options { kind: "bind".to_owned(), ..Options::default() };
        // Which of the options below are allowed depends on the type, wherever it stands.
        for (key, value) in &flag.fields {
            if let ("type", Some(value)) = (key.value.as_str(), value)
                && let Some(kind) = self.expand(value, state, step)
            {
                options.kind = kind.to_lowercase();
                if !TYPES.contains(&options.kind.as_str()) {
                    let problem = Problem::error("mount-type", format!("unsupported mount type {kind:?}"), value.span);
                    let help = suggest::did_you_mean(&kind, TYPES.iter().copied()).unwrap_or_else(|| format!("mount types: {}", TYPES.join(", ")));
                    self.fail(step.place(), problem.help(help));
                    return options;
                }
            }
        }
        for (key, value) in &flag.fields {
            let expanded = match value {
                Some(_) if key.value == "from" => continue,
                Some(value) => match self.expand(value, state, step) {
                    Some(text) => Some((text, value.span)),
                    None => continue,
                },
                None => None,
            };
            if let Err(problem) = options.set(key, expanded) {
                self.fail(step.place(), problem);
            }
        }
        if let Err(message) = options.check(mount_from(flag).is_some()) {
            self.fail(step.place(), Problem::error("mount-option", message, flag.raw.span));
        }
        options
    }
}

impl Options {
    fn set(&mut self, key: &Word, value: Option<(String, Span)>) -> Result<(), Problem> {
        let name = key.value.as_str();
        let Some((text, span)) = value else {
            return match name {
                "readonly" | "ro" => {
                    self.read_only = Some(true);
                    Ok(())
                }
                "readwrite" | "rw" => {
                    self.read_only = Some(false);
                    Ok(())
                }
                "required" if self.is_external() => {
                    self.required = Some(true);
                    Ok(())
                }
                "required" => Err(self.unexpected(key)),
                _ => Err(with_suggestion(Problem::error("mount-option", format!("invalid field '{name}' must be a key=value pair"), key.span), name)),
            };
        };
        let invalid = |what: &str| Problem::error("mount-option", format!("invalid value for {name}: {text:?}"), span).help(what.to_owned());
        let boolean = || match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "t" => Ok(true),
            "false" | "0" | "f" => Ok(false),
            _ => Err(invalid("write true or false")),
        };
        let number = || text.parse::<u32>().map_err(|_| invalid("write a number"));
        match name {
            "type" | "from" => {}
            "source" | "src" => self.source = Some(text),
            "target" | "dst" | "destination" => self.target = Some(text),
            "readonly" | "ro" => self.read_only = Some(boolean()?),
            "readwrite" | "rw" => self.read_only = Some(!boolean()?),
            "required" if self.is_external() => self.required = Some(boolean()?),
            "size" if self.kind == "tmpfs" => {
                self.size_bytes = Some(byte_size(&text).ok_or_else(|| invalid("write bytes, or a number with k, m, g or t"))?)
            }
            "required" | "size" => return Err(self.unexpected(key)),
            "id" => self.id = Some(text),
            "sharing" => {
                self.sharing = Some(match text.to_lowercase().as_str() {
                    "shared" => Sharing::Shared,
                    "private" => Sharing::Private,
                    "locked" => Sharing::Locked,
                    _ => {
                        let problem = Problem::error("mount-sharing", format!("unsupported sharing value {text:?}"), span);
                        let help = suggest::did_you_mean(&text, ["shared", "private", "locked"]);
                        return Err(problem.help(help.unwrap_or_else(|| "sharing values: shared, private, locked".to_owned())));
                    }
                });
            }
            "mode" => {
                let octal = u32::from_str_radix(&text, 8).ok().filter(|mode| *mode <= 0o7777);
                self.mode = Some(octal.ok_or_else(|| invalid("write an octal mode such as 0755"))?);
            }
            "uid" => self.uid = Some(number()?),
            "gid" => self.gid = Some(number()?),
            "env" => self.env = Some(text),
            _ => {
                let problem = Problem::error("mount-option", format!("unexpected key '{name}' in '{name}={text}'"), key.span);
                return Err(with_suggestion(problem, name));
            }
        }
        Ok(())
    }

    fn is_external(&self) -> bool {
        matches!(self.kind.as_str(), "secret" | "ssh")
    }

    fn unexpected(&self, key: &Word) -> Problem {
        Problem::error("mount-option", format!("unexpected key '{}' for mount type '{}'", key.value, self.kind), key.span)
    }

    /// Rules that involve several options (A8.12).
    fn check(&self, has_from: bool) -> Result<(), String> {
        let kind = &self.kind;
        let owned = self.is_external() || kind == "cache";
        for (name, given) in [("mode", self.mode.is_some()), ("uid", self.uid.is_some()), ("gid", self.gid.is_some())] {
            if given && !owned {
                return Err(format!("{name} not allowed for {kind:?} type mounts"));
            }
        }
        if self.sharing.is_some() && kind != "cache" {
            return Err(format!("invalid cache sharing set for {kind} mount"));
        }
        if self.env.is_some() && kind != "secret" {
            return Err(format!("env not allowed for {kind:?} type mounts"));
        }
        if has_from && self.is_external() {
            return Err(format!("{kind} mount should not have a from"));
        }
        if self.source.is_some() && matches!(kind.as_str(), "ssh" | "tmpfs") {
            return Err(format!("{kind} mount should not have a source"));
        }
        Ok(())
    }
}

fn with_suggestion(problem: Problem, name: &str) -> Problem {
    match suggest::did_you_mean(name, KEYS.iter().copied()) {
        Some(help) => problem.help(help),
        None => problem,
    }
}

/// `64m`, `1.5GiB`, `4096`: powers of 1024, as Docker reads sizes of memory.
fn byte_size(text: &str) -> Option<u64> {
    let lower = text.trim().to_lowercase();
    let digits = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let (number, unit) = lower.split_at(digits);
    let shift = match unit.trim().trim_end_matches("ib").trim_end_matches('b') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return None,
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(1 << shift);
    }
    let (whole, fraction) = number.split_once('.')?;
    let digits = u32::try_from(fraction.len()).ok().filter(|&digits| (1..=6).contains(&digits))?;
    let part = fraction.parse::<u64>().ok()?.checked_mul(1 << shift)? / 10_u64.pow(digits);
    whole.parse::<u64>().ok()?.checked_mul(1 << shift)?.checked_add(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a8_6_sizes() {
        for (text, size) in [
            ("8m", Some(8 << 20)),
            ("4096", Some(4096)),
            ("1.5g", Some(3 << 29)),
            ("2KiB", Some(2048)),
            ("10MB", Some(10 << 20)),
            ("1x", None),
            ("", None),
        ] {
            assert_eq!(byte_size(text), size, "{text}");
        }
    }
}
