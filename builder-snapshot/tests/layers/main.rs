//! Trees, layers and their tars, through the crate's public doors.
//!
//! The properties need root: owners, devices, `trusted.*` attributes and overlay mounts are what they are about.

mod differential;
mod formats;
mod hostile;
mod properties;
mod semantics;
mod tars;
mod trees;
