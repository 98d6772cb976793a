//! COPY and ADD: one layer each, whatever they copy (`features.md` A9).

use builder_core::frontend::{Answer, Need, Selected};
use builder_core::graph::{Chmod, CopyAction, Dest, FileAction, FileOp, Op, Owner, VertexId};
use builder_core::oci::Sha256Digest;

use super::plan::Asker;
use super::platform::Origin;
use super::remote::{GitReference, http_filename, is_http};
use super::stages::Step;
use super::state::{StageState, StepNames};
use super::text::{absolute, clipped};
use super::{Compiler, NamedContext};
use crate::ast::{Add, Copy, CopyPaths, Heredoc, Word};
use crate::diagnostic::Problem;
use crate::expand;
use crate::glob::has_wildcards;
use crate::ignore::IgnoreFile;
use crate::lint;

/// What COPY and ADD have in common.
struct Flags<'i> {
    keyword: &'static str,
    paths: &'i CopyPaths,
    chown: Option<&'i Word>,
    chmod: Option<&'i Word>,
    link: bool,
    parents: bool,
    excludes: &'i [Word],
}

/// One source, expanded.
enum Source {
    /// A path in the origin of the instruction.
    Path(String),
    /// A file on a web server.
    Http(String),
    /// A repository.
    Git(GitReference),
}

/// Actions and their inputs, as they come together.
#[derive(Default)]
struct Work {
    actions: Vec<FileAction>,
    inputs: Vec<VertexId>,
}

/// Sources as they are after expansion, and what ADD says about them.
struct Wanted<'w> {
    sources: &'w [(String, &'w Word)],
    checksum: Option<&'w (String, &'w Word)>,
    add: Option<&'w Add>,
}

/// What all actions of one instruction share.
struct Shared {
    dest: Dest,
    owner: Option<Owner>,
    chmod: Option<Chmod>,
    excludes: Vec<String>,
    parents: bool,
}

impl Shared {
    fn copy(&self, input: usize, sources: Vec<String>, unpack: bool, reset_owner: bool) -> FileAction {
        FileAction::Copy(CopyAction {
            input,
            sources,
            dest: self.dest.clone(),
            owner: self.owner.clone(),
            chmod: self.chmod.clone(),
            parents: self.parents,
            excludes: self.excludes.clone(),
            unpack,
            reset_owner,
        })
    }
}

