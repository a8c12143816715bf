//! The log: text or JSON on standard error, times in UTC after RFC 3339, one level that can change
//! while running. Owns the process's `tracing` subscriber; decides nothing about what is logged.

use std::io::IsTerminal;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::Registry;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{Format, Level, Log};

/// Changes the level of the running log.
#[derive(Clone, Debug)]
pub struct LogControl(reload::Handle<Targets, Registry>);

impl LogControl {
    /// Logs from now on what `level` lets through. The format cannot change without a restart.
    pub fn set_level(&self, level: Level) {
        // It fails only when the subscriber is gone, and then nothing is logged anyway.
        let _ = self.0.reload(targets(level));
    }
}

/// The log could not be set up: the process already has one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AlreadyStarted;

impl std::fmt::Display for AlreadyStarted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the log is already set up in this process; start it once")
    }
}

impl std::error::Error for AlreadyStarted {}

/// Starts the log of this process.
///
/// # Errors
/// When the process already has one.
pub fn start(log: &Log) -> Result<LogControl, AlreadyStarted> {
    let colours = std::io::stderr().is_terminal();
    let (subscriber, control) = subscriber(log, std::io::stderr, colours);
    subscriber.try_init().map_err(|_| AlreadyStarted)?;
    Ok(control)
}

fn subscriber<W>(
    log: &Log,
    writer: W,
    colours: bool,
) -> (impl SubscriberInitExt + tracing::Subscriber + Send + Sync, LogControl)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(targets(log.level));
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    let lines = match log.format {
        Format::Text => lines.with_ansi(colours).boxed(),
        Format::Json => lines.json().flatten_event(true).with_current_span(false).boxed(),
    };
    (Registry::default().with(filter).with(lines), LogControl(handle))
}

/// Our own lines at `level`. Those of libraries only when they matter: glommio at `debug` would
/// drown ours.
fn targets(level: Level) -> Targets {
    let level = match level {
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
        Level::Trace => LevelFilter::TRACE,
    };
    Targets::new().with_default(level.min(LevelFilter::WARN)).with_target("ringmq", level)
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
