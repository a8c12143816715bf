//! What the log writes.

use std::io::Write;
use std::sync::{Arc, Mutex};

use super::{ASKED_FOR, LogLevels, OWN, subscriber, targets};
use crate::config::{LogConfig, LogFormat, LogLevel};

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn take(&self) -> String {
        String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap()
    }
}

fn log(level: LogLevel, format: LogFormat) -> LogConfig {
    LogConfig { level, format, ..LogConfig::default() }
}

#[test]
fn text_and_json_lines_carry_utc_time_level_and_fields() {
    for format in [LogFormat::Text, LogFormat::Json] {
        let lines = Lines::default();
        let (subscriber, _) = subscriber(&log(LogLevel::Info, format), lines.clone(), false);
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(target: "ringmq::broker", shard = 3, "ready");
        });
        let text = lines.take();
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(
            text.contains("ready") && text.contains("shard") && text.contains("INFO"),
            "{text}"
        );
        let time = text.trim_start_matches("{\"timestamp\":\"");
        let shape: String =
            time[..27].chars().map(|c| if c.is_ascii_digit() { '9' } else { c }).collect();
        assert_eq!(shape, "9999-99-99T99:99:99.999999Z", "{text}");
        match format {
            LogFormat::Json => {
                assert!(text.contains("\"message\":\"ready\",\"shard\":3"), "{text}");
            }
            LogFormat::Text => {
                assert!(text.ends_with(" INFO ringmq::broker: ready shard=3\n"), "{text}");
            }
        }
    }
}

/// Texts of a client that would be another line, a colour, another field, or hidden.
const HOSTILE: [&str; 7] = [
    "a\n2026-01-01T00:00:00Z  INFO ringmq: forged",
    "a\r\x1b[2K\x1b[31mred",
    "a\" shard=9 reason=\"b",
    "a\u{9b}31m\u{85}next",
    "a\u{202e}txt.exe\u{2066}\u{2028}b",
    "a\0\x07\x08\x0b\x0c\x7f",
    "\u{feff}\t",
];

#[test]
fn what_a_client_chose_is_neither_a_line_nor_a_field_nor_a_colour() {
    for format in [LogFormat::Text, LogFormat::Json] {
        for text in HOSTILE {
            let lines = Lines::default();
            let (subscriber, _) = subscriber(&log(LogLevel::Info, format), lines.clone(), false);
            tracing::subscriber::with_default(subscriber, || {
                // As a value of its own, as something that is displayed, and in the message.
                tracing::info!(target: "ringmq", client_id = text, username = Some(text), "one");
                tracing::info!(target: "ringmq", topic = %text, "two");
                tracing::info!(target: "ringmq", "three {text}");
            });
            let written = lines.take();
            assert_eq!(written.lines().count(), 3, "{text:?}: {written:?}");
            let bare = written.replace('\n', "");
            let acting = bare.chars().find(|letter| super::acts(*letter));
            assert_eq!(acting, None, "{text:?}: {written:?}");
            if format == LogFormat::Text {
                let first = written.lines().next().unwrap();
                assert!(first.contains(&format!("client_id={text:?}")), "{first}");
            } else {
                // Nothing is lost by escaping twice.
                let whole = json_text(written.lines().next().unwrap(), "client_id");
                assert_eq!(whole, text);
            }
        }
    }
}

/// The value of a text field of a line of JSON.
fn json_text(line: &str, field: &str) -> String {
    let (_, rest) = line.split_once(&format!("\"{field}\":\"")).unwrap();
    let mut letters = rest.chars();
    let mut text = String::new();
    loop {
        match letters.next().unwrap() {
            '"' => return text,
            '\\' => text.push(match letters.next().unwrap() {
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                'b' => '\x08',
                'f' => '\x0c',
                'u' => {
                    let digits: String = letters.by_ref().take(4).collect();
                    char::from_u32(u32::from_str_radix(&digits, 16).unwrap()).unwrap()
                }
                other => other,
            }),
            letter => text.push(letter),
        }
    }
}

