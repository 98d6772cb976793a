//! Build checks (`features.md` A15): the rules, which of them are on, and those that need nothing but the syntax tree.
//!
//! Rules that need values of variables, resolved images or reachability are reported by the compiler through [`Linter`], under the same names.
//! A finding is a [`Problem`] whose code is the rule's name.

use std::collections::HashSet;

use crate::ast::{CommandLine, Comment, Dockerfile, Instruction, InstructionKind, Run, RunCommand};
use crate::diagnostic::Problem;
use crate::source::Span;
use crate::stage::StageTable;

/// One rule.
#[derive(Debug, PartialEq, Eq)]
pub struct Rule {
    /// Name: the contract with `check=skip=…`.
    pub name: &'static str,
    /// One sentence.
    pub description: &'static str,
    /// Last part of its page's address.
    pub page: &'static str,
    /// Whether it is off unless asked for.
    pub experimental: bool,
    /// Whether other builders have it too. What only we check is advice: it changes no exit status.
    pub shared: bool,
}

impl Rule {
    /// The page about it, if there is one.
    #[must_use]
    pub fn url(&self) -> Option<String> {
        self.shared.then(|| format!("https://docs.docker.com/go/dockerfile/rule/{}/", self.page))
    }
}

macro_rules! rules {
    ($($constant:ident, $name:literal, $page:literal, $description:literal, $experimental:literal;)* ; $($own:ident, $own_name:literal, $own_description:literal;)*) => {
        $(
            #[doc = $description]
            pub const $constant: Rule = Rule { name: $name, description: $description, page: $page, experimental: $experimental, shared: true };
        )*
        $(
            #[doc = $own_description]
            pub const $own: Rule = Rule { name: $own_name, description: $own_description, page: "", experimental: false, shared: false };
        )*
        /// All rules.
        pub const RULES: &[&Rule] = &[$(&$constant),*, $(&$own),*];
    };
}

rules! {
    STAGE_NAME_CASING, "StageNameCasing", "stage-name-casing", "Stage names should be lowercase", false;
    FROM_AS_CASING, "FromAsCasing", "from-as-casing", "The 'as' keyword should match the case of the 'from' keyword", false;
    NO_EMPTY_CONTINUATION, "NoEmptyContinuation", "no-empty-continuation", "Empty continuation lines will become errors in a future release", false;
    CONSISTENT_INSTRUCTION_CASING, "ConsistentInstructionCasing", "consistent-instruction-casing", "All commands within the Dockerfile should use the same casing (either upper or lower)", false;
    DUPLICATE_STAGE_NAME, "DuplicateStageName", "duplicate-stage-name", "Stage names should be unique", false;
    RESERVED_STAGE_NAME, "ReservedStageName", "reserved-stage-name", "Reserved words should not be used as stage names", false;
    JSON_ARGS_RECOMMENDED, "JSONArgsRecommended", "json-args-recommended", "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals", false;
    MAINTAINER_DEPRECATED, "MaintainerDeprecated", "maintainer-deprecated", "The MAINTAINER instruction is deprecated, use a label instead to define an image author", false;
    UNDEFINED_ARG_IN_FROM, "UndefinedArgInFrom", "undefined-arg-in-from", "FROM command must use declared ARGs", false;
    WORKDIR_RELATIVE_PATH, "WorkdirRelativePath", "workdir-relative-path", "Relative workdir without an absolute workdir declared within the build can have unexpected results if the base image changes", false;
    UNDEFINED_VAR, "UndefinedVar", "undefined-var", "Variables should be defined before their use", false;
    MULTIPLE_INSTRUCTIONS_DISALLOWED, "MultipleInstructionsDisallowed", "multiple-instructions-disallowed", "Multiple instructions of the same type should not be used in the same stage", false;
    LEGACY_KEY_VALUE_FORMAT, "LegacyKeyValueFormat", "legacy-key-value-format", "Legacy key/value format with whitespace separator should not be used", false;
    INVALID_BASE_IMAGE_PLATFORM, "InvalidBaseImagePlatform", "invalid-base-image-platform", "Base image platform does not match expected target platform", false;
    REDUNDANT_TARGET_PLATFORM, "RedundantTargetPlatform", "redundant-target-platform", "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior", false;
    SECRETS_USED_IN_ARG_OR_ENV, "SecretsUsedInArgOrEnv", "secrets-used-in-arg-or-env", "Sensitive data should not be used in the ARG or ENV commands", false;
    INVALID_DEFAULT_ARG_IN_FROM, "InvalidDefaultArgInFrom", "invalid-default-arg-in-from", "Default value for global ARG results in an empty or invalid base image name", false;
    FROM_PLATFORM_FLAG_CONST_DISALLOWED, "FromPlatformFlagConstDisallowed", "from-platform-flag-const-disallowed", "FROM --platform flag should not use a constant value", false;
    COPY_IGNORED_FILE, "CopyIgnoredFile", "copy-ignored-file", "Attempting to Copy file that is excluded by .dockerignore", false;
    INVALID_DEFINITION_DESCRIPTION, "InvalidDefinitionDescription", "invalid-definition-description", "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. If this is not intended to be a description comment, add an empty line or comment between the instruction and the comment.", true;
    EXPOSE_PROTO_CASING, "ExposeProtoCasing", "expose-proto-casing", "Protocol in EXPOSE instruction should be lowercase", false;
    EXPOSE_INVALID_FORMAT, "ExposeInvalidFormat", "expose-invalid-format", "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in a future release", false;
    ;
    UNUSED_STAGE, "UnusedStage", "A stage that no other stage uses is built only when it is the target";
    COPY_IGNORED_PATH, "CopyIgnoredPath", "Attempting to copy a path that the ignore file leaves out, whatever it lets in again";
    SECRET_VALUE, "SecretValueInArgOrEnv", "A value that looks like a secret stays in the image's history";
    PACKAGE_CACHE_IN_LAYER, "PackageCacheInLayer", "The cache of a package manager makes the final image larger and is of no use in it";
    EXEC_FORM_NOT_JSON, "ExecFormNotJson", "The exec form is JSON: words in double quotes. Anything else is given to the shell";
    WILDCARD_MATCHES_NOTHING, "WildcardMatchesNothing", "A wildcard that matches nothing copies nothing";
    SEVERAL_SOURCES_ONE_FILE, "SeveralSourcesOneFile", "The destination of several sources is a directory, and says so with a slash at its end";
    DIRECTORY_MODE_WITHOUT_EXECUTE, "DirectoryModeWithoutExecute", "A directory without the right to execute can't be entered";
}

