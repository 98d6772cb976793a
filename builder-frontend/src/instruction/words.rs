//! Cutting arguments into words: on blanks alone, and on blanks outside quotes.

use std::ops::Range;

use crate::ast::Word;
use crate::source::Spanned;

use super::Line;

/// What separates a keyword from its arguments and plain words from each other (A0.5).
pub(crate) fn is_blank(c: char) -> bool {
    matches!(c, '\t' | '\x0b' | '\x0c' | '\r' | ' ')
}

/// Without the blanks around.
pub(crate) fn trim(text: &str, range: Range<usize>) -> Range<usize> {
    let part = &text[range.clone()];
    let start = range.start + (part.len() - part.trim_start().len());
    start..start + part.trim().len()
}

/// Words separated by blanks; quotes mean nothing (A4.4).
pub(crate) fn plain(line: &Line<'_>) -> Vec<Word> {
    ranges(line).into_iter().map(|range| line.word(range)).collect()
}

/// As [`plain`], as ranges of the line.
pub(crate) fn ranges(line: &Line<'_>) -> Vec<Range<usize>> {
    let mut at = line.args.start;
    let words = line.text().split(is_blank).filter_map(|word| {
        let range = at..at + word.len();
        // Every blank is one byte.
        at = range.end + 1;
        (!word.is_empty()).then_some(range)
    });
    words.collect()
}

/// Words separated by blanks outside quotes and escapes; quotes and escapes are kept for the expansion (A5.6).
pub(crate) fn quoted(line: &Line<'_>) -> Vec<Word> {
    let word = |(word, range): (String, Range<usize>)| Spanned::new(word, line.span_of(line.args.start + range.start..line.args.start + range.end));
    quoted_ranges(line.text(), line.escape).into_iter().map(word).collect()
}

/// As [`quoted`], with ranges of `text`.
pub(crate) fn quoted_ranges(text: &str, escape: char) -> Vec<(String, Range<usize>)> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut start: Option<usize> = None;
    let mut quote: Option<char> = None;
    let mut seen_quote = false;
    let mut finish = |word: &mut String, start: &mut Option<usize>, seen_quote: &mut bool, end: usize| {
        if let Some(begin) = start.take()
            && (*seen_quote || !word.is_empty())
        {
            words.push((std::mem::take(word), begin..end));
        }
        word.clear();
        *seen_quote = false;
    };
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        if quote.is_none() && c.is_whitespace() {
            finish(&mut word, &mut start, &mut seen_quote, at);
            continue;
        }
        start.get_or_insert(at);
        match quote {
            None if c == '\'' || c == '"' => {
                quote = Some(c);
                seen_quote = true;
            }
            Some(open) if c == open => quote = None,
            _ => {}
        }
        if c == escape && quote != Some('\'') {
            // An escape at the very end means nothing.
            if let Some((_, next)) = chars.next() {
                word.push(c);
                word.push(next);
            }
        } else {
            word.push(c);
        }
    }
    finish(&mut word, &mut start, &mut seen_quote, text.len());
    words
}
