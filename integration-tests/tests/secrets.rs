//! A secret is readable in its RUN and found nowhere else.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE};
use integration_tests::{Bed, Build};

const FILE_SECRET: &str = "f1le-s3cret-7b0c9d5e-correct-horse";
const ENV_SECRET: &str = "env-s3cret-19ad44f2-battery-staple";

#[test]
fn a_secret_leaves_no_byte_behind() {
    let bed = Bed::with_registry();
    let text = "FROM busybox AS work\n\
        RUN --mount=type=secret,id=file --mount=type=secret,id=variable,env=TOKEN \
        test \"$(wc -c < /run/secrets/file)\" = 34 && test \"$(printf %s \"$TOKEN\" | wc -c)\" = 34 && \
        sha256sum /run/secrets/file | cut -c1-8 > /proof && cat /run/secrets/file && echo \" $TOKEN\"\n\
        RUN test ! -e /run/secrets/file && test -z \"$TOKEN\"\n\
        FROM busybox\nCOPY --from=work /proof /proof\n";
    assert_eq!((FILE_SECRET.len(), ENV_SECRET.len()), (34, 34));
    let context = bed.context("context", &[("Dockerfile", text)]);
    let file = bed.path("outside-secret");
    std::fs::write(&file, FILE_SECRET).expect("ours");
    let secret_file = format!("id=file,src={}", file.display());
    let build = bed.build(&context).args(["--secret", &secret_file, "--secret", "id=variable,env=HOST_TOKEN"]).env("HOST_TOKEN", ENV_SECRET);
    let outcome = build.ok();
    let image = outcome.image();
    assert!(image.file("proof").is_some_and(|proof| proof.len() == 9), "the step read it");
    let second = build.clone().output(&bed.path("second.tar")).ok();
    for text in [&outcome.log, &outcome.stdout, &second.log] {
        check("what the build said", text.as_bytes());
    }
    assert!(outcome.log.contains("****"), "the step printed its secret, which is masked: {}", outcome.log);
    for layer in image.layers.iter().flatten() {
        check(&format!("layer entry {}", layer.path), &layer.data);
    }
    check("manifest", image.manifest.to_string().as_bytes());
    check("config and history", image.config.to_string().as_bytes());
    check("the exported tar", &std::fs::read(bed.path("context.tar")).expect("exported"));
    let mut files = 0;
    search(&bed.state(), &mut files);
    assert!(files > 10, "the store was searched ({files} files)");
}

fn search(dir: &Path, files: &mut usize) {
    for entry in std::fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
        let entry = entry.expect("readable");
        check("a name in the store", entry.file_name().as_encoded_bytes());
        let kind = entry.file_type().expect("readable");
        if kind.is_dir() {
            search(&entry.path(), files);
        } else if kind.is_file() {
            *files += 1;
            let bytes = std::fs::read(entry.path()).expect("readable");
            check(&entry.path().display().to_string(), &bytes);
            check_inside(&entry.path(), &bytes);
        }
    }
}

/// Looks into what is compressed, too.
fn check_inside(path: &Path, bytes: &[u8]) {
    let place = path.display().to_string();
    if bytes.starts_with(&[0x1f, 0x8b]) {
        let mut plain = Vec::new();
        if std::io::Read::read_to_end(&mut flate2::read::MultiGzDecoder::new(bytes), &mut plain).is_ok() {
            check(&place, &plain);
        }
    }
    if bytes.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let output = std::process::Command::new("zstd").arg("-dcq").arg(path).output().expect("zstd: apt-get install zstd");
        check(&place, &output.stdout);
    }
}

fn check(place: &str, bytes: &[u8]) {
    let needles: Vec<String> = [FILE_SECRET, ENV_SECRET].into_iter().flat_map(needles).collect();
    let heads: Vec<&[u8]> = needles.iter().map(|needle| &needle.as_bytes()[..4]).collect();
    for (start, window) in bytes.windows(4).enumerate() {
        for (needle, head) in needles.iter().zip(&heads) {
            let found = window == *head && bytes[start..].starts_with(needle.as_bytes());
            assert!(!found, "{needle:?} (of a secret) is in {place}");
        }
    }
}

/// The raw text, and its base64 at each of the three alignments without the edges that depend on the neighbours.
fn needles(secret: &str) -> Vec<String> {
    let mut all = vec![secret.to_owned()];
    for shift in 0..3 {
        let padded = [&vec![b'x'; shift], secret.as_bytes()].concat();
        let text = STANDARD_NO_PAD.encode(padded);
        all.push(text[4..text.len() - 4].to_owned());
    }
    all
}

