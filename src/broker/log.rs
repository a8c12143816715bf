//! The log: text or JSON on standard error, times in UTC after RFC 3339, one level that can change
//! while running. Owns the process's `tracing` subscriber; decides nothing about what is logged,
//! and lets nothing that is logged look like anything but a part of its own line.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::time::Duration;

use tracing::field::Field;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::{self, Writer};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::Registry;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

use super::log_writer::LogWriter;
use crate::config::{LogConfig, LogFormat, LogLevel};
use crate::contained;

/// Lines that an operator has asked for: written at every level.
pub(super) const ASKED_FOR: &str = "ringmq::summary";
/// How long the end of the process waits until the log is written.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Modules with a level of their own at a time.
const MODULES: usize = 32;
/// Libraries whose lines can be asked for; of others there are only warnings and errors.
const LIBRARIES: [&str; 7] =
    ["async_nats", "glommio", "hyper", "hyper_util", "rdkafka", "rustls", "tokio_postgres"];
/// The modules of the broker.
const OWN: [&str; 20] = [
    "access",
    "admin",
    "bridge",
    "broker",
    "cluster",
    "config",
    "doctor",
    "mesh",
    "overload",
    "packet",
    "ring",
    "session",
    "shard",
    "storage",
    "summary",
    "telemetry",
    "time",
    "topic",
    "transport",
    "upgrade",
];

/// What is logged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogLevels {
    /// Lines of the broker from this level on.
    pub level: LogLevel,
    /// Modules with a level of their own, as `ringmq::shard`, or libraries.
    pub modules: BTreeMap<String, LogLevel>,
}

impl LogLevels {
    /// The same for all modules.
    pub fn of(level: LogLevel) -> LogLevels {
        LogLevels { level, modules: BTreeMap::new() }
    }

    /// With these levels for modules and no others: `shard`, `ringmq::shard::publish`, `rustls`.
    ///
    /// # Errors
    /// Which name is none of a module, or that there are too many.
    pub fn with_modules(self, modules: &[(String, LogLevel)]) -> Result<LogLevels, String> {
        if modules.len() > MODULES {
            return Err(format!("modules: there are more than {MODULES}"));
        }
        let whole = |(name, level): &(String, LogLevel)| {
            let own = name.strip_prefix("ringmq::").unwrap_or(name);
            let first = own.split("::").next().unwrap_or_default();
            let is_path = |text: &str| {
                text.split("::").all(|part| {
                    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
                    !part.is_empty() && part.bytes().all(plain)
                })
            };
            match (is_path(own), OWN.contains(&first), LIBRARIES.contains(&first)) {
                (true, true, _) => Ok((format!("ringmq::{own}"), *level)),
                (true, false, true) if own == name => Ok((name.clone(), *level)),
                _ => Err(format!(
                    "modules: there is no `{name}`; they are {}; libraries: {}",
                    OWN.join(", "),
                    LIBRARIES.join(", ")
                )),
            }
        };
        let modules = modules.iter().map(whole).collect::<Result<_, _>>()?;
        Ok(LogLevels { modules, ..self })
    }
}

/// The running log.
#[derive(Clone, Debug)]
pub struct LogControl {
    filter: reload::Handle<Targets, Registry>,
    writer: LogWriter,
}

impl LogControl {
    /// Logs from now on what `levels` let through. The format cannot change without a restart.
    pub fn set_levels(&self, levels: &LogLevels) {
        // It fails only when the subscriber is gone, and then nothing is logged anyway.
        let _ = self.filter.reload(targets(levels));
    }

    /// Lines that were lost because nobody read the log.
    pub fn lost(&self) -> u64 {
        self.writer.lost_in_all()
    }

    /// Writes what there is, and why the process ends if it was not asked to. Waits at most
    /// 2 seconds for a reader.
    pub fn end(&self, failure: Option<&dyn fmt::Display>) {
        self.writer.keep_everything();
        if let Some(failure) = failure {
            tracing::error!("{failure}");
        }
        // Nobody is left to tell when nobody reads.
        self.writer.flush(LAST_WORDS);
    }

    /// From now on a panic is a line of the log, written before the process is aborted, or before
    /// the thread is held for ever that is to be replaced.
    pub fn take_panics(&self) {
        let log = self.clone();
        std::panic::set_hook(Box::new(move |panic| {
            let backtrace = std::backtrace::Backtrace::capture();
            let backtrace = matches!(backtrace.status(), std::backtrace::BacktraceStatus::Captured)
                .then(|| backtrace.to_string());
            let thread = std::thread::current();
            let thread = thread.name().unwrap_or("unnamed");
            let place = panic.location().map(ToString::to_string);
            let what = panic.payload_as_str().unwrap_or("no message");
            let goes_on = contained::count_panic();
            tracing::error!(thread, place, backtrace, goes_on, "panicked: {what}");
            if goes_on {
                contained::hold();
            }
            log.end(None);
        }));
    }
}