impl Compiler<'_> {
    pub(crate) fn compile_copy(&mut self, copy: &Copy, state: &mut StageState, step: &Step<'_>, names: &mut StepNames) {
        let flags = Flags {
            keyword: "COPY",
            paths: &copy.paths,
            chown: copy.chown.as_ref(),
            chmod: copy.chmod.as_ref(),
            link: copy.link,
            parents: copy.parents,
            excludes: &copy.excludes,
        };
        let origin = match &copy.from {
            Some(from) => match self.origin(&from.value, &step.asking(Asker::Copy)) {
                Ok(origin) => Self::seen_through(origin, step.run),
                // Noted when the stage was planned.
                Err(_) => return,
            },
            None => self.main_context(),
        };
        self.compile_paths(&flags, &origin, None, state, step, names);
    }

    pub(crate) fn compile_add(&mut self, add: &Add, state: &mut StageState, step: &Step<'_>, names: &mut StepNames) {
        let flags = Flags {
            keyword: "ADD",
            paths: &add.paths,
            chown: add.chown.as_ref(),
            chmod: add.chmod.as_ref(),
            link: add.link,
            parents: false,
            excludes: &add.excludes,
        };
        let origin = self.main_context();
        self.compile_paths(&flags, &origin, Some(add), state, step, names);
    }

    fn main_context(&self) -> Origin {
        Origin::Context { name: None, context: self.options.context.clone() }
    }

    fn compile_paths<'i>(
        &mut self,
        flags: &Flags<'i>,
        origin: &Origin,
        add: Option<&'i Add>,
        state: &mut StageState,
        step: &Step<'_>,
        names: &mut StepNames,
    ) {
        let before = self.errors();
        let name = names.next(&self.step_text(step, state, &[]));
        let base = state.tree.filter(|_| !flags.link);
        // What is empty once it is expanded has not been asked for, as in the reference.
        let mut given = |word: Option<&'i Word>| {
            let word = word?;
            self.expand(word, state, step).filter(|text| !text.is_empty()).map(|text| (text, word))
        };
        let (owner, chmod) = (given(flags.chown), given(flags.chmod));
        let checksum = given(add.and_then(|add| add.checksum.as_ref()));
        if let Some((owner, word)) = &owner
            && base.is_none()
            && !is_numeric_owner(owner)
        {
            let why = if flags.link && state.tree.is_some() { "--link copies into an empty tree" } else { "the stage is empty" };
            let message = format!("cannot look up the user or group of owner {owner:?}: {why}, without /etc/passwd and /etc/group");
            self.fail(step.place(), Problem::error("unknown-owner", message, word.span).help("write numbers: --chown=uid:gid"));
        }
        let mode = chmod.as_ref().and_then(|(text, word)| match Chmod::parse(text) {
            Ok(mode) => Some(mode),
            Err(error) => {
                self.fail(step.place(), Problem::error("invalid-chmod", error.to_string(), word.span).help(error.help()));
                None
            }
        });
        let sources: Vec<(String, &Word)> = flags.paths.sources.iter().filter_map(|word| Some((self.expand(word, state, step)?, word))).collect();
        let written_dest = self.expand(&flags.paths.dest, state, step);
        if let Err(error) = IgnoreFile::from_patterns(flags.excludes.iter().map(|word| word.value.as_str())) {
            let span = flags.excludes.get(error.line.saturating_sub(1) as usize).map_or(step.place().lines, |word| word.span);
            self.fail(step.place(), Problem::error("bad-pattern", format!("cannot use --exclude: {} {}", error.pattern, error.reason), span));
        }
        if self.errors() != before {
            return;
        }
        let Some(written_dest) = written_dest else { return };

        let mut texts: Vec<String> = vec![flags.keyword.to_owned()];
        texts.extend(flags.parents.then(|| "--parents".to_owned()));
        texts.extend(owner.as_ref().map(|(owner, _)| format!("--chown={owner}")));
        texts.extend(chmod.as_ref().map(|(chmod, _)| format!("--chmod={chmod}")));
        texts.extend(sources.iter().map(|(source, _)| source.clone()));
        texts.extend(flags.paths.heredocs.iter().map(|heredoc| format!("<<{}", heredoc.name)));
        texts.push(written_dest.clone());
        let created_by = format!("{} # buildkit", texts.join(" "));

        let shared = Shared {
            dest: destination(state.workdir(), &written_dest),
            owner: owner.map(|(text, _)| Owner { text }),
            chmod: mode,
            excludes: flags.excludes.iter().map(|word| word.value.clone()).collect(),
            parents: flags.parents,
        };
        let wanted = Wanted { sources: &sources, checksum: checksum.as_ref(), add };
        let mut work = Work { actions: Vec::new(), inputs: base.into_iter().collect() };
        if self.sources(&wanted, origin, &shared, step, &mut work).is_none() || self.errors() != before {
            return;
        }
        self.heredocs(&flags.paths.heredocs, &shared, state, step, &mut work);
        if self.errors() != before {
            return;
        }
        self.check_selection(flags.keyword, &sources, flags.parents, origin, step);
        self.check_destination(flags, &shared, &sources, state, step);

        let meta = self.meta(name.clone(), step.place(), step.ignore_cache);
        let layer = self.graph.add(Op::File(FileOp { base: base.is_some(), actions: work.actions }), work.inputs, meta);
        state.tree = Some(match state.tree.filter(|_| flags.link) {
            Some(below) => {
                let meta = self.meta(format!("LINK {name}"), step.place(), false);
                self.graph.add(Op::Merge, vec![below, layer], meta)
            }
            None => layer,
        });
        state.note_layer(created_by, layer);
    }

    /// Turns sources into actions: neighbouring paths share one, every address gets its own.
    fn sources(&mut self, wanted: &Wanted<'_>, origin: &Origin, shared: &Shared, step: &Step<'_>, work: &mut Work) -> Option<()> {
        let Wanted { sources, checksum, add } = *wanted;
        let mut read = Vec::new();
        for (text, word) in sources {
            match read_source(text, add.is_some(), shared.parents) {
                Ok(source) => read.push((source, *word)),
                Err(problem) => self.fail(step.place(), Problem { span: word.span, ..problem }),
            }
        }
        let digest = match checksum {
            Some((text, word)) => self.checksum(text, word, &read, sources.len(), step)?,
            None => Checksum::None,
        };
        let mut local: Option<(usize, bool)> = None;
        let unpack_local = add.is_some_and(|add| add.unpack.unwrap_or(true));
        let mut paths: Vec<String> = Vec::new();
        for (source, word) in read {
            let input = match source {
                Source::Path(path) => {
                    if local.is_none() {
                        // In a call that builds nothing a stage may be missing; its problems are known already.
                        let (vertex, reset) = self.origin_vertex(origin, step)?;
                        work.inputs.push(vertex);
                        local = Some((work.inputs.len() - 1, reset));
                    }
                    paths.push(path);
                    continue;
                }
                Source::Http(url) => {
                    let checksum = if let Checksum::Bytes(digest) = digest { Some(digest) } else { None };
                    let name = load_name(&url);
                    let vertex = self.http_vertex(&url, checksum, name, step.place());
                    (vertex, vec![http_filename(&url)], add.is_some_and(|add| add.unpack == Some(true)))
                }
                Source::Git(git) => {
                    let mut git = git;
                    if let Checksum::Commit(commit) = &digest {
                        if git.checksum.as_ref().is_some_and(|known| !known.starts_with(commit.as_str()) && !commit.starts_with(known.as_str())) {
                            let message = "the checksum of the address and that of --checksum contradict each other";
                            self.fail(step.place(), Problem::error("checksum", message, word.span));
                        }
                        git.checksum = Some(commit.clone());
                    }
                    let keep = add.and_then(|add| add.keep_git_dir);
                    if let (Some(flag), Some(query)) = (keep, git.keep_git_dir)
                        && flag != query
                    {
                        let message = format!("keep-git-dir={query} of the address and --keep-git-dir={flag} contradict each other");
                        self.fail(step.place(), Problem::error("keep-git-dir", message, word.span).help("leave out one of them"));
                    }
                    let name = load_name(&git.url);
                    let meta = self.meta(name, step.place(), false);
                    (self.graph.add(Op::Source(git.source(keep)), Vec::new(), meta), vec![String::new()], false)
                }
            };
            let (vertex, files, unpack) = input;
            if let Some((input, reset)) = local
                && !paths.is_empty()
            {
                work.actions.push(shared.copy(input, std::mem::take(&mut paths), unpack_local, reset));
            }
            work.inputs.push(vertex);
            work.actions.push(shared.copy(work.inputs.len() - 1, files, unpack, false));
        }
        if let Some((input, reset)) = local
            && !paths.is_empty()
        {
            work.actions.push(shared.copy(input, paths, unpack_local, reset));
        }
        Some(())
    }

    fn checksum(&mut self, text: &str, word: &Word, sources: &[(Source, &Word)], count: usize, step: &Step<'_>) -> Option<Checksum> {
        let problem = |message: &str| Problem::error("checksum", message.to_owned(), word.span);
        let found = match sources {
            [(Source::Http(_), _)] if count == 1 => {
                text.parse::<Sha256Digest>().map(Checksum::Bytes).map_err(|_| problem("invalid checksum: expected sha256: and 64 hexadecimal digits"))
            }
            [(Source::Git(_), _)] if count == 1 => {
                let hex = (7..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
                if hex { Ok(Checksum::Commit(text.to_lowercase())) } else { Err(problem("invalid checksum: expected 7 to 64 digits of a commit")) }
            }
            [_] if count == 1 => Err(problem("checksum requires HTTP(S) or Git sources")),
            _ => Err(problem("checksum can't be specified for multiple sources")),
        };
        match found {
            Ok(checksum) => Some(checksum),
            Err(problem) => {
                self.fail(step.place(), problem);
                None
            }
        }
    }

    fn heredocs(&mut self, heredocs: &[Heredoc], shared: &Shared, state: &StageState, step: &Step<'_>, work: &mut Work) {
        for heredoc in heredocs {
            // Of several bodies with one name the last counts for all (A3.5).
            let heredoc = heredocs.iter().rfind(|other| other.name == heredoc.name).unwrap_or(heredoc);
            let mut body = heredoc.body.clone();
            if heredoc.expand {
                match expand::expand_heredoc(&heredoc.body, &state.variables) {
                    Ok(expanded) => {
                        self.check_defined(&expanded.used, state, step);
                        body = expanded.text;
                    }
                    Err(error) => self.fail(step.place(), Problem::expansion(&error, heredoc.body_span)),
                }
            }
            work.actions.push(FileAction::MakeFile {
                dest: shared.dest.clone(),
                name: heredoc.name.clone(),
                data: body.into_bytes(),
                chmod: shared.chmod.clone(),
                owner: shared.owner.clone(),
            });
        }
    }

    /// What a COPY would leave out, or find nothing of. `CopyIgnoredFile` is silent once the ignore file lets anything in again, because then only a
    /// look at the files can tell. The others are ours: they have that look taken.
    fn check_selection(&mut self, keyword: &str, sources: &[(String, &Word)], parents: bool, origin: &Origin, step: &Step<'_>) {
        let Origin::Context { name, context: NamedContext::Local { name: context } } = origin else { return };
        let options = self.options;
        let ignore = options.context_ignore.as_ref().filter(|_| name.is_none());
        let verb = if keyword == "ADD" { "Add" } else { "Copy" };
        for (source, _) in sources {
            let path = clipped(source);
            if path.is_empty() || is_http(source) || GitReference::parse(source).is_some() {
                continue;
            }
            let is_excluded = ignore.is_some_and(|ignore| ignore.excludes(path.as_bytes()));
            let lets_in = ignore.is_some_and(IgnoreFile::has_negations);
            if is_excluded && !lets_in {
                self.lint(&lint::COPY_IGNORED_FILE, step, format!("Attempting to {verb} file {source:?} that is excluded by .dockerignore"));
            } else if parents {
                // What `--parents` walks to is found by a walk through everything.
                continue;
            } else if has_wildcards(&path) {
                let nothing = match self.selected(context, &path) {
                    Some(Selected::Nothing) => format!("{source:?} matches nothing in {}, so nothing is copied", shown_context(name.as_deref())),
                    Some(Selected::LeftOut(by)) => format!("What {source:?} matches is left out by {by}, so nothing is copied"),
                    Some(Selected::Something) | None => continue,
                };
                self.lint(&lint::WILDCARD_MATCHES_NOTHING, step, nothing);
            } else if is_excluded {
                let by = match ignore.filter(|ignore| ignore.prunes(path.as_bytes())).and_then(|ignore| ignore.deciding_rule(path.as_bytes())) {
                    Some(rule) => format!("the ignore file (line {}: {})", rule.line, rule.pattern),
                    None => match self.selected(context, &path) {
                        Some(Selected::LeftOut(by)) => by,
                        _ => continue,
                    },
                };
                self.lint(&lint::COPY_IGNORED_PATH, step, format!("{source:?} is left out by {by}, and nothing of it is let in again"));
            }
        }
    }

    /// What is copied as asked for and seldom meant: a file for several sources, directories that nobody can enter.
    fn check_destination(&mut self, flags: &Flags<'_>, shared: &Shared, sources: &[(String, &Word)], state: &StageState, step: &Step<'_>) {
        let dest = &shared.dest;
        // The working directory exists, and so does all above it.
        let exists = std::path::Path::new(state.workdir()).starts_with(&dest.path);
        if sources.len() + flags.paths.heredocs.len() > 1 && !dest.is_dir && !exists {
            let detail = format!(
                "Several sources and one destination: unless {0} is a directory already, each replaces the one before. Write {0}/ for a directory",
                dest.path
            );
            self.lint(&lint::SEVERAL_SOURCES_ONE_FILE, step, detail);
        }
        let Some(Chmod::Octal(mode)) = shared.chmod else { return };
        let is_directory = |source: &str| (clipped(source).is_empty() || source.ends_with('/')) && !is_http(source) && !has_wildcards(source);
        if mode & 0o111 == 0 && sources.iter().any(|(source, _)| is_directory(source)) {
            let detail = format!("--chmod={mode:o} is the mode of directories, too, which only root can enter then. Write --chmod=u=rwX,go=rX");
            self.lint(&lint::DIRECTORY_MODE_WITHOUT_EXECUTE, step, detail);
        }
    }

    /// What a source finds in a directory, once that is known.
    fn selected(&mut self, context: &str, path: &str) -> Option<Selected> {
        let need = Need::Selection { context: context.to_owned(), source: path.to_owned() };
        match self.resolved.answers.get(&need) {
            Some(Answer::Selection(selected)) => Some(selected.clone()),
            Some(_) => None,
            None => {
                self.needs.insert(need);
                None
            }
        }
    }
}

