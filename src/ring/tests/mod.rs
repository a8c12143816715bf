//! Tests against the real kernel. The drivers run on the test's thread (or on one they start),
//! clients are plain blocking sockets on other threads. What the driver costs is measured by
//! `cargo bench --bench micro -- echo`.
#![allow(unsafe_code)]
mod close;
mod echo;
mod hand_over;
mod lost;
mod shared;
mod support;
mod upkeep;
mod waiting;
