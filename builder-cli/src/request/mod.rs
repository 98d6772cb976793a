//! From what was typed to what is asked: flags, environment and files in, one [`BuildPlan`] out.
//!
//! Every flag is parsed here and nowhere else. Whatever can be known to fail is refused here, before a store is opened or a registry asked
//! (`features.md` C1.1).

mod annotation;
mod archive_limits;
pub(crate) mod context;
mod csv;
pub(crate) mod diagnostics;
mod epoch;
mod lent;
mod output;
mod resources;
mod steps;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use builder_core::builder::SnapshotterKind;
use builder_core::content::Limits;
use builder_core::oci::{Platform, Reference};
use builder_core::request::{Entitlement, LocalContext, Output, OutputDest, OutputKind, ResourceLimits, Timestamps};
use builder_core::secret::Secret;
use builder_frontend::compile::{FrontendOptions, NoCache};

use self::context::Ignored;
use self::output::Wanted;
use crate::args::{BuildArgs, Convert};
use crate::environment::Environment;
use crate::progress::ProgressKind;

/// A build, checked and complete except for what only an open store can give.
#[derive(Debug)]
pub(crate) struct BuildPlan {
    /// What to do with the Dockerfile.
    pub(crate) call: Call,
    /// How progress is shown.
    pub(crate) progress: ProgressKind,
    /// Whether the image's id is all that is printed.
    pub(crate) quiet: bool,
    /// What the Dockerfile is compiled with.
    pub(crate) options: FrontendOptions,
    /// Local directories.
    pub(crate) contexts: BTreeMap<String, LocalContext>,
    /// Their ignore files.
    pub(crate) ignores: BTreeMap<String, Ignored>,
    /// The main context is an archive on standard input, of which this much was read.
    pub(crate) archive: Option<Vec<u8>>,
    /// Secrets.
    pub(crate) secrets: BTreeMap<String, Secret>,
    /// What archives and layers from elsewhere may cost.
    pub(crate) limits: Limits,
    /// `--allow-secret-in-image`.
    pub(crate) allow_secret_in_image: Vec<String>,
    /// Agents.
    pub(crate) ssh: BTreeMap<String, PathBuf>,
    /// Where results go.
    pub(crate) outputs: Vec<Output>,
    /// Names.
    pub(crate) tags: Vec<Reference>,
    /// Rights of steps.
    pub(crate) allow: Vec<Entitlement>,
    /// `--snapshotter`.
    pub(crate) snapshotter: Option<SnapshotterKind>,
    /// `SOURCE_DATE_EPOCH`.
    pub(crate) epoch: Option<i64>,
    /// `--timestamps`.
    pub(crate) timestamps: Option<Timestamps>,
    /// `--pull`.
    pub(crate) pull: bool,
    /// Annotations of manifests.
    pub(crate) annotations: BTreeMap<String, String>,
    /// `--resource` and docker's older flags.
    pub(crate) resources: ResourceLimits,
    /// `--host-ca`: this machine's certificates.
    pub(crate) host_ca: Option<Arc<[u8]>>,
    /// `--step-timeout`.
    pub(crate) step_timeout: Option<Duration>,
    /// The file that a converted Dockerfile is written to, absolute.
    pub(crate) converted: Option<PathBuf>,
    /// `--iidfile`, absolute.
    pub(crate) iidfile: Option<PathBuf>,
    /// `--metadata-file`, absolute.
    pub(crate) metadata_file: Option<PathBuf>,
    /// Whether the image's id is its manifest's digest, not its config's.
    pub(crate) id_is_manifest: bool,
    /// What was asked for and is not done.
    pub(crate) warnings: Vec<String>,
}

/// What to do with the Dockerfile (`--call`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    /// Build it.
    Build,
    /// Run the build checks.
    Check(CallFormat),
    /// List what a target takes.
    Outline(CallFormat),
    /// List the stages.
    Targets(CallFormat),
    /// Write the plain Dockerfile.
    Convert,
}

/// For whom the answer of a call is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallFormat {
    /// People.
    Text,
    /// Programs.
    Json,
}

