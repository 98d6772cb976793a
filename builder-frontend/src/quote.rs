//! Quoting: strings as Go writes them (`strconv.Quote`, `%q`), because histories and dumps are compared word for word; and flags of instructions.

/// As Go's `strconv.Quote`: what is no printable character becomes an escape.
pub(crate) fn go_quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if c.is_ascii_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if is_printable(c) => out.push(c),
            c if u32::from(c) < 0x1_0000 => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push_str(&format!("\\U{:08x}", u32::from(c))),
        }
    }
    out.push('"');
    out
}

/// As `%q` shows a list of strings: `["a" "b c"]`.
pub(crate) fn go_quoted_list(words: &[String]) -> String {
    format!("[{}]", words.iter().map(|word| go_quote(word)).collect::<Vec<_>>().join(" "))
}

/// A flag with its value as an instruction's line holds it: quotes and blanks escaped. The escape is a backslash whatever the directive says. Blanks at
/// the end are in quotes, because escaped ones would be taken from the end of a line.
pub(crate) fn flag_word(word: &str) -> String {
    let mut out = String::with_capacity(word.len());
    let trimmed = word.trim_end();
    for c in trimmed.chars() {
        if matches!(c, '\\' | '"' | '\'') || c.is_whitespace() {
            out.push('\\');
        }
        out.push(c);
    }
    let blanks = &word[trimmed.len()..];
    if blanks.is_empty() { out } else { format!("{out}\"{blanks}\"") }
}

/// Whether a character is shown as it is: neither a control or format character nor a blank other than the space nor unassigned.
fn is_printable(c: char) -> bool {
    if c.is_ascii() {
        return true;
    }
    // The standard library has the table of what is printable, but only gives it out through `escape_debug`, which in addition escapes combining
    // marks at the beginning of a text: hence the letter before it.
    !c.is_whitespace() && !['a', c].iter().collect::<String>().escape_debug().any(|escaped| escaped == '\\')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_go_quotes() {
        let table = [
            ("a b", "\"a b\""),
            ("\"\\\n\r\t", "\"\\\"\\\\\\n\\r\\t\""),
            ("\u{7}\u{8}\u{b}\u{c}\u{1b}\u{7f}", "\"\\a\\b\\v\\f\\x1b\\x7f\""),
            ("\u{85}\u{a0}\u{200b}\u{feff}\u{e000}\u{e0001}", "\"\\u0085\\u00a0\\u200b\\ufeff\\ue000\\U000e0001\""),
            ("한국어 e\u{301} 🚀", "\"한국어 e\u{301} 🚀\""),
        ];
        for (text, quoted) in table {
            assert_eq!(go_quote(text), quoted);
        }
    }
}
