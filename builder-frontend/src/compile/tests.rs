//! Whole files through the frontend: what graph, what config, what history, what problems. Images come from a table, nothing is run.

mod include;
mod own;
mod sections;

use std::sync::Arc;

use builder_core::frontend::{Answer, Compilation, Compiled, Frontend, HistoryEntry, Need, Resolved, ResolvedImage, Selected};
use builder_core::graph::{FileAction, Mount, Network, Op, SourceOp};
use builder_core::oci::{DiffId, ImageDocument, Platform, Sha256Digest};
use builder_core::request::Entitlement;
use insta::assert_snapshot;
use serde_json::{Value, json};

use super::*;
use crate::ignore::IgnoreFile;

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn platform(text: &str) -> Platform {
    text.parse().expect(text)
}

fn options(text: &str) -> FrontendOptions {
    FrontendOptions::new(DockerfileSource::Text { name: "Dockerfile".to_owned(), text: text.to_owned() }, platform("linux/amd64"))
}

fn image(config: Value) -> ResolvedImage {
    let document: ImageDocument = serde_json::from_value(config).expect("a config");
    let platform = Platform { os: document.os.clone(), architecture: document.architecture.clone(), variant: String::new() };
    ResolvedImage { manifest: Sha256Digest::of(b"m"), diff_ids: vec![DiffId(Sha256Digest::of(b"l"))], config: document, platform }
}

/// busybox and alpine; `triggers` with two triggers; `arm` for another architecture; anything else is missing. Of files `none…` is not there, `hidden…`
/// and `dist` are ignored; of sources `undated` has no time.
fn known(need: &Need) -> Answer {
    let (reference, platform) = match need {
        Need::Image { reference, platform, .. } => (reference, platform),
        Need::Selection { source, .. } if source.starts_with("none") => return Answer::Selection(Selected::Nothing),
        Need::Selection { source, .. } if source.starts_with("hidden") || source == "dist" => {
            return Answer::Selection(Selected::LeftOut("line 1 of .dockerignore: x".to_owned()));
        }
        Need::Selection { .. } => return Answer::Selection(Selected::Something),
        Need::Time { source: SourceOp::Git { .. } } => return Answer::Time(Some(1_500_000_000)),
        Need::Time { source: SourceOp::Http { url, .. } } => return Answer::Time(Some(1_600_000_000).filter(|_| !url.ends_with("undated"))),
        _ => return Answer::Absent { beside: Vec::new() },
    };
    let base = json!({"env": [PATH]});
    let config = match reference.familiar().as_str() {
        "busybox" | "alpine" => {
            json!({"os": "linux", "architecture": platform.architecture, "config": {"Env": [PATH], "Cmd": ["sh"]}, "history": [{"created_by": "base"}]})
        }
        "triggers" => json!({"os": "linux", "architecture": "amd64", "config": {"Env": [PATH], "OnBuild": ["COPY --from=assets a /a", "ENV T=1"]}}),
        "full" => json!({"os": "linux", "architecture": "amd64", "author": "someone", "created": "2020-01-01T00:00:00Z", "config": {
            "Env": [PATH], "Cmd": ["c"], "Entrypoint": ["e"], "Labels": {"a": "b"}, "ExposedPorts": {"80/tcp": {}}, "Volumes": {"/v": {}}, "User": "u",
            "WorkingDir": "/w", "StopSignal": "SIGINT", "Healthcheck": {"Test": ["NONE"]}, "Shell": ["sh"], "OnBuild": ["LABEL triggered=1"],
        }}),
        "bad-trigger" => json!({"os": "linux", "architecture": "amd64", "config": {"OnBuild": ["NONSENSE x"]}}),
        "arm" => json!({"os": "linux", "architecture": "arm64", "config": base}),
        other => return Answer::Failed(format!("{other}: not found")),
    };
    Answer::Image(Arc::new(image(config)))
}

fn compile_with(options: FrontendOptions) -> Result<Box<Compiled>, Vec<Diagnostic>> {
    compile_answered(options, &known)
}

fn compile_answered(options: FrontendOptions, known: &dyn Fn(&Need) -> Answer) -> Result<Box<Compiled>, Vec<Diagnostic>> {
    let frontend = DockerfileFrontend::new(options);
    let mut resolved = Resolved::default();
    for _ in 0..builder_core::frontend::MAX_ROUNDS {
        match frontend.compile(&resolved)? {
            Compilation::Ready(compiled) => return Ok(compiled),
            Compilation::Needs(needs) => {
                assert!(!needs.is_empty(), "needs are never empty");
                for need in needs {
                    let answer = known(&need);
                    assert!(resolved.answers.insert(need, answer).is_none(), "nothing is asked for twice");
                }
            }
        }
    }
    panic!("compiling does not end");
}

fn compile(text: &str) -> Box<Compiled> {
    compile_with(options(text)).unwrap_or_else(|problems| panic!("{problems:#?}"))
}

/// `line: message` for every error.
fn errors_with(options: FrontendOptions) -> Vec<String> {
    let Err(problems) = compile_with(options) else { return Vec::new() };
    let errors = problems.iter().filter(|problem| problem.severity == Severity::Error);
    errors.map(|problem| format!("{}: {}", problem.location.as_ref().map_or(0, |location| location.first_line), problem.message)).collect()
}

fn errors(text: &str) -> Vec<String> {
    errors_with(options(text))
}

fn history(compiled: &Compiled) -> Vec<String> {
    let entries = compiled.targets[0].history.iter().map(|entry| match entry {
        HistoryEntry::Base(base) => base.created_by.clone().unwrap_or_default(),
        HistoryEntry::New { created_by, vertex: Some(_) } => format!("+ {created_by}"),
        HistoryEntry::New { created_by, vertex: None } => format!("  {created_by}"),
    });
    entries.collect()
}

fn config(compiled: &Compiled) -> Value {
    serde_json::to_value(&compiled.targets[0].config.config).expect("configs are JSON")
}

fn warnings(compiled: &Compiled) -> Vec<String> {
    compiled
        .warnings
        .iter()
        .map(|warning| format!("{} {}", warning.location.as_ref().map_or(0, |location| location.first_line), warning.code))
        .collect()
}

