//! The kernel's doors: everything below this module is a thin, typed call; decisions are made above it.

pub(crate) mod child;
pub(crate) mod device_filter;
pub(crate) mod fork;
pub(crate) mod fs;
pub(crate) mod memory;
pub(crate) mod mount;
pub(crate) mod network;
pub(crate) mod notification;
pub(crate) mod process;
