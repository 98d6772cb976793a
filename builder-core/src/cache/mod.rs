//! What the store knows: results of steps by key, names of images, which blobs a layer became.
//!
//! [`record`] says what is kept, [`db`] keeps it. Several processes use the database at once; none of them writes when it finds what it
//! looks for.

pub mod db;
pub mod record;

pub use db::{BlobOrigin, Commit, Db, ImageEntry, LayerBlob, LayerForm, ObjectKind, Trust};
pub use record::{Key, KeyFields, Record};
