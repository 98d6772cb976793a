//! What a Dockerfile means, feature by feature (`features.md`, section A), and how its mistakes are told.

use builder_frontend::ast::{CommandLine, Healthcheck, Instruction, InstructionKind, RunCommand, Word};
use builder_frontend::diagnostic::Problem;
use builder_frontend::parser::{Parsed, parse, parse_trigger};
use builder_frontend::source::SourceFile;
use proptest::prelude::*;

fn read(text: &str) -> Parsed {
    parse(&SourceFile::new("Dockerfile", text))
}

/// The instructions of a file without problems.
fn instructions(text: &str) -> Vec<Instruction> {
    let parsed = read(text);
    assert_eq!(parsed.problems, [], "{text}");
    parsed.dockerfile.instructions
}

/// The instruction behind a FROM.
fn one(text: &str) -> InstructionKind {
    let mut all = instructions(&format!("FROM scratch\n{text}"));
    assert_eq!(all.len(), 2, "{text}");
    all.remove(1).kind
}

fn values(words: &[Word]) -> Vec<&str> {
    words.iter().map(|word| word.value.as_str()).collect()
}

/// Problems as a person sees them: line and column, code, message, label, help.
fn problems(text: &str) -> String {
    let source = SourceFile::new("Dockerfile", text);
    let show = |problem: Problem| {
        let (line, column) = source.line_column(problem.span.start);
        let label = problem.label.map(|label| format!(" | {label}")).unwrap_or_default();
        let help = problem.help.map(|help| format!(" | help: {help}")).unwrap_or_default();
        format!("{line}:{column} {}: {}{label}{help}\n", problem.code, problem.message)
    };
    parse(&source).problems.into_iter().map(show).collect()
}

/// Behind a FROM.
fn problem(line: &str) -> String {
    problems(&format!("FROM scratch\n{line}")).trim_end().to_owned()
}

#[test]
fn a0_1_marks_and_line_ends() {
    let all = instructions("\u{feff}FROM busybox\r\nENV A=one \\\r\n  B=two\r\nCOPY <<END /body.txt\r\nfirst\r\nEND\r\nWORKDIR /w");
    assert_eq!(all.len(), 4);
    let InstructionKind::Env(pairs) = &all[1].kind else { panic!("ENV") };
    assert_eq!((pairs[0].value.value.as_str(), pairs[1].value.value.as_str()), ("one", "two"));
    assert_eq!(all[2].heredocs[0].body, "first\r\n");
}

#[test]
fn a0_2_long_lines() {
    let fits = format!("FROM a\nRUN {}", "x".repeat(65_535 - 4));
    assert_eq!(problems(&fits), "");
    let long = format!("FROM a\nRUN {}\nRUN y", "x".repeat(65_535 - 3));
    assert!(problems(&long).starts_with("2:1 line-too-long: a line has 65536 bytes"));
}

#[test]
fn a0_3_files_without_a_stage() {
    insta::assert_snapshot!(problems(""), @"1:1 empty-file: the Dockerfile is empty | help: begin it with FROM");
    insta::assert_snapshot!(problems("# nothing\n\n   # here\n"), @"3:1 no-instructions: the Dockerfile has no instructions | help: begin it with FROM");
    insta::assert_snapshot!(problems("ARG A=1\nARG B\n"), @"2:1 no-stages: the Dockerfile has no stage to build | help: add a FROM");
}

#[test]
fn a0_4_before_from() {
    insta::assert_snapshot!(
        problems("ARG OK=1\n\nLABEL too=early\nRUN x\nFROM scratch"),
        @"3:1 no-stage: LABEL stands before the first FROM, where there is no build stage yet | only ARG may stand here | help: move it below a FROM"
    );
    insta::assert_snapshot!(problems("FORM alpine\nRUN x"), @"1:1 unknown-instruction: unknown instruction `FORM` | not an instruction | help: did you mean `FROM`?");
}

#[test]
fn a0_5_keywords() {
    let all = instructions("from busybox\n  Env\tCASE=mixed\n\trUn echo $CASE\n   label  a=b\nCmD [\"x\"]");
    let keywords: Vec<_> = all.iter().map(|instruction| instruction.keyword.value.as_str()).collect();
    assert_eq!(keywords, ["from", "Env", "rUn", "label", "CmD"]);
}

