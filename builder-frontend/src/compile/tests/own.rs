//! What only this frontend says and understands.

use super::*;

/// `line code` of every note of a check.
fn notes(options: FrontendOptions) -> String {
    let line = |note: &Diagnostic| note.location.as_ref().map_or(0, |location| location.first_line);
    let report = report(options);
    report.notes.iter().map(|note| format!("{} {}", line(note), note.code)).collect::<Vec<_>>().join("|")
}

#[test]
fn a15_notes_are_about_what_is_certain() {
    for (text, expected) in [
        ("FROM busybox AS unused\nFROM busybox\n", "1 UnusedStage"),
        ("FROM busybox AS a\nFROM busybox AS b\nCOPY --from=a /x /\nFROM b\nCOPY --from=0 /x /\n", ""),
        ("FROM busybox AS a\nFROM busybox\nRUN --mount=from=a,target=/a x\n", ""),
        ("FROM busybox\nFROM busybox\n", "1 UnusedStage"),
        ("FROM busybox\nRUN apt-get update && apt-get install -y x\n", "2 PackageCacheInLayer"),
        ("FROM busybox\nRUN --mount=type=cache,target=/var/lib/apt apt-get update\n", ""),
        ("FROM busybox AS b\nRUN apt-get update\nFROM busybox\nCOPY --from=b /x /\n", ""),
        ("FROM busybox AS b\nRUN apt-get update\nFROM b\n", "2 PackageCacheInLayer"),
        ("FROM busybox\nENV PIP_NO_CACHE_DIR=1\nRUN pip install x\n", ""),
        ("FROM busybox\nRUN ['echo', 'x']\nCMD [ 'a' ]\nENTRYPOINT [\"a\",]\n", "2 ExecFormNotJson|3 ExecFormNotJson|4 ExecFormNotJson"),
        ("FROM busybox\nRUN [ -d /x ]\nRUN [\"a\"]\nCMD []\n", ""),
        ("FROM busybox\nARG A\nARG GIVEN\nENV B=AKIAIOSFODNN7EXAMPLE\n", "3 SecretValueInArgOrEnv|4 SecretValueInArgOrEnv"),
        ("FROM busybox\nCOPY notes.md other.md docs dist/keep *.md /\n", "2 CopyIgnoredPath"),
        // Whether something below is let in again only a look can tell.
        ("FROM busybox\nCOPY docs /\n", ""),
        ("FROM busybox\nCOPY dist /\n", "2 CopyIgnoredPath"),
        ("FROM busybox\nCOPY --parents dist /\n", ""),
        ("FROM busybox\nCOPY none*.txt /\n", "2 WildcardMatchesNothing"),
        ("FROM busybox\nADD none*.txt https://h/none*.txt /x/\n", "2 WildcardMatchesNothing"),
        ("FROM busybox\nCOPY hidden*.txt /\n", "2 WildcardMatchesNothing"),
        ("FROM busybox\nCOPY some*.txt none.txt /x/\n", ""),
        ("FROM busybox AS b\nFROM busybox\nCOPY --from=b none*.txt /\n", ""),
        ("FROM busybox\nCOPY a <<b /x\nb\nCOPY a <<b /x/\nb\nCOPY a b .\nCOPY a /x\n", "2 SeveralSourcesOneFile"),
        (
            "FROM busybox\nCOPY --chmod=644 . /x\nCOPY --chmod=0600 src/ /x/\nCOPY --chmod=755 . /x\nCOPY --chmod=644 f /x\nCOPY --chmod=go=r . /x\n",
            "2 DirectoryModeWithoutExecute|3 DirectoryModeWithoutExecute",
        ),
        ("# check=skip=WildcardMatchesNothing\nFROM busybox\nCOPY none*.txt /\n", ""),
        ("# check=skip=UnusedStage\nFROM busybox\nFROM busybox\n", ""),
    ] {
        let mut given = options(text);
        given.build_args = vec![("GIVEN".to_owned(), "ghp_0123456789abcdefghijklmnopqrstuvwxyz".to_owned())];
        given.context_ignore = Some(IgnoreFile::parse(b"*.md\ndocs\ndist\n!other.md\n!docs/x\n!dist/keep\n").expect("patterns"));
        assert_eq!(notes(given), expected, "{text}");
    }
}

#[test]
fn a15_notes_never_fail_a_build() {
    let compiled = compile("# check=error=true\nFROM busybox\nRUN apt-get update\n");
    assert_eq!(
        compiled.warnings.iter().map(|note| (note.severity, note.code.as_str())).collect::<Vec<_>>(),
        [(Severity::Note, "PackageCacheInLayer")]
    );
}

