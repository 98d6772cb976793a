//! A test for each section of the language that no other test is named for (`docs/language.md` lists all): small files, and what
//! becomes of them.

use super::*;
use crate::source::SourceFile;
use builder_core::graph::ExecOp;

/// All processes, in order.
fn processes(compiled: &Compiled) -> Vec<ExecOp> {
    let ops = compiled.graph.ids().map(|id| compiled.graph.vertex(id).op.clone());
    ops.filter_map(|op| if let Op::Exec(exec) = op { Some(exec) } else { None }).collect()
}

/// The environment of the last process, without PATH.
fn env(compiled: &Compiled) -> Vec<String> {
    let last = processes(compiled).pop().expect("a process");
    last.env.iter().filter(|variable| variable.0 != "PATH").map(|variable| format!("{}={}", variable.0, variable.1)).collect()
}

fn names(compiled: &Compiled) -> Vec<String> {
    compiled.graph.ids().map(|id| compiled.graph.vertex(id).meta.name.clone()).collect()
}

/// The last entry of the history.
fn last(text: &str) -> String {
    history(&compile(text)).pop().expect("an entry").trim_start_matches(['+', ' ']).to_owned()
}

/// What the sources of the last copy are.
fn sources(text: &str) -> Vec<String> {
    let compiled = compile(text);
    let mut copies = compiled.graph.ids().filter_map(|id| match &compiled.graph.vertex(id).op {
        Op::File(file) => file.actions.iter().find_map(|action| if let FileAction::Copy(copy) = action { Some(copy.sources.clone()) } else { None }),
        _ => None,
    });
    copies.next_back().expect("a copy")
}

fn with_args(text: &str, args: &[(&str, &str)]) -> Box<Compiled> {
    let build_args = args.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    compile_with(FrontendOptions { build_args, ..options(text) }).expect(text)
}

/// Every text fails, with these words.
fn refused(table: &[(&str, &str)]) {
    for (text, words) in table {
        let found = errors(text);
        assert!(found.first().is_some_and(|error| error.contains(words)), "{text}: {found:?}");
    }
}

#[test]
fn a0_9_the_set_of_instructions() {
    let all = "ADD a /|ARG a|CMD x|COPY a /|ENTRYPOINT x|ENV a=b|EXPOSE 1|HEALTHCHECK NONE|LABEL a=b|MAINTAINER me|ONBUILD RUN x|RUN x|SHELL [\"x\"]|\
               STOPSIGNAL 9|USER x|VOLUME /x|WORKDIR /x";
    for instruction in all.split('|') {
        assert_eq!(errors(&format!("FROM busybox\n{instruction}\n")), Vec::<String>::new(), "{instruction}");
    }
    refused(&[("FROM busybox\nINSTALL x\n", "INSTALL")]);
}

#[test]
fn a1_1_forms_of_directives() {
    for (line, escape) in [
        ("# escape=`", '`'),
        ("#escape=`", '`'),
        ("  #   EsCaPe   =   `   ", '`'),
        ("# escape", '\\'),
        ("# escape : `", '\\'),
        ("# escaped=`", '\\'),
        ("// escape=`", '\\'),
    ] {
        let parsed = crate::parser::parse(&SourceFile::new("Dockerfile", format!("{line}\nFROM busybox\n")));
        assert_eq!(parsed.dockerfile.directives.escape, escape, "{line:?}");
    }
}

#[test]
fn a1_6_a_build_argument_names_the_front_end() {
    let text = "# syntax=example.com/other\nFROM scratch\n";
    let with = |image: &str| FrontendOptions { build_args: vec![("BUILDKIT_SYNTAX".into(), image.into())], ..options(text) };
    assert_eq!(errors_with(with("docker/dockerfile:1")), Vec::<String>::new(), "it beats the file");
    assert_eq!(errors_with(with("dockerfile.v0")), Vec::<String>::new(), "the one that is built in");
    assert_eq!(
        errors_with(FrontendOptions { build_args: vec![("BUILDKIT_SYNTAX".into(), "example.com/x".into())], ..options("FROM scratch\n") }).len(),
        1
    );
}

