//! The cache mounts of one step (`features.md` A8.5).
//!
//! # Invariants
//! - They are taken in the order of their names, whatever the order of the step's mounts: two steps that both want two of them never wait for each other.
//! - One that a step mounts at two places is one directory, taken once.
//! - What a step that did not end by itself has changed in them is thrown away.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use builder_snapshot::Sha256Digest;
use builder_snapshot::cache_mount::{CacheLease, CacheMounts, Published, Seed, Sharing};
use builder_snapshot::exec::Cancel;
use builder_snapshot::snapshot::detach_again;

use super::log::LogTarget;
use crate::content::Store;
use crate::error::StepError;
use crate::graph::{self, ExecOp, Mount, MountKind};

/// What cache mounts are made from.
pub(super) struct Origin<'a> {
    /// Directories of the layers of each input of the step.
    pub(super) inputs: &'a [Vec<PathBuf>],
    /// Where they are.
    pub(super) store: &'a Store,
    /// Which ones begin empty: see [`super::exec::Execution::clear_cache`].
    pub(super) clear: &'a dyn Fn(&str) -> bool,
    /// Whether no overlay can be mounted on them: one step at a time works on the directory itself then.
    pub(super) direct: bool,
}

/// The cache mounts that a step holds.
#[derive(Default)]
pub(super) struct Caches(Vec<Taken>);

struct Taken {
    name: String,
    /// Where the step sees it first, for messages.
    target: String,
    lease: CacheLease,
    /// One mount for each place, taken out by [`Caches::view`].
    views: Vec<OwnedFd>,
}

struct Wanted<'a> {
    name: String,
    target: &'a str,
    sharing: Sharing,
    seed: Seed,
    places: usize,
}

impl Caches {
    /// Takes all that `op` mounts; waits for other users of `locked` ones.
    pub(super) fn take(op: &ExecOp, origin: &Origin<'_>, cancel: &Cancel, log: &dyn LogTarget) -> Result<Self, StepError> {
        let mut wanted: Vec<Wanted<'_>> = Vec::new();
        for mount in &op.mounts {
            let Some((name, sharing, seed)) = described(mount, origin.inputs) else { continue };
            match wanted.iter_mut().find(|wanted| wanted.name == name) {
                Some(known) => known.places += 1,
                None => wanted.push(Wanted { name, target: &mount.target, sharing, seed, places: 1 }),
            }
        }
        wanted.sort_by(|a, b| a.name.cmp(&b.name));
        let mut taken = Self::default();
        if wanted.is_empty() {
            return Ok(taken);
        }
        let mut mounts = CacheMounts::open(origin.store.mounts_dir(), origin.store.tmp_dir().map_err(text)?).map_err(text)?;
        if origin.direct {
            mounts = mounts.direct();
        }
        for wanted in wanted {
            let Wanted { name, target, sharing, seed, places } = wanted;
            if (origin.clear)(&name) {
                mounts.clear(&name).map_err(text)?;
            }
            let lease = mounts.acquire(&name, sharing, &seed, Some(cancel)).map_err(text)?;
            if lease.was_emptied() {
                log.warning(&format!(
                    "the cache mount {target} begins anew: a step was stopped while it wrote to the cache itself, as no overlay can be mounted here"
                ));
            }
            let mut views = vec![lease.mount().map_err(text)?];
            for _ in 1..places {
                if origin.direct {
                    views.push(lease.mount().map_err(text)?);
                    continue;
                }
                let again = detach_again(views[0].as_fd());
                views.push(again.map_err(|e| {
                    StepError::other(format!(
                        "cannot mount the cache of {target} at a second place (Linux 6.15 can): {e}; give it an id of its own there"
                    ))
                })?);
            }
            taken.0.push(Taken { name, target: target.to_owned(), lease, views });
        }
        Ok(taken)
    }

    /// The directory for `mount`, which is one of the step's.
    pub(super) fn view(&mut self, mount: &Mount, inputs: &[Vec<PathBuf>]) -> Result<OwnedFd, StepError> {
        let name = described(mount, inputs).map(|(name, ..)| name);
        let taken = self.0.iter_mut().find(|taken| Some(&taken.name) == name.as_ref());
        taken.and_then(|taken| taken.views.pop()).ok_or_else(|| StepError::other("internal fault: a cache mount was not taken"))
    }

    /// Keeps what the step changed, for those who come after. All mounts must be gone.
    pub(super) fn publish(self, log: &dyn LogTarget) {
        for Taken { target, lease, views, .. } in self.0 {
            drop(views);
            match lease.publish() {
                Ok(Published::Unchanged | Published::Added) => {}
                Ok(Published::Dropped { directory }) => log.warning(&format!(
                    "changes to the cache mount {target} are dropped: another step changed {directory:?} in it at the same time (sharing=locked waits instead)"
                )),
                // A cache may be empty at any time: the step's result does not depend on it.
                Err(error) => log.warning(&format!("changes to the cache mount {target} are dropped: {error}")),
            }
        }
    }
}

/// Its name in the store, how it is shared, and what it is made from; none for other mounts.
fn described(mount: &Mount, inputs: &[Vec<PathBuf>]) -> Option<(String, Sharing, Seed)> {
    let MountKind::Cache { id, sharing, from, source, mode, uid, gid, .. } = &mount.kind else { return None };
    let lowers = from.map(|input| inputs[input].clone()).unwrap_or_default();
    // Another owner, mode or origin is another directory.
    let identity = format!("{id}\n{mode:o} {uid} {gid}\n{}\n{lowers:?}", source.display());
    let sharing = match sharing {
        graph::Sharing::Shared => Sharing::Shared,
        graph::Sharing::Private => Sharing::Private,
        graph::Sharing::Locked => Sharing::Locked,
    };
    let seed = Seed { lowers, subpath: source.clone(), mode: *mode, uid: *uid, gid: *gid };
    Some((Sha256Digest::of(identity.as_bytes()).hex(), sharing, seed))
}

fn text(error: impl std::fmt::Display) -> StepError {
    StepError::other(error.to_string())
}