#[test]
fn a5_7_braces_in_from_are_our_own() {
    let text = "ARG FROM_STAGE=one\nFROM scratch AS one\nCOPY a /\nFROM scratch AS two\nCOPY b /\nFROM busybox\nARG LOCAL=${FROM_STAGE}\n\
         COPY --from=${FROM_STAGE} /a /\nRUN --mount=from=${LOCAL},target=/m x\n";
    let of = |stage: &str, strict: bool| FrontendOptions { build_args: vec![("FROM_STAGE".into(), stage.into())], strict, ..options(text) };
    let sources = |compiled: &Compiled| {
        let wanted: Vec<_> = compiled.targets.iter().filter_map(|target| target.vertex).collect();
        let names = compiled.graph.reachable(&wanted).into_iter().map(|id| compiled.graph.vertex(id).meta.name.clone());
        names.filter(|name| name.contains("COPY a") || name.contains("COPY b")).collect::<Vec<_>>()
    };
    let one = compile_with(of("one", false)).expect("one");
    assert_eq!(sources(&one), ["[one 1/1] COPY a /"], "the other stage is left out");
    assert_eq!(sources(&compile_with(of("two", false)).expect("two")), ["[two 1/1] COPY b /"]);
    assert_eq!(errors_with(of("one", true)).len(), 2, "strict");
    for (text, message) in [
        ("FROM scratch\nCOPY --from=${NOWHERE} /a /\n", "2: NOWHERE has no value that is known before the build"),
        ("FROM scratch\nENV X=busybox\nCOPY --from=${X} /a /\n", "3: X has no value that is known before the build"),
        ("FROM scratch\nCOPY --from=${X /a /\n", "2: cannot expand `${X`: syntax error: missing '}'"),
        ("FROM scratch\nARG S=a\nCOPY --from=$S /a /\n", "3: variable expansion is not supported for --from"),
        ("ARG S=later\nFROM scratch\nCOPY --from=${S} /a /\nFROM scratch AS later\n", ""),
    ] {
        assert_eq!(errors(text).join("|"), message, "{text}");
    }
}

#[test]
fn what_is_our_own_is_refused_when_asked_to() {
    for (text, target, line) in [
        ("FROM busybox AS a\nFROM A\n", None, 2),
        ("FROM busybox AS a\nFROM busybox\n", Some("0"), 0),
        ("ARG X=a\nFROM busybox AS a\nFROM busybox\nCOPY --from=${X} /a /\n", None, 4),
        ("ARG X=a\nFROM busybox AS a\nFROM busybox\nRUN --mount=from=${X},target=/a b\n", None, 4),
        ("FROM busybox\nRUN --timeout=1m x\n", None, 2),
        ("FROM busybox\nRUN --retry=1 x\n", None, 2),
    ] {
        let with = |strict| FrontendOptions { strict, target: target.map(str::to_owned), ..options(text) };
        assert_eq!(errors_with(with(false)), Vec::<String>::new(), "{text}");
        let refused = compile_with(with(true)).expect_err(text);
        assert_eq!((refused.len(), refused[0].location.as_ref().map_or(0, |at| at.first_line)), (1, line), "{text}");
        let said = format!("{} {}", refused[0].message, refused[0].label.as_deref().unwrap_or_default());
        assert!(said.contains("rbuild only") && refused[0].help.as_deref().is_some_and(|help| help.contains("--strict-docker")), "{refused:?}");
    }
}

#[test]
fn a0_7_one_run_shows_all_problems() {
    let text = "FROM busybox\nRNU x\nCOPY --chmod=999 a /\nEXPOSE\nSTOPSIGNAL SIGTREM\n";
    let found: Vec<String> = errors(text).iter().map(|error| error.split(':').next().unwrap_or_default().to_owned()).collect();
    assert_eq!(found, ["2", "3", "4", "5"]);
    // What follows from a misspelt FROM or ARG is not said.
    assert_eq!(errors("FORM busybox AS a\nFROM busybox\nCOPY --from=a /x /\n").len(), 1);
    assert_eq!(errors("FROM busybox\nAGR A=1\nENV B=${A:?}\n").len(), 1);
}