/// Checks and completes what was typed.
pub(crate) fn plan(args: &BuildArgs, environment: &Environment, stdin: &mut dyn Read) -> Result<BuildPlan> {
    let context =
        args.context.as_deref().context("a build takes one CONTEXT: a directory (often `.`), an address, or `-`; see rbuild build --help")?;
    refuse(args)?;
    let call = call(args)?;
    let tags = tags(&args.tag)?;
    let wanted = Wanted { outputs: &args.output, push: args.push == Some(true), load: args.load == Some(true), tags: &args.tag };
    let (mut outputs, id_is_manifest) = output::all(wanted, environment)?;
    let wants_id = args.iidfile.is_some() || args.quiet == Some(true);
    if wants_id && outputs.is_empty() && tags.is_empty() {
        outputs.push(Output::new(OutputKind::Image, OutputDest::None));
    }
    let network = steps::network(args.network.as_deref())?;
    let allow = steps::rights(&args.allow, network)?;
    let mut build_args = build_args(&args.build_arg, environment);
    let annotations = annotation::all(&args.annotation)?;
    let progress = progress(args, environment)?;
    let (platforms, extra_hosts) = (platforms(args, environment)?, steps::hosts(&args.add_host)?);
    let for_index = annotations.keys().chain(outputs.iter().flat_map(|output| output.annotations.keys())).find(|key| annotation::is_for_index(key));
    if let Some(key) = for_index.filter(|_| platforms.len() < 2) {
        bail!("annotation {key}: only images for several platforms have an index; give --platform several, or use the level manifest");
    }
    let shm_size_bytes = args.shm_size.as_deref().map(|text| steps::size("--shm-size", text)).transpose()?;
    let ulimits = steps::ulimits(&args.ulimit)?;
    let (resources, step_timeout) = (resources::limits(args)?, resources::step_timeout(args)?);
    let snapshotter =
        args.snapshotter.as_deref().map(|word| crate::config::snapshotter_kind(word).with_context(|| format!("invalid --snapshotter {word:?}")));
    let snapshotter = snapshotter.transpose()?;
    let inputs = context::find(context, args.file.as_deref(), &args.build_context, environment, stdin)?;
    let times = epoch::times(args, &build_args, inputs.locals.get("context"), environment)?;
    if let Some(word) = &times.word
        && !build_args.iter().any(|(name, _)| name == epoch::NAME)
    {
        build_args.push((epoch::NAME.to_owned(), word.clone()));
    }
    let options = FrontendOptions {
        context: inputs.context,
        includes: inputs.includes,
        target: args.target.clone().filter(|target| !target.is_empty()),
        build_args,
        labels: args.label.iter().map(|label| label.split_once('=').unwrap_or((label, ""))).map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
        platforms,
        named_contexts: inputs.named,
        no_cache: no_cache(args),
        network,
        extra_hosts,
        shm_size_bytes,
        ulimits,
        allow: allow.clone(),
        source_date_epoch: times.epoch,
        strict: args.strict_docker,
        context_ignore: inputs.ignores.get("context").map(|ignore| ignore.rules.clone()),
        ..FrontendOptions::new(inputs.dockerfile, Platform::host())
    };
    if options.platforms.len() > 1 && outputs.iter().any(|output| output.kind == OutputKind::Docker) {
        bail!("a docker archive, and so --load, holds one platform: use type=oci, or choose one with --platform");
    }
    if args.iidfile.is_some() && outputs.iter().any(|output| matches!(output.kind, OutputKind::Local | OutputKind::Tar)) {
        bail!("--iidfile needs an image; an output of type local or tar has no id");
    }
    Ok(BuildPlan {
        call,
        progress,
        quiet: args.quiet == Some(true),
        options,
        contexts: inputs.locals,
        ignores: inputs.ignores,
        archive: inputs.archive,
        limits: archive_limits::limits(&args.limit)?,
        allow_secret_in_image: lent::allowed_in_image(&args.allow_secret_in_image, &args.secret)?,
        secrets: lent::secrets(&args.secret, environment)?,
        ssh: lent::agents(&args.ssh, environment)?,
        warnings: warnings(args, environment, &outputs, &tags),
        outputs,
        tags,
        allow,
        snapshotter,
        epoch: times.epoch,
        timestamps: times.timestamps,
        pull: args.pull == Some(true),
        annotations,
        resources,
        step_timeout,
        host_ca: host_ca(args, environment)?,
        converted: if let Convert::ToFile(path) = &args.convert { Some(environment.absolute(path)) } else { None },
        iidfile: args.iidfile.as_ref().map(|path| environment.absolute(path)),
        metadata_file: args.metadata_file.as_ref().map(|path| environment.absolute(path)),
        id_is_manifest,
    })
}

