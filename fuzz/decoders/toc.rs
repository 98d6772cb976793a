//! A layer's table, sealed or not: a damaged one is refused, and what is accepted is what was written.

use builder_snapshot::toc::Toc;

pub(crate) fn read(data: &[u8]) {
    if let Ok(toc) = Toc::unseal(data) {
        assert_eq!(Toc::unseal(&toc.seal()).expect("our own table"), toc);
    }
    if let Ok(toc) = Toc::decode(data) {
        assert_eq!(Toc::unseal(&toc.seal()).expect("our own table"), toc);
    }
}
