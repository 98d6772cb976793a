//! Dockerfile text to syntax tree, diagnostics and build graph. Pure: no file is read, no network asked, no clock looked at.
//!
//! Text ([`source::SourceFile`]) is cut into instructions with spans ([`parser`]), instructions become typed values ([`ast`]), stages get names and
//! reachability ([`stage`]), variables are expanded ([`expand`]), and [`compile`] turns what the target reaches into a graph of operations, or says
//! what it needs first. Problems are [`diagnostic::Problem`]s: collected, never thrown at the first one.
//!
//! Without the feature `compile` the parser, the syntax tree, the checks and the ignore matcher stand alone.

pub mod advice;
pub mod ast;
pub mod diagnostic;
pub mod directive;
pub mod dump;
pub mod expand;
pub mod glob;
pub mod ignore;
pub mod include;
pub mod lexer;
pub mod lint;
pub mod parser;
pub mod print;
pub mod source;
pub mod stage;
pub mod suggest;

mod heredoc;
mod instruction;
mod quote;

#[cfg(feature = "compile")]
pub mod compile;