/// `--host-ca`: the bundle that rbuild itself trusts.
fn host_ca(args: &BuildArgs, environment: &Environment) -> Result<Option<Arc<[u8]>>> {
    if args.host_ca != Some(true) {
        return Ok(None);
    }
    let bundle = crate::config::machine_certificates(environment).into_iter().next();
    let bundle = bundle.context("--host-ca: this machine has no bundle of certificates; install ca-certificates, or name one with SSL_CERT_FILE")?;
    Ok(Some(bundle.into()))
}

/// What is understood and not there yet.
fn refuse(args: &BuildArgs) -> Result<()> {
    ensure!(args.cache_to.iter().all(|cache| !cache.trim().is_empty()), "invalid --cache-to \"\": expected type=KIND,…");
    Ok(())
}

fn call(args: &BuildArgs) -> Result<Call> {
    if args.convert != Convert::No {
        return Ok(Call::Convert);
    }
    let text = if args.check { Some("check") } else { args.call.as_deref() };
    let Some(text) = text else { return Ok(Call::Build) };
    let mut fields = text.split(',');
    let method = fields.next().unwrap_or_default();
    let mut format = CallFormat::Text;
    for field in fields {
        format = match field {
            "format=json" => CallFormat::Json,
            "format=text" | "format=" => CallFormat::Text,
            // Ours always fails when there are findings.
            "ignorestatus=false" => format,
            other => bail!("invalid --call {text:?}: unknown field {other:?}; there is format=json"),
        };
    }
    match method.strip_prefix("subrequests.").unwrap_or(method) {
        "build" => Ok(Call::Build),
        "check" | "lint" => Ok(Call::Check(format)),
        "outline" => Ok(Call::Outline(format)),
        "targets" => Ok(Call::Targets(format)),
        other => bail!("invalid --call {text:?}: unknown method {other:?}; there are build, check, outline and targets"),
    }
}

fn tags(given: &[String]) -> Result<Vec<Reference>> {
    let mut tags: Vec<Reference> = Vec::new();
    for text in given.iter().filter(|text| !text.is_empty()) {
        let tag: Reference = text.parse().with_context(|| format!("invalid --tag {text:?}"))?;
        ensure!(tag.digest.is_none(), "invalid --tag {text:?}: a digest can't be chosen; leave out what follows the @");
        if !tags.contains(&tag) {
            tags.push(tag);
        }
    }
    Ok(tags)
}

/// Proxies of Docker's configuration file that become build arguments, in both cases of their names (C1.5).
const PROXIES: [(&str, &str); 5] =
    [("httpProxy", "HTTP_PROXY"), ("httpsProxy", "HTTPS_PROXY"), ("noProxy", "NO_PROXY"), ("ftpProxy", "FTP_PROXY"), ("allProxy", "ALL_PROXY")];

/// `--build-arg`, with values from the environment where none is given, then what the environment adds by itself.
fn build_args(given: &[String], environment: &Environment) -> Vec<(String, String)> {
    let mut args: Vec<(String, String)> = Vec::new();
    for text in given {
        match text.split_once('=') {
            Some((name, value)) => args.push((name.to_owned(), value.to_owned())),
            None => args.extend(environment.get_even_if_empty(text).map(|value| (text.clone(), value.to_string_lossy().into_owned()))),
        }
    }
    let docker = crate::credentials::docker_config(environment);
    let defaults = docker.proxies.get("default").cloned().unwrap_or_default();
    for (key, name) in PROXIES {
        let Some(value) = defaults.get(key).filter(|_| !args.iter().any(|(given, _)| given.eq_ignore_ascii_case(name))) else { continue };
        args.push((name.to_owned(), value.clone()));
        args.push((name.to_ascii_lowercase(), value.clone()));
    }
    args
}

