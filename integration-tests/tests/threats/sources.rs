//! Web servers and git repositories that mean harm.

use integration_tests::web::answering;

use crate::yard::Yard;

#[test]
fn cve_2026_33747_a_servers_names_are_no_paths() {
    let yard = Yard::new();
    let canary = yard.canary();
    let up = Box::leak(format!("Content-Disposition: attachment; filename=\"../../../../../../..{}/secret\"\r\n", canary.display()).into_boxed_str());
    let absolute = Box::leak(format!("Content-Disposition: attachment; filename=\"{}/secret\"\r\n", canary.display()).into_boxed_str());
    let long = Box::leak(format!("Content-Disposition: attachment; filename={}\r\n", "x".repeat(300)).into_boxed_str());
    let headers: [&'static str; 7] = [
        up,
        absolute,
        "Content-Disposition: attachment; filename=\"..\"\r\n",
        "Content-Disposition: attachment; filename=\"a\0b\"\r\n",
        long,
        "Content-Disposition: attachment; filename=\"x.\"\r\n",
        "Content-Disposition: attachment; filename*=UTF-8''%2e%2e%2fx\r\n",
    ];
    for (n, headers) in headers.iter().enumerate() {
        let address = answering(headers, b"downloaded");
        let forms: &[&str] = if n == 0 { &["file", "..%2f..%2fx", "%2e%2e/%2e%2e", "dir/"] } else { &["dir/"] };
        for (form, path) in forms.iter().enumerate() {
            let dockerfile = format!("FROM scratch\nADD {address}/{path} /in/\n");
            let outcome = yard.run(&yard.build(&format!("c{n}-{form}"), &[("Dockerfile", &dockerfile)]));
            if outcome.code != Some(0) {
                continue;
            }
            // Whatever it is called there, it is one file of the directory.
            for entry in outcome.image().layers.iter().flatten().filter(|entry| entry.kind != b'5') {
                let name = entry.path.strip_prefix("in/").unwrap_or_else(|| panic!("{headers:?} {path}: {}", entry.path));
                let is_name = !name.is_empty() && name.len() <= 255 && !name.contains(['/', '\0']) && name != "..";
                assert!(is_name && entry.data == b"downloaded", "{headers:?} {path}: {name:?}");
            }
        }
    }
    yard.store_is_good();
}

#[test]
fn cve_2026_33748_2019_13139_and_bk_0_31_2_references_of_git_are_no_options_and_no_paths() {
    let yard = Yard::new();
    let marker = yard.bed.path("marker");
    let touch = format!("touch {}", marker.display());
    // Nothing listens on port 1: what is refused is refused before anyone is asked, or cannot be brought.
    let host = "https://127.0.0.1:1/r.git";
    let addresses = [
        format!("{host}#main:../.."),
        format!("{host}#main:/etc"),
        format!("{host}#main:a/../../b"),
        format!("{host}#--upload-pack={touch}"),
        format!("{host}#-x"),
        format!("{host}#:--output=x"),
        format!("git@-oProxyCommand={touch}:r.git"),
        format!("ssh://-oProxyCommand={touch}/r.git"),
        format!("ext::sh -c '{touch}' .git"),
        format!("file://{}/r.git", yard.canary().display()),
        format!("https://user:pass@-x/{touch}.git#main"),
    ];
    for (n, address) in addresses.iter().enumerate() {
        let add = yard.build(&format!("c{n}"), &[("Dockerfile", &format!("FROM scratch\nADD {address} /in/\n"))]);
        assert_eq!(yard.run(&add.no_output()).code, Some(1), "{address}");
        if n % 2 == 1 {
            continue;
        }
        let context = yard.build(&format!("d{n}"), &[("Dockerfile", "FROM scratch\nCOPY --from=repo / /in/\n")]);
        assert_eq!(yard.run(&context.no_output().args(["--build-context", &format!("repo={address}")])).code, Some(1), "{address}");
        assert!(!marker.exists(), "{address}");
    }
    yard.store_is_good();
}

#[test]
fn cve_2023_26054_credentials_in_addresses_are_not_repeated() {
    let yard = Yard::new();
    let secret = "t0ken-in-an-address-5af1";
    let cases = [
        format!("FROM scratch\nADD https://user:{secret}@127.0.0.1:1/r.git /in/\n"),
        format!("FROM scratch\nADD --keep-git-dir=true https://{secret}@127.0.0.1:1/r.git#main /in/\n"),
    ];
    for (n, dockerfile) in cases.iter().enumerate() {
        let outcome = yard.run(&yard.build(&format!("c{n}"), &[("Dockerfile", dockerfile)]).no_output());
        assert_eq!(outcome.code, Some(1));
        // The Dockerfile itself is shown beside an error; nothing else repeats it.
        let own: Vec<&str> = outcome.log.lines().filter(|line| !line.contains("ADD ")).collect();
        assert!(!own.join("\n").contains(secret), "{}", outcome.log);
    }
    let context = yard.build("context", &[("Dockerfile", "FROM scratch\nCOPY --from=repo / /\n")]).no_output();
    let outcome = yard.run(&context.args(["--build-context", &format!("repo=https://user:{secret}@127.0.0.1:1/r.git")]));
    assert!(outcome.code == Some(1) && !outcome.log.contains(secret), "{}", outcome.log);
}
