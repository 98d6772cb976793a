//! Classic mistakes, and the full text a person sees for each: the place, the reason, the remedy.
//!
//! Every mistake is built by the real binary; its words are kept under `snapshots/`. The list for people is `docs/mistakes.md`. A new mistake is one
//! entry of [`MISTAKES`], one line of the list, and `INSTA_UPDATE=always cargo nextest run -p integration-tests --test mistakes`, read before it is
//! committed.

use integration_tests::{Bed, require};

struct Mistake {
    /// Name of its snapshot.
    name: &'static str,
    /// What the person did, as in the list.
    title: &'static str,
    dockerfile: &'static str,
    files: &'static [(&'static str, &'static str)],
    flags: &'static [&'static str],
}

const fn mistake(name: &'static str, title: &'static str, dockerfile: &'static str) -> Mistake {
    Mistake { name, title, dockerfile, files: &[], flags: &[] }
}

impl Mistake {
    const fn with(self, files: &'static [(&'static str, &'static str)]) -> Self {
        Self { files, ..self }
    }

    const fn flags(self, flags: &'static [&'static str]) -> Self {
        Self { flags, ..self }
    }
}

const MISTAKES: &[Mistake] = &[
    mistake("instruction", "an instruction misspelt", "FROM busybox\nWORKDIR /app\nCOPPY app.py /app/\nCMD [\"python\", \"app.py\"]\n"),
    mistake("before-from", "an instruction before the first FROM", "ARG VERSION=1\nLABEL version=$VERSION\nFROM busybox\n"),
    mistake("empty", "an empty Dockerfile", ""),
    mistake("only-comments", "a Dockerfile of comments", "# FROM busybox\n"),
    mistake("no-dockerfile", "no Dockerfile where it is looked for", "").with(&[("Dockerfile.dev", "FROM scratch\n"), ("deploy/Dockerfile", "")]),
    mistake("comment-behind", "a comment behind an instruction", "FROM busybox # small\nRUN true\n"),
    mistake("continuation-comment", "a comment behind a continuation", "FROM busybox\nRUN echo one && \\ # and then\n    echo two\n"),
    mistake("continuation-missing", "a forgotten continuation", "FROM busybox\nRUN apk update\n    && apk add curl\n"),
    mistake("heredoc", "a heredoc without its end", "FROM busybox\nRUN <<EOF\necho hello\n  EOF\nCMD [\"sh\"]\n"),
    mistake("env-blanks", "blanks around the = of ENV", "FROM busybox\nENV A=1 B = 2\n"),
    mistake("one-argument", "COPY without a destination", "FROM busybox\nCOPY app.py\n").with(&[("app.py", "")]),
    mistake("flag", "a flag misspelt", "FROM busybox AS build\nFROM busybox\nCOPY --form=build /bin/sh /sh\n"),
    mistake("json-number", "a number in a JSON form", "FROM busybox\nCMD [\"sleep\", 5]\n"),
    mistake("json-quotes", "single quotes in a JSON form", "FROM busybox\nRUN ['echo', 'hello']\n"),
    mistake("stage", "the name of a stage misspelt", "FROM busybox AS builder\nRUN echo 1 > /app\nFROM busybox\nCOPY --from=biulder /app /app\n"),
    mistake("stage-base", "the name of a stage misspelt in FROM", "FROM busybox AS builder\nRUN echo 1 > /app\nFROM biulder\nRUN true\n"),
    mistake(
        "stage-later",
        "a stage used before it is defined",
        "FROM busybox AS app\nCOPY --from=assets /a /a\nFROM busybox AS assets\nRUN touch /a\n",
    )
    .flags(&["--target", "app"]),
    mistake("stage-itself", "a stage that copies from itself", "FROM busybox AS app\nCOPY --from=app /a /b\n"),
    mistake("stage-index", "an index that no stage has", "FROM busybox\nCOPY --from=3 /a /b\n"),
    mistake("stage-name", "a name that no stage can have", "FROM busybox AS 2nd\nRUN true\n"),
    mistake("stage-variable", "a variable in COPY --from", "ARG BUILDER=busybox\nFROM busybox\nCOPY --from=$BUILDER /bin/sh /sh\n"),
    mistake(
        "strict",
        "a form that only rbuild knows, where it must not be",
        "ARG BUILDER=busybox\nFROM busybox\nCOPY --from=${BUILDER} /bin/sh /sh\n",
    )
    .flags(&["--strict-docker"]),
    mistake("target", "the name of the target misspelt", "FROM busybox AS development\nFROM busybox AS production\n")
        .flags(&["--target", "prodction"]),
    mistake("image-missing", "a base image that does not exist", "FROM busybocks:1.36\nRUN true\n"),
    mistake("image-case", "capitals in an image's name", "FROM MyImage:latest\nRUN true\n"),
    mistake("image-blank", "a base image from an argument without a value", "ARG BASE\nFROM $BASE\n"),
    mistake("arg-scope", "an argument from before FROM used behind it", "ARG DIR=/srv\nFROM busybox\nCOPY app.py $DIR/\n")
        .with(&[("app.py", "")])
        .flags(&["--check"]),
    mistake("variable-misspelt", "a variable misspelt", "FROM busybox\nENV APP_HOME=/srv/app\nWORKDIR $APP_HOMR\n").flags(&["--check"]),
    mistake(
        "variable-required",
        "a required variable that is not set",
        "FROM busybox\nARG VERSION\nLABEL version=\"${VERSION:?give it with --build-arg}\"\n",
    ),
    mistake("variable-brace", "a brace that is not closed", "FROM busybox\nENV A=${PATH\n"),
    mistake("copy-missing", "a file misspelt", "FROM busybox\nCOPY requirments.txt /app/\n").with(&[("requirements.txt", ""), ("app.py", "")]),
    mistake("copy-case", "a file's name in other case", "FROM busybox\nCOPY readme.md /\n").with(&[("README.md", "")]),
    mistake("copy-ignored", "a file that .dockerignore leaves out", "FROM busybox\nCOPY dist/app.js /app/\n")
        .with(&[("dist/app.js", ""), (".dockerignore", "node_modules\n# built\ndist\n")]),
    mistake("copy-outside", "a file outside the context", "FROM busybox\nCOPY ../shared/config.json /app/\n").with(&[("config.json", "")]),
    mistake("copy-absolute", "an absolute path of the machine", "FROM busybox\nCOPY /etc/hostname /app/\n").with(&[("a", "")]),
    mistake("copy-blank", "a path with a blank", "FROM busybox\nCOPY my file.txt /app/\n").with(&[("my file.txt", "")]),
    mistake(
        "copy-from-missing",
        "a file that the other stage does not have",
        "FROM busybox AS build\nRUN mkdir /out && touch /out/server\nFROM busybox\nCOPY --from=build /out/sever /bin/\n",
    ),
    mistake(
        "copy-over-directory",
        "a file onto a directory's name",
        "FROM busybox\nRUN mkdir -p /app/config\nCOPY config /app/config/nested\nCOPY config/a /app/config\nCOPY config /app/config/a\n",
    )
    .with(&[("config/a", "")]),
    mistake("copy-url", "COPY from the web", "FROM busybox\nCOPY https://example.com/a.tar.gz /\n"),
    mistake("chown", "an owner whom the image does not know", "FROM busybox\nCOPY --chown=node:node app.js /app/\n").with(&[("app.js", "")]),
    mistake("chmod", "a mode that is none", "FROM busybox\nCOPY --chmod=999 app.sh /\n").with(&[("app.sh", "")]),
    mistake("user", "a user whom the image does not know", "FROM busybox\nUSER node\nRUN whoami\n"),
    mistake(
        "run-fails",
        "a command that fails",
        "FROM busybox\nWORKDIR /app\nRUN echo compiling && \\\n    echo 'main.c:3: expected ;' >&2 && \\\n    exit 2\n",
    ),
    mistake("run-not-found", "a program that the image does not have", "FROM busybox\nRUN npm ci\n"),
    mistake("run-exec-not-found", "a program in exec form that the image does not have", "FROM busybox\nRUN [\"bash\", \"-c\", \"echo hello\"]\n"),
    mistake("run-not-executable", "a script without the right to be run", "FROM busybox\nCOPY build.sh /\nRUN /build.sh\n")
        .with(&[("build.sh", "#!/bin/sh\necho hello\n")]),
    mistake("run-windows-script", "a script with Windows line ends", "FROM busybox\nCOPY --chmod=755 build.sh /\nRUN /build.sh\n")
        .with(&[("build.sh", "#!/bin/sh\r\necho hello\r\n")]),
    mistake("mount-type", "a type of mount misspelt", "FROM busybox\nRUN --mount=type=cahce,target=/root/.cache true\n"),
    mistake("mount-option", "an option of a mount misspelt", "FROM busybox\nRUN --mount=type=cache,traget=/root/.cache true\n"),
    mistake("secret", "a secret that was not given", "FROM busybox\nRUN --mount=type=secret,id=npmrc,required=true cat /run/secrets/npmrc\n"),
    mistake("port", "a port that is none", "FROM busybox\nEXPOSE 80:8080:tcp\n"),
    mistake("healthcheck", "a time without its unit", "FROM busybox\nHEALTHCHECK --interval=30 CMD true\n"),
    mistake("onbuild", "a trigger that can't be one", "FROM busybox\nONBUILD FROM busybox\n"),
    mistake("platform", "a platform that is none", "FROM --platform=linux/amd46/x/y busybox\n"),
    mistake("syntax", "another front end", "# syntax=example.com/other/frontend:1\nFROM busybox\n"),
    mistake("escape", "an escape character that is none", "# escape=/\nFROM busybox\n"),
    mistake("ignore-pattern", "a pattern of .dockerignore that is none", "FROM busybox\n").with(&[(".dockerignore", "*.log\n[a-\n")]),
    mistake("context", "a context that is not there", "FROM busybox\n").with(&[("shared/a", "")]).flags(&["--build-context", "shared=shraed"]),
    mistake(
        "several",
        "several mistakes at once",
        "FROM busybox AS base\nRNU make\nCOPY --chwon=1 a b\nEXPOSE\nCOPY --chmod=rwx a b\nSTOPSIGNAL SIGTREM\n",
    ),
];