#[test]
fn a1_7_front_ends_that_are_built_in() {
    for image in [
        "docker/dockerfile:1",
        "docker/dockerfile:1.7-labs",
        "docker.io/docker/dockerfile:1",
        "docker/dockerfile-upstream:master",
        "docker/dockerfile@sha256:00",
    ] {
        assert_eq!(errors(&format!("# syntax={image}\nFROM scratch\n")), Vec::<String>::new(), "{image}");
    }
    refused(&[("# syntax=example.com/docker/dockerfile:1\nFROM scratch\n", "front end")]);
}

#[test]
fn a2_1_comments() {
    assert_eq!(last("FROM busybox\n  # one\nRUN a \\\n  # two\n b # data\n"), "RUN /bin/sh -c a  b # data # buildkit");
    assert_eq!(last("FROM busybox\n# RUN x \\\nRUN y\n"), "RUN /bin/sh -c y # buildkit", "a comment has no continuation");
}

#[test]
fn a3_7_the_name_of_a_step_with_a_heredoc() {
    let of = |body: &str| names(&compile(&format!("FROM busybox\nRUN <<EOF\n{body}EOF\n"))).pop().expect("a step");
    assert_eq!(of("echo one\n"), "[2/2] RUN <<EOF (echo one)");
    assert_eq!(of("echo one\necho two\n"), "[2/2] RUN <<EOF (echo one...)");
}

#[test]
fn a4_3_shell_and_exec_form() {
    let argv = |text: &str| processes(&compile(text)).pop().expect("a process").argv;
    assert_eq!(argv("FROM busybox\nRUN echo $A  b\n"), ["/bin/sh", "-c", "echo $A  b"]);
    assert_eq!(argv("FROM busybox\nENV A=1\nRUN [\"echo\", \"$A\"]\n"), ["echo", "$A"], "nobody expands");
    assert_eq!(argv("FROM busybox\nSHELL [\"bash\", \"-lc\"]\nRUN x\n"), ["bash", "-lc", "x"]);
}

#[test]
fn a4_4_paths_with_blanks_need_json() {
    assert_eq!(sources("FROM busybox\nCOPY a b /x/\n"), ["a", "b"]);
    assert_eq!(sources("FROM busybox\nCOPY [\"a b\", \"/x/\"]\n"), ["a b"]);
}

#[test]
fn a5_8_an_instruction_sees_what_was_before_it() {
    assert_eq!(env(&compile("FROM busybox\nENV a=old\nENV a=new b=$a\nRUN x\n")), ["a=new", "b=old"]);
    assert_eq!(last("FROM busybox\nENV a=old\nLABEL a=new b=$a\n"), "LABEL a=new b=old");
}

#[test]
fn a5_9_variables_come_from_image_env_and_arg_in_order() {
    assert_eq!(last("FROM busybox\nARG X=1\nENV Y=$X-${PATH:+path}\nARG X=2\nLABEL l=$X$Y\n"), "LABEL l=21-path");
}

#[test]
fn a6_2_what_a_base_is() {
    let base = |text: &str| dump(&compile(text)).lines().next().unwrap_or_default().to_owned();
    // Names of stages are compared without their case.
    assert!(base("FROM busybox AS x\nFROM X\nRUN y\n").starts_with("0 image docker.io/library/busybox:latest"));
    assert!(base("ARG B=busy\nFROM ${B}box:latest\n").starts_with("0 image docker.io/library/busybox:latest "));
    assert!(base("FROM scratch\nCOPY a /\n").starts_with("0 local context"));
    refused(&[("ARG B\nFROM $B\n", "should not be blank"), ("FROM a b c\n", "FROM")]);
}

#[test]
fn a6_3_of_equal_names() {
    let text = "FROM busybox AS a\nRUN one\nFROM a AS a\nRUN two\nFROM a\nRUN three\nFROM busybox\nCOPY --from=a /x /\n";
    let compiled = compile(text);
    assert_eq!(
        names(&compiled)[..3],
        [
            "[a 1/2] FROM docker.io/library/busybox:latest@".to_owned() + &Sha256Digest::of(b"m").to_string(),
            "[a 2/2] RUN one".into(),
            "[a 1/1] RUN two".into()
        ]
    );
    assert_eq!(warnings(&compiled), ["3 DuplicateStageName"]);
    refused(&[("FROM busybox AS a\nFROM busybox\nCOPY --from=a /x /\nFROM busybox AS a\nCOPY --from=1 /x /\n", "needs to be defined before")]);
}

