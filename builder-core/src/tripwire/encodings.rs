//! What a secret looks like when it is written down: as it is, and in the encodings that configuration files and programs use.
//!
//! A secret inside something longer that is encoded as a whole has three forms in base64, by where it begins; only the characters that it decides alone are
//! searched for. Long values are searched for by a piece from their middle, and in base64 by two neighbouring pieces, of which a line break cuts one
//! at most. Compressed and encrypted forms are out of reach.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// Shorter values are not searched for: they occur by chance.
pub(crate) const MIN_SECRET_BYTES: usize = 8;

/// Longest pattern. The middle of a longer value stands for it.
const MAX_PATTERN_BYTES: usize = 2048;

/// Longest base64 text that is searched for as a whole: what programs that break lines leave on one.
const MAX_BASE64_BYTES: usize = 64;
/// Length of the pieces that stand for a longer one.
const BASE64_PIECE_BYTES: usize = 32;

/// What to look for when looking for `secret`, and what each is called. Empty if it is too short.
pub(crate) fn patterns(secret: &[u8]) -> BTreeMap<Vec<u8>, &'static str> {
    let mut found = BTreeMap::new();
    // Files end with a line break that programs drop.
    let value = secret.trim_ascii();
    if value.len() < MIN_SECRET_BYTES {
        return found;
    }
    let mut add = |pattern: Vec<u8>, form: &'static str| {
        if pattern.len() >= MIN_SECRET_BYTES {
            found.entry(pattern).or_insert(form);
        }
    };
    let piece = middle(value, MAX_PATTERN_BYTES);
    add(piece.to_vec(), "as it is");
    if value.contains(&b'\n') {
        let lines = || value.split(|&b| b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        add(middle(&join(lines(), b"\n"), MAX_PATTERN_BYTES).to_vec(), "as it is");
        add(middle(&join(lines(), b"\r\n"), MAX_PATTERN_BYTES).to_vec(), "with other line ends");
        add(middle(&join(lines(), b""), MAX_PATTERN_BYTES).to_vec(), "without its line ends");
    }
    for shift in 0..3 {
        for (text, form) in [(base64(value, shift, &STANDARD_NO_PAD), "in base64"), (base64(value, shift, &URL_SAFE_NO_PAD), "in base64url")] {
            if text.len() <= MAX_BASE64_BYTES {
                add(text, form);
            } else {
                let start = (text.len() / 2).min(text.len() - 2 * BASE64_PIECE_BYTES);
                text[start..].chunks_exact(BASE64_PIECE_BYTES).take(2).for_each(|piece| add(piece.to_vec(), form));
            }
        }
    }
    for (digits, form) in [(&b"0123456789abcdef"[..], "in hexadecimal"), (b"0123456789ABCDEF", "in hexadecimal")] {
        let hex: Vec<u8> = piece.iter().flat_map(|byte| [digits[usize::from(byte >> 4)], digits[usize::from(byte & 15)]]).collect();
        add(hex, form);
    }
    for kept in [&b""[..], b"/", b"!'()*", b";,/?:@&=+$#!'()*"] {
        for upper in [true, false] {
            add(percent(piece, kept, b"%20", upper), "in percent encoding");
            add(percent(piece, kept, b"+", upper), "in percent encoding");
        }
    }
    if let Ok(text) = std::str::from_utf8(value) {
        for style in [JsonStyle::Plain, JsonStyle::Slashes, JsonStyle::Html, JsonStyle::Ascii] {
            add(middle(json(text, style).as_bytes(), MAX_PATTERN_BYTES).to_vec(), "escaped as in JSON");
        }
    }
    found
}

fn join<'a>(lines: impl Iterator<Item = &'a [u8]>, end: &[u8]) -> Vec<u8> {
    lines.collect::<Vec<_>>().join(end)
}

fn middle(value: &[u8], length: usize) -> &[u8] {
    let start = value.len().saturating_sub(length) / 2;
    &value[start..value.len().min(start + length)]
}

/// Those characters of the base64 of something with `value` in it, `shift` bytes behind a multiple of three, that depend on nothing else.
fn base64(value: &[u8], shift: usize, engine: &impl base64::Engine) -> Vec<u8> {
    let shifted = [&[0; 2][..shift], value].concat();
    let text = engine.encode(&shifted).into_bytes();
    // Two or three characters hold bits of what is before the value.
    text[[0, 2, 3][shift]..shifted.len() * 8 / 6].to_vec()
}

