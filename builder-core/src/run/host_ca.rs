//! `--host-ca`: a step trusts whom this machine trusts, and the image does not change (a company's certificate authority that signs all traffic).
//!
//! The bundle stands in a layer of its own beneath the step's changes, in the place of the image's bundles, so that programs can replace it as they replace
//! any file (`update-ca-certificates` renames a new one over it), and in a file that variables name. What a step appends to a bundle is
//! appended to the image's own: what was shown here is taken out of the step's changes again.
//!
//! # Invariants
//! - Nothing of the bundle is in a layer, a key or a history, unless a step copies it elsewhere itself.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;

use builder_snapshot::TreePath;
use builder_snapshot::root::RootDir;
use builder_snapshot::toc::Timestamp;
use builder_snapshot::tree::{FoundKind, MergedTree};
use rustix::fs::{FileType, Mode, OFlags};

use crate::error::StepError;

/// Where distributions keep the certificates they trust: Debian and Alpine, Alpine, Fedora (three names), SUSE (two), OpenSSL's own.
const PLACES: [&str; 8] = [
    "etc/ssl/certs/ca-certificates.crt",
    "etc/ssl/cert.pem",
    "etc/pki/tls/certs/ca-bundle.crt",
    "etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "etc/pki/tls/cert.pem",
    "etc/ssl/ca-bundle.pem",
    "var/lib/ca-certificates/ca-bundle.pem",
    "usr/lib/ssl/cert.pem",
];

/// The file that variables name: on the sandbox's own /dev, which is never part of a layer.
pub(super) const FILE: &str = "dev/host-ca.pem";

/// Variables by which programs are told where certificates are: OpenSSL, Go and Rust; curl; Python; pip; Node; git; AWS; Cargo; Nix; Ruby; gcloud; Perl; Deno.
pub(super) const VARIABLES: [&str; 13] = [
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "PIP_CERT",
    "NODE_EXTRA_CA_CERTS",
    "GIT_SSL_CAINFO",
    "AWS_CA_BUNDLE",
    "CARGO_HTTP_CAINFO",
    "NIX_SSL_CERT_FILE",
    "BUNDLE_SSL_CA_CERT",
    "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
    "PERL_LWP_SSL_CA_FILE",
    "DENO_CERT",
];

/// Larger than any bundle; what an image has beyond that is not ours to read.
const MAX_BUNDLE_BYTES: u64 = 16 * 1024 * 1024;

/// A bundle that stands in the place of another during a step.
pub(super) struct Replaced {
    path: TreePath,
    /// What the image has there; none if it has nothing.
    original: Option<Vec<u8>>,
}

/// The bundles of an image that are replaced. One that has none gets Debian's, where a distribution's tools find and replace it.
pub(super) fn replaced(tree: &MergedTree) -> Result<Vec<Replaced>, StepError> {
    let failed = |error: builder_snapshot::SnapshotError| StepError::other(error.to_string());
    let mut replaced: Vec<Replaced> = Vec::new();
    let mut first_free = None;
    for place in PLACES {
        let resolution = tree.resolve(&TreePath::new(place).expect("a clean constant")).map_err(failed)?;
        match resolution.found {
            Some(found) if matches!(found.kind, FoundKind::File { .. }) => {
                // Most of the names are links to one file.
                let is_known = replaced.iter().any(|other| other.path == resolution.path);
                if let (false, Some(original)) = (is_known, read_bundle(tree, &resolution.path)?) {
                    replaced.push(Replaced { path: resolution.path, original: Some(original) });
                }
            }
            None if place == PLACES[0] => first_free = Some(resolution.path),
            _ => {}
        }
    }
    if replaced.is_empty() {
        replaced.extend(first_free.map(|path| Replaced { path, original: None }));
    }
    Ok(replaced)
}

