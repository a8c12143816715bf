//! The `$SYS` topics.