#[test]
fn a6_4_stages_by_index() {
    assert!(names(&compile("FROM busybox AS a\nRUN x\nFROM scratch\nCOPY --from=0 /x /\n")).contains(&"[a 2/2] RUN x".to_owned()));
    refused(&[
        ("FROM busybox\nFROM scratch\nCOPY --from=7 /x /\n", "invalid stage index 7"),
        ("FROM busybox\nFROM scratch\nCOPY --from=-1 /x /\n", "invalid stage index -1"),
        ("FROM busybox\nFROM busybox\nRUN --mount=from=0,target=/m x\n", "not its index"),
    ]);
}

#[test]
fn a6_5_stages_go_forwards_only() {
    refused(&[
        ("FROM busybox AS a\nCOPY --from=b /x /\nFROM busybox AS b\nCOPY --from=a /x /\n", "needs to be defined before current stage"),
        ("FROM busybox AS a\nCOPY --from=a /x /\n", "circular dependency"),
        ("FROM busybox AS a\nRUN --mount=from=b,target=/m x\nFROM a AS b\n", "needs to be defined before current stage"),
    ]);
}

#[test]
fn a6_7_names_of_stages_without_one() {
    assert_eq!(names(&compile("FROM busybox\nRUN a\n")).pop().as_deref(), Some("[2/2] RUN a"));
    assert_eq!(names(&compile("FROM busybox AS b\nFROM busybox\nFROM b\nRUN a\n")).pop().as_deref(), Some("[stage-2 1/1] RUN a"));
}

#[test]
fn a6_8_stages_that_share_nothing_do_not_wait() {
    let compiled = compile("FROM scratch AS a\nCOPY a /\nFROM scratch AS b\nCOPY b /\nFROM scratch\nCOPY --from=a / /\nCOPY --from=b / /\n");
    let step = |name: &str| compiled.graph.ids().find(|id| compiled.graph.vertex(*id).meta.name == name).expect(name);
    let (a, b) = (step("[a 1/1] COPY a /"), step("[b 1/1] COPY b /"));
    assert!(!compiled.graph.reachable(&[a]).contains(&b) && !compiled.graph.reachable(&[b]).contains(&a));
}

#[test]
fn a6_9_what_a_stage_hands_on() {
    let text = "FROM busybox AS a\nENV E=1\nARG A=2\nSHELL [\"sh\", \"-e\"]\nWORKDIR /w\nUSER u\nLABEL l=1\nFROM a\nRUN x\n";
    let compiled = with_args(text, &[("A", "given")]);
    assert_eq!(env(&compiled), ["E=1", "A=given"]);
    let run = processes(&compiled).pop().expect("a process");
    assert_eq!((run.argv, run.cwd.as_str(), run.user.as_str()), (vec!["sh".to_owned(), "-e".into(), "x".into()], "/w", "u"));
    assert_eq!(config(&compiled)["Labels"], json!({"l": "1"}));
    assert_eq!(history(&compiled).iter().filter(|entry| entry.contains("WORKDIR")).count(), 1, "its history too");
}

#[test]
fn a6_11_scratch_has_a_directory_and_a_path() {
    let scratch = config(&compile("FROM scratch\nCOPY a /\n"));
    assert_eq!((&scratch["WorkingDir"], &scratch["Env"]), (&json!("/"), &json!([PATH])));
}

#[test]
fn a6_12_the_platform_of_the_result_is_the_one_asked_for() {
    let mut given = options("FROM --platform=linux/amd64 busybox AS tools-amd64\nFROM busybox\nRUN x\n");
    given.platforms = vec![platform("linux/arm64")];
    let compiled = compile_with(given).expect("compiles");
    assert_eq!((compiled.targets[0].config.architecture.as_str(), compiled.targets[0].config.os.as_str()), ("arm64", "linux"));
    assert_eq!(warnings(&compile("FROM busybox AS scratch\nFROM busybox AS context\n")), ["1 ReservedStageName", "2 ReservedStageName"]);
}