/// The rule of that name.
#[must_use]
pub fn rule(name: &str) -> Option<&'static Rule> {
    RULES.iter().copied().find(|rule| rule.name == name)
}

/// Which rules are on (`check=` directive, comment or build argument; `features.md` A1.8).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CheckOptions {
    skip: Vec<String>,
    skip_all: bool,
    experimental: Vec<String>,
    experimental_all: bool,
    /// Whether findings end the build.
    pub error: bool,
}

/// A `check` value that can't be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCheckOptions {
    /// An option that there is not.
    #[error("invalid check option {0:?}: expected skip, error or experimental")]
    Unknown(String),
    /// No `=`.
    #[error("invalid check option {0:?}: expected name=value")]
    NoValue(String),
    /// `error` is neither true nor false.
    #[error("invalid value {0:?} of check option error: expected true or false")]
    NotBool(String),
    /// More than one part a kind.
    #[error("check has more than three parts: {0:?}")]
    TooMany(String),
}

impl CheckOptions {
    /// Reads `skip=A,B;error=true;experimental=C`.
    ///
    /// # Errors
    /// Unknown options, options without a value, more than three parts.
    pub fn parse(text: &str) -> Result<Self, InvalidCheckOptions> {
        let mut options = Self::default();
        let parts: Vec<&str> = text.trim().split(';').collect();
        if parts.len() > 3 {
            return Err(InvalidCheckOptions::TooMany(text.to_owned()));
        }
        for part in parts {
            let part = part.trim();
            if part.is_empty() {
                continue;
            }
            let (name, value) = part.split_once('=').ok_or_else(|| InvalidCheckOptions::NoValue(part.to_owned()))?;
            let value = value.trim();
            let list = || value.split(',').map(|rule| rule.trim().to_owned()).filter(|rule| !rule.is_empty()).collect::<Vec<_>>();
            match name.trim() {
                "skip" => {
                    options.skip_all |= value.eq_ignore_ascii_case("all");
                    options.skip.extend(list());
                }
                "experimental" => {
                    options.experimental_all |= value.eq_ignore_ascii_case("all");
                    options.experimental.extend(list());
                }
                "error" => {
                    options.error = match value.to_ascii_lowercase().as_str() {
                        "true" | "1" | "t" => true,
                        "false" | "0" | "f" => false,
                        _ => return Err(InvalidCheckOptions::NotBool(value.to_owned())),
                    };
                }
                other => return Err(InvalidCheckOptions::Unknown(other.to_owned())),
            }
        }
        Ok(options)
    }

    fn allows(&self, rule: &Rule) -> bool {
        let named = |list: &[String]| list.iter().any(|name| name == rule.name);
        let skipped = self.skip_all || named(&self.skip);
        !skipped && (!rule.experimental || self.experimental_all || named(&self.experimental))
    }