/// The log could not be set up.
#[derive(Debug)]
pub enum LogFailure {
    /// The process already has one.
    AlreadyStarted,
    /// No thread could be made.
    NoThread(io::Error),
}

impl fmt::Display for LogFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LogFailure::AlreadyStarted => {
                f.write_str("the log is already set up in this process; start it once")
            }
            LogFailure::NoThread(error) => {
                write!(f, "cannot start the log's thread ({error}); raise the limit on threads")
            }
        }
    }
}

impl std::error::Error for LogFailure {}

/// Starts the log of this process.
///
/// # Errors
/// When the process already has one, or no thread can be made.
pub fn start(log: &LogConfig) -> Result<LogControl, LogFailure> {
    let stderr = io::stderr();
    let colours = stderr.is_terminal();
    // A descriptor of its own: a write that waits must not hold the lock of `std::io::stderr`.
    let out: Box<dyn io::Write + Send> = match stderr.as_fd().try_clone_to_owned() {
        Ok(descriptor) => Box::new(File::from(descriptor)),
        Err(_) => Box::new(stderr),
    };
    let tell = |lost| tracing::error!(lost, "log lines were lost, because nobody read the log");
    let writer = LogWriter::start(out, tell).map_err(LogFailure::NoThread)?;
    let (subscriber, filter) = subscriber(log, writer.clone(), colours);
    subscriber.try_init().map_err(|_| LogFailure::AlreadyStarted)?;
    Ok(LogControl { filter, writer })
}

fn subscriber<W>(
    log: &LogConfig,
    writer: W,
    colours: bool,
) -> (impl SubscriberInitExt + tracing::Subscriber + Send + Sync, reload::Handle<Targets, Registry>)
where
    W: io::Write + Clone + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(targets(&LogLevels::of(log.level)));
    let lines = tracing_subscriber::fmt::layer();
    let lines = match log.format {
        LogFormat::Text => {
            let fields = format::debug_fn(text_field).delimited(" ");
            let writer = move || writer.clone();
            lines.fmt_fields(fields).with_ansi(colours).with_writer(writer).boxed()
        }
        LogFormat::Json => {
            let writer = move || Json(writer.clone());
            // Of spans there is one kind: the sampled message that a line is about.
            let lines = lines.json().flatten_event(true).with_span_list(false);
            lines.with_writer(writer).boxed()
        }
    };
    (Registry::default().with(filter).with(lines), handle)
}

/// Our own lines at `level`. Those of libraries only when they matter: glommio at `debug` would
/// drown ours.
fn targets(levels: &LogLevels) -> Targets {
    let level = filter(levels.level);
    let modules = levels.modules.iter().map(|(module, level)| (module, filter(*level)));
    Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        .with_target("ringmq", level)
        .with_targets(modules)
        .with_target(ASKED_FOR, level.max(LevelFilter::INFO))
}

fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

/// One field of a text line. The message comes without its name; text in other fields is quoted.
fn text_field(out: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    match (field.name(), out.has_ansi_escapes()) {
        ("message", _) => {}
        (name, true) => write!(out, "\x1b[3m{name}\x1b[0m\x1b[2m=\x1b[0m")?,
        (name, false) => write!(out, "{name}=")?,
    }
    write!(Escaping(out), "{value:?}")
}

/// Writes characters that end a line, or that a terminal acts on, as what they are called.
struct Escaping<'a, 'b>(&'a mut Writer<'b>);

impl fmt::Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some((at, letter)) = rest.char_indices().find(|(_, letter)| acts(*letter)) {
            self.0.write_str(&rest[..at])?;
            write!(self.0, "{}", letter.escape_default())?;
            rest = &rest[at + letter.len_utf8()..];
        }
        self.0.write_str(rest)
    }
}

/// Control characters, further line ends, and what changes the direction of text.
fn acts(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Escapes what JSON need not, because somebody will look at the lines on a terminal.
struct Json<W>(W);

impl<W: io::Write> io::Write for Json<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = std::str::from_utf8(line).unwrap_or_default();
        let (body, end) = text.strip_suffix('\n').map_or((text, ""), |body| (body, "\n"));
        if !body.chars().any(acts) {
            self.0.write_all(line)?;
            return Ok(line.len());
        }
        let mut escaped = String::with_capacity(text.len() + 64);
        for letter in body.chars() {
            // These stand within strings only, and none of them needs a second unit of UTF-16.
            if acts(letter) {
                let _ = write!(escaped, "\\u{:04x}", letter as u32);
            } else {
                escaped.push(letter);
            }
        }
        escaped.push_str(end);
        self.0.write_all(escaped.as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