fn shown_context(name: Option<&str>) -> String {
    name.map_or_else(|| "the build context".to_owned(), |name| format!("the context {name:?}"))
}

/// What `--checksum` says.
enum Checksum {
    None,
    Bytes(Sha256Digest),
    Commit(String),
}

/// How the fetching of an address is shown.
fn load_name(url: &str) -> String {
    // What stands between `//` and `@` may be a password.
    let shown = match url.split_once("://") {
        Some((scheme, rest)) => match rest.split('/').next().and_then(|host| host.rfind('@')) {
            Some(at) => format!("{scheme}://{}", &rest[at + 1..]),
            None => url.to_owned(),
        },
        None => url.to_owned(),
    };
    format!("[internal] load {shown}")
}

/// Tells a path from an address.
fn read_source(text: &str, is_add: bool, parents: bool) -> Result<Source, Problem> {
    let nowhere = crate::source::Span::default();
    let git = GitReference::parse(text);
    if !is_add {
        if is_http(text) {
            return Err(Problem::error("copy-url", format!("source can't be a URL for COPY: {text}"), nowhere).help("use ADD for addresses"));
        }
        if git.is_some() {
            return Err(
                Problem::error("copy-url", format!("source can't be a git ref for COPY: {text}"), nowhere).help("use ADD for git repositories")
            );
        }
    }
    match git {
        Some(Ok(git)) => return Ok(Source::Git(git)),
        Some(Err(reason)) => return Err(Problem::error("git-reference", format!("cannot use git repository {text}: {reason}"), nowhere)),
        None => {}
    }
    if is_http(text) {
        return Ok(Source::Http(text.to_owned()));
    }
    // `/./` marks where the kept parents begin (A9.11), so it must survive cleaning.
    Ok(Source::Path(match text.split_once("/./").filter(|_| parents) {
        Some((pivot, rest)) => format!("{}/./{}", clipped(pivot), clipped(rest)),
        None => clipped(text),
    }))
}

/// Absolute; a slash or `.` at its end means a directory (A9.1).
fn destination(workdir: &str, written: &str) -> Dest {
    let is_dir =
        written.is_empty() || written.ends_with('/') || written == "." || written.ends_with("/.") || written == ".." || written.ends_with("/..");
    let path = absolute(workdir, written);
    Dest { is_dir: is_dir || path == "/", path }
}

/// Whether an owner needs no look-up: numbers, or `root`, which is always 0.
fn is_numeric_owner(owner: &str) -> bool {
    owner.splitn(2, ':').all(|part| part.is_empty() || part == "root" || part.parse::<u32>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a9_1_destinations() {
        for (written, path, is_dir) in [
            ("x", "/w/x", false),
            ("x/", "/w/x", true),
            (".", "/w", true),
            ("./", "/w", true),
            ("/", "/", true),
            ("/a/../b", "/b", false),
            ("/a/.", "/a", true),
            ("./rel/", "/w/rel", true),
        ] {
            assert_eq!(destination("/w", written), Dest { path: path.into(), is_dir }, "{written}");
        }
    }
}