    fn merged(&self, other: &Self) -> Self {
        let join = |a: &[String], b: &[String]| a.iter().chain(b).cloned().collect();
        Self {
            skip: join(&self.skip, &other.skip),
            skip_all: self.skip_all || other.skip_all,
            experimental: join(&self.experimental, &other.experimental),
            experimental_all: self.experimental_all || other.experimental_all,
            error: self.error || other.error,
        }
    }
}

/// Collects findings of the rules that are on.
#[derive(Debug, Clone, Default)]
pub struct Linter {
    options: CheckOptions,
    findings: Vec<Problem>,
    known: HashSet<(&'static str, Span, String)>,
}

impl Linter {
    /// With the options of the file.
    #[must_use]
    pub fn new(options: CheckOptions) -> Self {
        Self { options, ..Self::default() }
    }

    /// Findings so far; equal ones once.
    #[must_use]
    pub fn findings(&self) -> &[Problem] {
        &self.findings
    }

    /// The options of the file.
    #[must_use]
    pub fn options(&self) -> &CheckOptions {
        &self.options
    }

    /// Reports a finding at an instruction, unless the rule is off for the file or, by a comment directly above, for the instruction.
    pub fn report(&mut self, rule: &'static Rule, instruction: &Instruction, detail: String) {
        self.report_at(rule, instruction, instruction.span, detail);
    }

    /// As [`Linter::report`], at another place than the whole instruction.
    pub fn report_at(&mut self, rule: &'static Rule, instruction: &Instruction, span: Span, detail: String) {
        let own = instruction
            .comments
            .iter()
            .filter_map(check_comment)
            .fold(None::<CheckOptions>, |all, one| Some(all.map_or_else(|| one.clone(), |all| all.merged(&one))));
        let on = match own {
            Some(own) => self.options.merged(&own).allows(rule),
            None => self.options.allows(rule),
        };
        if on && self.known.insert((rule.name, span, detail.clone())) {
            self.findings.push(if rule.shared { Problem::warning(rule.name, detail, span) } else { Problem::note(rule.name, detail, span) });
        }
    }

    /// All rules that need nothing but the syntax tree.
    pub fn check_syntax(&mut self, dockerfile: &Dockerfile, table: &StageTable<'_>) {
        for instruction in &dockerfile.instructions {
            self.check_instruction(instruction);
        }
        self.check_stage_names(table);
        self.check_keyword_casing(table);
    }

    fn check_instruction(&mut self, instruction: &Instruction) {
        match &instruction.kind {
            InstructionKind::From(from) => {
                if let Some(name) = &from.name {
                    if name.value.chars().any(char::is_uppercase) {
                        self.report(&STAGE_NAME_CASING, instruction, format!("Stage name '{}' should be lowercase", name.value));
                    }
                    self.check_description(instruction, &[name.value.to_lowercase()]);
                }
                if let Some(keyword) = &from.as_keyword
                    && let (Some(from_case), as_case) = (Casing::of(&instruction.keyword.value), Casing::of(&keyword.value))
                    && as_case != Some(from_case)
                {
                    let detail = format!("'{}' and '{}' keywords' casing do not match", keyword.value, instruction.keyword.value);
                    self.report(&FROM_AS_CASING, instruction, detail);
                }
            }
            InstructionKind::Maintainer(_) => {
                self.report(&MAINTAINER_DEPRECATED, instruction, "Maintainer instruction is deprecated in favor of using label".to_owned());
            }
            InstructionKind::Env(pairs) | InstructionKind::Label(pairs) if pairs.iter().any(|pair| pair.legacy) => {
                let keyword = if matches!(instruction.kind, InstructionKind::Env(_)) { "ENV" } else { "LABEL" };
                let detail = format!("\"{keyword} key=value\" should be used instead of legacy \"{keyword} key value\" format");
                self.report(&LEGACY_KEY_VALUE_FORMAT, instruction, detail);
            }
            InstructionKind::Arg(declarations) => {
                let names: Vec<String> = declarations.iter().map(|declaration| declaration.name.value.clone()).collect();
                self.check_description(instruction, &names);
            }
            InstructionKind::Run(Run { command: RunCommand::Plain(command), .. })
            | InstructionKind::Cmd(command)
            | InstructionKind::Entrypoint(command) => {
                self.check_exec_form(command, instruction);
            }
            _ => {}
        }
        if instruction.blank_continuation.is_some() {
            // The line on which the continued instruction ends, as the reference counts it.
            let end = instruction.heredocs.iter().map(|heredoc| heredoc.body_span.start.saturating_sub(1)).min().unwrap_or(instruction.span.end);
            let span = Span { start: end.saturating_sub(1).max(instruction.span.start), end };
            self.report_at(&NO_EMPTY_CONTINUATION, instruction, span, "Empty continuation line".to_owned());
        }
    }

