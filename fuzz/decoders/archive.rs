//! A packed archive, as ADD and a context on standard input have them.

use builder_core::content::Limits;
use builder_core::run::file::open_archive;
use builder_snapshot::TreePath;
use builder_snapshot::layer::extract;
use builder_snapshot::snapshot::ActiveSnapshot;

pub(crate) fn read(data: &[u8]) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut limits = Limits::default();
    (limits.tar.entries, limits.tar.bytes) = (200, 1 << 20);
    let Ok(mut tar) = open_archive(data, &limits) else { return };
    let snapshot = ActiveSnapshot::create(dir.path(), &[]).expect("a snapshot");
    let mut writer = snapshot.writer().expect("a writer");
    if extract(&mut tar, &mut writer, &TreePath::root(), Some((0, 0)), &limits.tar).is_ok() {
        writer.finish().expect("what was accepted has a table");
    }
}
