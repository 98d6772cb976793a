//! RUN: one process, one layer (`features.md` A8).

use builder_core::graph::{Chmod, Dest, ExecOp, FileAction, FileOp, Mount, MountKind, Network, Op, Security, Variable};
use builder_core::request::Entitlement;

use super::Compiler;
use super::stages::Step;
use super::state::{StageState, StepNames};
use crate::advice;
use crate::ast::{CommandLine, Heredoc, Run, RunCommand, Word};
use crate::diagnostic::Problem;
use crate::lint;
use crate::suggest;

/// Proxy variables that reach every RUN undeclared (A7.6), in upper case.
const PROXIES: &[&str] = &["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"];

/// Host name of RUN where nothing else is said.
const DEFAULT_HOSTNAME: &str = "buildkitsandbox";

/// Where scripts with an interpreter of their own are shown (A3.6).
const SCRIPTS: &str = "/dev/pipes";

impl Compiler<'_> {
    pub(crate) fn compile_run(&mut self, run: &Run, state: &mut StageState, step: &Step<'_>, names: &mut StepNames) {
        let mut inputs = Vec::new();
        // Input 0 is the root; its place is kept while mounts add theirs.
        let root = match state.tree {
            Some(tree) => tree,
            None => self.empty_tree(),
        };
        inputs.push(root);
        let mut ssh_socket = None;
        let mut masked = Vec::new();
        let mut mounts = Vec::new();
        let before = self.errors();
        for flag in &run.mounts {
            let Some(mount) = self.compile_mount(flag, state, step, &mut inputs, &mounts) else { continue };
            match &mount.kind {
                MountKind::Secret { env: Some(name), .. } => masked.push(name.clone()),
                MountKind::Ssh { .. } if ssh_socket.is_none() => ssh_socket = Some(mount.target.clone()),
                _ => {}
            }
            mounts.push(mount);
        }
        let shown = self.step_text(step, state, &masked);
        let name = names.next(&shown);
        let network = self.network(run.network.as_ref(), step);
        let security = self.security(run.security.as_ref(), step);
        if let Some(device) = run.devices.first() {
            let problem = Problem::error("unsupported", "RUN --device is not supported", device.span);
            self.fail(step.place(), problem.help("remove the flag; devices of the host can't be given to a step"));
        }
        let own = [("timeout", run.timeout.as_ref().map(|word| word.span)), ("retry", run.retry.as_ref().map(|word| word.span))];
        for (name, span) in own.into_iter().filter_map(|(name, span)| Some((name, span?))).filter(|_| self.options.strict) {
            let problem = Problem::error("own-extension", format!("RUN --{name} is known to rbuild only"), span);
            self.fail(step.place(), problem.help("remove the flag, or build without --strict-docker"));
        }
        let mut argv = match &run.command {
            RunCommand::Plain(CommandLine::Exec(words)) => words.iter().map(|word| word.value.clone()).collect(),
            RunCommand::Plain(CommandLine::Shell(_)) | RunCommand::Script(_) | RunCommand::Shebang(_) | RunCommand::Glued { .. } => state.shell(),
        };
        match &run.command {
            RunCommand::Plain(CommandLine::Exec(_)) => {}
            RunCommand::Plain(CommandLine::Shell(text)) | RunCommand::Glued { text, .. } => argv.push(text.value.clone()),
            RunCommand::Script(heredoc) => argv.push(heredoc.body.clone()),
            RunCommand::Shebang(heredoc) => {
                let mount = self.script_mount(heredoc, step, &mut inputs);
                mounts.push(mount);
                argv.push(format!("{SCRIPTS}/{}", heredoc.name));
            }
        }
        if self.errors() != before {
            return;
        }
        self.check_leftover(&argv, &mounts, state, step);
        let created_by = format!("RUN {}{} # buildkit", history_args(state), argv.join(" "));
        let mut env: Vec<Variable> = state.variables.entries().to_vec();
        if let Some(socket) = ssh_socket {
            env.retain(|variable| variable.0 != "SSH_AUTH_SOCK");
            env.push(("SSH_AUTH_SOCK".to_owned(), socket).into());
        }
        let proxy_env = self.proxies(state);
        mounts.sort_by(|a, b| components(&a.target).cmp(&components(&b.target)));
        let op = ExecOp {
            argv,
            env,
            proxy_env,
            cwd: state.workdir().to_owned(),
            user: state.document.config.user.clone(),
            hostname: self
                .build_args
                .get("BUILDKIT_SANDBOX_HOSTNAME")
                .or(self.options.hostname.as_ref())
                .cloned()
                .unwrap_or_else(|| DEFAULT_HOSTNAME.to_owned()),
            network,
            security,
            mounts,
            extra_hosts: self.options.extra_hosts.clone(),
            shm_size_bytes: self.options.shm_size_bytes,
            ulimits: self.options.ulimits.clone(),
            timeout: run.timeout.as_ref().map(|word| word.value),
            retries: run.retry.as_ref().map_or(0, |word| word.value),
            platform: state.platform.clone(),
        };
        let meta = self.meta(name, step.place(), step.ignore_cache);
        let vertex = self.graph.add(Op::Exec(op), inputs, meta);
        state.tree = Some(vertex);
        state.note_layer(created_by, vertex);
    }

    /// `PackageCacheInLayer`, in stages whose layers are part of the final image.
    fn check_leftover(&mut self, argv: &[String], mounts: &[Mount], state: &StageState, step: &Step<'_>) {
        if !self.final_stages.contains(&step.stage) || step.place().trigger {
            return;
        }
        let covered = mounts.iter().filter(|mount| matches!(mount.kind, MountKind::Cache { .. } | MountKind::Tmpfs { .. }));
        let mounted: Vec<&str> = covered.map(|mount| mount.target.as_str()).collect();
        let command = argv.last().map(String::as_str).unwrap_or_default();
        if let Some(left) = advice::leftover(command, &mounted, |name| state.variables.get(name).is_some()) {
            let detail = format!("{:?} leaves {} in the final image: {}", left.command, left.path, left.remedy);
            self.lint(&lint::PACKAGE_CACHE_IN_LAYER, step, detail);
        }
    }

    fn script_mount(&mut self, heredoc: &Heredoc, step: &Step<'_>, inputs: &mut Vec<builder_core::graph::VertexId>) -> Mount {
        let action = FileAction::MakeFile {
            dest: Dest { path: format!("/{}", heredoc.name), is_dir: false },
            name: heredoc.name.clone(),
            data: heredoc.body.clone().into_bytes(),
            chmod: Some(Chmod::Octal(0o755)),
            owner: None,
        };
        let meta = self.meta(format!("[internal] script <<{}", heredoc.name), step.place(), false);
        let script = self.graph.add(Op::File(FileOp { base: false, actions: vec![action] }), Vec::new(), meta);
        inputs.push(script);
        let kind = MountKind::Bind { input: inputs.len() - 1, source: builder_core::graph::TreePath::root(), writable: false };
        Mount { target: SCRIPTS.to_owned(), kind }
    }

    fn proxies(&self, state: &StageState) -> Vec<(String, String)> {
        let mut all = Vec::new();
        for &upper in PROXIES {
            let lower = upper.to_lowercase();
            let given = self.build_args.get(upper).or_else(|| self.build_args.get(&lower));
            for name in [upper.to_owned(), lower] {
                // A declared one is an ordinary argument and is there already.
                if let Some(value) = given.filter(|_| state.variables.get(&name).is_none()) {
                    all.push((name, value.clone()));
                }
            }
        }
        all
    }

    fn network(&mut self, flag: Option<&Word>, step: &Step<'_>) -> Network {
        let Some(word) = flag else { return self.options.network };
        match word.value.as_str() {
            "default" => self.options.network,
            "none" => Network::None,
            "host" => {
                let granted = self.options.network == Network::Host || self.options.allow.contains(&Entitlement::NetworkHost);
                if !granted && !self.lenient {
                    self.denied("network.host", "RUN --network=host", word, step);
                }
                Network::Host
            }
            other => {
                let problem = Problem::error("unknown-network", format!("unsupported network mode {other:?}"), word.span);
                let help = suggest::did_you_mean(other, ["default", "none", "host"]);
                self.fail(step.place(), problem.help(help.unwrap_or_else(|| "network modes: default, none, host".to_owned())));
                Network::Default
            }
        }
    }

    fn security(&mut self, flag: Option<&Word>, step: &Step<'_>) -> Security {
        match flag.map(|word| (word, word.value.as_str())) {
            None | Some((_, "sandbox")) => Security::Sandbox,
            Some((word, "insecure")) => {
                if !self.options.allow.contains(&Entitlement::SecurityInsecure) && !self.lenient {
                    self.denied("security.insecure", "RUN --security=insecure", word, step);
                }
                Security::Insecure
            }
            Some((word, other)) => {
                let problem = Problem::error("unknown-security", format!("security {other:?} is not valid"), word.span);
                let help = suggest::did_you_mean(other, ["sandbox", "insecure"]);
                self.fail(step.place(), problem.help(help.unwrap_or_else(|| "security modes: sandbox, insecure".to_owned())));
                Security::Sandbox
            }
        }
    }

    fn denied(&mut self, entitlement: &str, what: &str, word: &Word, step: &Step<'_>) {
        let problem = Problem::error("entitlement", format!("{what} needs the entitlement {entitlement}, which this build was not given"), word.span);
        self.fail(step.place(), problem.help(format!("allow it with --allow {entitlement}")));
    }
}

/// `|2 A=1 B=2 ` for the ARGs in scope: each once, in order of declaration, with the value it has by now (A13.2).
fn history_args(state: &StageState) -> String {
    let value = |name: &str, declared: Option<&str>| state.variables.get(name).or(declared).unwrap_or_default().to_owned();
    let shown: Vec<String> = state.args.iter().map(|(name, declared)| format!("{name}={}", value(name, declared))).collect();
    if shown.is_empty() { String::new() } else { format!("|{} {} ", shown.len(), shown.join(" ")) }
}

fn components(path: &str) -> Vec<&str> {
    path.split('/').filter(|part| !part.is_empty()).collect()
}
