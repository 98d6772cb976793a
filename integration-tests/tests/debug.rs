//! `rbuild debug`: the formats that tools of others rely on.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use integration_tests::require;
use serde_json::{Value, json};

fn filter(name: &str, input: &str) -> Output {
    let mut command = Command::new(require::rbuild());
    command.args(["debug", name]).env_clear().env("NO_COLOR", "1").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("rbuild starts");
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("it reads");
    child.wait_with_output().expect("rbuild ends")
}

/// The expressions of a text that can be parsed.
fn ast(text: &str) -> String {
    let output = filter("ast", text);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

fn answers(name: &str, questions: &[Value]) -> Vec<Value> {
    let input: String = questions.iter().map(|question| format!("{question}\n")).collect();
    let output = filter(name, &input);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text").lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn ast_shows_every_instruction_as_it_was_read() {
    let table = [
        ("FROM busybox:1 AS x", r#"(from "busybox:1" "AS" "x")"#),
        ("from --platform=$X a", r#"(from ["--platform=$X"] "a")"#),
        ("COPY --from=x a b", r#"(copy ["--from=x"] "a" "b")"#),
        ("COPY --user=me --doit=true foo /tmp/", r#"(copy ["--user=me" "--doit=true"] "foo" "/tmp/")"#),
        (r#"COPY --user="a b" [ "a b", "c" ]"#, r#"(copy ["--user=a b"] "a b" "c")"#),
        ("RUN -- --x y", r#"(run "--x y")"#),
        ("RUN --mount=type=cache,target=/a  echo  a  b ", r#"(run ["--mount=type=cache,target=/a"] "echo  a  b")"#),
        (r#"RUN echo "a  b" 'c'"#, r#"(run "echo \"a  b\" 'c'")"#),
        ("RUN apt-get update \\\n  # why\n  && apt-get install", r#"(run "apt-get update   && apt-get install")"#),
        (r#"RUN ["ls", "-la"]"#, r#"(run "ls" "-la")"#),
        (r#"RUN [ "ls" "-la"]"#, r#"(run "[ \"ls\" \"-la\"]")"#),
        ("RUN []", "(run)"),
        (r#"CMD ['single']"#, r#"(cmd "['single']")"#),
        ("CMD", "(cmd)"),
        ("ENV name value with blanks", r#"(env "name" "value with blanks" "")"#),
        ("ENV name=value", r#"(env "name" "value" "=")"#),
        (
            r#"ENV a=value\ value1 b="value2 \"quo ted\"" c='it''s' d="#,
            r#"(env "a" "value\\ value1" "=" "b" "\"value2 \\\"quo ted\\\"\"" "=" "c" "'it''s'" "=" "d" "" "=")"#,
        ),
        ("LABEL a=1 \\\n b=2", r#"(label "a" "1" "=" "b" "2" "=")"#),
        ("LABEL a", ""),
        ("ENV A=1 B", ""),
        ("ARG a b=1 c=\"x y\"", r#"(arg "a" "b=1" "c=\"x y\"")"#),
        ("EXPOSE 80  443/udp", r#"(expose "80" "443/udp")"#),
        ("VOLUME [\"/a b\"]", r#"(volume "/a b")"#),
        ("VOLUME /a /b", r#"(volume "/a" "/b")"#),
        ("USER a b", r#"(user "a b")"#),
        ("WORKDIR  /a b ", r#"(workdir "/a b")"#),
        ("MAINTAINER Some One <a@b>", r#"(maintainer "Some One <a@b>")"#),
        ("SHELL [\"a\"]", r#"(shell "a")"#),
        ("STOPSIGNAL 9", r#"(stopsignal "9")"#),
        ("HEALTHCHECK NONE", r#"(healthcheck "NONE")"#),
        ("HEALTHCHECK --interval=5s CMD curl -f x || exit 1", r#"(healthcheck ["--interval=5s"] "CMD" "curl -f x || exit 1")"#),
        (r#"HEALTHCHECK  CMD   [ "a", "b" ]"#, r#"(healthcheck "CMD" "a" "b")"#),
        ("ONBUILD RUN echo test", r#"(onbuild (run "echo test"))"#),
        (r#"ONBUILD RUN ["echo", "test"]"#, r#"(onbuild (run "echo" "test"))"#),
        ("ONBUILD COPY --chown=a . /", r#"(onbuild (copy ["--chown=a"] "." "/"))"#),
        ("ONBUILD", "(onbuild)"),
        ("COPPY a b", r#"(coppy "")"#),
        ("COPY <<EOF /x\nnot an instruction\nEOF", r#"(copy "<<EOF" "/x")"#),
        ("RUN <<EOF\nbody\nEOF\nUSER x", "(run \"<<EOF\")\n(user \"x\")"),
        ("ONBUILD RUN <<EOF\nbody\nEOF", r#"(onbuild (run "<<EOF"))"#),
        ("# escape=`\nCOPY a`\nb c:\\", r#"(copy "ab" "c:\\")"#),
        ("RUN echo \u{1b}\u{200b}ü", "(run \"echo \\x1b\\u200bü\")"),
        ("RUN <<EOF\nno end", ""),
        ("CMD [\"a\", 1]", ""),
        ("# only a comment", ""),
        ("# escape=x\nRUN x", ""),
    ];
    for (text, wanted) in table {
        if wanted.is_empty() {
            let output = filter("ast", text);
            assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{text}");
            assert!(String::from_utf8_lossy(&output.stderr).starts_with("error["), "{text}");
        } else {
            assert_eq!(ast(text), format!("{wanted}\n"), "{text}");
        }
    }
}

#[test]
fn words_are_expanded_one_by_one_or_split() {
    let env =
        json!({"PWD": "/home", "SHELL": "bash", "KOREAN": "한국어", "NULL": "", "space": "abc  def", "leading": "  ab c", "trailing": "ab c   "});
    let error = json!(null);
    let table = [
        ("word", "hello", json!("hello")),
        ("word", "he'll'o", json!("hello")),
        ("word", "he'llo", error.clone()),
        ("word", "he\\'llo", json!("he'llo")),
        ("word", "abc\\tdef", json!("abctdef")),
        ("word", "\"abc\\tdef\"", json!("abc\\tdef")),
        ("word", "hello\\", json!("hello")),
        ("word", "\"hello\\\"", error.clone()),
        ("word", "he$1x", json!("hex")),
        ("word", "he$.x", json!("he$.x")),
        ("word", "he\\\\$PWD", json!("he\\/home")),
        ("word", "\\${}aaa", json!("${}aaa")),
        ("word", "${}", error.clone()),
        ("word", "he${.}", error.clone()),
        ("word", "he${XXX:-${PWD:-yyy}}xx", json!("he/homexx")),
        ("word", "he${XXX:YYY}", error.clone()),
        ("word", "he${PWD:+${SHELL}}xx", json!("hebashxx")),
        ("word", "'he${XX}'", json!("he${XX}")),
        ("word", "\"he'$PWD'\"", json!("he'/home'")),
        ("word", "he${PWD:=000}xx", error.clone()),
        ("word", "he${XXX:-\\${PWD}z}xx", json!("he${PWDz}xx")),
        ("word", "안녕${KOREAN}", json!("안녕한국어")),
        ("word", "${{aaa}", error.clone()),
        ("word", "${aaa}}", json!("}")),
        ("word", "${NULL-x}${NULL:-y}${NULL+z}${NULL:+w}", json!("yz")),
        ("word", "${NULL:?}", error.clone()),
        ("word", "${PWD#/h} ${PWD%e} ${SHELL/s/S}", json!("ome /hom baSh")),
        ("words", "hello", json!(["hello"])),
        ("words", "hello${space}bye", json!(["helloabc", "defbye"])),
        ("words", "hello\"${space}\"bye", json!(["helloabc  defbye"])),
        ("words", "hello \"${space}\"bye", json!(["hello", "abc  defbye"])),
        ("words", "hello${leading}def", json!(["hello", "ab", "cdef"])),
        ("words", "hello\"${leading}\" def", json!(["hello  ab c", "def"])),
        ("words", "hello${trailing}d", json!(["helloab", "c", "d"])),
        ("words", "hello\\ there", json!(["hello there"])),
        ("words", "hello\" there", error.clone()),
        ("words", "hello'\\\\there'", json!(["hello\\\\there"])),
        ("words", "", json!([])),
    ];
    let questions: Vec<Value> = table.iter().map(|(mode, input, _)| json!({"mode": mode, "input": input, "env": env})).collect();
    let found = answers("words", &questions);
    assert_eq!(found.len(), table.len());
    for ((mode, input, wanted), answer) in table.iter().zip(found) {
        if wanted.is_null() {
            assert!(answer["error"].as_str().is_some_and(|text| !text.is_empty()), "{mode} {input}: {answer}");
        } else {
            assert_eq!(answer, json!({"out": wanted}), "{mode} {input}");
        }
    }
}

#[test]
fn match_says_what_an_ignore_file_leaves_out() {
    let yes = |patterns: &[&str], path: &str| (json!({"patterns": patterns, "path": path}), Some(true));
    let no = |patterns: &[&str], path: &str| (json!({"patterns": patterns, "path": path}), Some(false));
    let bad = |patterns: &[&str]| (json!({"patterns": patterns, "path": "a"}), None);
    let table = [
        yes(&["**"], "file"),
        yes(&["**/"], "/"),
        yes(&["**/dir"], "dir/file"),
        yes(&["**/dir2/*"], "dir/dir2/file/"),
        no(&["**/**/*.txt2"], "dir/dir/file.txt"),
        yes(&["a**/*.txt"], "a/dir/dir/file.txt"),
        no(&["a/*.txt"], "a/dir/file.txt"),
        yes(&["a/*.txt**"], "a/file.txt"),
        no(&["abc.def"], "abcZdef"),
        no(&["abc/**"], "abc"),
        yes(&["a.|)$(}+{bc"], "a.|)$(}+{bc"),
        yes(&["a\\*b"], "a*b"),
        no(&["**", "!util/docker/web"], "util/docker/web/foo"),
        yes(&["**", "!util/docker/web", "util/docker/web/foo"], "util/docker/web/foo"),
        no(&["docs/", "!docs/README.md"], "docs/README.md"),
        yes(&["!fileutils.go", "*.go"], "fileutils.go"),
        no(&["*.go"], "."),
        no(&[], "/any/path/there"),
        no(&["", "  "], "a"),
        bad(&["!"]),
        bad(&["["]),
        bad(&["[a-b-c]"]),
        bad(&["a\\"]),
    ];
    let questions: Vec<Value> = table.iter().map(|(question, _)| question.clone()).collect();
    for ((question, wanted), answer) in table.iter().zip(answers("match", &questions)) {
        match wanted {
            Some(wanted) => assert_eq!(answer, json!({"match": wanted}), "{question}"),
            None => assert!(answer["error"].is_string(), "{question}: {answer}"),
        }
    }
}

#[test]
fn a_question_that_cannot_be_read_is_answered_all_the_same() {
    let output = filter("match", "nonsense\n\n{\"patterns\": [\"a\"], \"path\": \"a\"}");
    let text = String::from_utf8(output.stdout).expect("text");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(lines[0]["error"].is_string() && lines[1] == json!({"match": true}), "{text}");
    for question in ["{}", "[]", "{\"mode\":\"other\",\"input\":\"\"}", "{\"input\":1}", "{\"input\":\"\",\"env\":[]}"] {
        let output = filter("words", question);
        assert!(String::from_utf8_lossy(&output.stdout).starts_with("{\"error\""), "{question}");
    }
}
