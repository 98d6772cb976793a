//! `--output`: where results go (`features.md` D1).

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};
use builder_core::oci::Reference;
use builder_core::request::{Compression, Output, OutputDest, OutputKind, Push};

use super::{annotation, csv};
use crate::engine;
use crate::environment::Environment;

const FLAG: &str = "--output";
const KINDS: [&str; 7] = ["image", "registry", "oci", "docker", "local", "tar", "cacheonly"];
/// What is missing when something is to be pushed.
const NO_NAME: &str = "pushing needs a name: give -t NAME, or name=NAME in the output";

/// Where results go, as flags say it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Wanted<'a> {
    /// `--output`.
    pub(crate) outputs: &'a [String],
    /// `--push`.
    pub(crate) push: bool,
    /// `--load`.
    pub(crate) load: bool,
    /// `--tag`, as typed.
    pub(crate) tags: &'a [String],
}

/// All outputs, and whether the image's id is to be its manifest's digest. No outputs keep the result in the store.
pub(crate) fn all(wanted: Wanted<'_>, environment: &Environment) -> Result<(Vec<Output>, bool)> {
    let mut outputs = Vec::new();
    let mut id_is_manifest = false;
    for text in wanted.outputs {
        let read = one(text, wanted, environment).with_context(|| format!("invalid {FLAG} {text:?}"))?;
        id_is_manifest |= read.id_is_manifest;
        outputs.push(read.output);
    }
    let to_stdout = outputs.iter().filter(|output| matches!(output.dest, OutputDest::Stdout)).count();
    ensure!(to_stdout < 2, "only one {FLAG} can go to standard output");
    if to_stdout > 0 && environment.stdout_is_terminal {
        bail!("refusing to write a tar archive to a terminal; redirect standard output or give dest=FILE");
    }
    if wanted.push && !outputs.iter().any(|output| output.kind == OutputKind::Image) {
        outputs.push(Output { push: Some(Push::default()), ..blank(OutputKind::Image) });
    }
    if wanted.load && !outputs.iter().any(|output| matches!(output.dest, OutputDest::Engine(_))) {
        let dest = OutputDest::Engine(engine::find(environment, None)?);
        outputs.push(Output { dest, oci_mediatypes: false, ..blank(OutputKind::Docker) });
    }
    for output in outputs.iter().filter(|output| output.push.is_some()) {
        ensure!(!output.names.is_empty() || wanted.tags.iter().any(|tag| !tag.is_empty()), NO_NAME);
    }
    Ok((outputs, id_is_manifest))
}

/// One output and what it says beside.
struct Read {
    output: Output,
    id_is_manifest: bool,
    by_digest: bool,
    insecure: bool,
    /// Names as typed.
    names: Vec<String>,
}

fn one(text: &str, wanted: Wanted<'_>, environment: &Environment) -> Result<Read> {
    let plain = |output| Read { output, id_is_manifest: false, by_digest: false, insecure: false, names: Vec::new() };
    if text == "-" {
        return Ok(plain(Output { dest: OutputDest::Stdout, ..blank(OutputKind::Tar) }));
    }
    if !text.contains('=') && !text.contains(',') {
        return Ok(plain(Output { dest: OutputDest::Path(environment.absolute(text)), ..blank(OutputKind::Local) }));
    }
    let mut attributes: BTreeMap<String, String> = csv::pairs(FLAG, text, &[])?.into_iter().collect();
    let kind = attributes.remove("type").context("no type; such as type=oci,dest=image.tar")?;
    let dest = attributes.remove("dest");
    let as_tar = take_switch(&mut attributes, "tar")?.unwrap_or(true);
    let pushes = take_switch(&mut attributes, "push")?.unwrap_or(kind == "registry") || wanted.push;
    let context = attributes.remove("context");
    let mut output = match kind.as_str() {
        "oci" => blank(OutputKind::Oci { tar: as_tar }),
        "docker" if !as_tar => blank(OutputKind::Oci { tar: false }),
        "docker" => Output { oci_mediatypes: false, ..blank(OutputKind::Docker) },
        "local" => blank(OutputKind::Local),
        "tar" => blank(OutputKind::Tar),
        "cacheonly" => blank(OutputKind::CacheOnly),
        "image" | "registry" => Output { push: pushes.then(Push::default), ..blank(OutputKind::Image) },
        other => bail!("unknown type {other:?}; the types are {}", KINDS.join(", ")),
    };
    output.dest = match (output.kind, dest.as_deref()) {
        (OutputKind::CacheOnly | OutputKind::Image, None) => OutputDest::None,
        (OutputKind::CacheOnly | OutputKind::Image, Some(_)) => bail!("type={kind} writes no file: leave out dest"),
        (OutputKind::Docker, None) => OutputDest::Engine(engine::find(environment, context.as_deref())?),
        (OutputKind::Oci { tar: false } | OutputKind::Local, None | Some("-" | "")) => bail!("a directory is written: give dest=DIR"),
        (_, None | Some("-")) => OutputDest::Stdout,
        (_, Some("")) => bail!("dest is empty"),
        (_, Some(path)) => OutputDest::Path(environment.absolute(path)),
    };
    let level = attributes.remove("compression-level");
    output.compression = compression(attributes.remove("compression").as_deref(), level.as_deref())?;
    let mut read = plain(output);
    for (key, value) in attributes {
        attribute(&mut read, &key, &value)?;
    }
    names(&mut read, wanted.tags)?;
    ensure!(
        read.output.oci_mediatypes || !matches!(read.output.compression, Compression::Zstd { .. }),
        "compression=zstd needs OCI media types; add oci-mediatypes=true"
    );
    Ok(read)
}

