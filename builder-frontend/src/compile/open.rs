//! From options and answers to the file that is compiled, what it includes in its place; or to what is missing for that.

use std::borrow::Cow;

use builder_core::diagnostic::Diagnostic;
use builder_core::frontend::{Answer, Need, Resolved};
use builder_core::graph::SourceOp;

use super::file::ParsedFile;
use super::text::clipped;
use super::{DockerfileFrontend, DockerfileSource, GitReference, IncludeRoot, NamedContext, plain_error, remote};
use crate::include::{self, Assembled, Fetched, Includes, Policy};
use crate::suggest;

/// What stands before compiling.
pub(crate) enum Opened {
    /// These are missing; at least one.
    Needs(Vec<Need>),
    /// The file, read.
    File(Box<ParsedFile>),
}

/// A place that files are asked for from.
struct Directory<'a> {
    context: &'a str,
    /// None for a directory of the request.
    remote: Option<SourceOp>,
    /// As people call it.
    called: &'static str,
}

impl Directory<'_> {
    /// The need for a file in it. A context from the web may be a single file and then is what is built, never what it includes.
    fn need(&self, path: &str, or_download: bool) -> Need {
        match &self.remote {
            Some(source) => Need::RemoteFile { source: source.clone(), path: path.to_owned(), or_download },
            None => Need::File { context: self.context.to_owned(), path: path.to_owned() },
        }
    }
}

/// A Dockerfile that is in the main context.
enum InContext<'r> {
    Found { path: String, text: &'r str },
    Need(Need),
}

impl DockerfileFrontend {
    pub(crate) fn open(&self, resolved: &Resolved) -> Result<Opened, Vec<Diagnostic>> {
        self.control().map_err(|problem| vec![problem])?;
        let (name, text, root) = match &self.options.dockerfile {
            DockerfileSource::Text { name, text } => (name.clone(), text.as_str(), Cow::Borrowed(&self.options.includes)),
            DockerfileSource::InContext { path } => match self.in_context(path, resolved)? {
                InContext::Found { path, text } => (path.clone(), text, Cow::Owned(IncludeRoot::Context { dockerfile: clipped(&path) })),
                InContext::Need(need) => return Ok(Opened::Needs(vec![need])),
            },
            DockerfileSource::Web { url } => match on_the_web(url, resolved)? {
                InContext::Found { path, text } => (path, text, Cow::Borrowed(&self.options.includes)),
                InContext::Need(need) => return Ok(Opened::Needs(vec![need])),
            },
        };
        let refused = |reason: &str, help: &str| {
            let whole = include::assemble(&name, text, &Policy::Refuse { reason, help });
            Ok(Opened::File(Box::new(ParsedFile::parse(whole))))
        };
        if self.options.strict {
            let reason = "`# rbuild:include` is known to rbuild only: other builders take it for a comment";
            return refused(reason, "`rbuild convert` writes the same Dockerfile without it; or build without --strict-docker");
        }
        let (directory, path) = match &*root {
            IncludeRoot::Nowhere => {
                let reason = "nothing can be included: the Dockerfile comes alone, without a directory to include files from";
                return refused(reason, "name a directory as the build context, or the Dockerfile by its path");
            }
            IncludeRoot::Context { dockerfile } => (self.main_context()?, dockerfile),
            IncludeRoot::Directory { name, dockerfile } => {
                (Directory { context: name, remote: None, called: "the Dockerfile's directory" }, dockerfile)
            }
        };
        let whole = assemble(&name, text, path, &directory, resolved);
        if whole.unknown.is_empty() {
            return Ok(Opened::File(Box::new(ParsedFile::parse(whole))));
        }
        Ok(Opened::Needs(whole.unknown.iter().map(|path| directory.need(path, false)).collect()))
    }