/// One line a vertex.
fn dump(compiled: &Compiled) -> String {
    let mut out = String::new();
    for id in compiled.graph.ids() {
        let vertex = compiled.graph.vertex(id);
        let what = match &vertex.op {
            Op::Source(SourceOp::Image { reference, .. }) => format!("image {reference}"),
            Op::Source(SourceOp::Local { name }) => format!("local {name}"),
            Op::Source(SourceOp::Http { url, filename, .. }) => format!("http {url} as {filename}"),
            Op::Source(SourceOp::Git { url, reference, subdir, keep_git_dir, .. }) => {
                format!("git {url} {reference:?} {} keep={keep_git_dir}", subdir.display())
            }
            Op::Exec(exec) => format!("exec {:?} in {} as {:?}{}", exec.argv, exec.cwd, exec.user, mounts(&exec.mounts)),
            Op::File(file) => {
                let actions: Vec<String> = file.actions.iter().map(action).collect();
                format!("file{} {}", if file.base { "" } else { " on nothing:" }, actions.join("; "))
            }
            Op::Merge => "merge".to_owned(),
        };
        let inputs: Vec<String> = vertex.inputs.iter().map(|input| input.0.to_string()).collect();
        out.push_str(&format!(
            "{} {what} <- [{}] {}{}\n",
            id.0,
            inputs.join(" "),
            vertex.meta.name,
            if vertex.meta.ignore_cache { " (fresh)" } else { "" }
        ));
    }
    out.push_str(&format!("target {:?}", compiled.targets.iter().map(|target| target.vertex.map(|id| id.0)).collect::<Vec<_>>()));
    out.replace(&Sha256Digest::of(b"m").to_string(), "sha256:m")
}

fn mounts(mounts: &[Mount]) -> String {
    mounts.iter().map(|mount| format!(" | {} {:?}", mount.target, mount.kind)).collect()
}

fn action(action: &FileAction) -> String {
    match action {
        FileAction::Copy(copy) => {
            let mut text = format!("copy {}:{:?} to {}{}", copy.input, copy.sources, copy.dest.path, if copy.dest.is_dir { " (dir)" } else { "" });
            for (flag, on) in [("parents", copy.parents), ("unpack", copy.unpack), ("owner reset", copy.reset_owner)] {
                if on {
                    text.push_str(&format!(", {flag}"));
                }
            }
            if let Some(owner) = &copy.owner {
                text.push_str(&format!(", owner {}", owner.text));
            }
            if let Some(chmod) = &copy.chmod {
                text.push_str(&format!(", {chmod:?}"));
            }
            text
        }
        FileAction::MakeDir { path, owner, .. } => format!("mkdir {path} {:?}", owner.as_ref().map(|owner| &owner.text)),
        FileAction::MakeFile { dest, name, data, .. } => format!("write {name} to {} {:?}", dest.path, String::from_utf8_lossy(data)),
    }
}