/// A token as services hand them out; has what each encoding treats differently.
const TOKEN: &str = "tok/3n+\"7b0c\\9d5e & horse";

/// Two lines, longer than what encoders leave on one line.
const KEY: &str = "-----BEGIN KEY-----\nMC4CAQAwBQYDK2VwBCIEIHcIBvGrxx4Zy7sPp1k3m0o2jJHqM1t7aVwXyQKfR9dE\nq83hFzLr0nQm\n-----END KEY-----\n";

/// A bed with a build that lends `token` and `key` to nobody: what is in its files was put there by other ways.
fn lending(bed: &Bed, name: &str, files: &[(&str, &[u8])]) -> Build {
    let context = bed.context(name, &[]);
    for (path, bytes) in files {
        std::fs::create_dir_all(context.join(path).parent().expect("below the context")).expect("ours");
        std::fs::write(context.join(path), bytes).expect("ours");
    }
    bed.build(&context).args(["--secret", "id=token,env=TOKEN", "--secret", "id=key,env=KEY"]).env("TOKEN", TOKEN).env("KEY", KEY)
}

fn percent(text: &str, kept: &str, space: &str, upper: bool) -> String {
    let one = |byte: u8| match byte {
        b' ' => space.to_owned(),
        byte if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || kept.as_bytes().contains(&byte) => char::from(byte).to_string(),
        byte if upper => format!("%{byte:02X}"),
        byte => format!("%{byte:02x}"),
    };
    text.bytes().map(one).collect()
}

fn wrapped(text: &str, columns: usize) -> String {
    text.as_bytes().chunks(columns).map(|line| std::str::from_utf8(line).expect("ASCII")).collect::<Vec<_>>().join("\n")
}