#[test]
fn the_level_can_change_while_running_and_libraries_stay_quiet() {
    let lines = Lines::default();
    let (subscriber, control) =
        subscriber(&log(LogLevel::Warn, LogFormat::Text), lines.clone(), false);
    tracing::subscriber::with_default(subscriber, || {
        let write = || {
            tracing::warn!(target: "ringmq", "a");
            tracing::debug!(target: "ringmq::shard", "b");
            tracing::debug!(target: "glommio", "c");
            lines.take().lines().count()
        };
        assert_eq!(write(), 1);
        control.reload(targets(&LogLevels::of(LogLevel::Debug))).unwrap();
        assert_eq!(write(), 2);
        control.reload(targets(&LogLevels::of(LogLevel::Error))).unwrap();
        assert_eq!(write(), 0);
        tracing::info!(target: ASKED_FOR, "a summary");
        assert_eq!(lines.take().lines().count(), 1, "an operator has asked for it");
    });
}

#[test]
fn a_module_has_a_level_of_its_own_and_unknown_ones_are_refused() {
    let lines = Lines::default();
    let (subscriber, filter) =
        subscriber(&log(LogLevel::Info, LogFormat::Text), lines.clone(), false);
    let one = |name: &str, level| vec![(name.to_owned(), level)];
    tracing::subscriber::with_default(subscriber, || {
        let set = |modules: &[(String, LogLevel)]| {
            let levels = LogLevels::of(LogLevel::Warn).with_modules(modules).unwrap();
            filter.reload(targets(&levels)).unwrap();
            tracing::debug!(target: "ringmq::shard::publish", "deep");
            tracing::info!(target: "ringmq::broker", "other");
            tracing::debug!(target: "rustls::server", "library");
            tracing::warn!(target: "ringmq::broker", "warning");
            lines.take().lines().map(|line| line.rsplit(' ').next().unwrap().to_owned()).collect()
        };
        let said: Vec<String> = set(&one("shard", LogLevel::Debug));
        assert_eq!(said, ["deep", "warning"]);
        let said: Vec<String> = set(&one("ringmq::broker", LogLevel::Error));
        assert_eq!(said, [""; 0]);
        let said: Vec<String> = set(&one("rustls", LogLevel::Debug));
        assert_eq!(said, ["library", "warning"]);
        let said: Vec<String> = set(&[]);
        assert_eq!(said, ["warning"]);
    });
    for wrong in ["shrad", "ringmq", "ringmq::", "shard::", "shard x", "ringmq::rustls", "serde"] {
        let refused = LogLevels::of(LogLevel::Info).with_modules(&one(wrong, LogLevel::Info));
        assert!(refused.is_err_and(|why| why.contains(wrong)), "{wrong}");
    }
    let many: Vec<_> = (0..33).map(|n| (format!("shard::m{n}"), LogLevel::Info)).collect();
    assert!(LogLevels::of(LogLevel::Info).with_modules(&many).is_err());
}

#[test]
fn the_modules_that_can_be_named_are_those_of_the_broker() {
    for name in OWN.iter().filter(|name| **name != "summary") {
        let path = format!("{}/src/{name}", env!("CARGO_MANIFEST_DIR"));
        let is_there = std::path::Path::new(&path).is_dir()
            || std::path::Path::new(&format!("{path}.rs")).is_file();
        assert!(is_there, "{path}");
    }
}

#[test]
fn lines_about_a_sampled_message_carry_its_trace() {
    for format in [LogFormat::Text, LogFormat::Json] {
        let lines = Lines::default();
        let (subscriber, _) = subscriber(&log(LogLevel::Warn, format), lines.clone(), false);
        tracing::subscriber::with_default(subscriber, || {
            let logged = tracing::error_span!(target: "ringmq::shard", "message", trace_id = %"ab");
            let _entered = logged.entered();
            tracing::warn!(target: "ringmq::shard", "denied");
        });
        let text = lines.take();
        let wanted = match format {
            LogFormat::Text => "message{trace_id=ab}: ringmq::shard: denied\n",
            LogFormat::Json => "\"span\":{\"trace_id\":\"ab\",\"name\":\"message\"}",
        };
        assert!(text.contains(wanted), "{text}");
    }
}