#[test]
fn a0_6_suggestions() {
    insta::assert_snapshot!(problem("FNTRYPOINT x"), @"2:1 unknown-instruction: unknown instruction `FNTRYPOINT` | not an instruction | help: did you mean `ENTRYPOINT`?");
    insta::assert_snapshot!(problem("COPPY a.txt /"), @"2:1 unknown-instruction: unknown instruction `COPPY` | not an instruction | help: did you mean `COPY`?");
    insta::assert_snapshot!(problem("HELLO"), @"2:1 unknown-instruction: unknown instruction `HELLO` | not an instruction | help: instructions are ADD, ARG, CMD, COPY, ENTRYPOINT, ENV, EXPOSE, FROM, HEALTHCHECK, LABEL, MAINTAINER, ONBUILD, RUN, SHELL, STOPSIGNAL, USER, VOLUME, WORKDIR");
    insta::assert_snapshot!(problem("RNU <<EOF\nmkdir x\nEOF\nCOPY a"), @r"
    2:1 unknown-instruction: unknown instruction `RNU` | not an instruction | help: did you mean `RUN`?
    5:6 missing-argument: COPY needs at least two arguments, sources and a destination | help: write for example `COPY file.txt /dest/`
    ");
}

#[test]
fn a1_4_the_escape_character_rules_words() {
    let all =
        instructions("# escape=`\nFROM busybox\nENV WINPATH=C:\\dir\\sub ESC=`$HOME `\n    NEXT=joined\nRUN echo `\n  x\\\nLABEL p=\"a`\"b c\"");
    let InstructionKind::Env(pairs) = &all[1].kind else { panic!("ENV") };
    let pairs: Vec<_> = pairs.iter().map(|pair| (pair.key.value.as_str(), pair.value.value.as_str())).collect();
    assert_eq!(pairs, [("WINPATH", "C:\\dir\\sub"), ("ESC", "`$HOME"), ("NEXT", "joined")]);
    let InstructionKind::Run(run) = &all[2].kind else { panic!("RUN") };
    assert!(matches!(&run.command, RunCommand::Plain(CommandLine::Shell(text)) if text.value == "echo   x\\"));
    let InstructionKind::Label(pairs) = &all[3].kind else { panic!("LABEL") };
    assert_eq!(pairs[0].value.value, "\"a`\"b c\"");
}

#[test]
fn a1_3_directive_problems() {
    insta::assert_snapshot!(problems("# escape=`\n# escape=`\nFROM a"), @"1:1 duplicate-directive: only one `escape` directive can be used | set here, and again on line 2 | help: remove one of them");
    insta::assert_snapshot!(problems("# escape=x\nFROM a"), @r#"1:10 invalid-escape: the escape character can't be "x" | neither ` nor \ | help: write `# escape=\` or `# escape=``"#);
}

#[test]
fn a2_2_original_is_one_line() {
    let all = instructions(
        "FROM busy\\\nbox\nRUN ec\\\nho split > /o\nLABEL ke\\\ny=va\\\nlue\nRUN echo one \\\n# inside\n   # indented\n    two \\\n    three#four # shell",
    );
    let originals: Vec<_> = all.iter().map(|instruction| instruction.original.as_str()).collect();
    assert_eq!(originals, ["FROM busybox", "RUN echo split > /o", "LABEL key=value", "RUN echo one     two     three#four # shell"]);
}

#[test]
fn a2_3_blank_continuations() {
    let text = "FROM a\nRUN echo a \\\n\n  b\nRUN echo c \\\n# comment\n  d";
    let all = instructions(text);
    let source = SourceFile::new("Dockerfile", text);
    let line = |instruction: &Instruction| instruction.blank_continuation.map(|span| source.line_column(span.start).0);
    assert_eq!((line(&all[1]), line(&all[2])), (Some(3), None));
    assert_eq!(source.lines(all[1].head), (2, 4));
}

#[test]
fn a2_4_comments_above() {
    let all = instructions("# syntax=x\n# base is it\n\n# check=skip=all\nFROM a AS base\n# for nobody\nRUN x\nRUN y");
    let comments = |at: usize| all[at].comments.iter().map(|comment| (comment.text.as_str(), comment.followed_by_blank)).collect::<Vec<_>>();
    assert_eq!(comments(0), [("base is it", true), ("check=skip=all", false)]);
    assert_eq!(comments(1), [("for nobody", false)]);
    assert_eq!(comments(2), []);
}

#[test]
fn a3_1_where_heredocs_are() {
    let all = instructions("FROM a\nENV A=<<EOF\nLABEL b=<<X\nRUN [\"sh\", \"<<EOF\"]\nCMD echo <<EOF\nCOPY [\"<<EOF\", \"/\"]\nRUN echo '<<EOF'");
    assert!(all.iter().all(|instruction| instruction.heredocs.is_empty()));
    let InstructionKind::Copy(copy) = &all[5].kind else { panic!("COPY") };
    assert_eq!((values(&copy.paths.sources), copy.paths.heredocs.len()), (vec!["<<EOF"], 0));
}

#[test]
fn a3_2_unterminated() {
    insta::assert_snapshot!(problem("RUN <<FINISH\necho a\n"), @"2:5 unterminated-heredoc: the heredoc `<<FINISH` has no end | no line after this is exactly `FINISH` | help: end it with its name on a line of its own, without blanks; put quotes around `<<` if no heredoc is meant");
}

#[test]
fn a3_5_files() {
    let InstructionKind::Copy(copy) = one("COPY --chmod=0755 <<one.sh plain.txt <<-\"two\" /dir/\n#!/bin/sh\none.sh\n\t$A\ntwo") else {
        panic!("COPY")
    };
    assert_eq!((values(&copy.paths.sources), copy.paths.dest.value.as_str()), (vec!["plain.txt"], "/dir/"));
    let files: Vec<_> = copy.paths.heredocs.iter().map(|file| (file.name.as_str(), file.body.as_str(), file.raw_body(), file.expand)).collect();
    assert_eq!(files, [("one.sh", "#!/bin/sh\n", "#!/bin/sh\n", true), ("two", "$A\n", "\t$A\n", false)]);
    let InstructionKind::Add(add) = one("ADD <<X <<X /d/\nfirst\nX\nsecond\nX") else { panic!("ADD") };
    assert_eq!(add.paths.heredocs.iter().map(|file| file.body.as_str()).collect::<Vec<_>>(), ["second\n", "second\n"]);
    insta::assert_snapshot!(problem("COPY a.txt <<EOF\nbody\nEOF"), @"2:12 heredoc-destination: COPY can't have a heredoc as its destination | the last argument is the destination | help: name a path behind the heredoc");
}

#[test]
fn a3_6_scripts() {
    let command = |text: &str| match one(text) {
        InstructionKind::Run(run) => match run.command {
            RunCommand::Plain(CommandLine::Shell(text)) => format!("plain {:?}", text.value),
            RunCommand::Plain(CommandLine::Exec(words)) => format!("exec {:?}", values(&words)),
            RunCommand::Script(heredoc) => format!("script {:?}", heredoc.body),
            RunCommand::Shebang(heredoc) => format!("shebang {} {:?}", heredoc.name, heredoc.body),
            RunCommand::Glued { text, .. } => format!("glued {:?}", text.value),
        },
        _ => panic!("RUN"),
    };
    assert_eq!(command("RUN <<EOF\necho $X\nEOF"), r#"script "echo $X\n""#);
    assert_eq!(command("RUN <<-'EOF'\n\techo\n\tEOF"), r#"script "echo\n""#);
    assert_eq!(command("RUN --network=none <<S\n#!/bin/sh -e\nS"), r##"shebang S "#!/bin/sh -e\n""##);
    let glued = "RUN cat <<A > /one && cat <<-B > /two\nbody of a\nA\n\ttabs\n\tB";
    assert_eq!(command(glued), r#"glued "cat <<A > /one && cat <<-B > /two\nbody of a\nA\n\ttabs\nB""#);
    assert_eq!(command("RUN sh -s first <<'END'\nx\nEND"), r#"glued "sh -s first <<'END'\nx\nEND""#);
    assert_eq!(command("RUN 3<<FD cat <&3\nthrough\nFD"), r#"glued "3<<FD cat <&3\nthrough\nFD""#);
    assert_eq!(command("RUN -- echo ran"), r#"plain "echo ran""#);
    assert_eq!(command("RUN [ -d /bin ] && echo yes"), r#"plain "[ -d /bin ] && echo yes""#);
    assert_eq!(command("RUN [\"a b\", \"c\"]"), r#"exec ["a b", "c"]"#);
    let all = instructions("FROM a\nRUN <<EOF\nx\nEOF\nRUN y");
    assert_eq!((all.len(), all[1].original.as_str(), all[1].span.end), (3, "RUN <<EOF", 22));
}

#[test]
fn a4_1_flags() {
    let InstructionKind::Copy(copy) =
        one("COPY --chown=\"$OWNER:${OWNER}\" --chmod='0640' --link --parents=FALSE --exclude=a --exclude=b -- --dash.txt /d")
    else {
        panic!("COPY")
    };
    assert_eq!(copy.chown.as_ref().map(|word| word.value.as_str()), Some("$OWNER:${OWNER}"));
    assert_eq!(copy.chmod.as_ref().map(|word| word.value.as_str()), Some("0640"));
    assert_eq!((copy.link, copy.parents, values(&copy.excludes)), (true, false, vec!["a", "b"]));
    assert_eq!(values(&copy.paths.sources), ["--dash.txt"]);
    insta::assert_snapshot!(problem("COPY --chwon=1 a /"), @"2:6 unknown-flag: unknown flag --chwon for COPY | help: did you mean `--chown`?");
    insta::assert_snapshot!(problem("USER --x=1 a"), @"2:6 unknown-flag: unknown flag --x for USER | help: USER has no flags; `--` before the arguments ends the flags");
    insta::assert_snapshot!(problem("COPY --chown=1 --chown=2 a /"), @"2:16 duplicate-flag: --chown is given twice | help: remove one of them");
    insta::assert_snapshot!(problem("COPY --chown a /"), @"2:6 flag-value: --chown needs a value | help: write `--chown=...`");
    insta::assert_snapshot!(problem("COPY --link=maybe a /"), @r#"2:6 flag-value: --link is true or false, not "maybe" | help: write `--link` or `--link=false`"#);
    insta::assert_snapshot!(problem("COPY --link= a /"), @r#"2:6 flag-value: --link is true or false, not "" | help: write `--link` or `--link=false`"#);
    insta::assert_snapshot!(problem("RUN --network=bridge true"), @r#"2:15 flag-value: unknown network mode "bridge" | help: allowed are default, none, host"#);
    insta::assert_snapshot!(problem("RUN --security=insecur true"), @r#"2:16 flag-value: unknown security mode "insecur" | help: did you mean `insecure`?"#);
}

#[test]
fn a4_2_forms() {
    let InstructionKind::Copy(copy) = one("COPY [ \"with space.txt\" ,\"b c\",   \"/to here/\" ]") else { panic!("COPY") };
    assert_eq!((values(&copy.paths.sources), copy.paths.dest.value.as_str()), (vec!["with space.txt", "b c"], "/to here/"));
    let InstructionKind::Copy(copy) = one("COPY a\\ b \"c d\" /") else { panic!("COPY") };
    assert_eq!(values(&copy.paths.sources), ["a\\", "b", "\"c", "d\""]);
    let InstructionKind::Volume(volumes) = one("VOLUME /vol/$D [\"/not/json/$D\"]") else { panic!("VOLUME") };
    assert_eq!(values(&volumes), ["/vol/$D", "[\"/not/json/$D\"]"]);
    assert!(matches!(one("CMD ['single', 'quoted']"), InstructionKind::Cmd(CommandLine::Shell(text)) if text.value == "['single', 'quoted']"));
    insta::assert_snapshot!(problem("CMD [\"a\", 1]"), @"2:5 json-not-strings: a JSON array must hold strings only | not all of these are strings | help: put double quotes around every element");
}

#[test]
fn a4_5_counts() {
    assert!(matches!(one("ENTRYPOINT []"), InstructionKind::Entrypoint(CommandLine::Exec(words)) if words.is_empty()));
    assert!(matches!(one("CMD []"), InstructionKind::Cmd(CommandLine::Exec(words)) if words.is_empty()));
    assert!(matches!(one("WORKDIR /with a blank"), InstructionKind::Workdir(word) if word.value == "/with a blank"));
    let needs = |line: &str| problem(line).split(" | ").next().unwrap_or_default().to_owned();
    insta::assert_snapshot!(
        ["ENV", "LABEL", "ARG", "EXPOSE", "VOLUME", "VOLUME []", "USER", "WORKDIR", "STOPSIGNAL", "MAINTAINER", "ONBUILD", "SHELL", "SHELL []", "SHELL /bin/sh -c", "COPY onlyone", "ADD", "RUN []", "HEALTHCHECK", "HEALTHCHECK CMD", "FROM"]
            .map(needs).join("\n"),
        @r"
    2:1 missing-argument: ENV needs at least one argument
    2:1 missing-argument: LABEL needs at least one argument
    2:1 missing-argument: ARG needs at least one argument
    2:1 missing-argument: EXPOSE needs at least one argument
    2:1 missing-argument: VOLUME needs at least one argument
    2:8 missing-argument: VOLUME needs at least one argument
    2:1 missing-argument: USER needs exactly one argument
    2:1 missing-argument: WORKDIR needs exactly one argument
    2:1 missing-argument: STOPSIGNAL needs exactly one argument
    2:1 missing-argument: MAINTAINER needs exactly one argument
    2:1 missing-argument: ONBUILD needs an instruction
    2:1 missing-argument: SHELL needs at least one argument
    2:7 missing-argument: SHELL needs at least one argument
    2:7 shell-needs-json: SHELL needs its arguments as a JSON array
    2:6 missing-argument: COPY needs at least two arguments, sources and a destination
    2:1 missing-argument: ADD needs at least two arguments, sources and a destination
    2:5 missing-argument: RUN needs a command
    2:1 missing-argument: HEALTHCHECK needs at least one argument
    2:13 missing-argument: HEALTHCHECK needs a command behind CMD
    2:1 from-arguments: FROM takes an image, or an image, AS and a name
    "
    );
}

#[test]
fn a6_1_from() {
    let all = instructions("FROM --platform=$BUILDPLATFORM golang:1 as Build.er_1\nFROM scratch");
    let InstructionKind::From(from) = &all[0].kind else { panic!("FROM") };
    assert_eq!(from.platform.as_ref().map(|word| word.value.as_str()), Some("$BUILDPLATFORM"));
    assert_eq!((from.base.value.as_str(), from.name.as_ref().map(|word| word.value.as_str())), ("golang:1", Some("Build.er_1")));
    assert_eq!(from.as_keyword.as_ref().map(|word| word.value.as_str()), Some("as"));
    insta::assert_snapshot!(problems("FROM busybox # the base"), @"1:6 from-arguments: FROM takes an image, or an image, AS and a name | a comment can't follow an instruction on its line | help: put the comment on a line of its own");
    insta::assert_snapshot!(problems("FROM a AS b c"), @"1:6 from-arguments: FROM takes an image, or an image, AS and a name | help: write for example `FROM alpine:3.22 AS build`");
    insta::assert_snapshot!(problems("FROM scratch AS a/b"), @r#"1:17 invalid-stage-name: "a/b" can't be the name of a stage | a letter, then letters, digits, `-`, `_` and `.`"#);
    insta::assert_snapshot!(problems("FROM scratch AS 0b\nRUN x"), @r#"1:17 invalid-stage-name: "0b" can't be the name of a stage | a letter, then letters, digits, `-`, `_` and `.`"#);
}

#[test]
fn a7_names_and_values() {
    let InstructionKind::Arg(args) = one("ARG a b=1 c=\"x y\" # Only") else { panic!("ARG") };
    let args: Vec<_> = args.iter().map(|arg| (arg.name.value.as_str(), arg.default.as_ref().map(|word| word.value.as_str()))).collect();
    assert_eq!(args, [("a", None), ("b", Some("1")), ("c", Some("\"x y\"")), ("#", None), ("Only", None)]);
    let InstructionKind::Env(pairs) = one("ENV k value with  spaces = and signs") else { panic!("ENV") };
    assert_eq!((pairs[0].key.value.as_str(), pairs[0].value.value.as_str(), pairs[0].legacy), ("k", "value with  spaces = and signs", true));
    let InstructionKind::Env(pairs) = one("ENV k=v\\ w e= q='a b'\"c d\" u=a=b") else { panic!("ENV") };
    let pairs: Vec<_> = pairs.iter().map(|pair| (pair.key.value.as_str(), pair.value.value.as_str())).collect();
    assert_eq!(pairs, [("k", "v\\ w"), ("e", ""), ("q", "'a b'\"c d\""), ("u", "a=b")]);
    insta::assert_snapshot!(problem("ENV A=1 B"), @r#"2:9 missing-equals: no `=` in "B" | expected NAME=value | help: put quotes around a value that holds blanks"#);
    insta::assert_snapshot!(problem("ENV A=${B:-two words}"), @r#"2:16 missing-equals: no `=` in "words}" | expected NAME=value | help: put quotes around a value that holds blanks"#);
    insta::assert_snapshot!(problem("ENV A"), @"2:5 missing-argument: ENV needs a name and a value | help: write for example `ENV NAME=value`");
    insta::assert_snapshot!(problem("LABEL =x"), @"2:7 blank-name: a name in LABEL can't be empty | help: write NAME=value without blanks around `=`");
}

#[test]
fn a8_3_mounts() {
    let InstructionKind::Run(run) = one("RUN --mount=type=cache,Target=/c,ro --mount=\"type=bind,from=x\" --device=a --device=b make") else {
        panic!("RUN")
    };
    let fields = |at: usize| -> Vec<(&str, Option<&str>)> {
        run.mounts[at].fields.iter().map(|(key, value)| (key.value.as_str(), value.as_ref().map(|word| word.value.as_str()))).collect()
    };
    assert_eq!(fields(0), [("type", Some("cache")), ("target", Some("/c")), ("ro", None)]);
    assert_eq!(fields(1), [("type", Some("bind")), ("from", Some("x"))]);
    assert_eq!(values(&run.devices), ["a", "b"]);
    insta::assert_snapshot!(problem("RUN --mount=type=cache,tarrget=/c true"), @r#"2:24 invalid-mount: unknown mount option "tarrget" in "tarrget=/c" | help: did you mean `target`?"#);
    insta::assert_snapshot!(problem("RUN --mount=type=cache,target true"), @r#"2:24 invalid-mount: mount option "target" needs a value | help: write `target=...`"#);
    insta::assert_snapshot!(problem("RUN --mount=type=bind,from=$STAGE,target=/b true"), @"2:23 invalid-mount: variables are not expanded in `from` | help: give the image a name with `FROM ... AS name` (global ARGs are expanded there) and use that name; or write ${NAME} with braces, which only rbuild knows");
    insta::assert_snapshot!(problem("RUN --mount= true"), @r#"2:13 invalid-mount: can't read the mount "": it is empty"#);
}

#[test]
fn a10_8_healthchecks() {
    assert!(matches!(one("HEALTHCHECK NONE"), InstructionKind::Healthcheck(Healthcheck::None)));
    let text = "HEALTHCHECK --interval=1m30s --timeout=3s --start-period=0s --start-interval=500ms --retries=3 cmd [\"a\"]";
    let InstructionKind::Healthcheck(Healthcheck::Command { command, interval, timeout, start_period, start_interval, retries }) = one(text) else {
        panic!("CMD")
    };
    assert!(matches!(command, CommandLine::Exec(words) if values(&words) == ["a"]));
    let millis = [interval, timeout, start_period, start_interval].map(|time| time.map(|time| time.as_millis()));
    assert_eq!((millis, retries), ([Some(90_000), Some(3_000), Some(0), Some(500)], Some(3)));
    insta::assert_snapshot!(problem("HEALTHCHECK --interval=1us CMD true"), @"2:24 invalid-duration: --interval=1us is less than 1ms | help: write for example `30s`, `1m30s` or `500ms`");
    insta::assert_snapshot!(problem("HEALTHCHECK --timeout=-5s CMD true"), @"2:23 invalid-duration: --timeout=-5s is less than 1ms | help: write for example `30s`, `1m30s` or `500ms`");
    insta::assert_snapshot!(problem("HEALTHCHECK --timeout=5 CMD true"), @"2:23 invalid-duration: --timeout=5 is not a duration | help: write for example `30s`, `1m30s` or `500ms`");
    insta::assert_snapshot!(problem("HEALTHCHECK --retries=-1 CMD true"), @"2:23 invalid-retries: --retries=-1 is not a number from 0 to 2147483647");
    insta::assert_snapshot!(problem("HEALTHCHECK curl x"), @r#"2:13 healthcheck-kind: HEALTHCHECK takes NONE or CMD, not "CURL" | help: write for example `HEALTHCHECK CMD wget -q localhost || exit 1`"#);
    insta::assert_snapshot!(problem("HEALTHCHECK NONE x"), @"2:18 too-many-arguments: HEALTHCHECK NONE takes no arguments | help: remove them");
}

#[test]
fn a10_9_triggers() {
    let all = instructions(
        "FROM busybox AS parent\nONBUILD RUN <<EOF\necho > /t\nEOF\nONBUILD   COPY . /app\nONBUILD RUN echo \"$X\" \\\n  && true\nONBUILD CMD [\"x\"]",
    );
    let texts = all[1..].iter().map(|instruction| match &instruction.kind {
        InstructionKind::Onbuild(onbuild) => onbuild.text.as_str(),
        _ => panic!("ONBUILD"),
    });
    let texts = texts.collect::<Vec<_>>();
    assert_eq!(texts, ["RUN <<EOF\necho > /t\nEOF", "COPY . /app", "RUN echo \"$X\"   && true", "CMD [\"x\"]"]);
    for (text, instruction) in texts.iter().zip(&all[1..]) {
        let InstructionKind::Onbuild(onbuild) = &instruction.kind else { panic!("ONBUILD") };
        let again = parse_trigger(text, '\\').expect("what is stored can be read");
        assert_eq!((again.original, again.keyword.value), (onbuild.inner.original.clone(), onbuild.inner.keyword.value.clone()));
    }
    insta::assert_snapshot!(problem("ONBUILD FROM scratch"), @"2:9 invalid-trigger: FROM can't be a trigger of ONBUILD | help: triggers are instructions that run in the image built on this one");
    insta::assert_snapshot!(problem("ONBUILD maintainer me"), @"2:9 invalid-trigger: MAINTAINER can't be a trigger of ONBUILD | help: triggers are instructions that run in the image built on this one");
    insta::assert_snapshot!(problem("ONBUILD ONBUILD RUN true"), @"2:9 invalid-trigger: ONBUILD can't be a trigger of ONBUILD | help: triggers are instructions that run in the image built on this one");
    insta::assert_snapshot!(problem("ONBUILD RUNN true"), @"2:9 unknown-instruction: unknown instruction `RUNN` | not an instruction | help: did you mean `RUN`?");
    for text in ["", "FROM a", "RUN a\nRUN b", "ONBUILD RUN a", "NO", "RUN <<E\n"] {
        assert!(parse_trigger(text, '\\').is_err(), "{text:?}");
    }
}

#[test]
fn a10_3_empty_volumes() {
    insta::assert_snapshot!(problem("VOLUME [\"/a\", \" \"]"), @"2:15 empty-volume: a volume's path can't be empty | help: name a directory, or remove it");
}

#[test]
fn nothing_stops_at_the_first_problem() {
    let text = "FROM scratch\nCOPY a\nRUN true\nFOO\nENV\nRUN last";
    assert_eq!(problems(text).lines().count(), 3);
    assert_eq!(read(text).dockerfile.instructions.len(), 3);
}

#[test]
fn spans_are_exact() {
    let text = "FROM a\nENV  K=v \\\n  'L'=\"w x\"\nCOPY --from=stage --chown=\"u:g\" src \\\n # c\n /dst\nVOLUME [\"/a\", \"/b\"]";
    let all = instructions(text);
    let at = |word: &Word| &text[word.span.range()];
    let InstructionKind::Env(pairs) = &all[1].kind else { panic!("ENV") };
    assert_eq!((at(&pairs[0].key), at(&pairs[0].value), at(&pairs[1].key), at(&pairs[1].value)), ("K", "v", "'L'", "\"w x\""));
    let InstructionKind::Copy(copy) = &all[2].kind else { panic!("COPY") };
    assert_eq!((copy.from.as_ref().map(at), copy.chown.as_ref().map(at)), (Some("stage"), Some("u:g")));
    assert_eq!((at(&copy.paths.sources[0]), at(&copy.paths.dest)), ("src", "/dst"));
    let InstructionKind::Volume(volumes) = &all[3].kind else { panic!("VOLUME") };
    assert_eq!((at(&volumes[0]), at(&volumes[1])), ("\"/a\"", "\"/b\""));
}

#[test]
fn large_files_are_read_in_linear_time() {
    let text = format!("FROM a\n{}", "RUN echo <<A <<B \\\n x\nbody\nA\nB\n".repeat(20_000));
    let started = std::time::Instant::now();
    assert_eq!(read(&text).dockerfile.instructions.len(), 20_001);
    let wide = format!("FROM a\nENV {}", "K=v \\\n".repeat(200_000));
    assert_eq!(read(&wide).dockerfile.instructions.len(), 2);
    assert!(started.elapsed().as_secs() < 20, "quadratic would take minutes");
    let many = format!("FROM a\n{}", "RUN x\n".repeat(60_000));
    assert!(problems(&many).starts_with("50001:1 too-many-instructions"));
}

/// Pieces that make texts look like Dockerfiles.
fn dockerfile() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        prop::sample::select(vec![
            "FROM ",
            "RUN ",
            "COPY ",
            "ADD ",
            "ENV ",
            "ARG ",
            "ONBUILD ",
            "HEALTHCHECK ",
            "SHELL ",
            "LABEL ",
            "CMD ",
            "VOLUME ",
            "NONE",
            "USER ",
            "<<EOF",
            "<<-'E'",
            "EOF\n",
            "E\n",
            "\tE\n",
            "\\\n",
            "`\n",
            "\n",
            "\r\n",
            "# ",
            "# escape=`\n",
            "# syntax=a\n",
            "--mount=",
            "--from=",
            "--link",
            "--",
            "type=cache,",
            "[\"a\"",
            "]",
            ", ",
            "\"",
            "'",
            "\\",
            "$",
            "${A",
            "}",
            "=",
            "a",
            " ",
            "\t",
            "é",
            "\u{a0}",
            "\u{feff}",
            "#!",
            "//",
            "AS ",
            "\\u12",
            "--interval=1s",
        ])
        .prop_map(str::to_owned),
        any::<char>().prop_map(String::from),
    ];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn any_text_is_read(text in dockerfile()) {
        let parsed = read(&text);
        for instruction in &parsed.dockerfile.instructions {
            prop_assert!(instruction.span.start <= instruction.head.start && instruction.head.end <= instruction.span.end, "{:?}", instruction);
            prop_assert!(text.get(instruction.span.range()).is_some(), "{:?}", instruction.span);
            prop_assert_eq!(text.get(instruction.keyword.span.range()).map(|word| word.len() >= instruction.keyword.value.len()), Some(true));
        }
        for problem in &parsed.problems {
            prop_assert!(text.get(problem.span.range()).is_some(), "{:?}", problem);
            prop_assert!(!problem.message.is_empty());
        }
        let _ = parse_trigger(&text, '`');
    }

    #[test]
    fn any_unicode_is_read(text in any::<String>()) {
        let _ = read(&text);
    }

    #[test]
    fn continuations_change_nothing(words in prop::collection::vec("[a-z]{1,4}", 1..6), breaks in prop::collection::vec(any::<bool>(), 6)) {
        let joined = format!("FROM a\nRUN {}", words.join(" "));
        let broken: String = words.iter().zip(&breaks).map(|(word, cut)| if *cut { format!(" {word}\\\n") } else { format!(" {word}") }).collect();
        let broken = format!("FROM a\nRUN{broken}");
        prop_assert_eq!(&instructions(&joined)[1].original, &instructions(&broken)[1].original);
    }
}
