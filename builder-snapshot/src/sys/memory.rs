//! How the C library's allocator keeps memory.
#![expect(unsafe_code, reason = "the allocator's settings are functions of the C library")]

/// Buffers of at least this many bytes are mapped, and given back to the system when they are freed.
#[cfg(target_env = "gnu")]
const MAPPED_BYTES: libc::c_int = 512 * 1024;

/// See [`crate::give_large_buffers_back`].
pub(crate) fn give_large_buffers_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: `mallopt` takes two numbers and locks the allocator itself. Where it refuses, memory is kept as before.
    let _ = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_BYTES) };
}