    /// `['a', 'b']` is valid in many languages and no JSON; `[ -d /x ] && y` is a command.
    fn check_exec_form(&mut self, command: &CommandLine, instruction: &Instruction) {
        let CommandLine::Shell(text) = command else { return };
        let inner = text.value.strip_prefix('[').and_then(|text| text.strip_suffix(']')).map(str::trim);
        let quoted = |text: &str| text.starts_with('\'') && text.ends_with('\'') || text.starts_with('"') && text.ends_with(['"', ',']);
        if inner.is_some_and(|inner| inner.len() > 1 && quoted(inner)) {
            let keyword = instruction.keyword.value.to_uppercase();
            let detail =
                format!("{keyword} {} is no JSON and is given to the shell: put every word in double quotes, commas between them", text.value);
            self.report(&EXEC_FORM_NOT_JSON, instruction, detail);
        }
    }

    fn check_description(&mut self, instruction: &Instruction, names: &[String]) {
        let (Some(comment), Some(first)) = (instruction.comments.last(), names.first()) else { return };
        if comment.followed_by_blank || comment.text.is_empty() || is_directive(&comment.text) {
            return;
        }
        let word = comment.text.split(' ').next().unwrap_or_default();
        if !names.iter().any(|name| name == word) {
            let keyword = instruction.keyword.value.to_uppercase();
            let example = if names.len() > 1 { "<arg_key>" } else { first };
            self.report(
                &INVALID_DEFINITION_DESCRIPTION,
                instruction,
                format!("Comment for {keyword} should follow the format: `# {example} <description>`"),
            );
        }
    }

    fn check_stage_names(&mut self, table: &StageTable<'_>) {
        for stage in &table.stages {
            let Some(name) = &stage.name else { continue };
            if table.base(name, stage.index).is_some() {
                let detail = format!("Duplicate stage name {name:?}, stage names should be unique");
                self.report(&DUPLICATE_STAGE_NAME, stage.instruction, detail);
            }
            if matches!(name.as_str(), "scratch" | "context") {
                let detail = format!("Stage name should not use the same name as reserved stage {name:?}");
                self.report(&RESERVED_STAGE_NAME, stage.instruction, detail);
            }
        }
    }

    fn check_keyword_casing(&mut self, table: &StageTable<'_>) {
        let all: Vec<&Instruction> = table.stages.iter().flat_map(|stage| std::iter::once(stage.instruction).chain(stage.body)).collect();
        let count = |casing| all.iter().filter(|instruction| Casing::of(&instruction.keyword.value) == Some(casing)).count();
        let (majority, word) = if count(Casing::Lower) > count(Casing::Upper) { (Casing::Lower, "lowercase") } else { (Casing::Upper, "uppercase") };
        for instruction in all {
            let keyword = &instruction.keyword.value;
            if Casing::of(keyword) != Some(majority) {
                let detail = format!("Command '{keyword}' should match the case of the command majority ({word})");
                self.report(&CONSISTENT_INSTRUCTION_CASING, instruction, detail);
            }
        }
    }
}

/// The options of a `# check=…` comment that stands directly above an instruction; unreadable ones count for nothing.
fn check_comment(comment: &Comment) -> Option<CheckOptions> {
    let (name, value) = comment.text.split_once('=')?;
    if comment.followed_by_blank || !name.trim().eq_ignore_ascii_case("check") {
        return None;
    }
    CheckOptions::parse(value).ok()
}

fn is_directive(text: &str) -> bool {
    text.split_once('=').is_some_and(|(name, _)| ["check", "escape", "syntax"].iter().any(|known| name.trim().eq_ignore_ascii_case(known)))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Casing {
    Lower,
    Upper,
}

impl Casing {
    fn of(word: &str) -> Option<Self> {
        if !word.bytes().any(|b| b.is_ascii_uppercase()) {
            Some(Self::Lower)
        } else if !word.bytes().any(|b| b.is_ascii_lowercase()) {
            Some(Self::Upper)
        } else {
            None
        }
    }
}

/// Whether a variable of this name is likely to hold a secret (`SecretsUsedInArgOrEnv`).
#[must_use]
pub fn names_a_secret(name: &str) -> bool {
    const SECRET: &[&str] = &["apikey", "auth", "credential", "credentials", "key", "password", "pword", "passwd", "secret", "token"];
    const PUBLIC: &[&str] = &["public", "file", "version"];
    let lower = name.to_lowercase();
    let has = |words: &[&str]| lower.split('_').any(|part| words.contains(&part));
    has(SECRET) && !has(PUBLIC)
}
