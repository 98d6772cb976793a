//! What a stage is at one of its lines: its tree, its image config, its variables.

use std::collections::HashMap;
use std::sync::Arc;

use builder_core::frontend::HistoryEntry;
use builder_core::graph::VertexId;
use builder_core::oci::{ImageDocument, Platform};

use super::history::StageHistory;
use crate::expand::Environment;
use crate::source::Span;

/// PATH where an image gives none (`features.md` A6.11).
pub(crate) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The shell of the shell forms where SHELL gives none.
const DEFAULT_SHELL: &[&str] = &["/bin/sh", "-c"];
const DEFAULT_WINDOWS_SHELL: &[&str] = &["cmd", "/S", "/C"];

/// A stage at one of its lines.
#[derive(Debug, Clone)]
pub(crate) struct StageState {
    /// Its tree; none while it is empty (`scratch`).
    pub(crate) tree: Option<VertexId>,
    /// Its image's config; history and layers are filled in later.
    pub(crate) document: ImageDocument,
    /// The environment of its config, `NAME=value`, which `document` is without; none if it has none.
    env: Option<Vec<Arc<str>>>,
    /// Where each variable stands in it.
    env_index: HashMap<Arc<str>, usize>,
    /// Its history.
    pub(crate) history: StageHistory,
    /// ENV and ARG, in the order they were set.
    pub(crate) variables: Environment,
    /// ARGs in scope (`features.md` A13.2).
    pub(crate) args: Arguments,
    /// What its processes run on.
    pub(crate) platform: Platform,
    /// Whether a WORKDIR was seen in it or below it.
    pub(crate) workdir_set: bool,
    /// The last CMD, ENTRYPOINT and HEALTHCHECK of this very stage.
    pub(crate) own: OwnInstructions,
}

/// ARGs in scope: each once, where it was declared first, with the value it was given last.
#[derive(Debug, Clone, Default)]
pub(crate) struct Arguments {
    entries: Vec<(Arc<str>, Option<Arc<str>>)>,
    index: HashMap<Arc<str>, usize>,
}

impl Arguments {
    /// Declares one, perhaps again.
    pub(crate) fn declare(&mut self, name: &str, value: Option<&str>) {
        let value = value.map(Arc::from);
        match self.index.get(name) {
            Some(&at) => self.entries[at].1 = value,
            None => {
                let name: Arc<str> = name.into();
                self.index.insert(Arc::clone(&name), self.entries.len());
                self.entries.push((name, value));
            }
        }
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.index.contains_key(name)
    }

    /// The declared value; none if it has none or is not declared.
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        self.entries[*self.index.get(name)?].1.as_deref()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.entries.iter().map(|(name, value)| (&**name, value.as_deref()))
    }
}

/// Places of instructions of which a stage should have one.
#[derive(Debug, Clone, Default)]
pub(crate) struct OwnInstructions {
    pub(crate) cmd: Option<Span>,
    pub(crate) entrypoint: Option<Span>,
    pub(crate) healthcheck: Option<Span>,
}

impl StageState {
    /// `FROM scratch`, or files that bring no config.
    pub(crate) fn empty(platform: Platform, tree: Option<VertexId>) -> Self {
        let mut document = ImageDocument::default();
        document.config.working_dir = "/".to_owned();
        Self::start(document, platform, tree, StageHistory::default())
    }

    /// From an image's config; its triggers are gone by now.
    pub(crate) fn from_image(mut document: ImageDocument, platform: Platform, tree: Option<VertexId>) -> Self {
        let history = StageHistory::of(std::mem::take(&mut document.history).into_iter().map(HistoryEntry::Base).collect());
        document.created = None;
        document.rootfs = builder_core::oci::config::RootFs::default();
        Self::start(document, platform, tree, history)
    }

