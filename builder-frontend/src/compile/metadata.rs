//! Instructions that change the image's config and what later instructions see (`features.md` A10), and WORKDIR, which also makes a directory.

use builder_core::graph::{FileAction, FileOp, Op, Owner};
use builder_core::oci::config::Healthcheck as ConfigHealthcheck;
use serde_json::{Map, Value, json};

use super::Compiler;
use super::stages::{NEVER_EXPORTED, Step};
use super::state::{StageState, StepNames};
use super::text::{absolute, go_duration, go_list, go_quoted_list};
use crate::ast::{ArgDeclaration, CommandLine, Healthcheck, InstructionKind, KeyValue, Word};
use crate::diagnostic::Problem;
use crate::expand;
use crate::lint;
use crate::source::Span;
use crate::suggest;

impl Compiler<'_> {
    /// Compiles one instruction.
    pub(crate) fn compile_step(&mut self, state: &mut StageState, step: &Step<'_>, names: &mut StepNames) {
        match &step.planned.instruction.kind {
            InstructionKind::From(_) => {}
            InstructionKind::Run(run) => self.compile_run(run, state, step, names),
            InstructionKind::Copy(copy) => self.compile_copy(copy, state, step, names),
            InstructionKind::Add(add) => self.compile_add(add, state, step, names),
            InstructionKind::Workdir(path) => self.workdir(path, state, step, names),
            InstructionKind::Arg(declarations) => self.arg(declarations, state, step),
            InstructionKind::Env(pairs) => self.env(pairs, state, step),
            InstructionKind::Label(pairs) => self.label(pairs, state, step),
            InstructionKind::Cmd(command) => self.cmd(command, state, step),
            InstructionKind::Entrypoint(command) => self.entrypoint(command, state, step),
            InstructionKind::Healthcheck(check) => self.healthcheck(check, state, step),
            InstructionKind::Expose(words) => self.expose(words, state, step),
            InstructionKind::Volume(words) => self.volume(words, state, step),
            InstructionKind::User(word) => {
                if let Some(user) = self.expand(word, state, step) {
                    state.note(format!("USER {user}"));
                    state.document.config.user = user;
                }
            }
            InstructionKind::Stopsignal(word) => self.stopsignal(word, state, step),
            InstructionKind::Shell(words) => {
                let shell: Vec<String> = words.iter().map(|word| word.value.clone()).collect();
                state.note(format!("SHELL {}", go_list(&shell)));
                state.document.config.shell = Some(shell);
            }
            InstructionKind::Onbuild(onbuild) => state.document.config.on_build.get_or_insert_default().push(onbuild.text.clone()),
            InstructionKind::Maintainer(word) => {
                state.note(format!("MAINTAINER {}", word.value));
                state.document.author = Some(word.value.clone());
            }
        }
    }

    fn workdir(&mut self, path: &Word, state: &mut StageState, step: &Step<'_>, names: &mut StepNames) {
        let name = names.next(&self.step_text(step, state, &[]));
        let Some(path) = self.expand(path, state, step) else { return };
        if !state.workdir_set && !path.starts_with('/') {
            self.lint(&lint::WORKDIR_RELATIVE_PATH, step, format!("Relative workdir {path:?} can have unexpected results if the base image changes"));
        }
        state.workdir_set = true;
        let path = absolute(state.workdir(), &path);
        state.document.config.working_dir.clone_from(&path);
        if path == "/" {
            state.note("WORKDIR /".to_owned());
            return;
        }
        let user = &state.document.config.user;
        let owner = (!user.is_empty()).then(|| Owner { text: user.clone() });
        let action = FileAction::MakeDir { path: path.clone(), mode: 0o755, owner };
        let meta = self.meta(name, step.place(), false);
        let op = Op::File(FileOp { base: state.tree.is_some(), actions: vec![action] });
        let vertex = self.graph.add(op, state.tree.into_iter().collect(), meta);
        state.tree = Some(vertex);
        state.note_layer(format!("WORKDIR {path}"), vertex);
    }

    fn arg(&mut self, declarations: &[ArgDeclaration], state: &mut StageState, step: &Step<'_>) {
        let mut shown = Vec::new();
        for declaration in declarations {
            let name = declaration.name.value.clone();
            if !step.place().trigger {
                self.check_secret("ARG", &name, &step.planned.instruction);
            }
            // Unlike ENV, each ARG of a line sees those before it.
            let value = match (self.build_args.get(&name), &declaration.default) {
                (Some(given), _) => Some(given.clone()),
                (None, Some(default)) => match self.expand(default, state, step) {
                    Some(value) => Some(value),
                    None => continue,
                },
                (None, None) => step.run.globals.get(&name).map(str::to_owned),
            };
            if let Some(value) = &value {
                self.check_secret_value("ARG", &name, value, step);
            }
            if let Some(value) = value.as_ref().filter(|_| !NEVER_EXPORTED.contains(&name.as_str())) {
                state.variables.set(name.clone(), value.clone());
            }
            shown.push(value.as_ref().map_or_else(|| name.clone(), |value| format!("{name}={value}")));
            state.args.declare(&name, value.as_deref());
        }
        state.note(format!("ARG {}", shown.join(" ")));
    }

    /// Keys and values, all expanded with the variables as they were before the instruction (A5.8).
    fn pairs(&mut self, pairs: &[KeyValue], state: &StageState, step: &Step<'_>) -> Option<Vec<(String, String)>> {
        let expanded: Vec<_> =
            pairs.iter().map(|pair| Some((self.expand(&pair.key, state, step)?, self.expand(&pair.value, state, step)?))).collect();
        expanded.into_iter().collect()
    }

    fn env(&mut self, pairs: &[KeyValue], state: &mut StageState, step: &Step<'_>) {
        let Some(pairs) = self.pairs(pairs, state, step) else { return };
        for (name, value) in &pairs {
            if !step.place().trigger {
                self.check_secret("ENV", name, &step.planned.instruction);
            }
            self.check_secret_value("ENV", name, value, step);
            state.set_env(name, value);
        }
        state.note(format!("ENV {}", shown_pairs(&pairs)));
    }

    fn label(&mut self, pairs: &[KeyValue], state: &mut StageState, step: &Step<'_>) {
        let Some(pairs) = self.pairs(pairs, state, step) else { return };
        let labels = state.document.config.labels.get_or_insert_default();
        for (name, value) in &pairs {
            labels.insert(name.clone(), Value::String(value.clone()));
        }
        state.note(format!("LABEL {}", shown_pairs(&pairs)));
    }

    fn command(&mut self, command: &CommandLine, keyword: &str, state: &StageState, step: &Step<'_>) -> Vec<String> {
        match command {
            CommandLine::Exec(words) => words.iter().map(|word| word.value.clone()).collect(),
            CommandLine::Shell(text) => {
                if state.document.config.shell.as_ref().is_none_or(Vec::is_empty) {
                    let detail = format!("JSON arguments recommended for {keyword} to prevent unintended behavior related to OS signals");
                    self.lint(&lint::JSON_ARGS_RECOMMENDED, step, detail);
                }
                let mut words = state.shell();
                words.push(text.value.clone());
                words
            }
        }
    }

    fn only_once(&mut self, keyword: &str, earlier: Option<Span>, step: &Step<'_>) -> Option<Span> {
        if let Some(earlier) = earlier {
            let detail = format!("Multiple {keyword} instructions should not be used in the same stage because only the last one will be used");
            self.linter.report_at(&lint::MULTIPLE_INSTRUCTIONS_DISALLOWED, &step.planned.instruction, earlier, detail);
        }
        Some(step.place().lines)
    }

    fn cmd(&mut self, command: &CommandLine, state: &mut StageState, step: &Step<'_>) {
        state.own.cmd = self.only_once("CMD", state.own.cmd, step);
        let words = self.command(command, "CMD", state, step);
        state.note(format!("CMD {}", go_quoted_list(&words)));
        state.document.config.args_escaped = Some(true);
        state.document.config.cmd = Some(words).filter(|words| !words.is_empty());
    }

    fn entrypoint(&mut self, command: &CommandLine, state: &mut StageState, step: &Step<'_>) {
        state.own.entrypoint = self.only_once("ENTRYPOINT", state.own.entrypoint, step);
        let words = self.command(command, "ENTRYPOINT", state, step);
        state.note(format!("ENTRYPOINT {}", go_quoted_list(&words)));
        state.document.config.entrypoint = Some(words).filter(|words| !words.is_empty());
        if state.own.cmd.is_none() {
            // An inherited CMD was written for another program.
            state.document.config.cmd = None;
        }
    }

    fn healthcheck(&mut self, check: &Healthcheck, state: &mut StageState, step: &Step<'_>) {
        state.own.healthcheck = self.only_once("HEALTHCHECK", state.own.healthcheck, step);
        let nanos = |duration: &Option<std::time::Duration>| i64::try_from(duration.unwrap_or_default().as_nanos()).unwrap_or(i64::MAX);
        let (test, shown, config) = match check {
            Healthcheck::None => (vec!["NONE".to_owned()], [std::time::Duration::ZERO; 4], ConfigHealthcheck::default()),
            Healthcheck::Command { command, interval, timeout, start_period, start_interval, retries } => {
                let test = match command {
                    CommandLine::Shell(text) => vec!["CMD-SHELL".to_owned(), text.value.clone()],
                    CommandLine::Exec(words) => std::iter::once("CMD".to_owned()).chain(words.iter().map(|word| word.value.clone())).collect(),
                };
                let config = ConfigHealthcheck {
                    test: None,
                    interval: nanos(interval),
                    timeout: nanos(timeout),
                    start_period: nanos(start_period),
                    start_interval: nanos(start_interval),
                    retries: i64::from(retries.unwrap_or_default()),
                };
                (test, [*interval, *timeout, *start_period, *start_interval].map(Option::unwrap_or_default), config)
            }
        };
        let [interval, timeout, start_period, start_interval] = shown.map(go_duration);
        state.note(format!(
            "HEALTHCHECK {{Test:{} Interval:{interval} Timeout:{timeout} StartPeriod:{start_period} StartInterval:{start_interval} Retries:{}}}",
            go_list(&test),
            config.retries
        ));
        state.document.config.healthcheck = Some(ConfigHealthcheck { test: Some(test), ..config });
    }

    fn expose(&mut self, words: &[Word], state: &mut StageState, step: &Step<'_>) {
        let mut sorted: Vec<&Word> = words.iter().collect();
        sorted.sort_by(|a, b| a.value.cmp(&b.value));
        let mut ports = Vec::new();
        for word in sorted {
            match expand::expand_words(&word.value, &state.variables, self.escape()) {
                Ok(expanded) => {
                    self.check_defined(&expanded.used, state, step);
                    for text in &expanded.words {
                        match self.port(text, step) {
                            Ok(found) => ports.extend(found),
                            Err(reason) => {
                                let problem = Problem::error("invalid-port", reason, word.span);
                                self.fail(step.place(), problem.help("write port, port/protocol or first-last/protocol"));
                            }
                        }
                    }
                }
                Err(error) => self.fail(step.place(), Problem::expansion(&error, word.span)),
            }
        }
        let exposed = state.document.config.exposed_ports.take().unwrap_or_default();
        let mut exposed: std::collections::BTreeMap<String, Value> = exposed.into_iter().collect();
        exposed.extend(ports.iter().map(|port| (port.clone(), json!({}))));
        state.document.config.exposed_ports = Some(exposed.into_iter().collect());
        state.note(format!("EXPOSE {}", go_list(&ports)));
    }

    /// The container ports of one word: `[[ip:]host:]container[-last][/protocol]`.
    fn port(&mut self, text: &str, step: &Step<'_>) -> Result<Vec<String>, String> {
        let (address, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let lower = protocol.to_lowercase();
        if !matches!(lower.as_str(), "tcp" | "udp" | "sctp") {
            return Err(format!("invalid port: {text:?}: invalid proto: {protocol}"));
        }
        if lower != protocol {
            self.lint(&lint::EXPOSE_PROTO_CASING, step, format!("Defined protocol '{text}' in EXPOSE instruction should be lowercase"));
        }
        let container = match address.rsplit_once(':') {
            Some((_, container)) => {
                let detail = format!("EXPOSE instruction should not define an IP address or host-port mapping, found '{text}'");
                self.lint(&lint::EXPOSE_INVALID_FORMAT, step, detail);
                container
            }
            None => address,
        };
        let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u16>().ok()).flatten();
        let (first, last) = container.split_once('-').unwrap_or((container, container));
        match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => Ok((first..=last).map(|port| format!("{port}/{lower}")).collect()),
            _ => Err(format!("invalid containerPort: {container}")),
        }
    }

    fn volume(&mut self, words: &[Word], state: &mut StageState, step: &Step<'_>) {
        let mut volumes = Vec::new();
        for word in words {
            let Some(volume) = self.expand(word, state, step) else { continue };
            if volume.is_empty() {
                self.fail(step.place(), Problem::error("empty-volume", "VOLUME specified can not be an empty string", word.span));
            }
            volumes.push(volume);
        }
        let all: Map<String, Value> = state.document.config.volumes.take().unwrap_or_default();
        let mut all: std::collections::BTreeMap<String, Value> = all.into_iter().collect();
        all.extend(volumes.iter().map(|volume| (volume.clone(), json!({}))));
        state.document.config.volumes = Some(all.into_iter().collect());
        state.note(format!("VOLUME {}", go_list(&volumes)));
    }

    fn stopsignal(&mut self, word: &Word, state: &mut StageState, step: &Step<'_>) {
        let Some(signal) = self.expand(word, state, step) else { return };
        if !is_signal(&signal) {
            let near = suggest::nearest(signal.to_uppercase().trim_start_matches("SIG"), SIGNALS.iter().copied());
            let help =
                near.map_or_else(|| "write a name such as SIGTERM or a number such as 15".to_owned(), |near| format!("did you mean `SIG{near}`?"));
            self.fail(step.place(), Problem::error("invalid-signal", format!("invalid signal: {signal}"), word.span).help(help));
            return;
        }
        state.note(format!("STOPSIGNAL {signal}"));
        state.document.config.stop_signal = Some(signal);
    }
}

fn shown_pairs(pairs: &[(String, String)]) -> String {
    pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
}

/// Linux's signals.
const SIGNALS: &[&str] = &[
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE", "POLL", "PROF", "PWR", "QUIT", "SEGV",
    "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ",
];

/// A signal by number or name (A10.10).
fn is_signal(text: &str) -> bool {
    if let Ok(number) = text.parse::<u32>() {
        return (1..=64).contains(&number);
    }
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = |prefix: &str, sign: &str| {
        name.strip_prefix(prefix)
            .is_some_and(|rest| rest.is_empty() || rest.strip_prefix(sign).is_some_and(|n| n.parse::<u32>().is_ok_and(|n| (1..=15).contains(&n))))
    };
    SIGNALS.contains(&name) || real_time("RTMIN", "+") || real_time("RTMAX", "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a10_10_signals() {
        for good in ["9", "SIGUSR1", "usr1", "SIGRTMIN+3", "RTMAX-1", "64"] {
            assert!(is_signal(good), "{good}");
        }
        for bad in ["0", "65", "SIGNOTHING", "", "RTMIN+16", "-9"] {
            assert!(!is_signal(bad), "{bad}");
        }
    }
}