fn platforms(args: &BuildArgs, environment: &Environment) -> Result<Vec<Platform>> {
    let default = environment.get("DOCKER_DEFAULT_PLATFORM").filter(|_| args.platform.is_empty());
    let mut platforms: Vec<Platform> = Vec::new();
    for text in args.platform.iter().map(String::as_str).chain(default).flat_map(|list| list.split(',')).map(str::trim) {
        let platform = match text {
            "local" => Platform::host(),
            _ => text.parse().with_context(|| format!("invalid --platform {text:?}"))?,
        };
        if !platforms.contains(&platform) {
            platforms.push(platform);
        }
    }
    Ok(platforms)
}

fn no_cache(args: &BuildArgs) -> NoCache {
    let stages: Vec<String> = args.no_cache_filter.iter().flat_map(|list| list.split(',')).filter(|s| !s.is_empty()).map(str::to_owned).collect();
    match (args.no_cache, stages.is_empty()) {
        (Some(true), _) => NoCache::All,
        (_, false) => NoCache::Stages(stages),
        _ => NoCache::None,
    }
}

fn progress(args: &BuildArgs, environment: &Environment) -> Result<ProgressKind> {
    let typed = args.progress.as_deref().filter(|kind| *kind != "auto").map(|kind| (kind, "--progress"));
    let asked = typed.or_else(|| environment.get("BUILDKIT_PROGRESS").map(|kind| (kind, "BUILDKIT_PROGRESS")));
    if args.quiet == Some(true) {
        return Ok(ProgressKind::Quiet);
    }
    match asked {
        None | Some(("auto", _)) if environment.stderr_is_terminal => Ok(ProgressKind::Tty),
        None | Some(("auto", _)) => Ok(ProgressKind::Plain),
        Some((kind, flag)) => {
            kind.parse().map_err(|()| anyhow::anyhow!("invalid {flag} {kind:?}; there are auto, tty, plain, quiet, rawjson and none"))
        }
    }
}

