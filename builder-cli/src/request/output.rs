//! `--output`: where results go (`features.md` D1).

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};
use builder_core::oci::Reference;
use builder_core::request::{Compression, Output, OutputDest, OutputKind};

use super::{NO_PUSH, annotation, csv};
use crate::environment::Environment;

const FLAG: &str = "--output";
const KINDS: [&str; 7] = ["oci", "docker", "local", "tar", "cacheonly", "image", "registry"];

/// All outputs. An empty list keeps the result in the store.
pub(crate) fn all(given: &[String], environment: &Environment) -> Result<Vec<Output>> {
    let mut outputs = Vec::new();
    for text in given {
        outputs.extend(one(text, environment).with_context(|| format!("invalid {FLAG} {text:?}"))?);
    }
    let to_stdout = outputs.iter().filter(|output| matches!(output.dest, OutputDest::Stdout)).count();
    ensure!(to_stdout < 2, "only one {FLAG} can go to standard output");
    if to_stdout > 0 && environment.stdout_is_terminal {
        bail!("refusing to write a tar archive to a terminal; redirect standard output or give dest=FILE");
    }
    Ok(outputs)
}

fn one(text: &str, environment: &Environment) -> Result<Option<Output>> {
    if text == "-" {
        return Ok(Some(Output { dest: OutputDest::Stdout, ..blank(OutputKind::Tar) }));
    }
    if !text.contains('=') && !text.contains(',') {
        return Ok(Some(Output { dest: OutputDest::Path(environment.absolute(text)), ..blank(OutputKind::Local) }));
    }
    let mut attributes: BTreeMap<String, String> = csv::pairs(FLAG, text, &[])?.into_iter().collect();
    let kind = attributes.remove("type").context("no type; such as type=oci,dest=image.tar")?;
    let dest = attributes.remove("dest");
    let as_tar = take_switch(&mut attributes, "tar")?.unwrap_or(true);
    let pushes = take_switch(&mut attributes, "push")?.unwrap_or(kind == "registry");
    let mut output = match kind.as_str() {
        "oci" => blank(OutputKind::Oci { tar: as_tar }),
        "docker" if dest.is_none() => {
            bail!("loading into an engine is not available yet; use type=docker,dest=image.tar and `docker load -i image.tar`")
        }
        "docker" if !as_tar => blank(OutputKind::Oci { tar: false }),
        "docker" => Output { oci_mediatypes: false, ..blank(OutputKind::Docker) },
        "local" => blank(OutputKind::Local),
        "tar" => blank(OutputKind::Tar),
        "cacheonly" => blank(OutputKind::CacheOnly),
        "image" | "registry" if pushes => bail!(NO_PUSH),
        // Without a push this means "keep it under its name", which the store does with every tagged build.
        "image" | "registry" => return Ok(None),
        other => bail!("unknown type {other:?}; the types are {}", KINDS.join(", ")),
    };
    output.dest = match (output.kind, dest.as_deref()) {
        (OutputKind::CacheOnly, _) => OutputDest::None,
        (OutputKind::Oci { tar: false } | OutputKind::Local, None | Some("-" | "")) => bail!("a directory is written: give dest=DIR"),
        (_, None | Some("-")) => OutputDest::Stdout,
        (_, Some("")) => bail!("dest is empty"),
        (_, Some(path)) => OutputDest::Path(environment.absolute(path)),
    };
    let level = attributes.remove("compression-level");
    output.compression = compression(attributes.remove("compression").as_deref(), level.as_deref())?;
    for (key, value) in attributes {
        attribute(&mut output, &key, &value)?;
    }
    ensure!(
        output.oci_mediatypes || !matches!(output.compression, Compression::Zstd { .. }),
        "compression=zstd needs OCI media types; add oci-mediatypes=true"
    );
    Ok(Some(output))
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

fn attribute(output: &mut Output, key: &str, value: &str) -> Result<()> {
    let switch = || csv::switch(FLAG, key, value);
    match key {
        "name" => {
            for name in value.split(',').filter(|name| !name.is_empty() && *name != "*") {
                output.names.push(name.parse::<Reference>()?);
            }
        }
        "force-compression" => output.force_compression = switch()?,
        "oci-mediatypes" => output.oci_mediatypes = switch()?,
        "rewrite-timestamp" => output.rewrite_timestamp = switch()?,
        "platform-split" => output.platform_split = Some(switch()?),
        "mode" if value != "copy" => bail!("mode={value} is not available; files are merged into the directory (mode=copy)"),
        _ if key.starts_with("annotation") => {
            let (level, name) = key.split_once('.').context("an annotation needs a name, as in annotation.org.example.note=text")?;
            let level = level.strip_prefix("annotation").unwrap_or_default().trim_start_matches('-');
            annotation::require_manifest(level)?;
            output.annotations.insert(name.to_owned(), value.to_owned());
        }
        // They concern an image store, attestations or pushing, none of which an archive or a directory has.
        "mode"
        | "store"
        | "unpack"
        | "name-canonical"
        | "prefer-image-digest"
        | "oci-artifact"
        | "attestation-inline"
        | "attestation-prefix"
        | "prefer-nondist-layers"
        | "compatibility-version"
        | "context"
        | "registry.insecure"
        | "push-by-digest"
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

    fn read(text: &str) -> Result<Vec<Output>> {
        all(&[text.to_owned()], &Environment::of("/w", &[]))
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
            ("type=image,name=a", String::new()),
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
            ("type=registry", "skopeo"),
            ("type=image,push=true", "skopeo"),
            ("type=oci,dest=x,compression-level=11", "0 to 9"),
            ("type=docker,dest=x,compression=zstd", "oci-mediatypes"),
            ("type=oci,dest=x,tar=maybe", "neither true nor false"),
        ] {
            let error = format!("{:#}", read(text).expect_err(text));
            assert!(error.contains(words), "{text}: {error}");
        }
        assert!(all(&["-".into(), "type=oci".into()], &Environment::of("/w", &[])).is_err());
    }
}
