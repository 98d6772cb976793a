//! Text to syntax tree: the whole file, or one trigger out of an image's config.
//!
//! The parser never stops at the first problem and never panics: an instruction that can't be understood becomes a [`Problem`] and is left out of
//! the tree.

use crate::ast::{Dockerfile, Instruction};
use crate::diagnostic::Problem;
use crate::source::SourceFile;

/// What was understood, and what was not.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Parsed {
    /// Every instruction that could be understood.
    pub dockerfile: Dockerfile,
    /// In the order of the text.
    pub problems: Vec<Problem>,
}

/// Parses a whole file.
#[must_use]
pub fn parse(source: &SourceFile) -> Parsed {
    let _ = source;
    Parsed::default()
}

/// Parses one trigger as an image's config keeps it (A10.9). Spans are places in `text`.
pub fn parse_trigger(text: &str, escape: char) -> Result<Instruction, Problem> {
    let _ = (text, escape);
    Err(Problem::error("empty-file", "the trigger is empty", crate::source::Span::default()))
}