#[test]
fn a16_shapes_that_must_simply_work() {
    let names = |text: &str| {
        let compiled = compile(text);
        assert_eq!(compiled.warnings.iter().filter(|found| found.severity == Severity::Warning).count(), 0, "{text}: {:?}", compiled.warnings);
        let wanted: Vec<_> = compiled.targets.iter().filter_map(|target| target.vertex).collect();
        let names = compiled.graph.reachable(&wanted).into_iter().map(|id| compiled.graph.vertex(id).meta.name.clone());
        names.filter(|name| name.contains("] RUN ") || name.contains("] COPY ")).count()
    };
    for (text, steps) in [
        // Builder and runtime, certificates and zones from the builder.
        (
            "FROM --platform=$BUILDPLATFORM busybox AS build\nARG TARGETOS TARGETARCH\nWORKDIR /src\nCOPY go.mod go.sum ./\n\
             RUN --mount=type=cache,target=/go/pkg/mod go mod download\nCOPY . .\nRUN GOOS=$TARGETOS GOARCH=$TARGETARCH go build -o /app\n\
             FROM scratch\nCOPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/\nCOPY --from=build /app /app\nENTRYPOINT [\"/app\"]\n",
            6,
        ),
        // A graph of dependencies with a shared base; tests are left out.
        (
            "FROM busybox AS base\nWORKDIR /app\nCOPY package*.json ./\nFROM base AS deps\nRUN npm ci && npm cache clean --force\nFROM deps AS test\nCOPY . .\nRUN npm test\n\
             FROM base AS prod-deps\nRUN npm ci --omit=dev && npm cache clean --force\nFROM base AS production\nCOPY --from=prod-deps /app/node_modules ./node_modules\n\
             COPY --from=deps /app/package.json ./\nUSER node\nHEALTHCHECK --interval=30s --timeout=3s --start-period=5s --retries=3 CMD [\"true\"]\n\
             ENTRYPOINT [\"tini\", \"--\"]\nCMD [\"node\", \"server.js\"]\n",
            5,
        ),
        // Wildcards, a user of its own, secrets by default path.
        (
            "FROM busybox AS build\nRUN --mount=type=secret,id=token cat /run/secrets/token\nFROM busybox\nRUN addgroup app && adduser -D -G app app\n\
             COPY --from=build --chown=app:app target/*.jar /app/\nUSER app\nCMD [\"java\", \"-jar\", \"/app/app.jar\"]\n",
            3,
        ),
        ("ARG VERSION=latest\nFROM busybox:${VERSION}\nARG VERSION\nLABEL version=$VERSION\nCOPY --from=busybox /bin/sh /sh\n", 1),
    ] {
        assert_eq!(names(text), steps, "{text}");
    }
}

#[test]
fn a14_1_the_epoch_is_a_number_or_what_has_a_time() {
    let web = || NamedContext::Http { url: "https://h/t.tar".into() };
    let given = |text: &str, word: &str| {
        let mut given = options(text);
        given.build_args = vec![("SOURCE_DATE_EPOCH".into(), word.into())];
        given.named_contexts = BTreeMap::from([
            ("code".to_owned(), NamedContext::Git { url: "https://h/r.git".into() }),
            ("dir".to_owned(), NamedContext::Local { name: "dir".into() }),
            ("undated".to_owned(), NamedContext::Http { url: "https://h/undated".into() }),
            ("image".to_owned(), NamedContext::Image { reference: "busybox".parse().expect("a reference") }),
        ]);
        given
    };
    let stages = "FROM scratch AS dated\nARG V=1\nADD https://h/t-$V.tar /x\nFROM scratch AS two\nADD https://h/a /\nADD https://h/b /\nFROM busybox\nARG SOURCE_DATE_EPOCH\nRUN x\n";
    for (context, word, expected) in [
        (None, "17", Ok(Some(17))),
        (None, "", Ok(None)),
        (None, "context", Ok(None)),
        (Some(web()), "context", Ok(Some(1_600_000_000))),
        (None, "code", Ok(Some(1_500_000_000))),
        (None, "dir", Ok(None)),
        (None, "dated", Ok(Some(1_600_000_000))),
        (None, "Dated", Ok(Some(1_600_000_000))),
        (None, "undated", Err("SOURCE_DATE_EPOCH=undated has no time: its server does not say when it was made")),
        (None, "image", Err("SOURCE_DATE_EPOCH=image names an image, whose time is that of its build")),
        (None, "two", Err("SOURCE_DATE_EPOCH=two names a stage that is not made of FROM scratch, ARG and one ADD of an address")),
        (None, "yesterday", Err("invalid SOURCE_DATE_EPOCH: \"yesterday\" is no number of seconds, no stage and no context")),
    ] {
        let mut options = given(stages, word);
        options.context = context.unwrap_or(options.context);
        let outcome = compile_with(options).map_err(|problems| problems[0].message.clone());
        assert_eq!(outcome.as_ref().map(|compiled| compiled.source_date_epoch).map_err(String::as_str), expected, "{word}");
        if let (Ok(compiled), Ok(Some(seconds))) = (outcome, expected) {
            let env = compiled.graph.ids().find_map(|id| match &compiled.graph.vertex(id).op {
                Op::Exec(run) => run.env.iter().find(|variable| variable.0 == "SOURCE_DATE_EPOCH").map(|variable| variable.1.clone()),
                _ => None,
            });
            assert_eq!(env, Some(seconds.to_string()), "processes see the number");
        }
    }
    // From the file, at its line.
    let text = "ARG SOURCE_DATE_EPOCH=tomorrow\nFROM scratch\n";
    assert_eq!(errors(text), ["1: invalid SOURCE_DATE_EPOCH: \"tomorrow\" is no number of seconds, no stage and no context"]);
    assert_eq!(compile("ARG SOURCE_DATE_EPOCH=12\nFROM scratch\n").source_date_epoch, Some(12));
}

