//! `# rbuild:include`: what is included, and what is said where.

use super::super::IncludeRoot;
use super::*;
use crate::include::MAX_DEPTH;

/// Answers for the files of a context; everything else as [`known`].
fn with_files<'a>(files: &'a [(&'a str, &'a str)]) -> impl Fn(&Need) -> Answer + 'a {
    move |need| {
        let (Need::File { path, .. } | Need::RemoteFile { path, .. }) = need else { return known(need) };
        let dir = |path: &str| path.rsplit_once('/').map_or(String::new(), |(dir, _)| dir.to_owned());
        match files.iter().find(|(name, _)| name == path) {
            Some((_, text)) => Answer::File(text.as_bytes().into()),
            None => {
                let beside = files.iter().filter(|(name, _)| dir(name) == dir(path));
                Answer::Absent { beside: beside.map(|(name, _)| name.rsplit('/').next().unwrap_or(name).to_owned()).collect() }
            }
        }
    }
}

fn included(text: &str, dockerfile: &str) -> FrontendOptions {
    FrontendOptions { includes: IncludeRoot::Context { dockerfile: dockerfile.to_owned() }, ..options(text) }
}

/// `file:line:column code message [help]` for every problem.
fn problems_with(options: FrontendOptions, files: &[(&str, &str)]) -> String {
    let Err(problems) = compile_answered(options, &with_files(files)) else { return String::new() };
    let show = |problem: &Diagnostic| {
        let place = problem.location.as_ref().map_or(String::new(), |location| {
            let file = crate::source::SourceFile::new(location.source.name.clone(), location.source.text.clone());
            let column = location.span.as_ref().map_or(0, |span| file.line_column(u32::try_from(span.start).expect("small")).1);
            let by: String = location.source.included_at.iter().map(|at| format!(" < {at}")).collect();
            format!("{}:{}:{column}{by}", location.source.name, location.first_line)
        });
        let help = problem.help.as_ref().map_or(String::new(), |help| format!(" [{help}]"));
        format!("{place} {}: {}{help}\n", problem.code, problem.message)
    };
    problems.iter().map(show).collect()
}

fn problems(text: &str, files: &[(&str, &str)]) -> String {
    problems_with(included(text, "Dockerfile"), files)
}

#[test]
fn the_same_image_as_written_in_one_file() {
    let files = [
        ("docker/base", "\u{feff}# syntax=docker/dockerfile:1\r\nFROM busybox AS base\r\nENV A=1"),
        ("docker/parts/tools", "RUN tools\n# rbuild:include ../more\nRUN behind\n"),
        ("docker/more", "COPY <<EOF /x\n# rbuild:include not-this\nEOF\n"),
        ("docker/empty", ""),
    ];
    let text =
        "# rbuild:include base\n\n#rbuild:include\tparts/tools \r\nWORKDIR /w\n  # rbuild:include empty\n# rbuild:include ./parts/../parts//tools";
    let one = "FROM busybox AS base\nENV A=1\nRUN tools\nCOPY <<EOF /x\n# rbuild:include not-this\nEOF\nRUN behind\nWORKDIR /w\nRUN tools\n\
        COPY <<EOF /x\n# rbuild:include not-this\nEOF\nRUN behind\n";
    let many = compile_answered(included(text, "docker/Dockerfile"), &with_files(&files)).unwrap_or_else(|problems| panic!("{problems:#?}"));
    let whole = compile(one);
    assert_eq!(dump(&many), dump(&whole));
    assert_eq!(history(&many), history(&whole));
    let names: Vec<&str> = many.sources.iter().map(|source| source.name.as_str()).collect();
    assert_eq!(names, ["Dockerfile", "docker/base", "docker/parts/tools", "docker/more", "docker/empty", "docker/parts/tools", "docker/more"]);
}

