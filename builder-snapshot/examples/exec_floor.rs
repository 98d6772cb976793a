//! What one process in a sandbox costs: `true` of busybox, run many times. `cargo run --release -p builder-snapshot --example exec_floor [COUNT]`, as root.

use std::io::Write;
use std::time::Instant;

use builder_snapshot::exec::{self, ExitReport, NetworkMode, OutputSink, OutputStream, ProcessSpec, ResolvedUser, ResourceLimits, SecurityMode};
use rustix::mount::{OpenTreeFlags, open_tree};

struct Nowhere;

impl OutputSink for Nowhere {
    fn output(&mut self, _: OutputStream, _: &[u8]) {}
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let count: usize = std::env::args().nth(1).map_or(Ok(300), |count| count.parse())?;
    let root = tempfile::tempdir()?;
    for path in ["bin", "etc", "proc", "sys", "dev"] {
        std::fs::create_dir(root.path().join(path))?;
    }
    std::fs::copy("/bin/busybox", root.path().join("bin/true"))?;
    for file in ["etc/hosts", "etc/resolv.conf"] {
        std::fs::write(root.path().join(file), "")?;
    }
    for own_network in [false, true] {
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            let started = Instant::now();
            let spec = ProcessSpec {
                root: open_tree(rustix::fs::CWD, root.path(), flags)?,
                argv: vec!["true".into()],
                env: vec![("PATH".into(), "/bin".into())],
                cwd: "/".into(),
                user: ResolvedUser { uid: 0, gid: 0, groups: Vec::new(), home: "/".into() },
                hostname: "buildkitsandbox".to_owned(),
                mounts: Vec::new(),
                network: if own_network { NetworkMode::None } else { NetworkMode::Host },
                security: SecurityMode::Sandbox,
                shm_size_bytes: 64 << 20,
                ulimits: Vec::new(),
                resources: ResourceLimits::default(),
                timeout: None,
                hosts: Vec::new(),
                resolv_conf: Vec::new(),
                owners: std::sync::Arc::default(),
            };
            if exec::run(spec, &mut Nowhere, None)? != ExitReport::Exited(0) {
                return Err("true is not true".into());
            }
            times.push(started.elapsed());
        }
        times.sort_unstable();
        let at = |share: usize| times[(times.len() - 1) * share / 100].as_secs_f64() * 1000.0;
        writeln!(
            std::io::stdout(),
            "own network {own_network}: median {:.2} ms, fastest tenth {:.2} ms, slowest tenth {:.2} ms",
            at(50),
            at(10),
            at(90)
        )?;
    }
    Ok(())
}
