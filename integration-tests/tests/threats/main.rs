//! What went wrong in other builders and runtimes, tried on this one: a test for each, named by its CVE or what else it is known by.
//!
//! Each asserts that files outside of store and context are neither read nor changed, that the end is a clean error or a correct image, and that the store is
//! good for a build afterwards ([`yard::Yard`]). Beside them stands a corpus of honest oddities that must pass as they are.
//!
//! Rows that are tested elsewhere: privileges and supplementary groups in `walls.rs`; readers of tar in builder-snapshot's `layers/differential.rs`; races in
//! its `races.rs`; registries that lie in `registry_faults.rs`; redirects, foreign layers and credentials in builder-core's registry tests;
//! damaged stores in `faults.rs`; leaks of secrets in `secrets.rs`.

mod archives;
mod corpus;
mod git;
mod images;
mod runtime;
mod sources;
mod yard;