/// Takes over the names. What is pushed by its digest has no tag, and none may have been given.
fn names(read: &mut Read, tags: &[String]) -> Result<()> {
    for name in &read.names {
        read.output.names.push(name.parse::<Reference>()?);
    }
    let Some(push) = &mut read.output.push else { return Ok(()) };
    *push = Push { by_digest: read.by_digest, insecure: read.insecure };
    if let Some(name) = read.output.names.iter().find(|name| name.digest.is_some()) {
        bail!("{name}: a digest can't be chosen; leave out what follows the @");
    }
    if read.by_digest {
        let typed = if read.names.is_empty() { tags } else { &read.names };
        if let Some(tagged) = typed.iter().find(|name| name.rsplit('/').next().is_some_and(|last| last.contains(':'))) {
            bail!("can't push tagged ref {tagged} by digest; leave out the tag, or push-by-digest");
        }
        let named = typed.iter().filter(|name| !name.is_empty()).map(|name| Ok(Reference { tag: None, ..name.parse::<Reference>()? }));
        read.output.names = named.collect::<Result<_>>()?;
    }
    Ok(())
}

fn blank(kind: OutputKind) -> Output {
    Output::new(kind, OutputDest::None)
}

fn take_switch(attributes: &mut BTreeMap<String, String>, key: &str) -> Result<Option<bool>> {
    attributes.remove(key).map(|value| csv::switch(FLAG, key, &value)).transpose()
}

fn compression(name: Option<&str>, level: Option<&str>) -> Result<Compression> {
    let number = level.map(|level| level.parse::<i32>().with_context(|| format!("compression-level {level:?} is no number"))).transpose()?;
    match name.unwrap_or("gzip") {
        "uncompressed" => Ok(Compression::Uncompressed),
        "gzip" => {
            let level = number.map(|n| u32::try_from(n).ok().filter(|n| *n <= 9).context("a level of gzip is 0 to 9")).transpose()?;
            Ok(Compression::Gzip { level })
        }
        "zstd" => {
            let level = number.map(|n| Some(n).filter(|n| (0..=22).contains(n)).context("a level of zstd is 0 to 22")).transpose()?;
            Ok(Compression::Zstd { level: level.filter(|level| *level > 0) })
        }
        "estargz" => bail!("compression=estargz is not available; use gzip or zstd"),
        other => bail!("unknown compression {other:?}; there are uncompressed, gzip and zstd"),
    }
}