    fn start(mut document: ImageDocument, platform: Platform, tree: Option<VertexId>, history: StageHistory) -> Self {
        document.config.on_build = None;
        if document.os.is_empty() {
            document.os.clone_from(&platform.os);
        }
        if document.architecture.is_empty() {
            document.architecture.clone_from(&platform.architecture);
            document.variant = Some(platform.variant.clone()).filter(|variant| !variant.is_empty());
        }
        let env: Option<Vec<Arc<str>>> = document.config.env.take().map(|env| env.into_iter().map(Arc::from).collect());
        let mut variables = Environment::new();
        for entry in env.iter().flatten() {
            let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
            variables.set(name, value);
        }
        let index = |(at, entry): (usize, &Arc<str>)| (entry.split('=').next().unwrap_or_default().into(), at);
        // Of repeated names the first counts, as in a search from the beginning.
        let env_index = env.as_deref().unwrap_or_default().iter().enumerate().map(index).rev().collect();
        let own = OwnInstructions::default();
        let mut state = Self { tree, document, env, env_index, history, variables, args: Arguments::default(), platform, workdir_set: false, own };
        if state.variables.get("PATH").is_none() && state.platform.os != "windows" {
            state.set_env("PATH", DEFAULT_PATH);
        }
        state
    }

    /// What a stage that begins with `FROM this` starts as; also the triggers that it must run.
    pub(crate) fn child(&self) -> Self {
        let Self { tree, document, env, env_index, history, variables, args, platform, workdir_set, own: _ } = self;
        let mut child = Self {
            tree: *tree,
            document: document.clone(),
            env: env.clone(),
            env_index: env_index.clone(),
            history: history.child(),
            variables: variables.clone(),
            args: args.clone(),
            platform: platform.clone(),
            workdir_set: *workdir_set,
            own: OwnInstructions::default(),
        };
        child.document.config.on_build = None;
        child
    }

    /// As [`StageState::child`] of a stage of which nothing but its tree is asked for any more.
    pub(crate) fn last_child(&mut self) -> Self {
        let rest = Self::empty(self.platform.clone(), self.tree);
        let mut child = std::mem::replace(self, rest);
        child.history = child.history.child();
        child.own = OwnInstructions::default();
        child.document.config.on_build = None;
        child
    }

    /// Its image's config, whole.
    pub(crate) fn into_document(self) -> ImageDocument {
        let mut document = self.document;
        document.config.env = self.env.map(|env| env.iter().map(|entry| String::from(&**entry)).collect());
        document
    }

    /// ENV: for what follows and for the image.
    pub(crate) fn set_env(&mut self, name: &str, value: &str) {
        self.variables.set(name, value);
        let entry: Arc<str> = format!("{name}={value}").into();
        let env = self.env.get_or_insert_default();
        match self.env_index.get(name).and_then(|&at| env.get_mut(at)) {
            Some(old) => *old = entry,
            None => {
                self.env_index.insert(name.into(), env.len());
                env.push(entry);
            }
        }
    }

    /// The directory that relative paths are relative to.
    pub(crate) fn workdir(&self) -> &str {
        match self.document.config.working_dir.as_str() {
            "" => "/",
            dir => dir,
        }
    }

    /// The shell of the shell forms.
    pub(crate) fn shell(&self) -> Vec<String> {
        let default = if self.platform.os == "windows" { DEFAULT_WINDOWS_SHELL } else { DEFAULT_SHELL };
        match &self.document.config.shell {
            Some(shell) if !shell.is_empty() => shell.clone(),
            _ => default.iter().map(|&word| word.to_owned()).collect(),
        }
    }

    /// A history entry without a layer.
    pub(crate) fn note(&mut self, created_by: String) {
        self.history.push(HistoryEntry::New { created_by, vertex: None });
    }

    /// A history entry for the layer that `vertex` makes.
    pub(crate) fn note_layer(&mut self, created_by: String, vertex: VertexId) {
        self.history.push(HistoryEntry::New { created_by, vertex: Some(vertex) });
    }
}

/// Numbers a stage's steps (`features.md` C7.1).
#[derive(Debug, Clone, Default)]
pub(crate) struct StepNames {
    /// Platform, then stage; none for a file of one stage and one platform.
    pub(crate) prefix: Vec<String>,
    /// How many steps there are: the image, RUN, COPY, ADD, WORKDIR.
    pub(crate) total: usize,
    /// How many were named.
    pub(crate) index: usize,
}

impl StepNames {
    /// The name of the next step.
    pub(crate) fn next(&mut self, text: &str) -> String {
        if self.total == 0 {
            return text.to_owned();
        }
        self.index += 1;
        let width = self.total.to_string().len();
        let prefix: String = self.prefix.iter().map(|part| format!("{part} ")).collect();
        format!("[{prefix}{:>width$}/{}] {text}", self.index, self.total)
    }
}
