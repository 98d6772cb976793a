//! The testbed: what every end-to-end test needs to run the real `rbuild` against real peers.
//!
//! A [`Bed`] owns a scratch directory with a state directory, a configuration and, when asked for, a registry from Debian's packages on a
//! loopback port. Builds are [`Build`] values that run the binary and keep everything it said. A missing tool or privilege is a loud failure
//! ([`require`]), never a skip.

pub mod bed;
pub mod faulty;
pub mod fixtures;
pub mod image;
pub mod inject;
pub mod meeting;
pub mod peers;
pub mod registry;
pub mod require;
pub mod web;

pub use bed::{Bed, Build, Outcome};
pub use image::{Entry, Image};
