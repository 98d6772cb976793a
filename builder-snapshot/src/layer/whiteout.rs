//! The names in a layer's tar that mean deletion (OCI image specification, layer.md: whiteouts).

/// What begins every such name.
pub(super) const PREFIX: &[u8] = b".wh.";
/// In a directory: nothing of it comes from lower layers.
pub(super) const OPAQUE: &[u8] = b".wh..wh..opq";

/// What a name in a layer's tar means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning<'a> {
    /// A name like any other.
    Ordinary,
    /// This name is removed from what lower layers have in the directory.
    Removes(&'a [u8]),
    /// Everything that lower layers have in the directory is removed.
    Opaque,
    /// A name that begins like a whiteout and is none: aufs kept its own data under such names, and nothing good can be removed by them.
    Refused,
}

/// The meaning of the last component of a path.
pub(super) fn meaning(name: &[u8]) -> Meaning<'_> {
    if name == OPAQUE {
        return Meaning::Opaque;
    }
    match name.strip_prefix(PREFIX) {
        None => Meaning::Ordinary,
        Some(b"" | b"." | b"..") => Meaning::Refused,
        Some(removed) if removed.starts_with(PREFIX) => Meaning::Refused,
        Some(removed) => Meaning::Removes(removed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meanings() {
        let cases = [
            ("a", Meaning::Ordinary),
            (".wh", Meaning::Ordinary),
            ("a.wh.b", Meaning::Ordinary),
            (".wh.a", Meaning::Removes(b"a")),
            (".wh..hidden", Meaning::Removes(b".hidden")),
            (".wh....", Meaning::Removes(b"...")),
            (".wh..wh..opq", Meaning::Opaque),
            (".wh.", Meaning::Refused),
            (".wh..", Meaning::Refused),
            (".wh...", Meaning::Refused),
            (".wh..wh.", Meaning::Refused),
            (".wh..wh.aufs", Meaning::Refused),
            (".wh..wh..opq2", Meaning::Refused),
        ];
        for (name, expected) in cases {
            assert_eq!(meaning(name.as_bytes()), expected, "{name}");
        }
    }
}
