//! Build arguments that are meant for the builder and not for the file: on or off (`features.md` A7.8).
//!
//! They need no ARG, reach no process and are part of no key. Those with another kind of value are read where they count.

use std::collections::BTreeMap;

use builder_core::diagnostic::Diagnostic;

use super::plain_error;

/// An index is made also for one platform.
const MULTI_PLATFORM: &str = "BUILDKIT_MULTI_PLATFORM";

/// A git repository that is the main context keeps its `.git`, unless its address says otherwise.
const KEEP_GIT_DIR: &str = "BUILDKIT_CONTEXT_KEEP_GIT_DIR";

/// What they say; none where nothing is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Control {
    pub(crate) multi_platform: Option<bool>,
    pub(crate) keep_git_dir: Option<bool>,
}

impl Control {
    /// From all build arguments, for so many platforms.
    pub(crate) fn read(build_args: &BTreeMap<String, String>, platforms: usize) -> Result<Self, Diagnostic> {
        let switch = |name: &str| match build_args.get(name).map(|value| value.to_ascii_lowercase()).as_deref() {
            None | Some("") => Ok(None),
            Some("1" | "true" | "t") => Ok(Some(true)),
            Some("0" | "false" | "f") => Ok(Some(false)),
            Some(other) => Err(plain_error("build-argument", format!("the build argument {name} is true or false, not {other:?}"))),
        };
        let control = Self { multi_platform: switch(MULTI_PLATFORM)?, keep_git_dir: switch(KEEP_GIT_DIR)? };
        if control.multi_platform == Some(false) && platforms > 1 {
            return Err(Diagnostic {
                help: Some(format!("leave out {MULTI_PLATFORM}, or choose one platform")),
                ..plain_error("build-argument", format!("{MULTI_PLATFORM}=false contradicts --platform, which names {platforms}"))
            });
        }
        Ok(control)
    }
}
