//! What was typed, word for word.
//!
//! Nothing is checked here beyond the shape of a flag: [`crate::request`] turns this into a request and refuses what makes no sense. Flags are
//! spelt as `docker build` and `docker buildx build` spell them (`features.md` C1), so that a script only has to change the program's name.

use std::ffi::OsString;

use clap::{ArgAction, Args, Parser, Subcommand};

/// Groups of `--help`, in the order they are shown.
const WHAT: &str = "What to build";
const INPUTS: &str = "What goes in";
const RESULT: &str = "What comes out";
const CACHE: &str = "Cache";
const STEPS: &str = "How steps run";
const SHOW: &str = "What you see";
const COMPATIBLE: &str = "Accepted for compatibility";

const OVERVIEW: &str = "\
Builds container images from Dockerfiles: no daemon, flags like `docker build`.

The word `build` may be left out: `rbuild -t app .` is `rbuild build -t app .`";

const EXAMPLES: &str = "\
Examples:
  rbuild -t app .                              build the last stage, keep it as app
  rbuild --target test .                       build one stage and only what it needs
  rbuild -t registry.example/app --push .      push it
  rbuild -t app --load .                       load it into docker or podman
  rbuild -o type=oci,dest=app.tar .            write an OCI archive
  rbuild -o out .                              write the image's files into out/
  rbuild --secret id=token,src=token.txt .     lend a secret to RUN --mount=type=secret
  rbuild --build-context base=../base .        use that directory where it says base
  rbuild --check .                             look for mistakes, build nothing
  rbuild --call=outline .                      list what a build takes
  rbuild context --why src/app.log .           tell which ignore rule decided
  rbuild doctor                                tell what this machine lacks, and a remedy

Exit status:
  0    built
  1    the build or its flags are wrong, or --check found something
  3    this machine lets no step run; rbuild doctor says why
  100  a fault of rbuild
  102  out of memory or disk
  130  interrupted

Environment:
  RBUILD_ROOT, RBUILD_CONFIG, SOURCE_DATE_EPOCH, BUILDKIT_PROGRESS,
  BUILDKIT_COLORS, NO_COLOR, DOCKER_CONFIG, DOCKER_DEFAULT_PLATFORM, SSH_AUTH_SOCK";