#[test]
fn a6_13_equal_bases_are_one() {
    let compiled = compile("FROM busybox AS a\nRUN x\nFROM docker.io/library/busybox:latest\nRUN x\nCOPY --from=a /f /\n");
    assert_eq!(names(&compiled).iter().filter(|name| name.contains(" FROM ")).count(), 1);
    assert_eq!(processes(&compiled).len(), 1, "equal steps on equal bases are one");
}

#[test]
fn a7_1_global_arguments() {
    let text = "ARG A=busybox B=${A}\nARG C=\"x y\"\nFROM ${B} AS s\nARG C\nRUN x\n";
    assert_eq!(env(&compile(text)), ["C=x y"], "what is not declared again is not seen");
}

#[test]
fn a7_2_where_the_value_of_an_argument_comes_from() {
    let text = "ARG A=global\nARG B=global\nARG C\nFROM busybox\nENV E=env\nARG A\nARG B=own-$E\nARG C\nARG D\nRUN x\n";
    assert_eq!(env(&compile(text)), ["E=env", "A=global", "B=own-env"], "C and D are unset");
    assert_eq!(env(&with_args(text, &[("A", "1"), ("B", "2"), ("C", "3"), ("D", "4")])), ["E=env", "A=1", "B=2", "C=3", "D=4"]);
}

#[test]
fn a7_3_arguments_are_no_environment_of_the_image() {
    let compiled = with_args("FROM busybox\nRUN before\nARG A\nRUN after\n", &[("A", "1"), ("NOBODY", "2")]);
    let seen: Vec<bool> = processes(&compiled).iter().map(|run| run.env.iter().any(|variable| variable.0 == "A")).collect();
    assert_eq!(seen, [false, true]);
    assert_eq!(config(&compiled)["Env"], json!([PATH]));
}

#[test]
fn a7_4_env_and_arg_of_one_name() {
    assert_eq!(env(&with_args("FROM busybox\nARG A\nENV A=env\nRUN x\n", &[("A", "arg")])), ["A=env"]);
    let later = with_args("FROM busybox\nENV A=env\nARG A=arg\nRUN x\n", &[]);
    assert_eq!((env(&later), &config(&later)["Env"]), (vec!["A=arg".to_owned()], &json!([PATH, "A=env"])));
}

#[test]
fn a7_5_forms_of_env() {
    let compiled = compile("FROM busybox\nENV b=1 a=\"x y\" c=\nENV d two  words\nENV b=2\n");
    assert_eq!(config(&compiled)["Env"], json!([PATH, "b=2", "a=x y", "c=", "d=two  words"]));
    assert_eq!(warnings(&compiled), ["3 LegacyKeyValueFormat"]);
}

#[test]
fn a7_6_proxies_need_no_declaration() {
    let compiled = with_args("FROM busybox\nRUN x\n", &[("http_proxy", "p"), ("NO_PROXY", "n")]);
    let run = processes(&compiled).pop().expect("a process");
    let proxies: Vec<String> = run.proxy_env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(proxies, ["HTTP_PROXY=p", "http_proxy=p", "NO_PROXY=n", "no_proxy=n"]);
    assert_eq!(history(&compiled).pop().as_deref(), Some("+ RUN /bin/sh -c x # buildkit"));
    let declared = with_args("FROM busybox\nARG http_proxy\nRUN x\n", &[("http_proxy", "p")]);
    assert_eq!(history(&declared).pop().as_deref(), Some("+ RUN |1 http_proxy=p /bin/sh -c x # buildkit"));
}

#[test]
fn a7_7_automatic_arguments() {
    let text = "FROM --platform=$BUILDPLATFORM busybox AS b\nARG TARGETPLATFORM TARGETOS TARGETARCH TARGETVARIANT BUILDARCH TARGETSTAGE\nRUN x\n";
    let mut given = options(text);
    given.platforms = vec![platform("linux/arm/v7")];
    let compiled = compile_with(given).expect("compiles");
    assert_eq!(
        env(&compiled),
        ["TARGETPLATFORM=linux/arm/v7", "TARGETOS=linux", "TARGETARCH=arm", "TARGETVARIANT=v7", "BUILDARCH=amd64", "TARGETSTAGE=default"]
    );
    assert_eq!(env(&with_args("FROM busybox\nARG TARGETARCH\nRUN x\n", &[("TARGETARCH", "mine")])), ["TARGETARCH=mine"]);
    assert_eq!(env(&compile("FROM busybox\nRUN x\n")), Vec::<String>::new(), "only where they are declared");
}

