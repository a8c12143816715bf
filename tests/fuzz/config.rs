//! Target `config`: any bytes as the file, any text in the environment and behind `--set`. No
//! panic; every problem names its place; what is accepted is accepted again from the default file
//! with the same overrides, and no part of it is lost.

use crate::input::Input;
use ringmq::config::{Config, Problems, Sources, default_file};

const KEYS: [&str; 24] = [
    "mqtt.max_qos",
    "mqtt.max_packet_size",
    "mqtt.keep_alive.multiplier",
    "mqtt.session_expiry.default",
    "mqtt.pending.on_full",
    "mqtt.shared_strategy",
    "mqtt.retry_interval",
    "mqtt",
    "cores",
    "runtime.spin",
    "runtime.receive_buffers",
    "runtime.receive_buffers.size",
    "runtime.max_connections",
    "listeners",
    "listeners.0",
    "listeners.0.bind",
    "listeners.1.type",
    "listeners.0.max_connect_rate",
    "listeners.9",
    "log.format",
    "retained.expiry",
    "sys.interval",
    "storage.path",
    "",
];

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut sources = Sources::default();
    let overrides = input.below(4);
    for _ in 0..overrides {
        let (key, length) = (key(&mut input), input.below(40));
        let value = String::from_utf8_lossy(input.bytes(length)).into_owned();
        if input.flag() {
            let name = format!("RINGMQ_{}", key.to_ascii_uppercase().replace('.', "__"));
            sources.environment.push((name, value));
        } else {
            sources.set.push(format!("{key}={value}"));
        }
    }
    let file = input.rest();
    check(&sources, sources.load_from("fuzz.yaml", file), file);
    if overrides > 0 {
        // The same overrides alone, and over a file with every key: both must agree.
        let bare = sources.load();
        check(&sources, bare.clone(), b"");
        let full = sources.load_from("default.yaml", default_file().as_bytes());
        if let (Ok(bare), Ok(full)) = (&bare, &full) {
            assert_eq!(bare, full, "{sources:?}");
        }
    }
}

fn key(input: &mut Input<'_>) -> String {
    let length = input.below(64);
    if length < 40 {
        return KEYS[length % KEYS.len()].to_owned();
    }
    String::from_utf8_lossy(input.bytes(length - 40)).into_owned()
}

/// What a problem names of an override: as much of it as looks like a key. The rest may be a
/// secret.
fn key_of(set: &str) -> &str {
    let set = set.trim_start();
    let other = |c: char| !c.is_ascii_alphanumeric() && !matches!(c, '.' | '_' | '-');
    &set[..set.find(other).unwrap_or(set.len())]
}

fn check(sources: &Sources, outcome: Result<Config, Problems>, file: &[u8]) {
    let problems = match outcome {
        Ok(config) => {
            assert!(config.changed_keys(&config).is_empty());
            assert!(!config.listeners.is_empty());
            let _ = (config.remarks(), config.changed_keys(&Config::default()));
            return;
        }
        Err(Problems(problems)) => problems,
    };
    assert!(!problems.is_empty(), "refused without a reason");
    // One line too many for a file whose end is what is wrong.
    let lines = file.iter().filter(|&&byte| matches!(byte, b'\n' | b'\r')).count() + 2;
    for problem in problems {
        let shown = problem.to_string();
        assert!(!problem.what.is_empty() && !problem.fix.is_empty(), "{shown:?}");
        match problem.origin.line_number() {
            Some(line) => assert!((1..=lines).contains(&line), "{shown:?}"),
            None => {
                let place = problem.origin.to_string();
                let named = place == "fuzz.yaml"
                    || sources.environment.iter().any(|(name, _)| *name == place)
                    || sources.set.iter().any(|set| place == format!("--set {}", key_of(set)))
                    || place == "default";
                assert!(named, "{shown:?} names no place");
            }
        }
    }
}