fn attribute(read: &mut Read, key: &str, value: &str) -> Result<()> {
    let switch = || csv::switch(FLAG, key, value);
    let output = &mut read.output;
    match key {
        "name" => read.names.extend(value.split(',').filter(|name| !name.is_empty() && *name != "*").map(str::to_owned)),
        "force-compression" => output.force_compression = switch()?,
        "oci-mediatypes" => output.oci_mediatypes = switch()?,
        "rewrite-timestamp" => output.rewrite_timestamp = switch()?,
        "platform-split" => output.platform_split = Some(switch()?),
        "push-by-digest" => read.by_digest = switch()?,
        "registry.insecure" => read.insecure = switch()?,
        "store" => output.store = switch()?,
        "unpack" => output.unpack = switch()?,
        "prefer-nondist-layers" => output.keep_foreign = switch()?,
        "prefer-image-digest" => read.id_is_manifest = switch()?,
        "mode" if value != "copy" => bail!("mode={value} is not available; files are merged into the directory (mode=copy)"),
        _ if key.starts_with("annotation") => {
            let (level, name) = key.split_once('.').context("an annotation needs a name, as in annotation.org.example.note=text")?;
            let level = level.strip_prefix("annotation").unwrap_or_default().trim_start_matches('-');
            let level = if level.is_empty() || level.starts_with('[') { format!("manifest{level}") } else { level.to_owned() };
            output.annotations.insert(annotation::key(&level, name)?, value.to_owned());
        }
        // Images of the store are found by their digests anyway; there are no attestations yet; the rest concerns what an output is not.
        "mode"
        | "name-canonical"
        | "oci-artifact"
        | "attestation-inline"
        | "attestation-prefix"
        | "compatibility-version"
        | "buildinfo"
        | "dangling-name-prefix"
        | "danging-name-empty-only" => {}
        "source-date-epoch" => bail!("the epoch of a build is set once: use --build-arg SOURCE_DATE_EPOCH={value}"),
        other => bail!("unknown attribute {other:?}"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(flags: Wanted<'_>) -> Result<Vec<Output>> {
        Ok(all(flags, &Environment::of("/w", &[]))?.0)
    }

    fn read(text: &str) -> Result<Vec<Output>> {
        wanted(Wanted { outputs: &[text.to_owned()], ..Wanted::default() })
    }

    #[test]
    fn d1_forms() {
        let shown = |text: &str| {
            let outputs = read(text).expect(text);
            outputs.iter().map(|o| format!("{:?} {:?} {:?}", o.kind, o.dest, o.compression)).collect::<Vec<_>>().join("; ")
        };
        let gzip = "Gzip { level: None }";
        for (text, expected) in [
            ("out", format!("Local Path(\"/w/out\") {gzip}")),
            ("-", format!("Tar Stdout {gzip}")),
            ("type=oci,dest=a.tar", format!("Oci {{ tar: true }} Path(\"/w/a.tar\") {gzip}")),
            ("type=oci,dest=/d,tar=false,compression=uncompressed", "Oci { tar: false } Path(\"/d\") Uncompressed".into()),
            ("type=docker,dest=-", format!("Docker Stdout {gzip}")),
            ("type=cacheonly", format!("CacheOnly None {gzip}")),
            ("type=tar,dest=x,compression=zstd,compression-level=9", "Tar Path(\"/w/x\") Zstd { level: Some(9) }".into()),
            ("type=image,name=a", format!("Image None {gzip}")),
        ] {
            assert_eq!(shown(text), expected, "{text}");
        }
    }

    #[test]
    fn c1_1_what_cannot_work_is_refused_before_work_starts() {
        for (text, words) in [
            ("type=nothing", "unknown type"),
            ("dest=x", "no type"),
            ("type=oci,dest=x,colour=red", "unknown attribute \"colour\""),
            ("type=local,dest=-", "give dest=DIR"),
            ("type=registry", "needs a name"),
            ("type=image,push=true", "needs a name"),
            ("type=image,dest=x", "leave out dest"),
            ("type=registry,name=a@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "a digest can't be chosen"),
            ("type=registry,\"name=a,b:1\",push-by-digest=true", "can't push tagged ref b:1"),
            ("type=docker", "neither docker nor podman"),
            ("type=oci,dest=x,annotation-nothing.a=b", "unknown level"),
            ("type=oci,dest=x,compression-level=11", "0 to 9"),
            ("type=docker,dest=x,compression=zstd", "oci-mediatypes"),
            ("type=oci,dest=x,tar=maybe", "neither true nor false"),
        ] {
            let error = format!("{:#}", read(text).expect_err(text));
            assert!(error.contains(words), "{text}: {error}");
        }
        assert!(wanted(Wanted { outputs: &["-".into(), "type=oci".into()], ..Wanted::default() }).is_err());
        assert!(wanted(Wanted { load: true, ..Wanted::default() }).is_err());
    }

    #[test]
    fn d1_what_is_pushed() {
        let tags = ["r.example/a:1".to_owned(), "b".to_owned()];
        let pushed = |outputs: &[&str], push| {
            let outputs: Vec<String> = outputs.iter().map(|output| (*output).to_owned()).collect();
            let read = wanted(Wanted { outputs: &outputs, push, tags: &tags, load: false }).expect("outputs");
            let shown = |output: &Output| {
                let names: Vec<String> = output.names.iter().map(ToString::to_string).collect();
                format!(
                    "{:?} {} {}",
                    output.kind,
                    output.push.map_or("-".into(), |push| format!("{}{}", u8::from(push.by_digest), u8::from(push.insecure))),
                    names.join(" ")
                )
            };
            read.iter().map(shown).collect::<Vec<_>>().join("; ")
        };
        assert_eq!(pushed(&[], true), "Image 00 ");
        assert_eq!(pushed(&["type=oci,dest=x"], true), "Oci { tar: true } - ; Image 00 ");
        assert_eq!(pushed(&["type=image,registry.insecure=true"], true), "Image 01 ");
        assert_eq!(pushed(&["type=image,push=false"], false), "Image - ");
        assert_eq!(pushed(&["type=registry,\"name=x,y/z:2\""], false), "Image 00 docker.io/library/x:latest docker.io/y/z:2");
        assert_eq!(pushed(&["type=registry,name=h.example:5000/x,push-by-digest=true"], false), "Image 10 h.example:5000/x");
    }
}