#[test]
fn a7_8_arguments_for_the_builder() {
    let text = "FROM busybox\nARG BUILDKIT_SBOM_SCAN_STAGE=true\nRUN --mount=type=cache,target=/c x\n";
    let compiled = with_args(text, &[("BUILDKIT_SANDBOX_HOSTNAME", "h"), ("BUILDKIT_CACHE_MOUNT_NS", "ns")]);
    let run = processes(&compiled).pop().expect("a process");
    assert_eq!((run.hostname.as_str(), env(&compiled)), ("h", Vec::new()));
    assert!(format!("{:?}", run.mounts[0].kind).contains("ns/"), "{:?}", run.mounts);
    let one = with_args("FROM busybox\nRUN x\n", &[("BUILDKIT_MULTI_PLATFORM", "1")]);
    assert_eq!((one.index, names(&one).pop().as_deref()), (true, Some("[linux/amd64 2/2] RUN x")));
    let with = |name: &str, value: &str, context: &str, platforms: &[&str]| FrontendOptions {
        build_args: vec![(name.into(), value.into())],
        context: NamedContext::Git { url: context.into() },
        platforms: platforms.iter().map(|name| platform(name)).collect(),
        ..options("FROM scratch\nCOPY f /\n")
    };
    for (value, address, keeps) in
        [("1", "https://h/r.git", true), ("false", "https://h/r.git", false), ("1", "https://h/r.git?keep-git-dir=0", false)]
    {
        let compiled = compile_with(with("BUILDKIT_CONTEXT_KEEP_GIT_DIR", value, address, &[])).expect("compiles");
        assert!(dump(&compiled).contains(&format!("keep={keeps}")), "{value} {address}: {}", dump(&compiled));
    }
    let contradiction = errors_with(with("BUILDKIT_MULTI_PLATFORM", "false", "https://h/r.git", &["linux/amd64", "linux/arm64"]));
    assert_eq!(contradiction, ["0: BUILDKIT_MULTI_PLATFORM=false contradicts --platform, which names 2"]);
    let wrong = errors_with(with("BUILDKIT_CONTEXT_KEEP_GIT_DIR", "maybe", "https://h/r.git", &[]));
    assert_eq!(wrong, ["0: the build argument BUILDKIT_CONTEXT_KEEP_GIT_DIR is true or false, not \"maybe\""]);
}

#[test]
fn a7_9_arguments_stay_in_the_history() {
    let compiled = with_args("FROM busybox\nARG TOKEN\nRUN x\n", &[("TOKEN", "seen")]);
    assert_eq!(history(&compiled).pop().as_deref(), Some("+ RUN |1 TOKEN=seen /bin/sh -c x # buildkit"));
    assert_eq!(warnings(&compiled), ["2 SecretsUsedInArgOrEnv"]);
}

#[test]
fn a8_10_insecure_needs_a_right() {
    let text = "FROM busybox\nRUN --security=insecure x\n";
    refused(&[(text, "entitlement security.insecure"), ("FROM busybox\nRUN --security=lax x\n", "\"lax\"")]);
    let allowed = FrontendOptions { allow: vec![Entitlement::SecurityInsecure], ..options(text) };
    assert_eq!(errors_with(allowed), Vec::<String>::new());
}

#[test]
fn a8_11_devices_are_refused_in_words() {
    refused(&[("FROM busybox\nRUN --device=vendor/class=a x\n", "RUN --device is not supported")]);
}

#[test]
fn a8_12_wrong_options_of_mounts() {
    let of = |options: &str| errors(&format!("FROM busybox\nRUN --mount={options} x\n")).len();
    for options in [
        "type=bnd,target=/m",
        "type=cache,target=/m,sharing=some",
        "type=cache,target=/m,mode=9",
        "type=bind,target=/m,ro=maybe",
        "type=bind,target=/m,uid=1",
        "type=tmpfs,target=/m,gid=1",
        "type=cache,target=/m,required",
        "type=bind,target=/m,size=1m",
        "type=bind,target=/m,sharing=shared",
    ] {
        assert_eq!(of(options), 1, "{options}");
    }
    assert_eq!(of("type=bind,target=/m,ro=true"), 0);
}