/// The bundle at `path`; none if it is too large to be one.
fn read_bundle(tree: &MergedTree, path: &TreePath) -> Result<Option<Vec<u8>>, StepError> {
    let failed = |error: &dyn std::fmt::Display| StepError::other(format!("cannot read /{} of the image: {error}", path.display()));
    let mut bytes = Vec::new();
    tree.open_file(path).map_err(|error| failed(&error))?.take(MAX_BUNDLE_BYTES + 1).read_to_end(&mut bytes).map_err(|error| failed(&error))?;
    Ok(Some(bytes).filter(|bytes| bytes.len() as u64 <= MAX_BUNDLE_BYTES))
}

impl Replaced {
    /// Where it stands.
    pub(super) fn path(&self) -> &TreePath {
        &self.path
    }

    /// Where it stands, and what with.
    pub(super) fn shown(&self, bundle: &Arc<[u8]>) -> (TreePath, Arc<[u8]>) {
        (self.path.clone(), Arc::clone(bundle))
    }
}

/// Takes `bundle` out of what a step changed: where a file begins with it, the step has added to what it saw, or changed its mode.
pub(super) fn take_back(upper: &Path, replaced: &[Replaced], bundle: &[u8]) -> io::Result<()> {
    let root = RootDir::open(upper)?;
    for Replaced { path, original } in replaced {
        // Links and devices that the step put there are its own; what cannot be reached without following one is not what was shown.
        let Ok(Some(stat)) = root.stat(path) else { continue };
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            continue;
        }
        let mut file = std::fs::File::from(root.open_exact(path, OFlags::RDWR | OFlags::NONBLOCK, Mode::empty())?);
        let mut start = vec![0; bundle.len()];
        if file.read_exact(&mut start).is_err() || start != bundle {
            continue;
        }
        let mut rest = Vec::new();
        file.read_to_end(&mut rest)?;
        match original {
            None if rest.is_empty() => {
                root.unlink(path)?;
                continue;
            }
            _ => {}
        }
        let original = original.as_deref().unwrap_or_default();
        file.seek(SeekFrom::Start(0))?;
        file.write_all(original)?;
        file.write_all(&rest)?;
        file.set_len((original.len() + rest.len()) as u64)?;
        drop(file);
        let nanos = u32::try_from(stat.st_mtime_nsec).unwrap_or_default();
        root.set_mtime(path, Timestamp { seconds: stat.st_mtime, nanos })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_shown_leaves_no_trace_and_what_was_added_stays() {
        let upper = tempfile::tempdir().expect("tempdir");
        let at = |name: &str| TreePath::new(name).expect("path");
        let write = |name: &str, text: &str| std::fs::write(upper.path().join(name), text).expect("write");
        write("appended", "HOST\nMINE\n");
        write("touched", "HOST\n");
        write("new", "HOST\n");
        write("new-appended", "HOST\nMINE\n");
        write("remade", "OTHER\n");
        write("short", "HO");
        write("outside", "HOST\n");
        std::os::unix::fs::symlink("outside", upper.path().join("link")).expect("link");
        let image = || Some(b"IMAGE, LONGER\n".to_vec());
        let replaced = [
            ("appended", image()),
            ("touched", image()),
            ("new", None),
            ("new-appended", None),
            ("remade", image()),
            ("short", image()),
            ("link", image()),
            ("absent", image()),
        ]
        .map(|(name, original)| Replaced { path: at(name), original });
        take_back(upper.path(), &replaced, b"HOST\n").expect("taken back");
        let read = |name: &str| std::fs::read_to_string(upper.path().join(name)).ok();
        assert_eq!(read("appended").as_deref(), Some("IMAGE, LONGER\nMINE\n"));
        assert_eq!(read("touched").as_deref(), Some("IMAGE, LONGER\n"));
        assert_eq!(read("new"), None);
        assert_eq!(read("new-appended").as_deref(), Some("MINE\n"));
        assert_eq!((read("remade").as_deref(), read("short").as_deref(), read("outside").as_deref()), (Some("OTHER\n"), Some("HO"), Some("HOST\n")));
    }
}
