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
        ("FROM scratch\nCOPY --from=${X /a /\n", "2: cannot expand \"${X\": syntax error: missing '}'"),
        ("FROM scratch\nARG S=a\nCOPY --from=$S /a /\n", "3: variable expansion is not supported for --from"),
        ("ARG S=later\nFROM scratch\nCOPY --from=${S} /a /\nFROM scratch AS later\n", ""),
    ] {
        assert_eq!(errors(text).join("|"), message, "{text}");
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
