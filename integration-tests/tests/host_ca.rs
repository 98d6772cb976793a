//! `--host-ca`: steps trust whom this machine trusts, and nothing of that is left in the image.

use std::path::Path;

use integration_tests::Bed;

/// Has subordinate ids; made by `scripts/install-test-tools.sh`.
const USER: &str = "rbuild-test";

const HOST: &str = "-----BEGIN CERTIFICATE-----\nour company\n-----END CERTIFICATE-----\n";

/// One stage with a bundle, a link to it and Fedora's, and one without any.
const DOCKERFILE: &str = "\
FROM busybox AS image
COPY bundle /etc/ssl/certs/ca-certificates.crt
COPY bundle /etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem
RUN ln -s certs/ca-certificates.crt /etc/ssl/cert.pem
FROM image AS with
ARG CA
RUN if [ -n \"$CA\" ]; then grep -q company /etc/ssl/certs/ca-certificates.crt /etc/ssl/cert.pem && grep -q company /etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem \\
    && grep -q company $SSL_CERT_FILE $CURL_CA_BUNDLE $REQUESTS_CA_BUNDLE $NODE_EXTRA_CA_CERTS $GIT_SSL_CAINFO; fi
RUN chmod 600 /etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem && echo mine >> /etc/ssl/certs/ca-certificates.crt
RUN cp /etc/ssl/certs/ca-certificates.crt /etc/new && echo remade > /etc/new && mv -f /etc/new /etc/ssl/certs/ca-certificates.crt.new \\
    && mv -f /etc/ssl/certs/ca-certificates.crt.new /etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem
FROM busybox AS without
RUN echo x > /f
RUN SSL_CERT_FILE=/mine sh -c 'test $SSL_CERT_FILE = /mine'
FROM with
COPY --from=without /f /f
";

#[test]
fn the_image_is_the_same_with_and_without() {
    let bed = Bed::with_registry();
    let host = bed.path("host.pem");
    std::fs::write(&host, HOST).expect("a bundle");
    let context = bed.context("context", &[("Dockerfile", DOCKERFILE), ("bundle", "the image's\n")]);
    for user in [None, Some(USER)] {
        let build = |flags: &[&str], state: &str| {
            let mut build = bed.build(&context).args(["--reproducible", "--no-cache"]).args(flags.iter().copied());
            if let Some(user) = user {
                build = build.as_user(user);
                let state = build.home().join(state);
                build = build.state(&state);
            } else {
                build = build.state(&bed.path(state));
            }
            build.env("SSL_CERT_FILE", &host).env("SOURCE_DATE_EPOCH", "0").ok().image()
        };
        // The secret argument is outside of what the step does, so that both make the same.
        let (with, without) = (build(&["--host-ca"], "with"), build(&[], "without"));
        assert_eq!(with.file("etc/ssl/certs/ca-certificates.crt").as_deref(), Some(&b"the image's\nmine\n"[..]));
        assert_eq!(with.file("etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem").as_deref(), Some(&b"remade\n"[..]));
        assert_eq!(with.digest, without.digest, "{user:?}");
        // In a copy it lies where the step writes.
        assert_eq!(build(&["--snapshotter", "copy", "--host-ca"], "copied").digest, without.digest, "{user:?}, in a copy");
        let trusted = build(&["--host-ca", "--build-arg", "CA=1"], "trusted");
        assert_eq!(trusted.file("f").as_deref(), Some(&b"x\n"[..]));
    }
}

#[test]
fn it_is_in_no_key_and_nowhere_in_the_store_but_what_is_temporary() {
    let bed = Bed::with_registry();
    let host = bed.path("host.pem");
    std::fs::write(&host, HOST).expect("a bundle");
    let context = bed.context("context", &[("Dockerfile", "FROM busybox\nRUN touch /etc/ssl/certs/ca-certificates.crt 2> /dev/null; true\n")]);
    let image = bed.build(&context).args(["--host-ca"]).env("SSL_CERT_FILE", &host).ok().image();
    assert_eq!(image.file("etc/ssl/certs/ca-certificates.crt"), None);
    assert_eq!(bed.build(&context).ok().cached().len(), 1, "the same key without");
    assert!(!holds(&bed.state(), b"our company"), "the store has nothing of it");
}

fn holds(dir: &Path, needle: &[u8]) -> bool {
    std::fs::read_dir(dir).expect("ours").flatten().any(|entry| {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            return holds(&path, needle);
        }
        entry.file_type().is_ok_and(|kind| kind.is_file())
            && std::fs::read(&path).is_ok_and(|bytes| bytes.split(|&byte| byte == b'\n').any(|line| line == needle))
    })
}
