//! JSON arrays of strings, as the exec form writes them (`features.md` A4.2).
//!
//! Accepts what Go's `encoding/json` accepts: half a surrogate pair becomes U+FFFD instead of an error, control characters in strings are errors.

use std::ops::Range;

/// What a text is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Json {
    /// An array of strings, each with the range of its text with the quotes.
    Strings(Vec<(String, Range<usize>)>),
    /// A JSON array with something else in it.
    OtherElements,
    /// Not a JSON array: the other forms are tried.
    No,
}

/// Whether the text is the exec form.
pub(crate) fn is_string_array(text: &str) -> bool {
    text.starts_with('[') && matches!(string_array(text), Json::Strings(_))
}

/// Reads the text as an array.
pub(crate) fn string_array(text: &str) -> Json {
    let mut reader = Reader { text, at: 0 };
    match reader.array() {
        Some(elements) => Json::Strings(elements),
        None if text.trim_start().starts_with('[') && serde_json::from_str::<Vec<serde_json::Value>>(text).is_ok() => Json::OtherElements,
        None => Json::No,
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn array(&mut self) -> Option<Vec<(String, Range<usize>)>> {
        let mut elements = Vec::new();
        self.expect('[')?;
        self.blanks();
        if self.expect(']').is_none() {
            loop {
                self.blanks();
                let start = self.at;
                let text = self.string()?;
                elements.push((text, start..self.at));
                self.blanks();
                if self.expect(',').is_none() {
                    self.expect(']')?;
                    break;
                }
            }
        }
        self.blanks();
        (self.at == self.text.len()).then_some(elements)
    }

    fn string(&mut self) -> Option<String> {
        self.expect('"')?;
        let mut out = String::new();
        loop {
            match self.next()? {
                '"' => return Some(out),
                '\\' => match self.next()? {
                    c @ ('"' | '\\' | '/') => out.push(c),
                    'b' => out.push('\x08'),
                    'f' => out.push('\x0c'),
                    'n' => out.push('\n'),
                    'r' => out.push('\r'),
                    't' => out.push('\t'),
                    'u' => self.unicode(&mut out)?,
                    _ => return None,
                },
                c if c < ' ' => return None,
                c => out.push(c),
            }
        }
    }

    fn unicode(&mut self, out: &mut String) -> Option<()> {
        let first = self.hex4()?;
        if (0xd800..0xdc00).contains(&first) && self.text[self.at..].starts_with("\\u") {
            let before = self.at;
            self.at += 2;
            let second = self.hex4()?;
            if (0xdc00..0xe000).contains(&second) {
                let code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                out.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
                return Some(());
            }
            self.at = before;
        }
        out.push(char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER));
        Some(())
    }

    fn hex4(&mut self) -> Option<u32> {
        let digits = self.text.get(self.at..self.at + 4).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
        self.at += 4;
        u32::from_str_radix(digits, 16).ok()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.text[self.at..].chars().next()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn expect(&mut self, wanted: char) -> Option<()> {
        self.text[self.at..].starts_with(wanted).then(|| self.at += wanted.len_utf8())
    }

    fn blanks(&mut self) {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start_matches([' ', '\t', '\r', '\n']).len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a4_2_what_is_json() {
        let strings: &[(&str, &[&str])] = &[
            ("[]", &[]),
            (" [ ]", &[]),
            (r#"["a" ,"b c",   "/d e/" ]"#, &["a", "b c", "/d e/"]),
            (r#"["\u0041\n\"\/\ud83d\ude00"]"#, &["A\n\"/\u{1f600}"]),
            (r#"["\ud800x"]"#, &["\u{fffd}x"]),
        ];
        for (text, wanted) in strings {
            let text = text.trim();
            let Json::Strings(found) = string_array(text) else { panic!("{text} is an array of strings") };
            assert_eq!(found.iter().map(|(text, _)| text.as_str()).collect::<Vec<_>>(), *wanted, "{text}");
        }
        for text in [r#"["a", 1]"#, "[null]", r#"[["a"]]"#, "[{}]"] {
            assert_eq!(string_array(text), Json::OtherElements, "{text}");
        }
        for text in ["['a']", r#"["a",]"#, r#"["a" "b"]"#, r#"["a"] x"#, "[", "[ -d /x ] && y", "\"a\"", "", "[\"a\tb\"]", r#"["\x"]"#, r#"[ "open""#]
        {
            assert_eq!(string_array(text), Json::No, "{text}");
        }
    }
}