#[test]
fn a6_stages_share_what_they_have_in_common_and_leave_out_what_is_not_reached() {
    let compiled = compile(
        "FROM busybox AS base\nRUN make base\nFROM base AS left\nRUN left\nFROM base AS right\nRUN left\n\
         FROM missing AS unused\nRUN never\nFROM base\nCOPY --from=left /l /l\nCOPY --from=right /r /r\n",
    );
    assert_snapshot!(dump(&compiled), @r##"
    0 image docker.io/library/busybox:latest <- [] [base 1/2] FROM docker.io/library/busybox:latest@sha256:m
    1 exec ["/bin/sh", "-c", "make base"] in / as "" <- [0] [base 2/2] RUN make base
    2 exec ["/bin/sh", "-c", "left"] in / as "" <- [1] [left 1/1] RUN left
    3 file copy 1:["l"] to /l <- [1 2] [stage-4 1/2] COPY --from=left /l /l
    4 file copy 1:["r"] to /r <- [3 2] [stage-4 2/2] COPY --from=right /r /r
    target [Some(4)]
    "##);
}

#[test]
fn a9_copy_shapes() {
    let compiled = compile(
        "FROM busybox\nWORKDIR /w\nUSER 5:6\nARG D=data\nCOPY $D.txt ./b/../ up/../c ./dest/\nCOPY --link --chown=1:2 --chmod=640 x /x\n\
         ADD a.tar http://h/f/tool.sh https://h/r.git#v1:sub /in/\nCOPY --parents a/./b/../c /p\nCOPY <<one two <<'three' /h/\n1 $D\none\n$D\nthree\nWORKDIR sub\n",
    );
    assert_snapshot!(dump(&compiled), @r##"
    0 image docker.io/library/busybox:latest <- [] [1/8] FROM docker.io/library/busybox:latest@sha256:m
    1 file mkdir /w None <- [0] [2/8] WORKDIR /w
    2 local context <- [] [internal] load build context
    3 file copy 1:["data.txt", "", "c"] to /w/dest (dir), owner reset <- [1 2] [3/8] COPY data.txt ./b/../ up/../c ./dest/
    4 file on nothing: copy 0:["x"] to /x, owner reset, owner 1:2, Octal(416) <- [2] [4/8] COPY --link --chown=1:2 --chmod=640 x /x
    5 merge <- [3 4] LINK [4/8] COPY --link --chown=1:2 --chmod=640 x /x
    6 http http://h/f/tool.sh as tool.sh <- [] [internal] load http://h/f/tool.sh
    7 git https://h/r.git Some("v1") /sub keep=false <- [] [internal] load https://h/r.git
    8 file copy 1:["a.tar"] to /in (dir), unpack, owner reset; copy 2:["tool.sh"] to /in (dir); copy 3:[""] to /in (dir) <- [5 2 6 7] [5/8] ADD a.tar http://h/f/tool.sh https://h/r.git#v1:sub /in/
    9 file copy 1:["a/./c"] to /p, parents, owner reset <- [8 2] [6/8] COPY --parents a/./b/../c /p
    10 file copy 1:["two"] to /h (dir), owner reset; write one to /h "1 data\n"; write three to /h "$D\n" <- [9 2] [7/8] COPY <<one two <<'three' /h/
    11 file mkdir /w/sub Some("5:6") <- [10] [8/8] WORKDIR sub
    target [Some(11)]
    "##);
    assert_snapshot!(history(&compiled).join("\n"), @r##"
    base
    + WORKDIR /w
      USER 5:6
      ARG D=data
    + COPY data.txt ./b/../ up/../c ./dest/ # buildkit
    + COPY --chown=1:2 --chmod=640 x /x # buildkit
    + ADD a.tar http://h/f/tool.sh https://h/r.git#v1:sub /in/ # buildkit
    + COPY --parents a/./b/../c /p # buildkit
    + COPY two <<one <<three /h/ # buildkit
    + WORKDIR /w/sub
    "##);
}

#[test]
fn a9_copy_on_nothing_needs_no_base() {
    assert_snapshot!(dump(&compile("FROM scratch\nCOPY a /\nCOPY --link b /\n")), @r##"
    0 local context <- [] [internal] load build context
    1 file on nothing: copy 0:["a"] to / (dir), owner reset <- [0] [1/2] COPY a /
    2 file on nothing: copy 0:["b"] to / (dir), owner reset <- [0] [2/2] COPY --link b /
    3 merge <- [1 2] LINK [2/2] COPY --link b /
    target [Some(3)]
    "##);
    let only_link = compile("FROM scratch\nCOPY --link b /\nRUN x\n");
    assert_snapshot!(dump(&only_link), @r##"
    0 local context <- [] [internal] load build context
    1 file on nothing: copy 0:["b"] to / (dir), owner reset <- [0] [1/2] COPY --link b /
    2 exec ["/bin/sh", "-c", "x"] in / as "" <- [1] [2/2] RUN x
    target [Some(2)]
    "##);
    assert_snapshot!(dump(&compile("FROM scratch\nRUN x\n")), @r##"
    0 merge <- [] empty tree
    1 exec ["/bin/sh", "-c", "x"] in / as "" <- [0] [1/1] RUN x
    target [Some(1)]
    "##);
}

#[test]
fn a8_mounts() {
    let compiled = compile(
        "FROM busybox AS s\nFROM busybox\nWORKDIR /w\nRUN --mount=target=z/y,source=src --mount=from=s,source=/o,target=/m,rw \
         --mount=type=cache,target=/c,sharing=locked,uid=3 --mount=type=tmpfs,target=/t,size=8m --mount=type=secret,id=a/b,env=TOKEN \
         --mount=type=secret,id=k,required --mount=type=ssh --mount=type=ssh,id=deploy,target=/agent make $TOKEN\n",
    );
    assert_snapshot!(dump(&compiled), @r##"
    0 image docker.io/library/busybox:latest <- [] [s 1/1] FROM docker.io/library/busybox:latest@sha256:m
    1 file mkdir /w None <- [0] [stage-1 2/3] WORKDIR /w
    2 local context <- [] [internal] load build context
    3 file on nothing: copy 0:["src"] to /selected, owner reset <- [2] [internal] /src of build context
    4 exec ["/bin/sh", "-c", "make $TOKEN"] in /w as "" | /agent Ssh { id: "deploy", required: false, mode: 384, uid: 0, gid: 0 } | /c Cache { id: "//c", sharing: Locked, from: None, source: /, read_only: false, mode: 493, uid: 3, gid: 0 } | /m Bind { input: 2, source: /o, writable: true } | /run/buildkit/ssh_agent.0 Ssh { id: "default", required: false, mode: 384, uid: 0, gid: 0 } | /run/secrets/b Secret { id: "a/b", file: false, env: Some("TOKEN"), required: false, mode: 256, uid: 0, gid: 0 } | /run/secrets/k Secret { id: "k", file: true, env: None, required: true, mode: 256, uid: 0, gid: 0 } | /t Tmpfs { size_bytes: Some(8388608) } | /w/z/y Bind { input: 1, source: /selected, writable: false } <- [1 3 0] [stage-1 3/3] RUN --mount=target=z/y,source=src --mount=from=s,source=/o,target=/m,rw --mount=type=cache,target=/c,sharing=locked,uid=3 --mount=type=tmpfs,target=/t,size=8m --mount=type=secret,id=a/b,env=TOKEN --mount=type=secret,id=k,required --mount=type=ssh --mount=type=ssh,id=deploy,target=/agent make ****
    target [Some(4)]
    "##);
}

#[test]
fn a3_6_heredocs_of_run() {
    let compiled = compile("FROM busybox\nRUN <<A\necho 1\necho 2\nA\nRUN <<B\n#!/bin/awk -f\nB\nRUN cat <<C\nc\nC\n");
    assert_snapshot!(dump(&compiled), @r##"
    0 image docker.io/library/busybox:latest <- [] [1/4] FROM docker.io/library/busybox:latest@sha256:m
    1 exec ["/bin/sh", "-c", "echo 1\necho 2\n"] in / as "" <- [0] [2/4] RUN <<A (echo 1...)
    2 file on nothing: write B to /B "#!/bin/awk -f\n" <- [] [internal] script <<B
    3 exec ["/bin/sh", "-c", "/dev/pipes/B"] in / as "" | /dev/pipes Bind { input: 1, source: /, writable: false } <- [1 2] [3/4] RUN <<B (#!/bin/awk -f)
    4 exec ["/bin/sh", "-c", "cat <<C\nc\nC"] in / as "" <- [3] [4/4] RUN cat <<C (c)
    target [Some(4)]
    "##);
}

#[test]
fn a10_9_triggers_run_in_the_child_and_are_gone() {
    let compiled = compile("FROM scratch AS assets\nCOPY a /a\nFROM triggers AS child\nRUN x\nONBUILD RUN y\nFROM child\n");
    assert_snapshot!(dump(&compiled), @r##"
    0 local context <- [] [internal] load build context
    1 file on nothing: copy 0:["a"] to /a, owner reset <- [0] [assets 1/1] COPY a /a
    2 image docker.io/library/triggers:latest <- [] [child 1/3] FROM docker.io/library/triggers:latest@sha256:m
    3 file copy 1:["a"] to /a <- [2 1] [child 2/3] ONBUILD COPY --from=assets a /a
    4 exec ["/bin/sh", "-c", "x"] in / as "" <- [3] [child 3/3] RUN x
    5 exec ["/bin/sh", "-c", "y"] in / as "" <- [4] [stage-2 1/1] ONBUILD RUN y
    target [Some(5)]
    "##);
    assert_eq!(config(&compiled)["Env"], json!([PATH, "T=1"]));
    assert_eq!(config(&compiled).get("OnBuild"), None);
    assert_eq!(errors("ARG X\nFROM bad-trigger\nRUN x\n")[0].split(':').next(), Some("2"));
}

#[test]
fn a12_named_contexts_take_the_place_of_stages_and_images() {
    let mut options = options(
        "FROM busybox AS build\nRUN exit 1\nFROM rootfs\nCOPY --from=build out /\nCOPY --from=docker.io/library/golang:latest /g /g\nRUN --mount=from=files,source=x,target=/m y\n",
    );
    let local = |name: &str| NamedContext::Local { name: name.to_owned() };
    options.named_contexts = [("build", local("build")), ("rootfs", local("rootfs")), ("golang", local("go")), ("files", local("files"))]
        .into_iter()
        .map(|(name, context)| (name.to_owned(), context))
        .collect();
    assert_snapshot!(dump(&compile_with(options).expect("compiles")), @r##"
    0 local build <- [] [context build] load from client
    1 file on nothing: copy 0:[""] to / (dir), owner reset <- [0] [context build] load from client
    2 local rootfs <- [] [context rootfs] load from client
    3 file on nothing: copy 0:[""] to / (dir), owner reset <- [2] [context rootfs] load from client
    4 file copy 1:["out"] to / (dir), owner reset <- [3 0] [stage-1 1/4] COPY --from=build out /
    5 local go <- [] [context docker.io/library/golang:latest] load from client
    6 file copy 1:["g"] to /g, owner reset <- [4 5] [stage-1 2/4] COPY --from=docker.io/library/golang:latest /g /g
    7 local files <- [] [context files] load from client
    8 file on nothing: copy 0:["x"] to /selected, owner reset <- [7] [internal] /x of context files
    9 exec ["/bin/sh", "-c", "y"] in / as "" | /m Bind { input: 1, source: /selected, writable: false } <- [6 8] [stage-1 3/4] RUN --mount=from=files,source=x,target=/m y
    target [Some(9)]
    "##);
}

#[test]
fn a12_3_a_context_for_one_platform() {
    let mut options = options("FROM tool\nRUN x\n");
    options.platforms = vec![platform("linux/amd64"), platform("linux/arm64")];
    options.named_contexts.insert("tool::linux/arm64".to_owned(), NamedContext::Image { reference: "arm".parse().expect("a reference") });
    options.named_contexts.insert("tool".to_owned(), NamedContext::Image { reference: "busybox".parse().expect("a reference") });
    assert_snapshot!(dump(&compile_with(options).expect("compiles")), @r##"
    0 image docker.io/library/busybox:latest <- [] [linux/amd64 1/2] FROM docker.io/library/busybox:latest@sha256:m
    1 exec ["/bin/sh", "-c", "x"] in / as "" <- [0] [linux/amd64 2/2] RUN x
    2 image docker.io/library/arm:latest <- [] [linux/arm64 1/2] FROM docker.io/library/arm:latest@sha256:m
    3 exec ["/bin/sh", "-c", "x"] in / as "" <- [2] [linux/arm64 2/2] RUN x
    target [Some(1), Some(3)]
    "##);
}

#[test]
fn a6_10_platforms() {
    let text = "FROM --platform=$BUILDPLATFORM busybox AS b\nARG TARGETARCH\nRUN cross $TARGETARCH\nFROM busybox\nCOPY --from=b /o /o\nARG TARGETPLATFORM\nENV P=$TARGETPLATFORM\n";
    let mut both = options(text);
    both.platforms = vec![platform("linux/arm64"), platform("linux/amd64")];
    let compiled = compile_with(both).expect("compiles");
    assert_snapshot!(dump(&compiled), @r##"
    0 image docker.io/library/busybox:latest <- [] [linux/amd64->arm64 b 1/2] FROM docker.io/library/busybox:latest@sha256:m
    1 exec ["/bin/sh", "-c", "cross $TARGETARCH"] in / as "" <- [0] [linux/amd64->arm64 b 2/2] RUN cross arm64
    2 file copy 1:["o"] to /o <- [0 1] [linux/arm64 stage-1 2/2] COPY --from=b /o /o
    3 exec ["/bin/sh", "-c", "cross $TARGETARCH"] in / as "" <- [0] [linux/amd64 b 2/2] RUN cross amd64
    4 file copy 1:["o"] to /o <- [0 3] [linux/amd64 stage-1 2/2] COPY --from=b /o /o
    target [Some(2), Some(4)]
    "##);
    let shown: Vec<_> = compiled.targets.iter().map(|target| (target.platform.to_string(), target.config.architecture.clone())).collect();
    assert_eq!(shown, [("linux/arm64".to_owned(), "arm64".to_owned()), ("linux/amd64".to_owned(), "amd64".to_owned())]);

    // Nobody asked: the image's platform is adopted.
    let adopted = compile("FROM arm\nRUN x\n");
    assert_eq!(adopted.targets[0].platform, platform("linux/arm64"));
    assert!(warnings(&adopted).is_empty());
    let mut asked = options("FROM arm\nRUN x\n");
    asked.platforms = vec![platform("linux/amd64")];
    let asked = compile_with(asked).expect("compiles");
    assert_eq!((asked.targets[0].platform.to_string().as_str(), warnings(&asked)), ("linux/amd64", vec!["1 InvalidBaseImagePlatform".to_owned()]));
}

#[test]
fn a7_arguments() {
    let mut given = options("ARG G=global\nARG H\nFROM busybox\nARG G A=1 B=$A-$G\nARG H UNSET\nENV A=env\nRUN show\nFROM busybox\nRUN show $G\n");
    given.build_args =
        vec![("H".to_owned(), "given".to_owned()), ("http_proxy".to_owned(), "p".to_owned()), ("UNDECLARED".to_owned(), "x".to_owned())];
    given.target = Some("0".to_owned());
    let compiled = compile_with(given).expect("compiles");
    assert_snapshot!(history(&compiled).join("\n"), @r##"
    base
      ARG G=global A=1 B=1-global
      ARG H=given UNSET
      ENV A=env
    + RUN |5 G=global A=env B=1-global H=given UNSET= /bin/sh -c show # buildkit
    "##);
    let Some(Op::Exec(run)) = compiled.graph.ids().map(|id| compiled.graph.vertex(id).op.clone()).find(|op| matches!(op, Op::Exec(_))) else {
        panic!("one RUN")
    };
    let env: Vec<String> = run.env.iter().map(|variable| format!("{}={}", variable.0, variable.1)).collect();
    assert_eq!(env, [PATH, "G=global", "A=env", "B=1-global", "H=given"]);
    assert_eq!(run.proxy_env, [("HTTP_PROXY".to_owned(), "p".to_owned()), ("http_proxy".to_owned(), "p".to_owned())]);
}

#[test]
fn b4_steps_of_named_stages_pass_over_records_but_workdir_never() {
    let text = "FROM busybox AS one\nRUN 1\nFROM busybox AS two\nWORKDIR /w\nCOPY --from=one /1 /\nRUN 2\n";
    let fresh = |no_cache: NoCache| {
        let compiled = compile_with(FrontendOptions { no_cache, ..options(text) }).expect("compiles");
        let ids = compiled.graph.ids().filter(|&id| compiled.graph.vertex(id).meta.ignore_cache);
        ids.map(|id| compiled.graph.vertex(id).meta.name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(fresh(NoCache::None), [""; 0]);
    assert_eq!(fresh(NoCache::Stages(vec!["ONE".to_owned()])), ["[one 2/2] RUN 1"]);
    assert_eq!(fresh(NoCache::All), ["[one 2/2] RUN 1", "[two 3/4] COPY --from=one /1 /", "[two 4/4] RUN 2"]);
}

#[test]
fn a10_5_labels_of_the_request_come_last_and_leave_no_history() {
    let mut given = options("FROM scratch\nLABEL z=1 a=file\n");
    given.labels = vec![("a".to_owned(), "flag".to_owned())];
    let compiled = compile_with(given).expect("compiles");
    assert_eq!(config(&compiled)["Labels"], json!({"a": "flag", "z": "1"}));
    assert_eq!(history(&compiled), ["  LABEL z=1 a=file"]);
}

#[test]
fn a10_problems_name_their_lines() {
    for (text, expected) in [
        ("FROM busybox\nEXPOSE 80/icmp http", vec!["2: invalid port: \"80/icmp\": invalid proto: icmp", "2: invalid containerPort: http"]),
        ("FROM busybox\nSTOPSIGNAL SIGNO\nENV A=${B?needed}\n", vec!["2: invalid signal: SIGNO"]),
        ("FROM scratch AS me\nCOPY --from=me /a /b\n", vec!["2: circular dependency detected on stage: me"]),
        (
            "FROM scratch AS first\nCOPY --from=later /a /\nFROM scratch AS later\nFROM first\n",
            vec!["2: cannot copy from stage \"later\", it needs to be defined before current stage \"first\""],
        ),
        ("FROM scratch\nFROM scratch\nCOPY --from=7 /a /\n", vec!["3: invalid stage index 7"]),
        ("ARG B\nFROM ${B}\n", vec!["2: base name (${B}) should not be blank"]),
        ("ARG P\nFROM --platform=$P scratch\n", vec!["2: empty platform value from expression $P"]),
        ("FROM scratch\nCOPY --from=a$X /a /\n", vec!["2: variable expansion is not supported for --from"]),
        ("FROM busybox\nRUN --mount=from=0,target=/m x\n", vec!["2: from=0 names no stage: a mount takes a stage's name, not its index"]),
        ("FROM busybox\nRUN --mount=type=tmpfs,target=/ x\n", vec!["2: invalid mount target \"/\""]),
        ("FROM busybox\nRUN --mount=target=/t,uid=1 x\n", vec!["2: uid not allowed for \"bind\" type mounts"]),
        ("FROM busybox\nRUN --mount=type=secret,source=a,id=b x\n", vec!["2: both source and id can't be set for a secret mount"]),
        ("FROM busybox\nCOPY --chmod=9z9 a /\n", vec!["2: invalid chmod parameter: '9z9'. it should be octal string and between 0 and 07777"]),
        ("FROM busybox\nADD --checksum=sha256:00 a /\n", vec!["2: checksum requires HTTP(S) or Git sources"]),
        ("FROM nowhere\nRUN x\n", vec!["1: failed to resolve source metadata for docker.io/library/nowhere:latest: nowhere: not found"]),
    ] {
        let found = errors(text);
        for line in &expected {
            assert!(found.iter().any(|problem| problem == line), "{text}: expected {line}, found {found:?}");
        }
    }
}

#[test]
fn a15_errors_of_several_stages_are_reported_together() {
    let found = errors("FROM scratch AS a\nEXPOSE x\nFROM scratch\nCOPY --from=a /a /\nSTOPSIGNAL no\nCOPY --from=9 /a /\n");
    assert_eq!(found, ["2: invalid containerPort: x", "5: invalid signal: no", "6: invalid stage index 9"]);
}

#[test]
fn e3_2_rights_must_be_granted() {
    let text = "FROM busybox\nRUN --network=host a\nRUN --security=insecure b\n";
    assert_eq!(errors(text).len(), 2);
    let allow = vec![Entitlement::NetworkHost, Entitlement::SecurityInsecure];
    assert!(compile_with(FrontendOptions { allow, ..options(text) }).is_ok());
    let network = FrontendOptions { network: Network::Host, ..options("FROM busybox\nRUN --network=host a\n") };
    assert!(compile_with(network).is_ok());
}

#[test]
fn a6_6_targets() {
    let target = |target: &str| FrontendOptions { target: Some(target.to_owned()), ..options("FROM busybox AS Build\nENV A=1\nFROM busybox\n") };
    for name in ["build", "BUILD", "0"] {
        assert_eq!(config(&compile_with(target(name)).expect(name))["Env"], json!([PATH, "A=1"]));
    }
    let problems = compile_with(target("biuld")).expect_err("no such stage");
    assert_eq!(
        (problems[0].message.as_str(), problems[0].help.as_deref()),
        ("target stage \"biuld\" could not be found", Some("did you mean `build`?"))
    );
}

#[test]
fn a1_other_front_ends_are_refused_and_ours_go_by_many_names() {
    for own in
        ["docker/dockerfile:1", "docker.io/docker/dockerfile:1.7-labs # words", "docker/dockerfile-upstream:master", "docker/dockerfile@sha256:00"]
    {
        assert!(compile_with(options(&format!("# syntax={own}\nFROM scratch\n"))).is_ok(), "{own}");
    }
    assert_eq!(errors("# syntax=other/frontend\nFROM scratch\n")[0].split(':').next(), Some("1"));
    let mut given = options("# syntax=other/frontend\nFROM scratch\n");
    given.build_args = vec![("BUILDKIT_SYNTAX".to_owned(), "dockerfile.v0".to_owned())];
    assert!(compile_with(given).is_ok());
}

#[test]
fn a14_1_the_epoch_of_the_file() {
    assert_eq!(compile("ARG SOURCE_DATE_EPOCH=12\nFROM scratch\n").source_date_epoch, Some(12));
    assert_eq!(compile("FROM scratch\n").source_date_epoch, None);
    let given = FrontendOptions { source_date_epoch: Some(7), ..options("FROM busybox\nARG SOURCE_DATE_EPOCH\nRUN x\n") };
    let compiled = compile_with(given).expect("compiles");
    assert_eq!(compiled.source_date_epoch, Some(7));
    assert_eq!(history(&compiled)[1..], ["  ARG SOURCE_DATE_EPOCH=7", "+ RUN |1 SOURCE_DATE_EPOCH=7 /bin/sh -c x # buildkit"]);
    assert_eq!(
        errors("ARG SOURCE_DATE_EPOCH=soon\nFROM scratch\n"),
        ["1: invalid SOURCE_DATE_EPOCH: \"soon\" is no number of seconds, no stage and no context"]
    );
}

#[test]
fn a15_checks_in_a_build_and_error_true() {
    let text = "FROM busybox AS Loud\nMAINTAINER me\nCOPY notes.md $nope /\n";
    let mut given = options(text);
    given.context_ignore = Some(IgnoreFile::parse(b"*.md\n").expect("patterns"));
    let compiled = compile_with(given).expect("compiles");
    assert_eq!(warnings(&compiled), ["1 StageNameCasing", "2 MaintainerDeprecated", "3 UndefinedVar", "3 CopyIgnoredFile"].map(str::to_owned));
    let found = errors(&format!("# check=error=true;skip=StageNameCasing\n{text}"));
    assert_eq!(found, ["0: lint violation found for rules: MaintainerDeprecated, UndefinedVar"]);
    assert_eq!(errors("# check=skipp=all\nFROM scratch\n").len(), 1);
}

#[test]
fn a15_check_looks_at_all_stages_and_reports_what_would_end_a_build() {
    let frontend = DockerfileFrontend::new(options("FROM scratch AS a\nENV A=$NO\nFROM scratch\nENV B=$NONE\nEXPOSE x\n"));
    let CallOutcome::Ready(report) = frontend.check(&Resolved::default()) else { panic!("scratch needs nothing") };
    let rules: Vec<&str> = report.warnings.iter().map(|warning| warning.code.as_str()).collect();
    assert_eq!((rules, report.errors.len()), (vec!["UndefinedVar", "UndefinedVar"], 1));
    assert_eq!(report.to_json()["warnings"][0]["location"], json!({"ranges": [{"start": {"line": 2}, "end": {"line": 2}}]}));
}

#[test]
fn g1_4_outline_and_targets() {
    let text = "# BASE is it\nARG BASE=scratch\nARG UNUSED\n# build makes\nFROM $BASE AS build\n# V of it\nARG V=1\nRUN --mount=type=secret,id=t,required --mount=type=ssh x\nFROM build\n";
    let frontend = DockerfileFrontend::new(options(text));
    let Ok(CallOutcome::Ready(outline)) = frontend.outline(&Resolved::default()) else { panic!("an outline") };
    assert_snapshot!(outline.to_json().to_string(), @r##"{"args":[{"name":"BASE","description":"is it","value":"scratch","location":{"ranges":[{"start":{"line":2},"end":{"line":2}}]}},{"name":"V","description":"of it","value":"1","location":{"ranges":[{"start":{"line":7},"end":{"line":7}}]}}],"secrets":[{"name":"t","required":true,"location":{"ranges":[{"start":{"line":8},"end":{"line":8}}]}}],"ssh":[{"name":"default","location":{"ranges":[{"start":{"line":8},"end":{"line":8}}]}}]}"##);
    let Ok(CallOutcome::Ready(targets)) = frontend.targets(&Resolved::default()) else { panic!("targets") };
    assert_snapshot!(targets.to_json().to_string(), @r##"{"targets":[{"name":"build","description":"makes","base":"$BASE","location":{"ranges":[{"start":{"line":5},"end":{"line":5}}]}},{"default":true,"base":"build","location":{"ranges":[{"start":{"line":9},"end":{"line":9}}]}}]}"##);
}

#[test]
fn all_images_of_a_round_are_asked_for_together_and_only_reachable_ones() {
    let frontend =
        DockerfileFrontend::new(options("FROM a\nFROM b AS b\nFROM c\nCOPY --from=b / /\nCOPY --from=d / /\nRUN --mount=from=e,target=/m x\n"));
    let Ok(Compilation::Needs(needs)) = frontend.compile(&Resolved::default()) else { panic!("needs") };
    let names: Vec<String> = needs
        .iter()
        .map(|need| match need {
            Need::Image { reference, .. } => reference.familiar(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(names, ["b", "c", "d", "e"]);
}

#[test]
fn a0_8_a_dockerfile_in_the_context_is_asked_for_in_both_cases() {
    let source = DockerfileSource::InContext { path: "docker/Dockerfile".to_owned() };
    let frontend = DockerfileFrontend::new(FrontendOptions::new(source, platform("linux/amd64")));
    let mut resolved = Resolved::default();
    let absent = Answer::Absent { beside: Vec::new() };
    for (path, answer) in [("docker/Dockerfile", absent), ("docker/dockerfile", Answer::File(Arc::from(&b"FROM scratch\n"[..])))] {
        let Ok(Compilation::Needs(needs)) = frontend.compile(&resolved) else { panic!("needs {path}") };
        assert_eq!(needs, [Need::File { context: "context".to_owned(), path: path.to_owned() }]);
        resolved.answers.insert(needs[0].clone(), answer);
    }
    assert!(matches!(frontend.compile(&resolved), Ok(Compilation::Ready(_))));
}

#[test]
fn c5_3_the_dockerfile_of_a_remote_context_is_asked_for_there() {
    for (context, wanted) in [
        (NamedContext::Git { url: "https://h/r.git#v1:sub".to_owned() }, "https://h/r.git"),
        (NamedContext::Http { url: "https://h/ctx.tar.gz".to_owned() }, "https://h/ctx.tar.gz"),
    ] {
        let source = DockerfileSource::InContext { path: "Dockerfile".to_owned() };
        let frontend = DockerfileFrontend::new(FrontendOptions { context, ..FrontendOptions::new(source, platform("linux/amd64")) });
        let Ok(Compilation::Needs(needs)) = frontend.compile(&Resolved::default()) else { panic!("needs") };
        let [Need::RemoteFile { source: SourceOp::Git { url, .. } | SourceOp::Http { url, .. }, path, or_download: true }] = &needs[..] else {
            panic!("{needs:?}")
        };
        assert_eq!((url.as_str(), path.as_str()), (wanted, "Dockerfile"));
    }
}

#[test]
fn equal_inputs_give_equal_graphs() {
    let text = "ARG V=1\nFROM busybox AS a\nARG V\nRUN --mount=type=cache,target=/c --mount=target=/s,source=s make $V\nFROM triggers AS assets\nFROM scratch\nCOPY --from=a /x /y\nLABEL b=1 a=2\nEXPOSE 2 1\nVOLUME /b /a\n";
    let shown = || {
        let compiled = compile(text);
        format!("{}\n{:?}\n{}", dump(&compiled), history(&compiled), config(&compiled))
    };
    let first = shown();
    for _ in 0..8 {
        assert_eq!(shown(), first);
    }
}

#[test]
fn long_files_neither_overflow_the_stack_nor_take_for_ever() {
    let mut text = String::from("FROM busybox AS s0\n");
    for stage in 1..3000 {
        text.push_str(&format!("FROM s{} AS s{stage}\n", stage - 1));
    }
    let compiled = compile(&text);
    assert_eq!(compiled.graph.ids().count(), 1);
}

/// Rules and lines that a file gives when it is checked, in order of the file.
fn findings(options: FrontendOptions) -> Vec<String> {
    let line = |warning: &Diagnostic| warning.location.as_ref().map_or(0, |location| location.first_line);
    report(options).warnings.iter().map(|warning| format!("{} {}", line(warning), warning.code)).collect()
}

/// A whole check.
fn report(options: FrontendOptions) -> CheckReport {
    let frontend = DockerfileFrontend::new(options);
    let mut resolved = Resolved::default();
    loop {
        match frontend.check(&resolved) {
            CallOutcome::Needs(needs) => {
                for need in needs {
                    let answer = known(&need);
                    resolved.answers.insert(need, answer);
                }
            }
            CallOutcome::Ready(report) => return report,
        }
    }
}

#[test]
fn a15_every_rule_fires_where_it_should_and_nowhere_else() {
    for (text, expected) in [
        ("FROM busybox AS Build\n", "1 StageNameCasing"),
        ("FROM busybox as b\n", "1 FromAsCasing"),
        ("from busybox AS b\n", "1 FromAsCasing"),
        ("from busybox as b\nrun x\n", ""),
        ("FROM busybox\nRUN a \\\n\n b\nRUN c\n", "4 NoEmptyContinuation"),
        ("FROM busybox\nRUN a \\\n# words\n b\n", ""),
        ("FROM busybox\nRun x\nRUN y\nrun z\n", "2 ConsistentInstructionCasing|4 ConsistentInstructionCasing"),
        ("from busybox\nrun x\nWorkDir /x\n", "3 ConsistentInstructionCasing"),
        ("FROM busybox AS a\nFROM busybox AS a\n", "2 DuplicateStageName"),
        ("FROM busybox AS scratch\nFROM busybox AS context\n", "1 ReservedStageName|2 ReservedStageName"),
        ("FROM busybox\nCMD a\nENTRYPOINT b\n", "2 JSONArgsRecommended|3 JSONArgsRecommended"),
        ("FROM busybox AS a\nSHELL [\"sh\"]\nFROM a\nCMD a\n", ""),
        ("FROM scratch\nMAINTAINER me\n", "2 MaintainerDeprecated"),
        ("ARG VERSION=1\nFROM busybox$VERSOIN\n", "2 UndefinedArgInFrom"),
        ("ARG VERSION\nFROM busybox${VERSION}\n", ""),
        ("FROM busybox AS a\nWORKDIR r\nFROM busybox\nWORKDIR /a\nWORKDIR r\nFROM a\nWORKDIR r\n", "2 WorkdirRelativePath"),
        ("FROM busybox\nARG K\nENV A=$K B=$PATH C=$N D=${M:-x}\nRUN $R\n", "3 UndefinedVar|3 UndefinedVar"),
        ("FROM busybox\nCOPY <<A /a\n$N\nA\nEXPOSE $P\n", "2 UndefinedVar|5 UndefinedVar"),
        (
            "FROM busybox AS a\nCMD [\"1\"]\nCMD [\"2\"]\nHEALTHCHECK NONE\nHEALTHCHECK NONE\nFROM a\nCMD [\"3\"]\n",
            "2 MultipleInstructionsDisallowed|4 MultipleInstructionsDisallowed",
        ),
        ("FROM scratch\nENV a b\nLABEL c d\nENV e=f\n", "2 LegacyKeyValueFormat|3 LegacyKeyValueFormat"),
        (
            "FROM --platform=$TARGETPLATFORM busybox\nFROM --platform=${TARGETPLATFORM} busybox\n",
            "1 RedundantTargetPlatform|2 RedundantTargetPlatform",
        ),
        ("FROM scratch\nARG GITHUB_TOKEN\nENV PUBLIC_KEY=1 KEY_FILE=2 MONKEY=3\nENV apikey=4\n", "2 SecretsUsedInArgOrEnv|4 SecretsUsedInArgOrEnv"),
        ("ARG EMPTY\nFROM busybox:${EMPTY}\n", "2 InvalidDefaultArgInFrom"),
        ("ARG EMPTY\nFROM busybox:${EMPTY:-latest}\n", ""),
        (
            "FROM --platform=linux/amd64 busybox AS b\nFROM --platform=linux/amd64 busybox AS on-amd64\nFROM --platform=$BUILDPLATFORM busybox\n",
            "1 FromPlatformFlagConstDisallowed",
        ),
        ("FROM scratch\nCOPY notes.md keep.txt /\nADD ./sub/x.md /\nCOPY --from=busybox x.md /\n", "2 CopyIgnoredFile|3 CopyIgnoredFile"),
        ("# words\nFROM busybox AS b\n", ""),
        (
            "# check=experimental=all\n# words\nFROM busybox AS b\n# b is fine\nFROM busybox AS b2\n# K is it\nARG K\n# no\n\nARG L\n",
            "3 InvalidDefinitionDescription|5 InvalidDefinitionDescription",
        ),
        ("FROM scratch\nEXPOSE 80/TCP\nEXPOSE 1.2.3.4:5:6 7:8\n", "2 ExposeProtoCasing|3 ExposeInvalidFormat|3 ExposeInvalidFormat"),
        ("# check=skip=all\nFROM scratch AS Upper\nMAINTAINER me\n", ""),
        ("# check=skip=StageNameCasing\nFROM scratch AS Upper\nMAINTAINER me\n", "3 MaintainerDeprecated"),
        ("FROM scratch\n# check=skip=LegacyKeyValueFormat\nENV a b\nENV c d\n", "4 LegacyKeyValueFormat"),
    ] {
        let mut given = options(text);
        // Arguments count for what a FROM comes to, not for its defaults.
        given.build_args = vec![("EMPTY".to_owned(), "latest".to_owned())];
        given.context_ignore = Some(IgnoreFile::parse(b"**/*.md\n").expect("patterns"));
        assert_eq!(findings(given).join("|"), expected, "{text}");
    }
}

#[test]
fn a11_6_an_ignore_file_that_lets_anything_in_again_silences_its_rule() {
    let mut given = options("FROM scratch\nCOPY notes.md /\n");
    given.context_ignore = Some(IgnoreFile::parse(b"*.md\n!other.md\n").expect("patterns"));
    assert_eq!(findings(given), [""; 0]);
}

mod random_files {
    use proptest::prelude::*;

    use super::*;

    const LINES: &[&str] = &[
        "ARG A=1",
        "ARG A B=$A",
        "FROM busybox",
        "FROM busybox AS one",
        "FROM one AS two",
        "FROM scratch AS three",
        "FROM triggers AS assets",
        "FROM --platform=$BUILDPLATFORM busybox AS $A",
        "FROM two",
        "RUN make $A",
        "RUN --mount=from=one,target=/m --mount=type=cache,target=c x",
        "RUN --mount=from=later,target=/m x",
        "COPY a b/",
        "COPY --from=one --link a /b",
        "COPY --from=three . .",
        "COPY --from=0 / /",
        "ADD http://h/x https://h/r.git a /d/",
        "WORKDIR w",
        "USER $A",
        "ENV A=$B C=${A:-x}",
        "LABEL l=$C",
        "EXPOSE 80 $A",
        "VOLUME /v $A",
        "CMD x",
        "ENTRYPOINT [\"e\"]",
        "HEALTHCHECK CMD x",
        "SHELL [\"/bin/sh\", \"-c\"]",
        "ONBUILD COPY --from=one x y",
        "ONBUILD RUN z",
        "STOPSIGNAL TERM",
        "MAINTAINER me",
    ];

    proptest! {
        #[test]
        fn either_compile_soundly_or_say_what_is_wrong(picked in prop::collection::vec(0..LINES.len(), 1..40), both in any::<bool>()) {
            let lines: Vec<&str> = picked.iter().map(|&line| LINES[line]).collect();
            let given = || {
                let mut given = options(&lines.join("\n"));
                if both {
                    given.platforms = vec![platform("linux/amd64"), platform("linux/arm64")];
                }
                given
            };
            match (compile_with(given()), compile_with(given())) {
                (Ok(first), Ok(second)) => {
                    prop_assert_eq!(dump(&first), dump(&second));
                    prop_assert_eq!(first.targets.len(), if both { 2 } else { 1 });
                    for target in &first.targets {
                        let needed = first.graph.reachable(target.vertex.as_slice());
                        for entry in &target.history {
                            // What history says made a layer is part of the image.
                            if let HistoryEntry::New { vertex: Some(vertex), .. } = entry {
                                prop_assert!(needed.contains(vertex));
                            }
                        }
                    }
                }
                (Err(first), Err(second)) => {
                    prop_assert!(first.iter().any(|problem| problem.severity == Severity::Error));
                    prop_assert_eq!(first, second);
                }
                _ => prop_assert!(false, "equal inputs, different outcomes"),
            }
        }
    }
}
