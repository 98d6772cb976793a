//! `--chmod`: octal modes and the grammar of chmod(1), with umask 0.
//!
//! Parsing and applying share one walk, so what [`Chmod::parse`] lets through can always be applied. The rules for `X`, `s`, `t` and copies
//! such as `g=u` are those of BSD's setmode(3), which BuildKit follows: `X` looks at the mode as it was before, copies at the mode as it is
//! by then, and `s` and `t` mean nothing for `o` alone.

use super::Chmod;

/// Largest mode: permissions, setuid, setgid, sticky.
const MAX_MODE: u32 = 0o7777;

/// Text that is no mode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChmodError {
    /// It begins like an octal number and is none, or is too large.
    #[error("invalid chmod parameter: '{0}'. it should be octal string and between 0 and 07777")]
    Octal(String),
    /// It breaks the grammar of chmod(1).
    #[error("invalid chmod parameter: '{text}': {reason}")]
    Symbolic {
        /// The whole text.
        text: String,
        /// What is wrong.
        reason: &'static str,
        /// Where, counted from 0.
        at: usize,
    },
}

impl ChmodError {
    /// What to write instead.
    #[must_use]
    pub fn help(&self) -> &'static str {
        match self {
            Self::Octal(_) => "digits are 0 to 7, for owner, group and others: 644 for files to read, 755 for programs and directories",
            Self::Symbolic { .. } => "write an octal mode such as 755, or clauses such as u=rwX,go=rX or a+x",
        }
    }
}

impl Chmod {
    /// Reads an octal number of 0 to 07777, or a list of clauses as chmod(1) takes them.
    ///
    /// # Errors
    /// Anything else.
    pub fn parse(text: &str) -> Result<Self, ChmodError> {
        if text.is_empty() || text.as_bytes()[0].is_ascii_digit() {
            return match u32::from_str_radix(text, 8) {
                Ok(mode) if mode <= MAX_MODE => Ok(Self::Octal(mode)),
                _ => Err(ChmodError::Octal(text.to_owned())),
            };
        }
        evaluate(text, 0, false).map_err(|(at, reason)| ChmodError::Symbolic { text: text.to_owned(), reason, at })?;
        Ok(Self::Symbolic(text.to_owned()))
    }

    /// The mode that `mode` becomes. A symbolic text that was never validated changes nothing.
    #[must_use]
    pub fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        match self {
            Self::Octal(octal) => octal & MAX_MODE,
            Self::Symbolic(text) => evaluate(text, mode & MAX_MODE, is_dir).unwrap_or(mode & MAX_MODE),
        }
    }
}

const USER: u32 = 0o4700;
const GROUP: u32 = 0o2070;
const OTHER: u32 = 0o0007;
const STICKY: u32 = 0o1000;

/// Carries out `text` on `old`; on failure says where the text is wrong and how.
fn evaluate(text: &str, old: u32, is_dir: bool) -> Result<u32, (usize, &'static str)> {
    let bytes = text.as_bytes();
    let mut mode = old;
    let mut at = 0;
    loop {
        let mut who = 0;
        while let Some(mask) = bytes.get(at).and_then(|b| who_mask(*b)) {
            who |= mask;
            at += 1;
        }
        let mut operations = 0;
        while let Some(&operator @ (b'+' | b'-' | b'=')) = bytes.get(at) {
            at += 1;
            operations += 1;
            at = operate(bytes, at, operator, who, old, &mut mode, is_dir);
        }
        match bytes.get(at) {
            _ if operations == 0 => return Err((at, "one of + - = is missing")),
            None => return Ok(mode),
            Some(b',') => at += 1,
            Some(_) => return Err((at, "a letter that is none of rwxXstugo")),
        }
    }
}

fn who_mask(letter: u8) -> Option<u32> {
    Some(match letter {
        b'u' => USER,
        b'g' => GROUP,
        b'o' => OTHER,
        b'a' => USER | GROUP | OTHER,
        _ => return None,
    })
}

/// Applies one operator with the letters that follow it from `at` on; returns where they end.
fn operate(bytes: &[u8], mut at: usize, operator: u8, who: u32, old: u32, mode: &mut u32, is_dir: bool) -> usize {
    let only_other = who != 0 && who & !OTHER == 0;
    let mut mask = if who == 0 { USER | GROUP | OTHER } else { who };
    let mut bits = 0;
    // Copies read the mode before `=` clears it: `g=g` keeps what it has.
    let before = *mode;
    while let Some(&letter) = bytes.get(at) {
        bits |= match letter {
            b'r' => 0o444,
            b'w' => 0o222,
            b'x' => 0o111,
            b'X' if is_dir || old & 0o111 != 0 => 0o111,
            b's' if !only_other => 0o6000,
            b't' if !only_other => {
                mask |= STICKY;
                STICKY
            }
            b'X' | b's' | b't' => 0,
            b'u' => spread(before >> 6),
            b'g' => spread(before >> 3),
            b'o' => spread(before),
            _ => break,
        };
        at += 1;
    }
    let bits = bits & mask;
    match operator {
        b'+' => *mode |= bits,
        b'-' => *mode &= !bits,
        _ => *mode = (*mode & !mask) | bits,
    }
    at
}

/// Three permission bits, repeated for user, group and others.
fn spread(bits: u32) -> u32 {
    (bits & 7) * 0o111
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a9_9_octal() {
        for (text, mode) in [("0", 0), ("755", 0o755), ("0755", 0o755), ("4711", 0o4711), ("07777", 0o7777)] {
            let chmod = Chmod::parse(text).expect(text);
            assert_eq!(chmod, Chmod::Octal(mode));
            assert_eq!(chmod.apply(0o644, true), mode);
        }
        for bad in ["9z9", "10000", "8", "0o755", "", "7 5"] {
            let error = Chmod::parse(bad).expect_err(bad).to_string();
            assert!(error.contains("chmod") && error.contains("octal string and between 0 and 07777"), "{error}");
        }
    }

    #[test]
    fn a9_9_symbolic() {
        for (text, mode, is_dir, expected) in [
            ("u=rwX,go=rX", 0o600, false, 0o644),
            ("u=rwX,go=rX", 0o600, true, 0o755),
            ("u=rwX,go=rX", 0o700, false, 0o755),
            ("a+x,o-r", 0o644, false, 0o751),
            ("g=u,o=", 0o755, false, 0o770),
            ("+x", 0o644, false, 0o755),
            ("=r", 0o777, false, 0o444),
            ("u+s,g+s", 0o755, false, 0o6755),
            ("o+s", 0o755, false, 0o755),
            ("+t", 0o755, true, 0o1755),
            ("u=rwx", 0o4711, false, 0o711),
            ("ug-w+x", 0o666, false, 0o556),
            ("g=o", 0o754, false, 0o744),
            ("o+g", 0o750, false, 0o755),
            ("a-x,u+X", 0o755, false, 0o744),
            ("g=g", 0o2755, false, 0o755),
        ] {
            let chmod = Chmod::parse(text).expect(text);
            assert_eq!(chmod.apply(mode, is_dir), expected, "{text} on {mode:o}");
        }
        for (bad, at) in [("x", 0), ("u", 1), ("u+q", 2), ("u+r,", 4), ("u+r,,g+r", 4), ("rwx", 0), ("u=rw x", 4)] {
            match Chmod::parse(bad) {
                Err(ChmodError::Symbolic { at: found, .. }) => assert_eq!(found, at, "{bad}"),
                other => panic!("{bad}: {other:?}"),
            }
        }
    }
}