    /// The main context, as a place to ask for files from.
    fn main_context(&self) -> Result<Directory<'_>, Vec<Diagnostic>> {
        let remote = match &self.options.context {
            NamedContext::Git { url } => match GitReference::parse(url) {
                Some(Ok(git)) => Some(self.main_repository(&git)),
                Some(Err(reason)) => return Err(vec![plain_error("git-reference", format!("cannot use git repository {url}: {reason}"))]),
                None => return Err(vec![plain_error("git-reference", format!("{url:?} is no address of a git repository"))]),
            },
            NamedContext::Http { url } => Some(SourceOp::Http { url: url.clone(), filename: remote::http_filename(url), checksum: None }),
            _ => None,
        };
        Ok(Directory { context: "context", remote, called: "the build context" })
    }

    /// The Dockerfile in the main context, or what is needed to know it.
    fn in_context<'r>(&self, path: &str, resolved: &'r Resolved) -> Result<InContext<'r>, Vec<Diagnostic>> {
        let directory = self.main_context()?;
        // A file called `dockerfile` serves where `Dockerfile` is missing (A0.8).
        let lower = path.strip_suffix("Dockerfile").map(|dir| format!("{dir}dockerfile"));
        let mut near = None;
        for path in std::iter::once(path.to_owned()).chain(lower) {
            let need = directory.need(&path, true);
            match resolved.answers.get(&need) {
                Some(Answer::File(bytes)) => return found(path, bytes),
                Some(Answer::Absent { beside }) => {
                    let (dir, name) = path.rsplit_once('/').map_or(("", path.as_str()), |(dir, name)| (dir, name));
                    let found = suggest::nearest(name, beside.iter().map(String::as_str));
                    near = near.or(found.map(|found| if dir.is_empty() { found.to_owned() } else { format!("{dir}/{found}") }));
                }
                Some(Answer::Failed(reason)) => return Err(vec![plain_error("dockerfile", format!("failed to read dockerfile {path}: {reason}"))]),
                _ => return Ok(InContext::Need(need)),
            }
        }
        let message = format!("failed to read dockerfile: open {path}: no such file or directory");
        Err(vec![Diagnostic { help: near.map(|near| format!("there is {near}: choose it with -f")), ..plain_error("dockerfile", message) }])
    }
}

/// The Dockerfile on a web server, or what is needed to know it.
fn on_the_web<'r>(url: &str, resolved: &'r Resolved) -> Result<InContext<'r>, Vec<Diagnostic>> {
    let name = remote::http_filename(url);
    let source = SourceOp::Http { url: url.to_owned(), filename: name.clone(), checksum: None };
    let need = Need::RemoteFile { source, path: name.clone(), or_download: true };
    match resolved.answers.get(&need) {
        Some(Answer::File(bytes)) => found(name, bytes),
        Some(Answer::Failed(reason)) => Err(vec![plain_error("dockerfile", format!("failed to read dockerfile {url}: {reason}"))]),
        Some(_) => Err(vec![plain_error("dockerfile", format!("failed to read dockerfile {url}: nothing is there"))]),
        None => Ok(InContext::Need(need)),
    }
}

fn found(path: String, bytes: &[u8]) -> Result<InContext<'_>, Vec<Diagnostic>> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(InContext::Found { path, text }),
        Err(error) => Err(vec![plain_error("not-utf8", format!("{path} is not UTF-8 text: byte {}", error.valid_up_to()))]),
    }
}

/// Puts the file together from what was answered so far.
fn assemble(name: &str, text: &str, path: &str, directory: &Directory<'_>, resolved: &Resolved) -> Assembled {
    let fetch = |path: &str| match resolved.answers.get(&directory.need(path, false)) {
        Some(Answer::File(bytes)) => match std::str::from_utf8(bytes) {
            Ok(text) => Fetched::Text(Cow::Borrowed(text)),
            Err(error) => Fetched::Unusable(format!("it is not UTF-8 text: byte {}", error.valid_up_to())),
        },
        Some(Answer::Absent { beside }) => Fetched::Absent(beside),
        Some(Answer::Failed(reason)) => Fetched::Unusable(reason.clone()),
        _ => Fetched::Unknown,
    };
    include::assemble(name, text, &Policy::Follow(Includes { path, root: directory.called, fetch: &fetch }))
}
