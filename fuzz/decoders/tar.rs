//! A layer's tar: whatever it says, nothing panics, and what is accepted has a table that can be written as a tar again.

use builder_snapshot::layer::{self, ApplyLimits, TimePolicy};
use builder_snapshot::tree::MergedTree;

pub(crate) fn read(data: &[u8]) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let limits = ApplyLimits { entries: 200, bytes: 1 << 20, ..ApplyLimits::default() };
    let empty = MergedTree::open(&[]).expect("an empty tree");
    let into = dir.path().join("fs");
    if let Ok(applied) = layer::apply(&mut &*data, &into, Some(&empty), &limits) {
        layer::write_tar(&applied.toc, &into, TimePolicy::Keep, &mut std::io::sink()).expect("what was accepted can be written");
    }
    assert_eq!(std::fs::read_dir(dir.path()).expect("ours").count(), usize::from(into.exists()), "something was made outside");
}
