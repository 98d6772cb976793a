//! Makes text that others wrote harmless for a terminal.
//!
//! Output of a step (or of whoever wrote the packages it installs) may hold escape sequences that move the cursor, retitle windows, answer
//! queries into the user's shell, or overwrite our own lines with lies. Only printable text and tabs pass. The complete bytes are in the step's log.

/// Cleans one line without its end. Of a line that rewrote itself with carriage returns the last state stays, as a terminal would show it.
pub(crate) fn line(bytes: &[u8]) -> String {
    let mut clean = String::with_capacity(bytes.len());
    push_line(&mut clean, bytes);
    clean
}

/// Appends what [`line`] gives.
pub(crate) fn push_line(clean: &mut String, bytes: &[u8]) {
    // Steps print hundreds of megabytes of plain lines.
    if bytes.iter().all(|&byte| byte == b'\t' || matches!(byte, b' '..=b'~'))
        && let Ok(plain) = std::str::from_utf8(bytes)
    {
        clean.push_str(plain);
        return;
    }
    let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
    let shown = bytes.rsplit(|&byte| byte == b'\r').find(|part| !part.is_empty()).unwrap_or_default();
    push_text(clean, &String::from_utf8_lossy(shown));
}

/// Cleans text: escape sequences, control characters and characters that reorder text go.
pub(crate) fn text(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    push_text(&mut clean, text);
    clean
}

fn push_text(clean: &mut String, text: &str) {
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\u{1b}' => skip_sequence(&mut rest),
            '\u{9b}' => skip_control_sequence(&mut rest),
            '\t' => clean.push(c),
            _ if c.is_control() || is_reordering(c) => {}
            _ => clean.push(c),
        }
    }
}

/// Characters that change the direction of text, so that what is read is not what is written.
fn is_reordering(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

type Rest<'a> = std::iter::Peekable<std::str::Chars<'a>>;

fn skip_sequence(rest: &mut Rest<'_>) {
    match rest.next() {
        Some('[') => skip_control_sequence(rest),
        // Strings (titles, clipboards, device queries) end with BEL or ESC \.
        Some(']' | 'P' | 'X' | '^' | '_') => {
            while let Some(c) = rest.next() {
                if c == '\u{7}' || c == '\u{1b}' && rest.next_if_eq(&'\\').is_some() {
                    return;
                }
            }
        }
        // Character sets and the like: intermediates, then one final character.
        Some(' '..='/') => while rest.next().is_some_and(|c| matches!(c, ' '..='/')) {},
        _ => {}
    }
}

fn skip_control_sequence(rest: &mut Rest<'_>) {
    while rest.next().is_some_and(|c| matches!(c, ' '..='?')) {}
}

/// [`text`] without the numbers that the system gives its errors: the words stand before them.
pub(crate) fn message(message: &str) -> String {
    without_errno(&text(message))
}

fn without_errno(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(" (os error ") {
        let digits = after.len() - after.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        out.push_str(before);
        rest = match after[digits..].strip_prefix(')') {
            Some(rest) if digits > 0 => rest,
            _ => {
                out.push_str(" (os error ");
                after
            }
        };
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_moves_a_terminal_passes() {
        for (given, shown) in [
            (&b"plain\ttext"[..], "plain\ttext"),
            (b"\x1b[31mred\x1b[0m", "red"),
            (b"\x1b]0;title\x07after", "after"),
            (b"\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
            (b"\x1bP+q\x1b\\x", "x"),
            (b"\x1b(Bx\x1b7y", "xy"),
            (b"10%\r50%\r100%", "100%"),
            (b"100%\r", "100%"),
            (b"windows\r\r", "windows"),
            (b"a\x08\x07b\x00", "ab"),
            (b"\xc2\x9b31mx", "x"),
            ("a\u{202e}b".as_bytes(), "ab"),
            (b"\xff", "\u{fffd}"),
            (b"\x1b[", ""),
            (b"\x1b]never ends", ""),
            ("grün ✓".as_bytes(), "grün ✓"),
        ] {
            assert_eq!(line(given), shown, "{given:?}");
        }
    }
}
