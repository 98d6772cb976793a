//! Parse, print, parse: over generated Dockerfiles with every instruction, heredocs, continuations, comments and both escape characters; and spans that
//! lose nothing.

#[path = "../fuzz/meaning.rs"]
mod meaning;

use builder_frontend::parser::parse;
use builder_frontend::print::print;
use builder_frontend::source::SourceFile;
use meaning::meaning;
use proptest::prelude::*;
use proptest::sample::select;

fn source(text: &str) -> SourceFile {
    SourceFile::new("Dockerfile", text)
}

/// Words as people write them, and worse.
fn word() -> impl Strategy<Value = String> {
    let usual = select(vec![
        "a",
        "b.txt",
        "/dest/",
        "x=1",
        "$VAR",
        "${V:-d}",
        "\"q q\"",
        "'s s'",
        "<<E",
        "<<-\"F\"",
        "3<<E",
        "<<",
        "--",
        "--x=y",
        "[\"j\", \"k\"]",
        "[x",
        "#no",
        "é",
        "\\",
        "`",
        "\\ ",
        "a\\\\",
        "8080/tcp",
        "\u{b}",
        "\u{a0}",
    ]);
    prop_oneof![6 => usual.prop_map(str::to_owned), 1 => "[a-c\"'\\\\`$<=\\[\\]{} ,-]{0,6}"]
}

fn flag() -> impl Strategy<Value = String> {
    select(vec![
        "--from=a",
        "--from=\"a b\"",
        "--chown=1:2",
        "--chmod=u=rw,g=r",
        "--link",
        "--link=false",
        "--parents",
        "--exclude=*.md",
        "--exclude=a\\ b",
        "--exclude=",
        "--mount=type=cache,target=/c",
        "--mount=\"target=/a,b\",ro",
        "--mount='type=secret,id=a b'",
        "--network=none",
        "--security=insecure",
        "--device=x",
        "--timeout=1m30s",
        "--retry=2",
        "--platform=$P",
        "--interval=1.5s",
        "--timeout=300ms",
        "--start-period=0s",
        "--retries=3",
        "--keep-git-dir",
        "--unpack=false",
        "--checksum=sha256:0",
        "--",
    ])
    .prop_map(str::to_owned)
}

fn keyword() -> impl Strategy<Value = String> {
    let usual = select(vec![
        "FROM",
        "from",
        "RUN",
        "Run",
        "CMD",
        "LABEL",
        "ENV",
        "ARG",
        "MAINTAINER",
        "EXPOSE",
        "COPY",
        "copy",
        "ADD",
        "ENTRYPOINT",
        "VOLUME",
        "USER",
        "WORKDIR",
        "ONBUILD",
        "ONBUILD RUN",
        "ONBUILD COPY",
        "STOPSIGNAL",
        "HEALTHCHECK",
        "HEALTHCHECK NONE",
        "HEALTHCHECK CMD",
        "SHELL",
        "RUNN",
    ]);
    usual.prop_map(str::to_owned)
}

/// What stands between words: blanks, or a continuation with comments and blank lines in it.
fn gap() -> impl Strategy<Value = String> {
    select(vec![" ", " ", " ", "  ", "\t", " @\n", " @\n   ", " @ \n# inside\n", "@\n\n  ", " @\r\n  "]).prop_map(str::to_owned)
}

fn instruction() -> impl Strategy<Value = String> {
    let words = proptest::collection::vec((gap(), word()), 0..5);
    let flags = proptest::collection::vec((gap(), flag()), 0..3);
    let above = select(vec!["", "", "", "# about\n", "# a\n\n#b \n", "\n", "  # escape=`\n", "#\n"]);
    let end = select(vec!["\n", "\n", "\n", "\r\n", " \n", "\nbody\n\tE\nE\n", "\n\tbody $X\n\tF\n", "\none\nE\ntwo\nF\n", "@\n"]);
    (above, keyword(), flags, words, end).prop_map(|(above, keyword, flags, words, end)| {
        let behind: String = flags.into_iter().chain(words).map(|(gap, word)| format!("{gap}{word}")).collect();
        format!("{above}{keyword}{behind}{end}")
    })
}