/// What leaks look like: a name, the id of the secret that is in it, the text.
fn leaks() -> Vec<(String, &'static str, Vec<u8>)> {
    let mut all: Vec<(String, &'static str, Vec<u8>)> = Vec::new();
    for (id, value) in [("token", TOKEN), ("key", KEY)] {
        let mut add = |name: String, text: String| all.push((format!("{id} {name}"), id, text.into_bytes()));
        add("as it is".into(), value.to_owned());
        add("in a sentence".into(), format!("password = {}\n", value.trim_end()));
        for before in ["", "a", "bc"] {
            add(format!("base64 behind {before:?}"), STANDARD.encode(format!("{before}{value}{before}")));
            add(format!("base64url behind {before:?}"), URL_SAFE.encode(format!("{before}{value}{before}")));
        }
        let hex: String = value.bytes().map(|byte| format!("{byte:02x}")).collect();
        add("hex".into(), hex.clone());
        add("HEX".into(), hex.to_uppercase());
        for (kept, space) in [("", "%20"), ("/", "%20"), ("", "+"), ("!'()*", "%20")] {
            add(format!("percent, {kept:?} kept, space as {space:?}"), percent(value, kept, space, true));
        }
        add("percent in small letters".into(), percent(value, "", "%20", false));
        let json = serde_json::to_string(value).expect("text");
        add("json".into(), format!("{{\"a\": {json}}}"));
        add("json of PHP".into(), json.replace('/', "\\/"));
        add("json of Go".into(), json.replace('&', "\\u0026"));
    }
    let mut add = |name: &str, text: String| all.push((format!("key {name}"), "key", text.into_bytes()));
    add("with line ends of DOS", KEY.replace('\n', "\r\n"));
    add("without line ends", KEY.replace('\n', ""));
    for columns in [64, 76] {
        add(&format!("base64 in lines of {columns}"), wrapped(&STANDARD.encode(format!("# comment\n{KEY}")), columns));
    }
    let mut late = vec![b'.'; 3 << 20];
    late.extend_from_slice(TOKEN.as_bytes());
    all.push(("token behind 3 MiB".into(), "token", late));
    all
}

#[test]
fn planted_leaks_are_caught_in_files() {
    let bed = Bed::new();
    let leaks = leaks();
    assert!(leaks.len() >= 40, "{}", leaks.len());
    for (n, (name, id, text)) in leaks.iter().enumerate() {
        let dockerfile: &[u8] = b"FROM scratch\nCOPY clean /clean\nCOPY leak /etc/app/leak\n";
        let outcome = lending(&bed, &format!("leak{n}"), &[("Dockerfile", dockerfile), ("clean", b"clean"), ("leak", text)]).run();
        assert_eq!(outcome.code, Some(1), "{name}: {}", outcome.log);
        for words in [
            &format!("the value of secret {id} is "),
            " in file /etc/app/leak of layer 2 of 2 (COPY leak /etc/app/leak",
            &format!("--allow-secret-in-image={id}"),
        ] {
            assert!(outcome.log.contains(words), "{name}: {words:?} in {}", outcome.log);
        }
        assert!(!bed.path(&format!("leak{n}.tar")).exists(), "{name}: something was exported");
        check("what was said", outcome.log.as_bytes());
    }
}

#[test]
fn planted_leaks_are_caught_wherever_they_are() {
    let bed = Bed::with_registry();
    let quoted = TOKEN.replace('\\', "\\\\").replace('"', "\\\"");
    let simple = "simple-token-4f1b";
    let mut cases: Vec<(&str, String, Vec<&str>, &str)> = vec![
        ("label", format!("FROM busybox\nLABEL a=\"{quoted}\"\n"), vec![], "config.Labels.a of the image's config"),
        ("environment", format!("FROM busybox\nENV a=\"{quoted}\"\n"), vec![], "of the image's config"),
        ("command", format!("FROM busybox\nCMD [\"x\", \"--password={simple}\"]\n"), vec![], "of the image's config"),
        ("trigger", format!("FROM busybox\nONBUILD RUN login {simple}\n"), vec![], "of the image's config"),
        ("history", format!("FROM busybox\nRUN echo {simple} > /dev/null\n"), vec![], "created_by of the image's config"),
        ("argument", "FROM busybox\nARG a\nRUN true\n".into(), vec!["--build-arg", "a=simple-token-4f1b"], "created_by of the image's config"),
        ("label flag", "FROM busybox\n".into(), vec!["--label", "l=simple-token-4f1b"], "config.Labels.l"),
        ("annotation", "FROM busybox\n".into(), vec!["--annotation", "l=simple-token-4f1b"], "annotations.l of the image's manifest"),
        ("name of a file", format!("FROM busybox\nRUN touch /tmp/{simple}\n"), vec![], "of layer 2 of 2"),
    ];
    // In these the history does not show it.
    let leak = "RUN --mount=type=secret,id=simple,env=S";
    let in_file = [
        ("file of a step", "printf %s \"$S\" > /root/.npmrc", "file /root/.npmrc of layer 2 of 2"),
        ("target of a link", "ln -s \"/x/$S\" /root/link", "file /root/link of layer 2 of 2"),
        (
            "long name",
            "mkdir -p /$(printf '%0120d' 0)/$(printf '%0120d' 0) && echo $S > /$(printf '%0120d' 0)/$(printf '%0120d' 0)/f",
            "/f of layer 2 of 2",
        ),
        ("archive in the image", "cd /tmp && echo $S > x && tar -cf /all.tar x && rm x", "file /all.tar of layer 2 of 2"),
        ("encoded by a program", "echo $S | base64 > /b64", "in base64 in file /b64"),
    ];
    for (name, script, place) in in_file {
        cases.push((name, format!("FROM busybox\n{leak} {script}\n"), vec![], place));
    }
    // What a later step removed is in the image all the same.
    cases.push(("removed later", format!("FROM busybox\n{leak} echo $S > /gone\nRUN rm /gone\n"), vec![], "file /gone of layer 2 of 3"));
    for (n, (name, dockerfile, args, place)) in cases.iter().enumerate() {
        let build = lending(&bed, &format!("c{n}"), &[("Dockerfile", dockerfile.as_bytes())]);
        let outcome = build.args(["--secret", "id=simple,env=SIMPLE"]).env("SIMPLE", simple).args(args.iter().copied()).run();
        assert_eq!(outcome.code, Some(1), "{name}: {}", outcome.log);
        assert!(outcome.log.contains("the value of secret ") && outcome.log.contains(place), "{name}: {place:?} in {}", outcome.log);
    }
}

#[test]
fn every_form_of_output_is_watched_and_remembered_blobs_are_searched_again() {
    let bed = Bed::with_registry();
    let files: [(&str, &[u8]); 2] =
        [("Dockerfile", b"FROM busybox AS first\nCOPY leak /leak\nFROM first\nRUN echo x > /x\n"), ("leak", TOKEN.as_bytes())];
    let context = bed.context("before", &[]);
    for (name, bytes) in files {
        std::fs::write(context.join(name), bytes).expect("ours");
    }
    let forms =
        ["type=oci", "type=oci,tar=false", "type=docker", "type=oci,compression=zstd", "type=oci,compression=uncompressed", "type=tar", "type=local"];
    let output = |form: &str, n: usize| format!("{form},dest={}", bed.path(&format!("out{n}")).display());
    // First without secrets: everything is made and remembered. Then with them.
    for (n, form) in forms.iter().enumerate() {
        let _ = bed.build(&context).no_output().args(["-o", &output(form, n)]).ok();
        let outcome = lending(&bed, "before", &[]).no_output().args(["-o", &output(form, n + 100)]).run();
        assert_eq!(outcome.code, Some(1), "{form}: {}", outcome.log);
        assert!(outcome.log.contains("secret token is as it is in file /leak"), "{form}: {}", outcome.log);
        assert!(outcome.ran().is_empty(), "{form}: all was remembered");
        assert!(!bed.path(&format!("out{}", n + 100)).join("leak").exists(), "{form}");
    }
    let named = lending(&bed, "before", &[]).no_output().args(["-t", "app"]).run();
    assert_eq!(named.code, Some(1), "{}", named.log);
    // The image of a name that was built here is searched as one's own layers are.
    let _ = bed.build(&context).no_output().args(["-t", "leaky"]).ok();
    let upon = lending(&bed, "upon", &[("Dockerfile", b"FROM leaky\nRUN echo y > /y\n")]).run();
    assert!(upon.code == Some(1) && upon.log.contains("file /leak of layer 2 of 4"), "{}", upon.log);
    // A file that is gone is in no file tree.
    let gone = lending(&bed, "gone", &[("Dockerfile", b"FROM leaky\nRUN rm /leak\n")]);
    let _ = gone.clone().no_output().args(["-o", &output("type=local", 200)]).ok();
    assert_eq!(gone.run().code, Some(1));
    // It may be wanted.
    let _ = lending(&bed, "before", &[]).args(["--allow-secret-in-image=token"]).ok();
    let wrong = lending(&bed, "before", &[]).args(["--allow-secret-in-image=key"]).run();
    assert_eq!(wrong.code, Some(1));
    let unknown = lending(&bed, "before", &[]).args(["--allow-secret-in-image=nobody"]).run();
    assert!(unknown.code == Some(1) && unknown.log.contains("there is no --secret with this id"), "{}", unknown.log);
    // No cost and no search without secrets, and none of what was exported is wrong.
    assert_eq!(bed.build(&context).ok().image().file("leak").as_deref(), Some(TOKEN.as_bytes()));
}

/// A leak made by a seed: the secret, of eight bytes and more, and how it is written down.
fn generated(seed: u64) -> (Vec<u8>, String, Vec<u8>) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 33).expect("31 bits") % below
    };
    // One in three has exactly as many bytes as the shortest that is searched for.
    let length = if seed.is_multiple_of(3) { 8 } else { 8 + next(150) };
    let letters = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./+=!&%$\"\\";
    let secret: Vec<u8> = (0..length).map(|_| letters[next(letters.len())]).collect();
    let value = String::from_utf8(secret.clone()).expect("ASCII");
    let before: Vec<u8> = (0..next(5)).map(|_| letters[next(20)]).collect();
    let whole = [&before[..], &secret, &before].concat();
    let hex = |upper: bool| secret.iter().map(|byte| if upper { format!("{byte:02X}") } else { format!("{byte:02x}") }).collect::<String>();
    // The base64 of something longer has less of eight bytes than is looked for.
    let (form, text) = match seed % 8 {
        0 => ("as it is", value),
        1 => ("base64", STANDARD.encode(&secret)),
        2 => ("base64 inside", if length >= 12 { STANDARD.encode(&whole) } else { STANDARD.encode(&secret) }),
        3 => ("base64url", URL_SAFE.encode(&secret)),
        4 => ("hex", hex(next(2) == 0)),
        5 => ("percent", percent(&value, "", "%20", next(2) == 0)),
        6 => ("json", serde_json::to_string(&value).expect("text")),
        _ => ("between others", format!("{0}{value}{0}", String::from_utf8_lossy(&before))),
    };
    // Noise before and behind, so that the leak lies at any offset.
    let mut noise = |most: usize| -> Vec<u8> { (0..next(most)).map(|_| letters[next(20)]).collect() };
    (secret, form.to_owned(), [noise(3000), vec![b'\n'], text.into_bytes(), vec![b'\n'], noise(3000)].concat())
}

