//! Every example is built as its README says: each line of a README that begins with `rbuild ` is run, in its directory, by a shell.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use integration_tests::{Bed, require};

#[test]
fn every_dockerfile_example_builds_as_its_readme_says() {
    let root = require::workspace().join("examples/dockerfiles");
    let mut dirs: Vec<PathBuf> =
        std::fs::read_dir(&root).expect("examples").flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    dirs.sort();
    assert!(dirs.len() >= 9, "the shapes that must simply work (features.md A16)");
    let bed = Bed::with_registry();
    for dir in &dirs {
        build(&bed, dir);
    }
}

fn build(bed: &Bed, dir: &Path) {
    let readme = std::fs::read_to_string(dir.join("README.md")).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let commands: Vec<&str> = readme.lines().map(str::trim).filter(|line| line.starts_with("rbuild ") || line.contains(" rbuild ")).collect();
    let commands: Vec<&str> =
        commands.into_iter().filter(|line| line.starts_with("rbuild ") || line.split(' ').next().is_some_and(|w| w.contains('='))).collect();
    assert!(!commands.is_empty(), "{}: its README has no line that begins with `rbuild `", dir.display());
    let bin = require::rbuild();
    let path = format!("{}:/usr/local/bin:/usr/bin:/bin", bin.parent().expect("a directory").display());
    for command in commands {
        let output = Command::new("sh")
            .args(["-ec", command])
            .current_dir(dir)
            .env_clear()
            .env("PATH", &path)
            .env("HOME", bed.path("home"))
            .env("RBUILD_ROOT", bed.state())
            .env("RBUILD_CONFIG", bed.path("rbuild.toml"))
            .stdin(Stdio::null())
            .output()
            .expect("sh");
        assert!(output.status.success(), "{}: {command}\n{}", dir.display(), String::from_utf8_lossy(&output.stderr));
    }
}