fn dockerfile() -> impl Strategy<Value = String> {
    let top =
        select(vec!["", "", "# escape=`\n", "# syntax=docker/dockerfile:1\n", "# check=skip=all\n# escape=\\\n", "#!/x\n# syntax=a b\n", "\u{feff}"]);
    (top, proptest::collection::vec(instruction(), 1..8)).prop_map(|(top, instructions)| {
        let escape = if top.contains('`') { "`" } else { "\\" };
        // A first line that is an instruction, so that what follows is no directive by accident.
        format!("{top}FROM scratch\n{}", instructions.concat()).replace('@', escape)
    })
}

proptest! {
    /// What is understood of a text is all there in its printed form, and printing that changes nothing any more.
    #[test]
    fn parse_print_parse(text in dockerfile()) {
        let first = parse(&source(&text));
        let printed = print(&first.dockerfile);
        let second = parse(&source(&printed));
        prop_assert_eq!(&second.problems, &[], "{:?} printed as {:?}", text, printed);
        prop_assert_eq!(meaning(&first.dockerfile), meaning(&second.dockerfile), "{:?} printed as {:?}", text, printed);
        prop_assert_eq!(print(&second.dockerfile), printed);
    }

    /// Instructions stand behind each other; each one's own text alone, under the same escape, is parsed to the same instruction.
    #[test]
    fn spans_hold_all_of_an_instruction(text in dockerfile()) {
        let parsed = parse(&source(&text));
        let escape = parsed.dockerfile.directives.escape;
        let mut behind = 0;
        for instruction in &parsed.dockerfile.instructions {
            let range = instruction.span.range();
            prop_assert!(range.start >= behind && range.end > range.start, "{:?}", instruction);
            behind = range.end;
            let keyword = instruction.keyword.span.range();
            prop_assert_eq!(&text[keyword], instruction.keyword.value.as_str());
            if text[range.clone()].trim_end().ends_with(escape) {
                // What follows decides whether that is a continuation.
                continue;
            }
            let alone = format!("# escape={escape}\nFROM x\n{}\n", &text[range]);
            let again = parse(&source(&alone));
            prop_assert_eq!(&again.problems, &[], "{:?}", alone);
            let mut wanted = parsed.dockerfile.clone();
            wanted.instructions = vec![instruction.clone()];
            wanted.instructions[0].comments.clear();
            let mut found = again.dockerfile.clone();
            found.instructions.remove(0);
            prop_assert_eq!(meaning(&wanted).1, meaning(&found).1, "{:?}", alone);
        }
    }
}

#[test]
fn what_has_two_readings_is_printed_as_what_it_was() {
    for (text, printed) in [
        ("FROM x\nCOPY [\"a b\", \"c\"]\n", None),
        ("FROM x\nCOPY [\"<<E\", \"c\"]\n", None),
        ("FROM x\nCOPY [\"a\", \"b\"]\n", Some("FROM x\nCOPY a b\n")),
        ("FROM x\nRUN -- --not-a-flag\n", None),
        ("FROM x\nRUN --mount=\"target=/a b \"\n", Some("FROM x\nRUN --mount=target=/a\\ b\" \"\n")),
        ("# escape=`\nFROM x\nRUN --mount=target=`\u{c}\nUSER a\n", None),
        ("FROM x\nENV a\\   b=c\n", Some("FROM x\nENV a\\  b=c\n")),
        ("FROM x\nARG -- \\ \\ \u{b}\n", Some("FROM x\nARG \\ \u{c}\n")),
        ("FROM x\nRUN a \\\u{b}\n", Some("FROM x\nRUN a \\\u{c}\n")),
        ("\n# escape=`\nFROM x\n", None),
        ("FROM x\nCOPY <<A b <<-B /c/\nA\n\tx\n\tB\n", Some("FROM x\nCOPY <<A b <<-B /c/\nA\n\tx\nB\n")),
        ("FROM x\nONBUILD RUN <<E\nx\nE\n", None),
    ] {
        assert_eq!(print(&parse(&source(text)).dockerfile), printed.unwrap_or(text), "{text}");
    }
}
