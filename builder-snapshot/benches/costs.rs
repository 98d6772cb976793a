//! What a step, a file and a tar cost: `cargo bench -p builder-snapshot --bench costs`, as root. Prints least and median; asserts no time.
#![expect(clippy::print_stderr, reason = "the figures are the result")]
#![expect(dead_code, reason = "the trees of the tests are shared, and only some of them are measured")]

#[path = "../tests/layers/trees.rs"]
mod trees;

use std::fs;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use builder_snapshot::TreePath;
use builder_snapshot::layer::{self, ApplyLimits, TimePolicy};
use builder_snapshot::snapshot::FileContent;
use builder_snapshot::toc::{Meta, Timestamp, Toc};

use trees::Stack;

/// Least and median of several runs.
fn measure(name: &str, runs: usize, per: u32, mut act: impl FnMut() -> Duration) {
    let mut times: Vec<Duration> = (0..runs).map(|_| act() / per).collect();
    times.sort();
    eprintln!("{name:<60} min {:>10.1?}  median {:>10.1?}", times[0], times[runs / 2]);
}

fn path(text: &str) -> TreePath {
    TreePath::new(text).expect("clean")
}

fn main() {
    // `cargo test --all-targets` runs benches too, without saying `--bench`: there is nothing to measure then.
    if !std::env::args().any(|arg| arg == "--bench") {
        return;
    }
    let file = Meta { mode: 0o644, ..Meta::default() };
    let dir = Meta { mode: 0o755, ..Meta::default() };
    let mut stack = Stack::new();
    for i in 0..40 {
        stack.write(|writer| {
            writer.put_file(&path(&format!("f{i}")), FileContent::Bytes(b"x"), &file).expect("put");
        });
    }
    for lowers in [1, 40] {
        let layers = stack.layers[..lowers].to_vec();
        let tmp = stack.tmp();
        let create = || builder_snapshot::snapshot::ActiveSnapshot::create(&tmp, &layers).expect("create");
        let mut parts = [(); 4].map(|()| Vec::new());
        measure(&format!("a step with {lowers} lowers: create, mount, write, commit"), 60, 1, || {
            let started = Instant::now();
            let snapshot = create();
            parts[0].push(started.elapsed());
            let t = Instant::now();
            let mount = snapshot.mount(None).expect("mount");
            parts[1].push(t.elapsed());
            let t = Instant::now();
            fs::write(format!("/proc/self/fd/{}/f", mount.as_raw_fd()), "y").expect("write");
            drop(mount);
            parts[2].push(t.elapsed());
            let t = Instant::now();
            let layer = snapshot.commit(Timestamp::default()).expect("commit");
            parts[3].push(t.elapsed());
            let taken = started.elapsed();
            assert_eq!(layer.toc.entries.len(), 2);
            taken
        });
        for (name, mut times) in ["create", "mount", "write, unmount", "commit"].into_iter().zip(parts) {
            times.sort();
            eprintln!("    {name:<56} min {:>10.1?}  median {:>10.1?}", times[0], times[times.len() / 2]);
        }
    }

    let mut tar = Vec::new();
    measure("writer: a small file of 2000", 9, 2000, || {
        let snapshot = stack.snapshot();
        let started = Instant::now();
        let mut writer = snapshot.writer().expect("writer");
        for d in 0..20 {
            writer.make_dir(&path(&format!("d{d}")), &dir).expect("make_dir");
            for f in 0..100 {
                writer.put_file(&path(&format!("d{d}/file-{f}")), FileContent::Bytes(b"some content"), &file).expect("put");
            }
        }
        let toc = writer.finish().expect("finish");
        let taken = started.elapsed();
        tar.clear();
        layer::write_tar(&toc, snapshot.upper(), TimePolicy::Keep, &mut tar).expect("tar");
        taken
    });
    let into = stack.dir.path().join("applied");
    let apply = |tar: &[u8]| {
        let started = Instant::now();
        let applied = layer::apply(&mut &*tar, &into, None, &ApplyLimits::default()).expect("apply");
        let taken = started.elapsed();
        assert!(!applied.needs_base);
        taken
    };
    measure("apply: a small file of 2000", 9, 2000, || {
        let taken = apply(&tar);
        fs::remove_dir_all(&into).expect("remove");
        taken
    });
    let toc: Toc = layer::apply(&mut &tar[..], &into, None, &ApplyLimits::default()).expect("apply").toc;
    measure("write_tar: a small file of 2000", 9, 2000, || {
        let started = Instant::now();
        layer::write_tar(&toc, &into, TimePolicy::Keep, &mut std::io::sink()).expect("tar");
        started.elapsed()
    });
    measure("table: content id of 2000 entries", 9, 1, || {
        let started = Instant::now();
        let _ = toc.content_id();
        started.elapsed()
    });
    fs::remove_dir_all(&into).expect("remove");

    let bytes: Vec<u8> = (0..256_u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let snapshot = stack.snapshot();
    let mut writer = snapshot.writer().expect("writer");
    writer.put_file(&path("big"), FileContent::Bytes(&bytes), &file).expect("put");
    let toc = writer.finish().expect("finish");
    tar.clear();
    layer::write_tar(&toc, snapshot.upper(), TimePolicy::Keep, &mut tar).expect("tar");
    measure("apply: a MiB of 256", 3, 256, || {
        let taken = apply(&tar);
        fs::remove_dir_all(&into).expect("remove");
        taken
    });
    measure("write_tar: a MiB of 256", 3, 256, || {
        let started = Instant::now();
        layer::write_tar(&toc, snapshot.upper(), TimePolicy::Keep, &mut std::io::sink()).expect("tar");
        started.elapsed()
    });
}