/// Percent encoding of everything but letters, digits, `-._~` and `kept`, with this for a space.
fn percent(value: &[u8], kept: &[u8], space: &[u8], upper: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len() * 3);
    for &byte in value {
        match byte {
            b' ' => out.extend_from_slice(space),
            byte if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || kept.contains(&byte) => out.push(byte),
            byte if upper => out.extend_from_slice(format!("%{byte:02X}").as_bytes()),
            byte => out.extend_from_slice(format!("%{byte:02x}").as_bytes()),
        }
    }
    out
}

/// Ways in which programs write text into JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum JsonStyle {
    /// What has to be escaped.
    Plain,
    /// Slashes too, as PHP does.
    Slashes,
    /// `<`, `>` and `&` too, as Go does.
    Html,
    /// Everything that is not ASCII too, as Python does.
    Ascii,
}

fn json(text: &str, style: JsonStyle) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '/' if style == JsonStyle::Slashes => out.push_str("\\/"),
            '<' | '>' | '&' if style == JsonStyle::Html => write!(out, "\\u{:04x}", c as u32).expect("writing to a string does not fail"),
            c if c.is_ascii_control() || !c.is_ascii() && style == JsonStyle::Ascii => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(out, "\\u{unit:04x}").expect("writing to a string does not fail");
                }
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE};
    use proptest::prelude::*;

    use super::*;

    fn finds(secret: &[u8], text: &[u8]) -> bool {
        patterns(secret).keys().any(|pattern| text.windows(pattern.len()).any(|window| window == pattern))
    }

    #[test]
    fn short_values_are_not_searched_for() {
        assert!(patterns(b"1234567\n").is_empty() && patterns(b"  \n").is_empty());
        assert!(!patterns(b"12345678").is_empty());
    }

    #[test]
    fn json_styles() {
        let text = "a\"b\\c\n/<é";
        let styles = [JsonStyle::Plain, JsonStyle::Slashes, JsonStyle::Html, JsonStyle::Ascii].map(|style| json(text, style));
        assert_eq!(styles, ["a\\\"b\\\\c\\n/<é", "a\\\"b\\\\c\\n\\/<é", "a\\\"b\\\\c\\n/\\u003cé", "a\\\"b\\\\c\\n/<\\u00e9"]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_form_is_found_anywhere(
            secret in prop::collection::vec(any::<u8>(), 8..300),
            before in prop::collection::vec(any::<u8>(), 0..9),
            after in prop::collection::vec(any::<u8>(), 0..9),
            wrap in prop::sample::select(vec![64_usize, 76, 10_000]),
        ) {
            prop_assume!(secret.trim_ascii().len() >= MIN_SECRET_BYTES);
            let whole = [&before[..], &secret, &after].concat();
            prop_assert!(finds(&secret, &whole));
            for text in [STANDARD.encode(&whole), URL_SAFE.encode(&whole)] {
                // A short text may be cut by the first break wherever it stands; encoders break long ones only.
                let wrap = if text.len() <= MAX_BASE64_BYTES { 10_000 } else { wrap };
                let lines: Vec<&str> = text.as_bytes().chunks(wrap).map(|line| std::str::from_utf8(line).expect("ASCII")).collect();
                prop_assert!(secret.trim_ascii().len() < 52 && wrap < 10_000 || finds(&secret, lines.join("\n").as_bytes()), "{}", lines.join("\n"));
            }
            let hex: String = whole.iter().map(|byte| format!("{byte:02x}")).collect();
            prop_assert!(finds(&secret, hex.as_bytes()) && finds(&secret, hex.to_uppercase().as_bytes()));
        }

        #[test]
        fn texts_are_found_in_json_and_in_addresses(secret in "[ -~\u{e9}\u{1f600}\n]{8,100}") {
            prop_assume!(secret.trim_ascii().len() >= MIN_SECRET_BYTES);
            let quoted = serde_json::to_string(&secret).expect("text");
            prop_assert!(finds(secret.as_bytes(), quoted.as_bytes()));
            let form: String = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
            let address = percent(secret.as_bytes(), b"", b"%20", true);
            prop_assert!(finds(secret.as_bytes(), &address));
            // A form keeps `*` and encodes `~`, which no other does.
            prop_assert!(secret.contains(['*', '~']) || finds(secret.as_bytes(), form.as_bytes()), "{form}");
        }

        #[test]
        fn what_lacks_a_byte_is_not_found(secret in "[a-z]{12}", at in 1..11_usize) {
            let mut other = secret.clone();
            other.remove(at);
            prop_assert!(!finds(secret.as_bytes(), other.as_bytes()));
        }
    }
}
