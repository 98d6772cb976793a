//! An image's config: what is accepted is read the same once it was written again.

use builder_core::oci::ImageDocument;

pub(crate) fn read(data: &[u8]) {
    let Ok(document) = serde_json::from_slice::<ImageDocument>(data) else { return };
    let written = serde_json::to_vec(&document).expect("plain data");
    assert_eq!(serde_json::from_slice::<ImageDocument>(&written).expect("our own config"), document);
}
