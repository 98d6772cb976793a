//! Exit statuses, and which fault gets which (`features.md` C6.2).
//!
//! The exit status of a failed RUN is never ours: it stands in the message only.

use builder_core::error::{BuildError, StepError};

/// How rbuild ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExitCode {
    /// Built.
    Success,
    /// The build or its flags are wrong, or `--check` found something.
    Failure,
    /// The machine does not let steps run; `rbuild doctor` says why.
    Machine,
    /// A fault of rbuild.
    Internal,
    /// No memory or no disk left.
    ResourceExhausted,
    /// Interrupted.
    Cancelled,
}

impl ExitCode {
    /// The number.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failure => 1,
            Self::Machine => 3,
            Self::Internal => 100,
            Self::ResourceExhausted => 102,
            Self::Cancelled => 130,
        }
    }

    /// What a failed build ends with.
    pub(crate) fn of(error: &BuildError) -> Self {
        match error {
            BuildError::Cancelled => Self::Cancelled,
            BuildError::Internal(_) => Self::Internal,
            BuildError::Machine { .. } => Self::Machine,
            // No memory now is no property of the machine.
            BuildError::Step { cause: StepError::Machine { message, .. }, .. } if !message.contains("Cannot allocate memory") => Self::Machine,
            other => Self::of_message(&other.to_string()),
        }
    }

    /// What an error ends with that has nothing but its words.
    pub(crate) fn of_message(message: &str) -> Self {
        if is_exhaustion(message) { Self::ResourceExhausted } else { Self::Failure }
    }
}

/// Whether a message speaks of a full disk or no memory. Words, because the kernel's answer has passed through several layers of messages by here
/// and each of them keeps it.
fn is_exhaustion(message: &str) -> bool {
    remedy(message).is_some() || message.contains("did not complete successfully: out of memory")
}

/// What to do about a full disk or a lack of memory that a message speaks of.
pub(crate) fn remedy(message: &str) -> Option<&'static str> {
    let says = |words: &[&str]| words.iter().any(|words| message.contains(words));
    if says(&["os error 28", "No space left on device", "os error 122", "Disk quota exceeded"]) {
        return Some("free some room on that disk, or use a store on another one (--root or RBUILD_ROOT); what was finished is kept");
    }
    let is_memory = says(&["os error 12)", "Cannot allocate memory"]);
    is_memory.then_some("the machine, or its control group, has no memory left: give it more, or run fewer builds at once")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c6_2_faults_and_their_statuses() {
        for (error, code) in [
            (BuildError::Cancelled, 130),
            (BuildError::Internal("x".into()), 100),
            (BuildError::Store("cannot write /s/v1/db: No space left on device (os error 28)".into()), 102),
            (BuildError::Export("cannot write out: Permission denied".into()), 1),
            (BuildError::Store("process \"x\" did not complete successfully: out of memory (limit 64 MiB)".into()), 102),
        ] {
            assert_eq!(ExitCode::of(&error).code(), code, "{error}");
        }
    }
}