#[test]
fn a9_6_several_sources_need_no_slash() {
    assert_eq!(sources("FROM busybox\nCOPY a b /x\n"), ["a", "b"]);
    assert_eq!(warnings(&compile("FROM busybox\nCOPY a b /x\nWORKDIR /x/y\nCOPY a b /x\nCOPY a b /z/\n")), ["2 SeveralSourcesOneFile"]);
}

#[test]
fn a9_9_and_a9_8_what_is_empty_is_not_given() {
    let text = "FROM busybox\nARG N\nCOPY --chmod=$N --chown=${N} a /\nADD --checksum=$N --chmod=$N b /\n";
    let compiled = compile(text);
    assert_eq!(history(&compiled)[2..], ["+ COPY a / # buildkit", "+ ADD b / # buildkit"]);
    assert!(!dump(&compiled).contains("Octal"), "{}", dump(&compiled));
}

#[test]
fn a9_13_copy_takes_no_addresses() {
    refused(&[
        ("FROM busybox\nCOPY https://h/f /\n", "source can't be a URL for COPY"),
        ("FROM busybox\nCOPY git@h:r.git /\n", "source can't be a git ref for COPY"),
    ]);
}

#[test]
fn a9_16_flag_and_query_agree() {
    let add = |flag: &str, query: &str| errors(&format!("FROM scratch\nADD {flag} https://h/r.git{query} /\n"));
    assert_eq!(add("--keep-git-dir", "?keep-git-dir=true"), Vec::<String>::new());
    assert_eq!(
        add("--keep-git-dir=false", "?keep-git-dir=1"),
        ["2: keep-git-dir=true of the address and --keep-git-dir=false contradict each other"]
    );
    let commits = add("--checksum=1234567", "?commit=abcdef0");
    assert_eq!(commits, ["2: the checksum of the address and that of --checksum contradict each other"]);
}

#[test]
fn a9_17_checksums_are_for_one_download() {
    let sum = format!("sha256:{}", "0".repeat(64));
    for text in [format!("COPY --checksum={sum} a /"), format!("ADD --checksum={sum} a /"), format!("ADD --checksum={sum} https://h/a https://h/b /")]
    {
        assert_eq!(errors(&format!("FROM busybox\n{text}\n")).len(), 1, "{text}");
    }
    assert_eq!(errors(&format!("FROM busybox\nADD --checksum={sum} https://h/a /\n")), Vec::<String>::new());
}

#[test]
fn a9_18_one_layer_whatever_is_copied() {
    let compiled = compile("FROM busybox\nADD a b <<one <<two https://h/f /x/\n1\none\n2\ntwo\n");
    let files = compiled.graph.ids().filter(|id| matches!(compiled.graph.vertex(*id).op, Op::File(_))).count();
    assert_eq!((files, history(&compiled).len()), (1, 2));
}

#[test]
fn a10_2_users_are_kept_as_written() {
    for user in ["app", "1000", "app:staff", "0:0", "nobody-there"] {
        let compiled = compile(&format!("FROM busybox\nUSER {user}\n"));
        assert_eq!(config(&compiled)["User"], json!(user));
    }
}

#[test]
fn a10_4_ports() {
    let ports = config(&compile("FROM busybox\nEXPOSE 9000 80/TCP 7000-7002/udp\n"));
    let ports: Vec<String> = ports["ExposedPorts"].as_object().expect("ports").keys().cloned().collect();
    assert_eq!(
        ports.iter().map(String::as_str).collect::<std::collections::BTreeSet<_>>(),
        ["7000/udp", "7001/udp", "7002/udp", "80/tcp", "9000/tcp"].into()
    );
    refused(&[("FROM busybox\nEXPOSE 70000\n", "70000"), ("FROM busybox\nEXPOSE web\n", "web")]);
}