#[test]
fn generated_leaks_are_caught_in_new_layers_and_in_remembered_ones() {
    let bed = Bed::new();
    for seed in 0..48 {
        let (secret, form, text) = generated(seed);
        let name = format!("generated{seed}");
        let context = bed.context(&name, &[("Dockerfile", "FROM scratch\nCOPY leak /etc/leak\n")]);
        std::fs::write(context.join("leak"), &text).expect("ours");
        if seed % 2 == 1 {
            // Packed and remembered when nobody knew that there is a secret in it.
            let _ = bed.build(&context).ok();
        }
        let value = String::from_utf8(secret.clone()).expect("ASCII");
        let outcome = bed.build(&context).output(&bed.path("leaked.tar")).args(["--secret", "id=s,env=S"]).env("S", &value).run();
        assert_eq!(outcome.code, Some(1), "seed {seed}, {form}: {} bytes pass: {}", secret.len(), outcome.log);
        assert!(
            outcome.log.contains("the value of secret s is ") && outcome.log.contains("file /etc/leak of layer 1 of 1"),
            "{seed}: {}",
            outcome.log
        );
        assert!(!outcome.log.contains(&value) && !bed.path("leaked.tar").exists(), "seed {seed}");
        let unrelated = String::from_utf8(generated(seed + 1000).0).expect("ASCII");
        let _ = bed.build(&context).output(&bed.path("fine.tar")).args(["--secret", "id=s,env=S"]).env("S", unrelated).ok();
    }
}