#[test]
fn problems_are_shown_where_they_were_written() {
    let files = [
        ("stages", "FROM busybox\nEXPOSE\n\n# rbuild:include more\nSTOPSIGNAL SIGTREM"),
        ("more", "LABEL x\nRNU y\n"),
        ("user", "ENV A=${B:?needed}\nCOPY --from=later x /\n"),
    ];
    assert_snapshot!(problems("# rbuild:include stages\nCOPPY a b\n# rbuild:include more\n", &files), @"
    stages:2:1 < Dockerfile:1 missing-argument: EXPOSE needs at least one argument [write for example `EXPOSE 8080`]
    more:1:7 < stages:4 < Dockerfile:1 missing-argument: LABEL needs a name and a value [write for example `LABEL name=value`]
    more:2:1 < stages:4 < Dockerfile:1 unknown-instruction: unknown instruction `RNU` [did you mean `RUN`?]
    stages:5:12 < Dockerfile:1 invalid-signal: invalid signal: SIGTREM [did you mean `SIGTERM`?]
    Dockerfile:2:1 unknown-instruction: unknown instruction `COPPY` [did you mean `COPY`?]
    more:1:7 < Dockerfile:3 missing-argument: LABEL needs a name and a value [write for example `LABEL name=value`]
    more:2:1 < Dockerfile:3 unknown-instruction: unknown instruction `RNU` [did you mean `RUN`?]
    ");
    assert_snapshot!(problems("FROM busybox\n# rbuild:include user\nFROM scratch AS later\nFROM busybox\n# rbuild:include user\n", &files), @"
    user:1:7 < Dockerfile:5 bad-substitution: B: needed [give it a value with ENV or ARG above, or declare it there with `ARG B` and pass --build-arg B=…]
    ");
    let compiled = compile_answered(included("FROM busybox\n# rbuild:include old\n", "Dockerfile"), &with_files(&[("old", "\nENV a b\nRUN x\n")]));
    let compiled = compiled.unwrap_or_else(|problems| panic!("{problems:#?}"));
    let place = compiled.warnings[0].location.as_ref().expect("a place");
    assert_eq!((place.source.name.as_str(), place.first_line, &place.source.included_at[..]), ("old", 2, &["Dockerfile:2".to_owned()][..]));
    let run = compiled.graph.vertex(compiled.targets[0].vertex.expect("a tree")).meta.location.clone().expect("a place");
    assert_eq!((run.source.name.as_str(), run.first_line), ("old", 3));
}

#[test]
fn circles_are_shown_whole() {
    let files = [("d/a", "# rbuild:include b\n"), ("d/b", "RUN x\n# rbuild:include ../d/a\n"), ("self", "# rbuild:include self\n"), ("D", "")];
    assert_snapshot!(problems("FROM busybox\n# rbuild:include d/a\n# rbuild:include self\n# rbuild:include Dockerfile\n", &files), @"
    d/b:2:1 < d/a:1 < Dockerfile:2 include-cycle: a file includes itself: d/a → d/b → d/a [remove one of these includes]
    self:1:1 < Dockerfile:3 include-cycle: a file includes itself: self → self [remove one of these includes]
    Dockerfile:4:1 include-cycle: a file includes itself: Dockerfile → Dockerfile [remove one of these includes]
    ");
}

#[test]
fn what_can_not_be_included() {
    let files = [
        ("common.dockerfile", "RUN x\n"),
        ("sub/tools", "RUN x\n"),
        ("open", "RUN x\nRUN y \\\n"),
        ("open-heredoc", "RUN <<E\n x\n"),
        ("backtick", "# escape=`\nRUN x\n"),
    ];
    for (line, expected) in [
        (
            "# rbuild:include comon.dockerfile",
            "2:18 include-missing: cannot include \"comon.dockerfile\": the build context has no such file [did you mean `common.dockerfile`?]",
        ),
        (
            "# rbuild:include sub/tool",
            "2:18 include-missing: cannot include \"sub/tool\": the build context has no such file [did you mean `sub/tools`?]",
        ),
        (
            "# rbuild:include ./${X}",
            "2:18 include-missing: cannot include \"./${X}\": the build context has no such file, as \"${X}\" [variables are not expanded here]",
        ),
        (
            "# rbuild:include nothing-like-it",
            "2:18 include-missing: cannot include \"nothing-like-it\": the build context has no such file [paths are relative to the file that includes; here to the root of the build context]",
        ),
        (
            "# rbuild:include ../x",
            "2:18 include-outside: cannot include \"../x\": it lies outside of the build context [files are included only from where the Dockerfile comes from; move the file there]",
        ),
        (
            "# rbuild:include sub/../../x",
            "2:18 include-outside: cannot include \"sub/../../x\": it lies outside of the build context [files are included only from where the Dockerfile comes from; move the file there]",
        ),
        (
            "# rbuild:include /etc/passwd",
            "2:18 include-outside: cannot include \"/etc/passwd\": the path must be relative [write it relative to the directory of the file that includes it]",
        ),
        ("# rbuild:include", "2:1 include: an include names no file [write `# rbuild:include FILE`]"),
        (
            "# rbuild:inclde x",
            "2:1 unknown-directive: a comment that begins with `rbuild:` says something that is not known [write `# rbuild:include FILE` to include a file, or change the comment]",
        ),
        (
            "# rbuild: include x",
            "2:1 unknown-directive: a comment that begins with `rbuild:` says something that is not known [write `# rbuild:include FILE` to include a file, or change the comment]",
        ),
        (
            "RUN a \\\n  # rbuild:include sub/tools\n  b",
            "3:3 include-inside: a file can't be included inside an instruction [put it above or below the instruction]",
        ),
        ("# rbuild:see the manual", ""),
        ("# see # rbuild:include x", ""),
        ("RUN <<E\n# rbuild:include x\nE", ""),
        ("RUN echo x # rbuild:include x", ""),
    ] {
        let expected = if expected.is_empty() { String::new() } else { format!("Dockerfile:{expected}\n") };
        assert_eq!(problems(&format!("FROM busybox\n{line}\nRUN x"), &files), expected, "{line}");
    }
    assert_snapshot!(problems("FROM busybox\n# rbuild:include open\nRUN x\n", &files), @"
    open:2:1 < Dockerfile:2 include-unfinished: an included file must end where an instruction ends [remove the line continuation at its end]
    ");
    assert_snapshot!(problems("FROM busybox\n# rbuild:include open-heredoc\nRUN x\n", &files), @"
    open-heredoc:1:5 < Dockerfile:2 unterminated-heredoc: the heredoc `<<E` has no end [end it with its name on a line of its own, without blanks; put quotes around `<<` if no heredoc is meant]
    ");
    assert_snapshot!(problems("FROM busybox\n# rbuild:include backtick\nRUN x\n", &files), @"
    backtick:1:10 < Dockerfile:2 include-escape: an included file has the escape character of the file that is built, `\\` [use one escape character in all files of a build]
    ");
    assert_eq!(problems("# escape=`\nFROM busybox\n# rbuild:include backtick\nRUN x\n", &files), "");
    let deep: Vec<(String, String)> = (0..=MAX_DEPTH).map(|n| (format!("f{n}"), format!("# rbuild:include f{}\n", n + 1))).collect();
    let deep: Vec<(&str, &str)> = deep.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let found = problems("FROM busybox\n# rbuild:include f0\n", &deep);
    assert!(found.contains("include-depth: includes are nested deeper than 10: Dockerfile → f0 → f1"), "{found}");
    // Every file includes the next one twice.
    let wide: Vec<(String, String)> = (0..10).map(|n| (format!("f{n}"), format!("# rbuild:include f{0}\n# rbuild:include f{0}\n", n + 1))).collect();
    let wide: Vec<(&str, &str)> = wide.iter().map(|(name, text)| (name.as_str(), text.as_str())).chain([("f10", "")]).collect();
    let found = problems("FROM busybox\n# rbuild:include f1\n# rbuild:include f1\n# rbuild:include f1\n", &wide);
    assert!(found.contains("include-count: more than 1000 files are included"), "{found}");
}

#[test]
fn refused_where_it_must_be() {
    let text = "FROM busybox\n# rbuild:include x\nRNU y\n";
    assert_snapshot!(problems_with(FrontendOptions { strict: true, ..included(text, "Dockerfile") }, &[("x", "RUN x\n")]), @"
    Dockerfile:2:1 include: `# rbuild:include` is known to rbuild only: other builders take it for a comment [`rbuild convert` writes the same Dockerfile without it; or build without --strict-docker]
    Dockerfile:3:1 unknown-instruction: unknown instruction `RNU` [did you mean `RUN`?]
    ");
    assert_snapshot!(problems_with(options("# rbuild:include x\n"), &[]), @"
    Dockerfile:1:1 include: nothing can be included: the Dockerfile comes alone, without a directory to include files from [name a directory as the build context, or the Dockerfile by its path]
    ");
}

#[test]
fn needs_are_asked_for_where_the_dockerfile_is() {
    let text = "FROM busybox\n# rbuild:include a\n# rbuild:include sub/b\n# rbuild:include a\n";
    let needs = |options: FrontendOptions| match DockerfileFrontend::new(options).compile(&Resolved::default()) {
        Ok(Compilation::Needs(needs)) => needs,
        other => panic!("{other:?}"),
    };
    let file = |context: &str, path: &str| Need::File { context: context.to_owned(), path: path.to_owned() };
    assert_eq!(needs(included(text, "docker/D")), [file("context", "docker/a"), file("context", "docker/sub/b")], "once, and all of a level at once");
    let includes = IncludeRoot::Directory { name: "=dockerfile".to_owned(), dockerfile: "D".to_owned() };
    assert_eq!(needs(FrontendOptions { includes, ..options(text) }), [file("=dockerfile", "a"), file("=dockerfile", "sub/b")]);
    let context = NamedContext::Http { url: "https://h/ctx.tar.gz".to_owned() };
    let wanted = needs(FrontendOptions { context, ..included(text, "") });
    assert!(matches!(&wanted[..], [Need::RemoteFile { path, or_download: false, .. }, _] if path == "a"), "{wanted:?}");
}
