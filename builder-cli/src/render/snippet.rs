//! A problem with its line and an underline, drawn by `annotate-snippets`.
//!
//! Only the line that is marked is given to the renderer: an instruction may have thousands, and the excerpt below says the rest. What a file or a
//! message holds may come from anywhere; the renderer replaces control characters in what it draws, and messages are cleaned here.

use annotate_snippets::renderer::{Ansi256Color, Color, DecorStyle, RgbColor, Style};
use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use builder_core::diagnostic::{Diagnostic, Severity};
use builder_core::graph::SourceLocation;

use super::clean_lines;
use crate::progress::clean;
use crate::progress::palette::Palette;

/// Columns after which a line is cut around what is marked. Fixed, so that logs read the same everywhere.
const WIDTH: usize = 160;

/// A diagnostic with its place, and an empty line behind it.
pub(crate) fn diagnostic(found: &Diagnostic, palette: &Palette) -> String {
    let level = match found.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
        Severity::Note => Level::NOTE,
    };
    let mut group = match &found.location {
        // Of a file without text nothing can be shown.
        Some(location) if !location.source.text.trim().is_empty() => {
            let marked = Marked::of(location);
            let name = clean::text(&location.source.name);
            let label = found.label.as_deref().map(clean_lines);
            let annotation = AnnotationKind::Primary.span(marked.span.clone()).label(label);
            let snippet = Snippet::source(marked.line.to_owned()).path(name).line_start(marked.number).annotation(annotation);
            level.primary_title(clean_lines(&found.message)).id(found.code.clone()).element(snippet)
        }
        _ => Group::with_title(level.primary_title(clean_lines(&found.message)).id(found.code.clone())),
    };
    for place in found.location.iter().flat_map(|location| &location.source.included_at) {
        group = group.element(Level::NOTE.message(clean::text(&format!("included at {place}"))));
    }
    if let Some(help) = &found.help {
        group = group.element(Level::HELP.message(clean_lines(help)));
    }
    let mut text = renderer(palette).render(&[group]);
    text.push_str("\n\n");
    text
}

/// The line that is shown.
struct Marked<'a> {
    number: usize,
    line: &'a str,
    /// Bytes of the line.
    span: std::ops::Range<usize>,
}

impl<'a> Marked<'a> {
    /// The first line of the span, marked up to its end at most; the first line of the instruction where there is no span.
    fn of(location: &SourceLocation) -> Marked<'_> {
        let text = &location.source.text;
        let valid = |at: usize| (0..=at.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        let Some(span) = &location.span else {
            let number = location.first_line.max(1) as usize;
            let line = location.source.lines_from(location.first_line.max(1)).next().unwrap_or_default();
            let begin = line.len() - line.trim_start().len();
            return Marked { number, line, span: begin..line.trim_end().len().max(begin) };
        };
        let (start, end) = (valid(span.start), valid(span.end));
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line = text[line_start..].lines().next().unwrap_or_default();
        let begin = (start - line_start).min(line.len());
        let until = end.saturating_sub(line_start).clamp(begin, line.len());
        let trimmed = begin + line[begin..until].trim_end().len();
        Marked { number: location.source.line_of(start), line, span: begin..trimmed }
    }
}

fn renderer(palette: &Palette) -> Renderer {
    let plain = Renderer::plain().decor_style(DecorStyle::Unicode).term_width(WIDTH);
    if palette.error.is_empty() {
        return plain;
    }
    let bold = Style::new().bold();
    let style = |sequence: &str| bold.fg_color(colour(sequence));
    plain.error(style(&palette.error)).warning(style(&palette.warning)).emphasis(bold).help(bold)
}

/// The colour of a sequence that [`Palette`] made: `ESC [ 31 m`, `ESC [ 38 ; 2 ; r ; g ; b m`.
fn colour(sequence: &str) -> Option<Color> {
    let codes: Vec<u8> = sequence.strip_prefix("\u{1b}[")?.strip_suffix('m')?.split(';').map(|code| code.parse().ok()).collect::<Option<_>>()?;
    match codes[..] {
        [38, 2, r, g, b] => Some(RgbColor(r, g, b).into()),
        [code @ 30..=37] => Ansi256Color(code - 30).into_ansi().map(Color::from),
        [code @ 90..=97] => Ansi256Color(code - 90).into_ansi().map(|colour| colour.bright(true).into()),
        _ => None,
    }
}