#[test]
fn a10_6_commands_and_entry_points() {
    let last_wins = compile("FROM busybox\nCMD a\nCMD [\"b\"]\nENTRYPOINT [\"c\"]\n");
    assert_eq!((&config(&last_wins)["Cmd"], &config(&last_wins)["Entrypoint"]), (&json!(["b"]), &json!(["c"])));
    assert!(warnings(&last_wins).contains(&"2 MultipleInstructionsDisallowed".to_owned()));
    let inherited = config(&compile("FROM busybox\nENTRYPOINT [\"c\"]\n"));
    assert_eq!(inherited.get("Cmd").unwrap_or(&Value::Null), &Value::Null, "the base's is cleared");
    assert_eq!(config(&compile("FROM busybox\nCMD [\"b\"]\n"))["ArgsEscaped"], json!(true));
}

#[test]
fn a10_7_the_shell() {
    let compiled = compile("FROM busybox\nSHELL [\"bash\", \"-c\"]\nCMD x\nENTRYPOINT y\nHEALTHCHECK CMD z\nRUN r\n");
    let found = config(&compiled);
    assert_eq!(
        (&found["Shell"], &found["Cmd"], &found["Entrypoint"]),
        (&json!(["bash", "-c"]), &json!(["bash", "-c", "x"]), &json!(["bash", "-c", "y"]))
    );
    refused(&[("FROM busybox\nSHELL bash -c\n", "SHELL"), ("FROM busybox\nSHELL []\n", "SHELL")]);
}

#[test]
fn a10_11_the_maintainer() {
    let compiled = compile("FROM busybox\nMAINTAINER Some One <a@b>\n");
    assert_eq!(compiled.targets[0].config.author.as_deref(), Some("Some One <a@b>"));
    assert_eq!(warnings(&compiled), ["2 MaintainerDeprecated"]);
}

#[test]
fn a12_4_an_image_context_brings_its_config() {
    let mut given = options("FROM base\nRUN x\n");
    given.named_contexts.insert("base".into(), NamedContext::Image { reference: "triggers".parse().expect("a reference") });
    // Its triggers run: one copies from a stage that is not here.
    assert!(errors_with(given)[0].contains("assets"));
    let mut given = options("FROM base\nCOPY f /\n");
    given.named_contexts.insert("base".into(), NamedContext::Local { name: "base".into() });
    let compiled = compile_with(given).expect("compiles");
    assert_eq!(config(&compiled)["Env"], json!([PATH]), "a directory brings none");
    let mut given = options("FROM base\nCOPY f /\n");
    given.named_contexts.insert("base".into(), NamedContext::Image { reference: "scratch".parse().expect("a reference") });
    assert!(dump(&compile_with(given).expect("compiles")).starts_with("0 local context"), "no image has this name");
}

#[test]
fn a13_1_what_a_config_inherits() {
    let compiled = compile("FROM full\nRUN x\n");
    let found = config(&compiled);
    for key in ["Cmd", "Entrypoint", "Labels", "ExposedPorts", "Volumes", "User", "WorkingDir", "StopSignal", "Healthcheck", "Shell"] {
        assert!(!found[key].is_null(), "{key}: {found:#}");
    }
    assert!(found.get("OnBuild").is_none_or(Value::is_null), "used up");
    assert_eq!(compiled.targets[0].config.author.as_deref(), Some("someone"));
    assert_eq!(compiled.targets[0].config.created, None);
}

#[test]
fn a13_5_the_history_that_people_see() {
    let text = "FROM busybox\nLABEL a=1\nENV E=2\nWORKDIR /w\nCOPY f .\nRUN x\nEXPOSE 80\nUSER u\nVOLUME /v\nENTRYPOINT [\"e\"]\nCMD [\"c\"]\n";
    let history = history(&compile(text));
    assert_eq!(
        history,
        [
            "base",
            "  LABEL a=1",
            "  ENV E=2",
            "+ WORKDIR /w",
            "+ COPY f . # buildkit",
            "+ RUN /bin/sh -c x # buildkit",
            "  EXPOSE [80/tcp]",
            "  USER u",
            "  VOLUME [/v]",
            "  ENTRYPOINT [\"e\"]",
            "  CMD [\"c\"]",
        ]
    );
}
