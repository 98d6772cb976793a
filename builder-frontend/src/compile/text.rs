//! Texts as the reference builder writes them, because histories are compared word for word: Go's `%v` and durations; and paths.

pub(crate) use crate::instruction::duration::go_duration;
pub(crate) use crate::quote::go_quoted_list;

/// As `%v` shows a list of strings: `[a b]`.
pub(crate) fn go_list(words: &[String]) -> String {
    format!("[{}]", words.join(" "))
}

/// `path` joined to the directory `base` unless it is absolute, cleaned as Go's `path.Clean`: absolute, `..` stops at the root.
pub(crate) fn absolute(base: &str, path: &str) -> String {
    let joined = if path.starts_with('/') { path.to_owned() } else { format!("{base}/{path}") };
    format!("/{}", clipped(&joined))
}

/// `path` as seen from a root: clean, relative, `..` stops at the root; the root is empty.
pub(crate) fn clipped(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// As Go's `path.Clean`: relative paths stay relative and keep leading `..`; the empty path is `.`.
pub(crate) fn go_clean(path: &str) -> String {
    if path.starts_with('/') {
        return format!("/{}", clipped(path));
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|&last| last != "..") => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    if parts.is_empty() { ".".to_owned() } else { parts.join("/") }
}

/// The last component; the text itself if it has none.
pub(crate) fn base_name(path: &str) -> &str {
    path.trim_end_matches('/').rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or(path)
}

/// Puts the values of set variables (`$NAME`, `${NAME}`) into a step's name; everything else stays as written.
pub(crate) fn show_variables<'v>(text: &str, value: impl Fn(&str) -> Option<&'v str>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let (before, after) = rest.split_at(at);
        out.push_str(before);
        let escaped = before.ends_with('\\');
        let braced = after.starts_with("${");
        let name_at = if braced { 2 } else { 1 };
        let length = after[name_at..].bytes().take_while(|b| b.is_ascii_alphanumeric() || *b == b'_').count();
        let name = &after[name_at..name_at + length];
        let end = name_at + length + usize::from(braced);
        let closed = !braced || after[name_at + length..].starts_with('}');
        match value(name).filter(|_| !name.is_empty() && closed && !escaped) {
            Some(value) => {
                out.push_str(value);
                rest = &after[end..];
            }
            None => {
                out.push('$');
                rest = &after[1..];
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a13_2_texts_as_go_writes_them() {
        assert_eq!(
            go_quoted_list(&["/bin/sh".into(), "-c".into(), "echo \"$HOME\" && exit\n".into()]),
            r#"["/bin/sh" "-c" "echo \"$HOME\" && exit\n"]"#
        );
        assert_eq!(go_list(&["a".into(), "b c".into()]), "[a b c]");
        for (millis, text) in
            [(0, "0s"), (30_000, "30s"), (90_000, "1m30s"), (500, "500ms"), (3_600_000, "1h0m0s"), (1_500, "1.5s"), (60_000, "1m0s")]
        {
            assert_eq!(go_duration(Duration::from_millis(millis)), text);
        }
        assert_eq!(go_duration(Duration::from_nanos(1_500)), "1.5µs");
    }

    #[test]
    fn a9_1_paths() {
        for (base, path, clean) in [("/", "a", "/a"), ("/w", "./x/../y/", "/w/y"), ("/w", "/a//b", "/a/b"), ("/w", "../../..", "/"), ("/w", "", "/w")]
        {
            assert_eq!(absolute(base, path), clean);
        }
        assert_eq!(go_clean("a/../../b/"), "../b");
        assert_eq!(go_clean(""), ".");
    }

    #[test]
    fn c7_1_names_show_values_of_set_variables() {
        let value = |name: &str| (name == "A").then_some("1");
        assert_eq!(show_variables("COPY $A.txt ${A} $B ${B} \\$A ${A:-x} $ $", value), "COPY 1.txt 1 $B ${B} \\$A ${A:-x} $ $");
    }
}