#[test]
fn a12_1_a_context_named_like_the_syntax_image_stands_in_for_it() {
    let context = |image: &str| NamedContext::Image { reference: image.parse().expect("a reference") };
    for (syntax, name, stands_in, fails) in [
        ("example.com/mine:2", "", None, true),
        ("example.com/mine:2", "example.com/mine:2", Some(context("docker/dockerfile:1")), false),
        ("example.com/mine:2", "example.com/other", Some(context("docker/dockerfile:1")), true),
        ("docker/dockerfile:1", "docker/dockerfile:1", Some(context("docker.io/docker/dockerfile:1.7-labs")), false),
        ("docker/dockerfile:1", "docker/dockerfile:1", Some(context("example.com/mine")), true),
        ("docker/dockerfile:1", "docker/dockerfile:1", Some(NamedContext::Local { name: "x".into() }), true),
    ] {
        let mut options = options(&format!("# syntax={syntax}\nFROM scratch\n"));
        options.named_contexts = stands_in.into_iter().map(|context| (name.to_owned(), context)).collect();
        assert_eq!(!errors_with(options).is_empty(), fails, "{syntax} {name}");
    }
}

#[test]
fn a12_3_contexts_for_one_platform_come_first() {
    let local = |name: &str| NamedContext::Local { name: name.into() };
    let text = "FROM busybox AS files\nRUN x\nFROM scratch\nCOPY --from=files /f /\nCOPY --from=alpine /g /\n";
    let mut options = options(text);
    options.platforms = vec![platform("linux/amd64"), platform("linux/arm64")];
    options.named_contexts = [("files", "any"), ("files::linux/arm64", "arm"), ("alpine::linux/amd64", "amd")]
        .into_iter()
        .map(|(name, context)| (name.to_owned(), local(context)))
        .collect();
    let compiled = compile_with(options).expect("compiles");
    let sources = |target: usize| {
        let wanted: Vec<_> = compiled.targets[target].vertex.into_iter().collect();
        let ops = compiled.graph.reachable(&wanted).into_iter().map(|id| compiled.graph.vertex(id).op.clone());
        let named = ops.filter_map(|op| match op {
            Op::Source(SourceOp::Local { name }) => Some(name),
            Op::Source(SourceOp::Image { reference, .. }) => Some(reference.familiar()),
            Op::Exec(_) => Some("a process".to_owned()),
            _ => None,
        });
        let mut named: Vec<String> = named.collect();
        named.sort();
        named
    };
    assert_eq!(sources(0), ["amd", "any"], "the stage is replaced whole");
    assert_eq!(sources(1), ["alpine", "arm"]);
}

#[test]
fn c1_a_dockerfile_on_the_web_is_asked_for_there() {
    let source = DockerfileSource::Web { url: "https://h/docker/app.Dockerfile?raw=1".to_owned() };
    let frontend = DockerfileFrontend::new(FrontendOptions::new(source, platform("linux/amd64")));
    let mut resolved = Resolved::default();
    let Ok(Compilation::Needs(needs)) = frontend.compile(&resolved) else { panic!("needs") };
    let [Need::RemoteFile { source: SourceOp::Http { url, .. }, path, or_download: true }] = &needs[..] else { panic!("{needs:?}") };
    assert_eq!((url.as_str(), path.as_str()), ("https://h/docker/app.Dockerfile?raw=1", "app.Dockerfile"));
    resolved.answers.insert(needs[0].clone(), Answer::File(Arc::from(&b"FROM scratch\nRNU x\n"[..])));
    let Err(problems) = frontend.compile(&resolved) else { panic!("a problem") };
    assert_eq!(problems[0].location.as_ref().map(|location| (location.source.name.as_str(), location.first_line)), Some(("app.Dockerfile", 2)));
}

#[test]
fn g1_4_arguments_of_from_alone_are_in_the_outline() {
    let text = "ARG STAGE=one\nARG MOUNT=one\nARG OTHER\nFROM scratch AS one\nFROM scratch\nCOPY --from=${STAGE} /a /\nRUN --mount=from=${MOUNT:-one},target=/m x\n";
    let Ok(CallOutcome::Ready(outline)) = DockerfileFrontend::new(options(text)).outline(&Resolved::default()) else { panic!("an outline") };
    assert_eq!(outline.args.iter().map(|arg| arg.name.as_str()).collect::<Vec<_>>(), ["STAGE", "MOUNT"]);
}
