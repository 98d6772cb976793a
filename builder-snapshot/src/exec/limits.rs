//! Resource limits by name.

use rustix::process::{Resource, Rlimit, getrlimit};

use super::Ulimit;
use super::error::ExecError;

/// Names as `ulimit` options of docker have them.
const NAMES: [(&str, Resource); 16] = [
    ("as", Resource::As),
    ("core", Resource::Core),
    ("cpu", Resource::Cpu),
    ("data", Resource::Data),
    ("fsize", Resource::Fsize),
    ("locks", Resource::Locks),
    ("memlock", Resource::Memlock),
    ("msgqueue", Resource::Msgqueue),
    ("nice", Resource::Nice),
    ("nofile", Resource::Nofile),
    ("nproc", Resource::Nproc),
    ("rss", Resource::Rss),
    ("rtprio", Resource::Rtprio),
    ("rttime", Resource::Rttime),
    ("sigpending", Resource::Sigpending),
    ("stack", Resource::Stack),
];

/// What `ulimits` mean here. A hard limit above the builder's own cannot be had without CAP_SYS_RESOURCE: then the builder's is used, and a warning says so.
pub(super) fn resolve(ulimits: &[Ulimit], may_raise: bool) -> Result<(Vec<(Resource, Rlimit)>, Vec<String>), ExecError> {
    let mut limits = Vec::new();
    let mut warnings = Vec::new();
    for ulimit in ulimits {
        let Some((_, resource)) = NAMES.iter().find(|(name, _)| *name == ulimit.name) else {
            return Err(ExecError::Invalid { what: "ulimit", value: ulimit.name.clone(), reason: "there is no such limit" });
        };
        if ulimit.soft > ulimit.hard {
            return Err(ExecError::Invalid { what: "ulimit", value: ulimit.name.clone(), reason: "the soft limit is above the hard limit" });
        }
        let own = getrlimit(*resource).maximum.unwrap_or(u64::MAX);
        let hard = if may_raise { ulimit.hard } else { ulimit.hard.min(own) };
        if hard < ulimit.hard {
            warnings
                .push(format!("ulimit {}: a hard limit above {own} needs CAP_SYS_RESOURCE, which this process lacks; {own} is used", ulimit.name));
        }
        let limited = |value: u64| Some(value).filter(|value| *value != u64::MAX);
        limits.push((*resource, Rlimit { current: limited(ulimit.soft.min(hard)), maximum: limited(hard) }));
    }
    Ok((limits, warnings))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ulimit(name: &str, soft: u64, hard: u64) -> Vec<Ulimit> {
        vec![Ulimit { name: name.to_owned(), soft, hard }]
    }

    #[test]
    fn a_hard_limit_that_cannot_be_raised_is_lowered_and_said() {
        let own = getrlimit(Resource::Nofile).maximum.expect("nofile is always limited");
        let (limits, warnings) = resolve(&ulimit("nofile", own + 1, own + 2), false).expect("valid");
        assert_eq!(limits[0].1, Rlimit { current: Some(own), maximum: Some(own) });
        assert_eq!(warnings.len(), 1);
        let (limits, warnings) = resolve(&ulimit("nofile", own + 1, own + 2), true).expect("valid");
        assert_eq!((limits[0].1, warnings.len()), (Rlimit { current: Some(own + 1), maximum: Some(own + 2) }, 0));
        let (limits, _) = resolve(&ulimit("core", u64::MAX, u64::MAX), true).expect("valid");
        assert_eq!(limits[0].1, Rlimit { current: None, maximum: None });
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(resolve(&ulimit("files", 1, 1), true).is_err());
        assert!(resolve(&ulimit("nofile", 2, 1), true).is_err());
    }
}
