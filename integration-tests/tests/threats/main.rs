//! What went wrong in other builders and runtimes, tried on this one: a test for each, named by its CVE or what else it is known by.
//!
//! Each asserts that files outside of store and context are neither read nor changed, that the end is a clean error or a correct image, and that the store is
//! good for a build afterwards ([`yard::Yard`]). Beside them stands a corpus of honest oddities that must pass as they are.
//!
//! Rows that are tested elsewhere: privileges and supplementary groups in `walls.rs`; readers of tar in builder-snapshot's `layers/differential.rs`; races in
//! its `races.rs`; registries that lie in `registry_faults.rs`; redirects, foreign layers and credentials in builder-core's registry tests;
//! damaged stores in `faults.rs`; leaks of secrets in `secrets.rs`.
//!
//! Relatives without a test of their own name: GHSA-7236-3392-c5c6 (CVE-2026-61711, CVE-2026-61712) with CVE-2024-23653 and CVE-2022-2990 with CVE-2022-36109 in
//! `walls.rs`; CVE-2024-23650 and CVE-2026-15792 in `decoders.rs`; CVE-2026-15788, -15789, -15791 and -15793 as "bk 0.31.2" in [`sources`]; CVE-2025-0495 with
//! CVE-2023-26054 there; CVE-2026-41579, CVE-2026-88264 and -88265 with CVE-2025-31133 in [`runtime`]; CVE-2024-11218 with CVE-2024-23651 there.

mod archives;
mod corpus;
mod git;
mod images;
mod runtime;
mod sources;
mod yard;
