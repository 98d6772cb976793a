//! Secrets: values that no key, log, layer, history or event may hold.

use std::fmt;
use std::sync::Arc;

/// A secret's value. Its `Debug` form shows the length only.
#[derive(Clone)]
pub struct Secret(Arc<[u8]>);

/// Longest secret, in bytes (`features.md` A8.7).
pub const MAX_SECRET_BYTES: usize = 500 * 1024;

impl Secret {
    /// Wraps a value.
    #[must_use]
    pub fn new(value: impl Into<Arc<[u8]>>) -> Self {
        Self(value.into())
    }

    /// The value.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({} bytes)", self.0.len())
    }
}

/// `text` for messages and records: without the names and passwords in the web addresses that are in it, and without the passwords in others.
#[must_use]
pub fn without_passwords(text: &str) -> String {
    const SEPARATOR: &str = "://";
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(SEPARATOR) {
        let (before, after) = rest.split_at(at + SEPARATOR.len());
        shown.push_str(before);
        let end = after.find(|c: char| matches!(c, '/' | '"' | '\'' | '`') || c.is_whitespace()).unwrap_or(after.len());
        let (authority, behind) = after.split_at(end);
        let is_web = ["http", "https"].iter().any(|scheme| before[..at].ends_with(scheme));
        match authority.rsplit_once('@') {
            Some((user, host)) if is_web || user.contains(':') => {
                shown.push_str("xxxxx@");
                shown.push_str(host);
            }
            _ => shown.push_str(authority),
        }
        rest = behind;
    }
    shown + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cve_2023_26054_passwords_are_taken_out_of_addresses_wherever_they_stand() {
        for (text, shown) in [
            ("ADD https://user:pass@host/a /b", "ADD https://xxxxx@host/a /b"),
            ("https://token@host", "https://xxxxx@host"),
            ("a http://u:p@h:1/x?y=@z \"ftp://u:p@h\" ssh://git@h/r", "a http://xxxxx@h:1/x?y=@z \"ftp://xxxxx@h\" ssh://git@h/r"),
            ("https://u:p@ss@h/", "https://xxxxx@h/"),
            ("https://host/@scope/x ://", "https://host/@scope/x ://"),
            ("é://ü:ö@ä/", "é://xxxxx@ä/"),
        ] {
            assert_eq!(without_passwords(text), shown);
        }
    }
}
