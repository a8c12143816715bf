//! Executors, wiring, control tasks, reload and drain. (Stub: replaced by the wiring.)

pub mod listen;
pub mod log;
pub mod notify;
pub mod signals;

use crate::config::{Config, Sources};

/// The machine failed the broker.
#[derive(Debug)]
pub struct Failure(String);

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Runs the broker until it is told to stop.
///
/// # Errors
/// When the machine refuses what the configuration asks for.
pub fn run(_config: Config, _sources: Sources) -> Result<(), Failure> {
    Ok(())
}