#[test]
fn a_hundred_clean_builds_raise_no_alarm() {
    let bed = Bed::new();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        usize::try_from(random >> 33).expect("31 bits") % below
    };
    for n in 0..100 {
        // Near misses: the value without a byte, reversed, in other letters, cut in two, short pieces of it, and bytes of no meaning.
        let mut cut = TOKEN.as_bytes().to_vec();
        cut.remove(1 + next(TOKEN.len() - 2));
        let reversed: String = KEY.chars().rev().collect();
        let halves = format!("{}\n{}", &TOKEN[..TOKEN.len() / 2], &TOKEN[TOKEN.len() / 2..]);
        let header = KEY.lines().next().expect("a line");
        let noise: Vec<u8> = (0..next(60_000)).map(|_| u8::try_from(next(256)).expect("a byte")).collect();
        let short = STANDARD.encode(&TOKEN[..7]);
        let text = [
            &cut[..],
            b"\n",
            reversed.as_bytes(),
            b"\n",
            halves.as_bytes(),
            b"\n",
            TOKEN.to_uppercase().as_bytes(),
            b"\n",
            header.as_bytes(),
            short.as_bytes(),
            &noise,
        ]
        .concat();
        let dockerfile = format!("FROM scratch\nLABEL n={n} header=\"{header}\"\nENV TOKEN=none\nCOPY a b /dir{n}/\n");
        let _ = lending(&bed, &format!("clean{n}"), &[("Dockerfile", dockerfile.as_bytes()), ("a", &text), ("b", &noise)]).ok();
    }
}

#[test]
fn a8_7_encodings_and_secrets_of_other_steps_are_masked_in_logs() {
    let bed = Bed::with_registry();
    let dockerfile = b"FROM busybox AS a\nRUN --mount=type=secret,id=token,env=T printf %s \"$T\" | tee /t | base64; printf %s \"$T\" | hexdump -ve '1/1 \"%02x\"'; echo\n\
        FROM a AS b\nRUN cat /t; echo; base64 /t\nFROM busybox\nCOPY --from=b /bin/sh /other\n";
    let outcome = lending(&bed, "masked", &[("Dockerfile", dockerfile)]).args(["--target", "b", "--allow-secret-in-image=token"]).ok();
    // Twice in each step's output, and twice in the name of the first.
    assert_eq!(outcome.log.matches("****").count(), 6, "{}", outcome.log);
    assert!(!outcome.log.contains(&TOKEN[5..12]), "{}", outcome.log);
}
