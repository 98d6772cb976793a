//! Who has which subordinate ids (`subuid(5)`), by the machine's files.

use std::path::Path;

/// As many ranges as are mapped. The kernel takes 340 lines; nobody has more than a few.
const RANGES_MAX: usize = 64;

/// Ids that a user may map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) start: u32,
    pub(super) count: u32,
}

/// The name of a user in `/etc/passwd`.
pub(crate) fn user_name(uid: u32) -> Option<String> {
    name_in(&std::fs::read_to_string("/etc/passwd").ok()?, uid)
}

fn name_in(passwd: &str, uid: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

/// The ranges of a user, who may be listed by name or by number.
pub(super) fn of_user(file: &Path, name: Option<&str>, uid: u32) -> Vec<Range> {
    ranges_in(&std::fs::read_to_string(file).unwrap_or_default(), name, uid)
}

fn ranges_in(text: &str, name: Option<&str>, uid: u32) -> Vec<Range> {
    let number = uid.to_string();
    let range = |line: &str| {
        let (owner, rest) = line.trim().split_once(':')?;
        let (start, count) = rest.split_once(':')?;
        let range = Range { start: start.parse().ok()?, count: count.parse().ok()? };
        let is_users = Some(owner) == name || owner == number;
        (is_users && range.count > 0 && range.start.checked_add(range.count).is_some()).then_some(range)
    };
    text.lines().filter_map(range).take(RANGES_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e2_1_ranges_are_found_by_name_and_by_number() {
        let text = "# a comment\nother:100000:65536\nme:165536:65536\n1001:300000:10\nme:0:0\nme:4294967295:2\nme:x:1\nme\n";
        let ranges = |name, uid| ranges_in(text, name, uid).iter().map(|range| (range.start, range.count)).collect::<Vec<_>>();
        assert_eq!(ranges(Some("me"), 1001), [(165_536, 65_536), (300_000, 10)]);
        assert_eq!(ranges(None, 1001), [(300_000, 10)]);
        assert_eq!(ranges(Some("nobody"), 65_534), []);
    }

    #[test]
    fn names_are_found_by_number() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nme:x:1001:1001::/home/me:/bin/sh\n";
        assert_eq!(name_in(passwd, 1001).as_deref(), Some("me"));
        assert_eq!(name_in(passwd, 7), None);
    }
}
