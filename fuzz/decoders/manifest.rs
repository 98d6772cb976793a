//! A manifest or an index: what is accepted is read the same once it was written again.

use builder_core::oci::DocumentLimits;
use builder_core::oci::manifest::{Document, to_json};

pub(crate) fn read(data: &[u8]) {
    let limits = DocumentLimits::default();
    match Document::parse(data, None, &limits) {
        Ok(Document::Manifest(manifest)) => {
            let again = Document::parse(&to_json(&manifest), None, &limits).expect("our own manifest");
            assert_eq!(again, Document::Manifest(manifest));
        }
        Ok(Document::Index(index)) => {
            let again = Document::parse(&to_json(&index), None, &limits).expect("our own index");
            assert_eq!(again, Document::Index(index));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
