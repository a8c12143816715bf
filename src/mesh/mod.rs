//! (to be written)
pub mod mailbox;
