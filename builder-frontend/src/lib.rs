//! Dockerfile text to syntax tree, diagnostics and build graph. Pure: no file is read, no network asked, no clock looked at.
//!
//! Text ([`source::SourceFile`]) is cut into instructions with spans ([`parser`]), instructions become typed values ([`ast`]), stages get names and
//! reachability ([`stage`]), variables are expanded ([`expand`]), and [`compile`] turns what the target reaches into a graph of operations, or says
//! what it needs first. Problems are [`diagnostic::Problem`]s: collected, never thrown at the first one. All that reads text is bounded in time, depth
//! and memory, whatever the text is, and fuzzed for it (`fuzz/`).
//!
//! Without the feature `compile` (on by default) all of this but the graph and the outline stands alone, without builder-core:
//!
//! ```toml
//! builder-frontend = { version = "0.1", default-features = false }
//! ```
//!
//! # Reading a Dockerfile
//!
//! A tree is made of what could be understood, beside it stand the problems. Every word knows its place, so that a tool can point at it or edit the
//! text there and leave everything else byte for byte. [`print`](mod@print) writes a tree as text.
//!
//! ```
//! use builder_frontend::ast::InstructionKind;
//! use builder_frontend::{parser, source::SourceFile};
//!
//! let source = SourceFile::new("Dockerfile", "FROM alpine:3.20 AS build\nRUN make \\\n  # in the middle\n  all\nCOPPY a b\n");
//! let parsed = parser::parse(&source);
//!
//! let InstructionKind::From(from) = &parsed.dockerfile.instructions[0].kind else { unreachable!("it begins with FROM") };
//! assert_eq!((from.base.value.as_str(), source.line_column(from.base.span.start)), ("alpine:3.20", (1, 6)));
//! assert_eq!(parsed.dockerfile.instructions[1].original, "RUN make   all");
//! assert_eq!(source.lines(parsed.dockerfile.instructions[1].span), (2, 4));
//!
//! let mut edited = source.text.clone();
//! edited.replace_range(from.base.span.range(), "alpine:3.22");
//! assert!(edited.starts_with("FROM alpine:3.22 AS build\nRUN make \\\n  # in the middle\n"));
//!
//! let problem = &parsed.problems[0];
//! assert_eq!((problem.code, problem.message.as_str()), ("unknown-instruction", "unknown instruction `COPPY`"));
//! assert_eq!(problem.help.as_deref(), Some("did you mean `COPY`?"));
//! ```
//!
//! # Stages and checks
//!
//! The checks that need no more than the tree; `compile::DockerfileFrontend::check` runs all of them, also those that need images and arguments.
//!
//! ```
//! use builder_frontend::lint::{CheckOptions, Linter};
//! use builder_frontend::{parser, source::SourceFile, stage::StageTable};
//!
//! let source = SourceFile::new("Dockerfile", "FROM alpine as Build\nMAINTAINER me\nFROM scratch\nCOPY --from=build /a /\n");
//! let dockerfile = parser::parse(&source).dockerfile;
//! let (stages, problems) = StageTable::new(&dockerfile);
//! assert!(problems.is_empty() && stages.by_name("build") == Some(0));
//!
//! let mut linter = Linter::new(CheckOptions::parse("skip=FromAsCasing").unwrap());
//! linter.check_syntax(&dockerfile, &stages);
//! let found: Vec<_> = linter.findings().iter().map(|finding| (source.line_column(finding.span.start).0, finding.code)).collect();
//! assert_eq!(found, [(1, "StageNameCasing"), (2, "MaintainerDeprecated")]);
//! ```
//!
//! # Ignore files
//!
//! ```
//! use builder_frontend::ignore::IgnoreFile;
//!
//! let ignore = IgnoreFile::parse(b"# what is not needed\n**/*.log\nnode_modules\n!node_modules/kept\n").unwrap();
//! assert!(ignore.excludes(b"deep/inside/x.log") && !ignore.excludes(b"src/main.rs"));
//! // An exception lets in again what is below an excluded directory, so the directory must be walked.
//! assert!(ignore.excludes(b"node_modules/other") && !ignore.excludes(b"node_modules/kept/file") && !ignore.prunes(b"node_modules"));
//! let rule = ignore.deciding_rule(b"node_modules/other").unwrap();
//! assert_eq!((rule.line, rule.pattern), (3, "node_modules"));
//! ```
//!
//! # What a build takes
//!
//! The outline of a target (feature `compile`). Whoever has no engine answers needs with what it knows: here no image can be had.
#![cfg_attr(feature = "compile", doc = "```")]
#![cfg_attr(not(feature = "compile"), doc = "```ignore")]
//! use builder_core::frontend::{Answer, Resolved};
//! use builder_frontend::compile::{CallOutcome, DockerfileFrontend, DockerfileSource, FrontendOptions};
//!
//! let text = "ARG VERSION=3.22\nFROM alpine:${VERSION}\n# CHANNEL which packages\nARG CHANNEL=stable\nRUN --mount=type=secret,id=token,required ./get $CHANNEL\n";
//! let source = DockerfileSource::Text { name: "Dockerfile".into(), text: text.into() };
//! let frontend = DockerfileFrontend::new(FrontendOptions::new(source, "linux/amd64".parse().unwrap()));
//! let mut resolved = Resolved::default();
//! let outline = loop {
//!     match frontend.outline(&resolved) {
//!         Ok(CallOutcome::Ready(outline)) => break Ok(outline),
//!         Ok(CallOutcome::Needs(needs)) => resolved.answers.extend(needs.into_iter().map(|need| (need, Answer::Failed("no registry".into())))),
//!         Err(problems) => break Err(problems),
//!     }
//! };
//! // The base's triggers would count, so an outline without the image is refused, at the line that names it.
//! let problems = outline.unwrap_err();
//! assert_eq!(problems[0].location.as_ref().unwrap().first_line, 2);
//!
//! // Of a base that is no image everything is known.
//! let source = DockerfileSource::Text { name: "Dockerfile".into(), text: text.replace("alpine:${VERSION}", "scratch") };
//! let frontend = DockerfileFrontend::new(FrontendOptions::new(source, "linux/amd64".parse().unwrap()));
//! let Ok(CallOutcome::Ready(outline)) = frontend.outline(&Resolved::default()) else { unreachable!("nothing is needed") };
//! assert_eq!(outline.args[0].name, "CHANNEL");
//! assert_eq!(outline.args[0].description.as_deref(), Some("which packages"));
//! assert!(outline.secrets[0].name == "token" && outline.secrets[0].required);
//! ```

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