/// What a person sees: everything on standard output and standard error, with the scratch directory and names of logs taken out.
fn seen(bed: &Bed, mistake: &Mistake) -> String {
    let dir = bed.context(mistake.name, mistake.files);
    if mistake.name != "no-dockerfile" {
        std::fs::write(dir.join("Dockerfile"), mistake.dockerfile).expect("the context is ours");
    }
    let mut command = std::process::Command::new(require::rbuild());
    command.args(["build", "--progress=none"]).args(mistake.flags).arg(".").current_dir(&dir).env_clear();
    command.env("PATH", "/usr/bin:/bin").env("NO_COLOR", "1").env("RBUILD_ROOT", bed.state()).env("RBUILD_CONFIG", bed.path("rbuild.toml"));
    command.env("HTTP_PROXY", format!("http://{}", bed.registry().address()));
    if !mistake.flags.contains(&"--check") {
        command.args(["-t", "mistake"]);
    }
    let output = command.output().expect("rbuild runs");
    let text = format!("status {}\n", output.status.code().unwrap_or_default());
    let text = format!("{text}{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let text = text.replace(&bed.path("").display().to_string(), "/scratch/");
    let log = |line: &str| match line.split_once("/scratch/state/") {
        Some((before, _)) if before.contains("log") => format!("{before}/scratch/state/…"),
        _ => line.to_owned(),
    };
    text.lines().map(log).collect::<Vec<_>>().join("\n")
}

#[test]
fn classic_mistakes_are_explained() {
    let bed = Bed::with_registry();
    // The registry stands in for docker.io itself and not for a mirror of it: what it does not have does not exist, on machines with and without network.
    std::fs::write(bed.path("rbuild.toml"), "[registry.\"docker.io\"]\nhttp = true\n").expect("configuration");
    let mut faults = Vec::new();
    for mistake in MISTAKES {
        let text = seen(&bed, mistake);
        faults.extend(internals(&text).map(|what| format!("{}: {what}\n{text}\n", mistake.name)));
        insta::with_settings!({ description => mistake.title, omit_expression => true, prepend_module_to_snapshot => false }, {
            insta::assert_snapshot!(mistake.name, text);
        });
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// What nobody should have to know to read an error: digests, errnos, Rust types.
fn internals(text: &str) -> Option<&'static str> {
    let digits = text.split(|c: char| !c.is_ascii_hexdigit()).map(str::len).max().unwrap_or_default();
    let types = ["VertexId", "StepError", "Some(", "Err("];
    match () {
        () if text.contains("os error") => Some("a bare errno"),
        () if types.iter().any(|name| text.contains(name)) => Some("a type of the program"),
        () if digits >= 32 => Some("an internal id"),
        () => None,
    }
}

#[test]
fn the_list_for_people_is_whole() {
    let list = std::fs::read_to_string(require::workspace().join("docs/mistakes.md")).expect("docs/mistakes.md");
    let listed: Vec<&str> = list.lines().filter(|line| line.starts_with("| `")).collect();
    let wanted: Vec<String> = MISTAKES.iter().map(|mistake| format!("| `{}` | {} |", mistake.name, mistake.title)).collect();
    assert_eq!(listed, wanted, "docs/mistakes.md lists every mistake, in the order of the table");
    assert!(MISTAKES.len() >= 40);
}
