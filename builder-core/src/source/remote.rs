//! Sources that are fetched while a build runs: web servers and git, behind one door.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::git::{GitAccess, GitCommit, GitSources};
use super::http::{HttpFile, HttpSources};
use crate::content::{Stack, Store};
use crate::error::StepError;
use crate::graph::SourceOp;
use crate::registry::RegistryConfig;
use crate::secret::Secret;

/// Brings what is neither an image nor a directory of this machine.
#[derive(Debug)]
pub struct RemoteSources {
    http: HttpSources,
    git: GitSources,
    secrets: BTreeMap<String, Secret>,
    ssh: BTreeMap<String, PathBuf>,
}

impl RemoteSources {
    /// Of `config` the certificates, the proxies and the patience count; `secrets` and `ssh` are those of the request.
    #[must_use]
    pub fn new(config: &RegistryConfig, store: &Arc<Store>, secrets: BTreeMap<String, Secret>, ssh: BTreeMap<String, PathBuf>) -> Self {
        let git = GitSources::new(config.proxy.clone(), Arc::clone(store));
        Self { http: HttpSources::new(config.clone(), Arc::clone(store)), git, secrets, ssh }
    }

    /// The tree of a source, its layer in the store. Dropping the future ends what was begun.
    ///
    /// # Errors
    /// Whatever keeps it from being brought, naming its address without passwords.
    pub async fn fetch(&self, source: &SourceOp) -> Result<Stack, StepError> {
        match source {
            SourceOp::Http { url, filename, checksum } => {
                self.http.fetch(HttpFile { url, filename, checksum: checksum.as_ref() }, &self.secrets).await
            }
            SourceOp::Git { url, reference, subdir, keep_git_dir, submodules, checksum } => {
                let wanted = GitCommit {
                    url,
                    reference: reference.as_deref(),
                    subdir,
                    keep_git_dir: *keep_git_dir,
                    submodules: *submodules,
                    checksum: checksum.as_deref(),
                };
                let access = GitAccess { secrets: &self.secrets, ssh: &self.ssh };
                Ok(self.git.fetch(wanted, access).await?.stack)
            }
            SourceOp::Image { .. } | SourceOp::Local { .. } => Err(StepError::other("internal fault: this source is not fetched while a build runs")),
        }
    }
}
