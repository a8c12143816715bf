//! What the log writes.

use std::io::Write;
use std::sync::{Arc, Mutex};

use super::subscriber;
use crate::config::{Format, Level, Log};

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

fn log(level: Level, format: Format) -> Log {
    Log { level, format }
}

#[test]
fn text_and_json_lines_carry_utc_time_level_and_fields() {
    for format in [Format::Text, Format::Json] {
        let lines = Lines::default();
        let writer = lines.clone();
        let (subscriber, _) = subscriber(&log(Level::Info, format), move || writer.clone(), false);
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
        if format == Format::Json {
            assert!(text.contains("\"message\":\"ready\",\"shard\":3"), "{text}");
        }
    }
}

#[test]
fn the_level_can_change_while_running_and_libraries_stay_quiet() {
    let lines = Lines::default();
    let writer = lines.clone();
    let log = log(Level::Warn, Format::Text);
    let (subscriber, control) = subscriber(&log, move || writer.clone(), false);
    tracing::subscriber::with_default(subscriber, || {
        let write = || {
            tracing::warn!(target: "ringmq", "a");
            tracing::debug!(target: "ringmq::shard", "b");
            tracing::debug!(target: "glommio", "c");
            lines.take().lines().count()
        };
        assert_eq!(write(), 1);
        control.set_level(Level::Debug);
        assert_eq!(write(), 2);
        control.set_level(Level::Error);
        assert_eq!(write(), 0);
    });
}