/// What was asked for and is not done. Only what could matter: nobody needs to hear about `--rm`.
fn warnings(args: &BuildArgs, environment: &Environment, outputs: &[Output], tags: &[Reference]) -> Vec<String> {
    let asked = |value: &Option<String>| value.as_deref().is_some_and(|value| !["false", "disabled=true", "0"].contains(&value));
    let legacy = &args.legacy;
    let ignored = [
        (!args.cache_from.is_empty(), "--cache-from is ignored: caches are not imported yet; the store in --root is the cache"),
        (!args.cache_to.is_empty(), "--cache-to is ignored: caches are not exported yet; keep the directory given with --root"),
        (asked(&args.provenance), "--provenance is ignored: attestations are not made yet"),
        (asked(&args.sbom), "--sbom is ignored: attestations are not made yet"),
        (args.attest.iter().any(|attest| !attest.contains("disabled=true")), "--attest is ignored: attestations are not made yet"),
        (legacy.cgroup_parent.is_some(), "--cgroup-parent is ignored: steps run in rbuild's own control group"),
        (asked(&legacy.squash), "--squash is ignored: copy the result into a stage FROM scratch to the same effect"),
        (!legacy.security_opt.is_empty(), "--security-opt is ignored: use --allow security.insecure and RUN --security=insecure"),
        (environment.get("DOCKER_BUILDKIT") == Some("0"), "DOCKER_BUILDKIT=0 is ignored: there is one builder"),
    ];
    let mut warnings: Vec<String> = ignored.into_iter().filter(|(applies, _)| *applies).map(|(_, text)| text.to_owned()).collect();
    if outputs.is_empty() && tags.is_empty() && args.output.is_empty() && call(args).is_ok_and(|call| call == Call::Build) {
        warnings.push("no output and no name: the result stays in the store only; give -t NAME or -o type=oci,dest=image.tar to use it".into());
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    fn dir() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("temporary directory");
        std::fs::write(dir.path().join("Dockerfile"), "FROM scratch\n").expect("file");
        dir
    }

    fn plan_of(flags: &str, variables: &[(&str, &str)]) -> Result<BuildPlan> {
        let dir = dir();
        let words = ["rbuild", "build"].into_iter().chain(flags.split(' ').filter(|word| !word.is_empty())).chain(["."]);
        let line = crate::args::CommandLine::try_parse_from(words).expect(flags);
        let crate::args::Command::Build(args) = line.command else { panic!("no build") };
        plan(&args, &Environment::of(dir.path(), variables), &mut &b""[..])
    }

    #[test]
    fn c1_flags_become_options() {
        let plan = plan_of(
            "-t a -t a:latest --target T --build-arg A=1 --build-arg B --build-arg NOT_SET --label l --platform linux/arm64,local --no-cache --network=host",
            &[("B", "from env")],
        )
        .expect("plan");
        assert_eq!(plan.tags.len(), 1);
        assert_eq!(plan.options.build_args, [("A".into(), "1".into()), ("B".into(), "from env".into())]);
        assert_eq!(plan.options.labels, [("l".to_owned(), String::new())]);
        assert_eq!((plan.options.platforms.len(), plan.options.target.as_deref()), (2, Some("T")));
        assert_eq!((plan.options.no_cache, plan.allow), (NoCache::All, vec![Entitlement::NetworkHost]));
    }

    #[test]
    fn c1_1_usage_errors() {
        for (flags, words) in [
            ("--push", "needs a name"),
            ("--load", "neither docker nor podman"),
            ("--annotation index:a=b", "several platforms"),
            ("--annotation nothing:a=b", "unknown level"),
            ("--platform linux/amd64,linux/arm64 -o type=docker,dest=x", "holds one platform"),
            ("--network bridge", "unsupported network mode \"bridge\""),
            ("--snapshotter zfs", "invalid --snapshotter \"zfs\": there are auto, overlay and copy"),
            ("--progress fancy", "invalid --progress \"fancy\""),
            ("-t UPPER", "lower case"),
            ("--call nonsense", "unknown method"),
            ("--iidfile i -o out", "--iidfile needs an image"),
            ("--platform nonsense", "is no platform"),
            ("--timestamps never", "keep or clamp"),
            ("--resource memory", "expected LIMIT=VALUE"),
            ("--memory 1k", "at least 6 MiB"),
            ("--step-timeout soon", "such as 90s"),
        ] {
            let error = format!("{:#}", plan_of(flags, &[]).expect_err(flags));
            assert!(error.contains(words), "{flags}: {error}");
        }
    }

    #[test]
    fn c1_5_proxies_of_docker_become_arguments_unless_given() {
        let config = dir();
        std::fs::write(config.path().join("config.json"), r#"{"proxies": {"default": {"httpProxy": "http://p", "noProxy": "x"}}}"#).expect("file");
        let plan = plan_of("--build-arg no_proxy=mine", &[("DOCKER_CONFIG", &config.path().display().to_string())]).expect("plan");
        let names: Vec<_> = plan.options.build_args.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(names, ["no_proxy=mine", "HTTP_PROXY=http://p", "http_proxy=http://p"]);
    }

    #[test]
    fn what_is_ignored_is_said() {
        let warnings = plan_of("--cache-from x --rm --provenance=false --cgroup-parent g -t a", &[]).expect("plan").warnings;
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(plan_of("", &[]).expect("plan").warnings[0].contains("stays in the store"));
    }

    #[test]
    fn c1_calls() {
        for (flags, call) in [
            ("--check", Call::Check(CallFormat::Text)),
            ("--call=check,format=json", Call::Check(CallFormat::Json)),
            ("--call outline", Call::Outline(CallFormat::Text)),
            ("--call=subrequests.targets", Call::Targets(CallFormat::Text)),
            ("--call build -t a", Call::Build),
        ] {
            assert_eq!(plan_of(flags, &[]).expect(flags).call, call);
        }
    }
}