const DEBUG_FORMATS: &str = "\
Formats:
  ast    in:  a Dockerfile
         out: one S-expression an instruction, as BuildKit's parser dumps it:
                (copy [\"--from=x\"] \"a\" \"b\")
                (env \"name\" \"value\" \"=\")
                (onbuild (run \"echo test\"))
  words  in:  one JSON object a line:
                {\"mode\": \"word\"|\"words\", \"input\": TEXT, \"env\": {NAME: VALUE}}
         out: {\"out\": TEXT | [TEXT]} or {\"error\": TEXT}
  match  in:  one JSON object a line: {\"patterns\": [TEXT], \"path\": TEXT}
         out: {\"match\": true|false} or {\"error\": TEXT}
              as BuildKit's MatchesOrParentMatches; rbuild context --why
              tells what the walk of a build does

A Dockerfile that cannot be parsed gives status 1.";

const CONVERT_STATUS: &str = "\
Included files are put in their places, ${NAME} in --from and in from= of mounts
becomes what it stands for, RUN --timeout and --retry are left out (with a
warning). Everything else stays as it is written. Built with the same arguments
and target, the result gives the same image.

Exit status:
  0    converted
  1    the Dockerfile or the flags are wrong";

const CONTEXT_STATUS: &str = "\
Exit status:
  0    told
  1    a path of --why is not there, or a build would fail for want of a source
       or for what is wrong with its Dockerfile

A path is told as the build sees it: ignored by which line of which file (and
let in again by which), or selected by which instruction of the Dockerfile.";

const DOCTOR_STATUS: &str = "\
Exit status:
  0    every build can run
  3    only builds without RUN can run, or none
  1    doctor itself could not run";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(name = "rbuild", about = OVERVIEW, version, after_help = EXAMPLES, max_term_width = 120, disable_help_subcommand = true)]
pub(crate) struct CommandLine {
    /// Flags of every command.
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
    /// The command.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags that every command takes.
#[derive(Debug, Default, Clone, Args)]
pub(crate) struct GlobalArgs {
    /// Directory of the store [default: $RBUILD_ROOT, else /var/lib/rbuild as root, else $XDG_DATA_HOME/rbuild]
    #[arg(long, global = true, value_name = "DIR", display_order = 1000)]
    pub(crate) root: Option<OsString>,
    /// Log what rbuild does to standard error (RUST_LOG chooses what)
    #[arg(short = 'D', long, global = true, display_order = 1001)]
    pub(crate) debug: bool,
    /// Configuration file [default: $RBUILD_CONFIG, else $XDG_CONFIG_HOME/rbuild/rbuild.toml, else /etc/rbuild/rbuild.toml]
    #[arg(long, global = true, value_name = "FILE", display_order = 1002)]
    pub(crate) config: Option<OsString>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Build an image from a Dockerfile and a context
    #[command(visible_alias = "b", after_help = EXAMPLES, args_override_self = true)]
    Build(Box<BuildArgs>),
    /// Print the plain Dockerfile that builds the same image, without anything that only rbuild understands
    #[command(after_help = CONVERT_STATUS, args_override_self = true)]
    Convert(ConvertArgs),
    /// Tell what of the context a build reads, what is ignored and why; nothing is built
    #[command(after_help = CONTEXT_STATUS)]
    Context(ContextArgs),
    /// Tell what this machine lets builds do, and what to do about the rest
    #[command(after_help = DOCTOR_STATUS)]
    Doctor(DoctorArgs),
    /// Print the version
    Version,
    /// Filter standard input: parse trees, variable expansion and ignore patterns, for tests and tools
    #[command(after_help = DEBUG_FORMATS)]
    Debug {
        /// Which
        #[arg(value_enum, value_name = "FILTER")]
        filter: DebugFilter,
    },
}

/// Flags that say what a build would be, spelt and meant as those of `build`, for commands that build nothing.
#[derive(Debug, Clone, Args)]
pub(crate) struct DefinitionArgs {
    /// The Dockerfile; `-` reads it from standard input [default: CONTEXT/Dockerfile]
    #[arg(short, long, value_name = "FILE", allow_hyphen_values = true)]
    pub(crate) file: Option<OsString>,
    /// The stage that would be built [default: the last]
    #[arg(long, value_name = "STAGE")]
    pub(crate) target: Option<String>,
    /// Platforms that would be built for [default: this machine's]
    #[arg(long, value_name = "OS/ARCH")]
    pub(crate) platform: Vec<String>,
    /// Value of an ARG; it may decide which stage or image ${NAME} is
    #[arg(long, value_name = "NAME[=VALUE]", allow_hyphen_values = true)]
    pub(crate) build_arg: Vec<String>,
}

impl DefinitionArgs {
    /// That build.
    pub(crate) fn build(self) -> BuildArgs {
        let Self { file, target, platform, build_arg } = self;
        BuildArgs { file, target, platform, build_arg, ..BuildArgs::default() }
    }
}

/// Flags of `convert`, spelt and meant as those of `build`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ConvertArgs {
    /// Where the Dockerfile and what it includes are, as for a build
    #[arg(value_name = "CONTEXT", default_value = ".")]
    pub(crate) context: OsString,
    #[command(flatten)]
    pub(crate) definition: DefinitionArgs,
    /// Write to a file in place of standard output
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<OsString>,
}

impl ConvertArgs {
    /// The build that is to be converted.
    pub(crate) fn build(&self) -> BuildArgs {
        BuildArgs {
            context: Some(self.context.clone()),
            convert: self.output.clone().map_or(Convert::ToStdout, Convert::ToFile),
            ..self.definition.clone().build()
        }
    }
}

/// Whether the Dockerfile is only converted, and to where.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) enum Convert {
    /// It is not.
    #[default]
    No,
    /// To standard output.
    ToStdout,
    /// To a file.
    ToFile(OsString),
}

/// Flags of `context`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ContextArgs {
    /// Directory with the files of the build
    #[arg(value_name = "CONTEXT")]
    pub(crate) context: Option<OsString>,
    /// Tell why this path of the context is read or not; repeatable
    #[arg(long, value_name = "PATH", allow_hyphen_values = true)]
    pub(crate) why: Vec<OsString>,
    /// For people or for programs
    #[arg(long, value_enum, default_value = "text", value_name = "text|json", hide_possible_values = true)]
    pub(crate) format: AnswerFormat,
    #[command(flatten)]
    pub(crate) definition: DefinitionArgs,
    /// A further context, as in build
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) build_context: Vec<String>,
}

/// Flags of `doctor`.
#[derive(Debug, Clone, Args)]
pub(crate) struct DoctorArgs {
    /// For people or for programs
    #[arg(long, value_enum, default_value = "text", value_name = "text|json", hide_possible_values = true)]
    pub(crate) format: AnswerFormat,
    /// Print a profile of AppArmor that lets this program alone make user namespaces, and look at nothing
    #[arg(long)]
    pub(crate) apparmor_profile: bool,
}

/// How a command answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum AnswerFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// What `debug` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum DebugFilter {
    /// A Dockerfile in, its parse tree out
    Ast,
    /// Words in, the same with variables expanded out
    Words,
    /// Ignore patterns and a path in, whether they leave it out
    Match,
}

/// Flags of `build`.
#[derive(Debug, Default, Clone, Args)]
pub(crate) struct BuildArgs {
    /// Directory with the files of the build; `-` reads a tar archive or a Dockerfile from standard input
    #[arg(value_name = "CONTEXT")]
    pub(crate) context: Option<OsString>,

    /// The Dockerfile, relative to the current directory; `-` reads it from standard input [default: CONTEXT/Dockerfile]
    #[arg(short, long, value_name = "FILE", help_heading = WHAT, allow_hyphen_values = true)]
    pub(crate) file: Option<OsString>,
    /// The stage to build [default: the last]
    #[arg(long, value_name = "STAGE", help_heading = WHAT)]
    pub(crate) target: Option<String>,
    /// Platforms to build for, such as linux/amd64,linux/arm64 [default: this machine's]
    #[arg(long, value_name = "OS/ARCH", help_heading = WHAT)]
    pub(crate) platform: Vec<String>,
    /// Refuse what only rbuild understands, so that the Dockerfile builds elsewhere too
    #[arg(long, help_heading = WHAT)]
    pub(crate) strict_docker: bool,
    /// Say something about the Dockerfile in place of building it: check, outline, targets; `,format=json` for programs
    #[arg(long, value_name = "METHOD", help_heading = WHAT)]
    pub(crate) call: Option<String>,
    /// The same as --call=check
    #[arg(long, help_heading = WHAT)]
    pub(crate) check: bool,

    /// Value of an ARG; without `=VALUE` the environment variable of that name
    #[arg(long, value_name = "NAME[=VALUE]", help_heading = INPUTS, allow_hyphen_values = true)]
    pub(crate) build_arg: Vec<String>,
    /// A further context, or what stands for an image: a directory, docker-image://, oci-layout://, a git or http address
    #[arg(long, value_name = "NAME=VALUE", help_heading = INPUTS)]
    pub(crate) build_context: Vec<String>,
    /// A secret for RUN --mount=type=secret: id=ID[,src=FILE|,env=VARIABLE]
    #[arg(long, value_name = "SECRET", help_heading = INPUTS)]
    pub(crate) secret: Vec<String>,
    /// Export the image even if the value of the secret with this id is in it
    #[arg(long, value_name = "ID", help_heading = INPUTS)]
    pub(crate) allow_secret_in_image: Vec<String>,
    /// An ssh agent for RUN --mount=type=ssh: default, or ID=SOCKET
    #[arg(long, value_name = "AGENT", help_heading = INPUTS)]
    pub(crate) ssh: Vec<String>,
    /// Raise a limit on what comes from elsewhere, such as entries, bytes, ratio or layers; errors name it, docs/limits.md lists all
    #[arg(long, value_name = "NAME=VALUE", help_heading = INPUTS)]
    pub(crate) limit: Vec<String>,
    /// Ask the registry again what a tag points to
    #[arg(long, help_heading = INPUTS, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true)]
    pub(crate) pull: Option<bool>,

    /// Name of the image
    #[arg(short, long, value_name = "NAME[:TAG]", help_heading = RESULT)]
    pub(crate) tag: Vec<String>,
    /// Where results go: DIR, `-` (a tar), or type=image|registry|oci|docker|local|tar|cacheonly[,dest=PATH][,KEY=VALUE…]; repeatable
    #[arg(short, long, value_name = "OUTPUT", help_heading = RESULT, allow_hyphen_values = true)]
    pub(crate) output: Vec<String>,
    /// A label of the image
    #[arg(long, value_name = "NAME=VALUE", help_heading = RESULT, allow_hyphen_values = true)]
    pub(crate) label: Vec<String>,
    /// An annotation; LEVEL is manifest, manifest-descriptor, index or index-descriptor
    #[arg(long, value_name = "[LEVEL:]NAME=VALUE", help_heading = RESULT)]
    pub(crate) annotation: Vec<String>,
    /// Write the image's id to a file
    #[arg(long, value_name = "FILE", help_heading = RESULT)]
    pub(crate) iidfile: Option<OsString>,
    /// Write digests and names of the result to a file, as JSON
    #[arg(long, value_name = "FILE", help_heading = RESULT)]
    pub(crate) metadata_file: Option<OsString>,
    /// Times in new layers: keep them, or let none be later than SOURCE_DATE_EPOCH (clamp)
    #[arg(long, value_name = "keep|clamp", help_heading = RESULT)]
    pub(crate) timestamps: Option<String>,
    /// Same inputs, same digests: clamp times to SOURCE_DATE_EPOCH, else to the commit of the context, else to 1980-01-01
    #[arg(long, help_heading = RESULT)]
    pub(crate) reproducible: bool,
    /// Push the image to the registries that its names say: short for -o type=registry
    #[arg(long, help_heading = RESULT, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true)]
    pub(crate) push: Option<bool>,
    /// Load the image into docker or podman: short for -o type=docker
    #[arg(long, help_heading = RESULT, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true)]
    pub(crate) load: Option<bool>,

    /// Run every step, whatever the store knows
    #[arg(long, help_heading = CACHE, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true)]
    pub(crate) no_cache: Option<bool>,
    /// Run every step of these stages, whatever the store knows
    #[arg(long, value_name = "STAGE", help_heading = CACHE)]
    pub(crate) no_cache_filter: Vec<String>,

    /// Network of RUN: default, none or host
    #[arg(long, value_name = "MODE", help_heading = STEPS)]
    pub(crate) network: Option<String>,
    /// Let steps ask for network.host or security.insecure
    #[arg(long, value_name = "RIGHT", help_heading = STEPS)]
    pub(crate) allow: Vec<String>,
    /// A line for /etc/hosts
    #[arg(long, value_name = "HOST:ADDRESS", help_heading = STEPS)]
    pub(crate) add_host: Vec<String>,
    /// Size of /dev/shm, such as 128m
    #[arg(long, value_name = "SIZE", help_heading = STEPS)]
    pub(crate) shm_size: Option<String>,
    /// A resource limit, such as nofile=1024:2048
    #[arg(long, value_name = "NAME=SOFT[:HARD]", help_heading = STEPS)]
    pub(crate) ulimit: Vec<String>,
    /// Limits of each RUN: memory=512m, memory-swap=1g, cpus=1.5, cpu-shares=, cpu-period=, cpu-quota=, cpuset-cpus=0-3, cpuset-mems=
    #[arg(long, value_name = "LIMIT=VALUE[,…]", help_heading = STEPS)]
    pub(crate) resource: Vec<String>,
    /// Let RUN trust this machine's certificates (a company's authority, say) in the place of the image's; the image does not change
    #[arg(long, help_heading = STEPS, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true)]
    pub(crate) host_ca: Option<bool>,
    /// Longest time that each RUN may take, such as 90s, 10m or 1h30m; a step that takes longer is killed and the build fails with status 1
    #[arg(long, value_name = "DURATION", help_heading = STEPS)]
    pub(crate) step_timeout: Option<String>,
    /// What steps run on: overlay mounts, copies of the image, or what is possible (auto) [default: auto]
    #[arg(long, value_name = "auto|overlay|copy", help_heading = STEPS)]
    pub(crate) snapshotter: Option<String>,

    /// How progress is shown: auto, tty, plain, quiet, rawjson or none
    #[arg(long, value_name = "KIND", help_heading = SHOW)]
    pub(crate) progress: Option<String>,
    /// Show nothing; print the image's id at the end
    #[arg(short, long, help_heading = SHOW, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true)]
    pub(crate) quiet: Option<bool>,

    /// Write problems for programs: json or sarif, to standard output or to ,dest=FILE
    #[arg(long, value_name = "FORMAT[,dest=FILE]", help_heading = SHOW)]
    pub(crate) diagnostics: Option<String>,

    /// Caches to read from (ignored: the store is the only cache yet)
    #[arg(long, value_name = "CACHE", help_heading = COMPATIBLE)]
    pub(crate) cache_from: Vec<String>,
    /// Caches to write to (ignored: the store is the only cache yet)
    #[arg(long, value_name = "CACHE", help_heading = COMPATIBLE)]
    pub(crate) cache_to: Vec<String>,
    /// A provenance attestation (ignored unless it is false)
    #[arg(long, value_name = "PARAMETERS", help_heading = COMPATIBLE, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) provenance: Option<String>,
    /// A bill of materials (ignored unless it is false)
    #[arg(long, value_name = "PARAMETERS", help_heading = COMPATIBLE, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) sbom: Option<String>,
    /// An attestation (ignored unless it is disabled)
    #[arg(long, value_name = "PARAMETERS", help_heading = COMPATIBLE)]
    pub(crate) attest: Vec<String>,
    /// The builder instance (ignored: there is one)
    #[arg(long, value_name = "NAME", help_heading = COMPATIBLE)]
    pub(crate) builder: Option<String>,

    /// Set by the command `convert` alone.
    #[arg(skip)]
    pub(crate) convert: Convert,

    /// Flags of older builders that mean nothing here.
    #[command(flatten)]
    pub(crate) legacy: LegacyArgs,
}

/// Flags that docker takes and that mean nothing here. Hidden; those that a build may depend on are named in a warning.
#[derive(Debug, Default, Clone, Args)]
pub(crate) struct LegacyArgs {
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) rm: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) force_rm: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) compress: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) squash: Option<String>,
    #[arg(long, hide = true)]
    pub(crate) isolation: Option<String>,
    #[arg(long, hide = true)]
    pub(crate) security_opt: Vec<String>,
    #[arg(short = 'm', long, hide = true)]
    pub(crate) memory: Option<String>,
    #[arg(long, hide = true, allow_hyphen_values = true)]
    pub(crate) memory_swap: Option<String>,
    #[arg(short = 'c', long, hide = true)]
    pub(crate) cpu_shares: Option<String>,
    #[arg(long, hide = true)]
    pub(crate) cpu_period: Option<String>,
    #[arg(long, hide = true)]
    pub(crate) cpu_quota: Option<String>,
    #[arg(long, hide = true)]
    pub(crate) cpuset_cpus: Option<String>,
    #[arg(long, hide = true)]
    pub(crate) cpuset_mems: Option<String>,
    #[arg(long, hide = true)]
    pub(crate) cgroup_parent: Option<String>,
    #[arg(long, hide = true, action = ArgAction::SetTrue)]
    pub(crate) disable_content_trust: bool,
}

/// Words before the command that belong to docker: `docker buildx build`, `docker image build`, `docker builder build`.
const DOCKER_PREFIXES: [&str; 3] = ["buildx", "image", "builder"];

/// Names of commands; anything else in their place is the first word of `build`.
const COMMANDS: [&str; 8] = ["build", "b", "convert", "context", "version", "doctor", "debug", "help"];

/// Global flags that take a value as a word of its own.
const GLOBAL_WITH_VALUE: [&str; 2] = ["--root", "--config"];

/// Makes `rbuild [buildx] [build] [flags] CONTEXT` into what clap knows: program, global flags, command, the rest.
#[must_use]
pub(crate) fn with_command(argv: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut words: Vec<OsString> = argv.into_iter().collect();
    let mut at = 1;
    while let Some(word) = words.get(at).and_then(|word| word.to_str()) {
        let is_global = word == "-D" || word == "--debug" || GLOBAL_WITH_VALUE.iter().any(|flag| word.starts_with(&format!("{flag}=")));
        match word {
            flag if GLOBAL_WITH_VALUE.contains(&flag) => at += 2,
            _ if is_global => at += 1,
            _ => break,
        }
    }
    let is = |word: Option<&OsString>, set: &[&str]| word.and_then(|word| word.to_str()).is_some_and(|word| set.contains(&word));
    if is(words.get(at), &DOCKER_PREFIXES) && is(words.get(at + 1), &COMMANDS) {
        words.remove(at);
    }
    if is(words.get(at), &["help"]) {
        words[at] = "--help".into();
    }
    if !is(words.get(at), &COMMANDS) && !is(words.get(at), &["--help", "-h", "--version", "-V"]) && words.len() > at {
        words.insert(at, "build".into());
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<CommandLine, clap::Error> {
        CommandLine::try_parse_from(with_command(line.split(' ').map(OsString::from)))
    }

    fn build(line: &str) -> BuildArgs {
        match parse(line).expect(line).command {
            Command::Build(args) => *args,
            _ => panic!("{line} is no build"),
        }
    }

    #[test]
    fn clap_finds_no_fault_in_the_definition() {
        use clap::CommandFactory as _;
        CommandLine::command().debug_assert();
    }

    #[test]
    fn examples_fit_a_terminal() {
        assert!(EXAMPLES.lines().all(|line| line.len() <= 90), "lines that are broken can't be read in columns");
    }

    #[test]
    fn c1_the_word_build_may_be_left_out() {
        for line in [
            "rbuild build -t a .",
            "rbuild b -t a .",
            "rbuild -t a .",
            "rbuild . -t a",
            "rbuild buildx build -t a .",
            "rbuild image build --tag=a .",
            "rbuild --root /r build -t a .",
            "rbuild --root=/r -t a .",
        ] {
            let args = build(line);
            assert_eq!((args.tag, args.context), (vec!["a".to_owned()], Some(OsString::from("."))), "{line}");
        }
        assert!(matches!(parse("rbuild version").expect("version").command, Command::Version));
    }

    #[test]
    fn c1_flags_repeat_and_take_what_looks_like_a_flag() {
        let args = build("rbuild --build-arg A=1 --build-arg A=-x --build-arg -y --label l=1 -f - -o - --platform a,b --platform c .");
        assert_eq!(args.build_arg, ["A=1", "A=-x", "-y"]);
        assert_eq!((args.file, args.output, args.platform), (Some("-".into()), vec!["-".into()], vec!["a,b".into(), "c".into()]));
    }

    #[test]
    fn c1_switches_may_say_what_they_are() {
        let args = build("rbuild --no-cache=false --pull --push=false --rm=true --force-rm --provenance=false --compress .");
        assert_eq!((args.no_cache, args.pull, args.push), (Some(false), Some(true), Some(false)));
        assert_eq!(args.provenance.as_deref(), Some("false"));
        assert_eq!(args.context, Some(".".into()));
    }

    #[test]
    fn c1_1_unknown_flags_are_refused() {
        let error = parse("rbuild build --no-such-flag .").expect_err("unknown");
        assert!(error.to_string().contains("--no-such-flag"));
    }

    #[test]
    fn the_last_of_two_single_flags_counts() {
        assert_eq!(build("rbuild --target a --target b .").target.as_deref(), Some("b"));
    }
}
