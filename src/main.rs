//! The `ringmq` program: arguments, configuration, shards, signals, exit code.
fn main() {}
