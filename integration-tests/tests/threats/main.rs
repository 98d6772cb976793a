//! What went wrong in other builders and runtimes, tried on this one: a test for each, named by its CVE or what else it is known by.
//!
//! Each asserts that files outside of store and context are neither read nor changed, that the end is a clean error or a correct image, and that the store is
//! good for a build afterwards ([`yard::Yard`]). Beside them stands a corpus of honest oddities that must pass as they are.
//!
//! `threats.txt` says for each which tests answer for it, some of which are elsewhere: privileges and groups in `walls.rs`; readers of tar in
//! builder-snapshot's `layers/differential.rs`, races in its `races.rs`; redirects, foreign layers and credentials in builder-core's registry tests; damaged stores in
//! `faults.rs`; limits in `limits.rs`; leaks of secrets in `secrets.rs`. A test in `tidy.rs` compares it with the tests that there are.
//!
//! Memory of bombs, measured once with a release build (peak of resident memory, both as an ADD and as a context): 10⁵ components in a path, a name of 64 KB, 10⁵ attributes,
//! a terabyte of holes, 1024 directories inside of each other: 10 to 21 MiB; a window of 128 MiB: 131 MiB; a million entries, at which it ended then: 209 MiB, and 307 MiB where
//! 900,000 were accepted and built upon, which is why there may be 700,000. The tests hold builds to 160 MiB of data.

mod archives;
mod corpus;
mod credentials;
mod git;
mod images;
mod library;
mod runtime;
mod sources;
mod yard;
