//! The command line.

use std::ffi::OsString;

use super::{Command, Examination, Given, parse};

fn words(text: &str) -> Vec<OsString> {
    text.split_whitespace().map(OsString::from).collect()
}

fn given(file: Option<&str>, set: &[&str]) -> Given {
    Given { file: file.map(Into::into), set: set.iter().map(|s| s.to_string()).collect() }
}

fn doctor(connections: Option<u64>, json: bool) -> Command {
    Command::Doctor(given(None, &[]), Examination { connections, json })
}

#[test]
fn every_command_of_the_contract_is_understood() {
    let cases = [
        ("", Command::Run(given(None, &[]))),
        ("--config a.yaml", Command::Run(given(Some("a.yaml"), &[]))),
        (
            "--config=a.yaml --set a=1 --set=b=2",
            Command::Run(given(Some("a.yaml"), &["a=1", "b=2"])),
        ),
        ("--test-config", Command::TestConfig(given(None, &[]))),
        ("--test-config --config a", Command::TestConfig(given(Some("a"), &[]))),
        ("--config a --test-config", Command::TestConfig(given(Some("a"), &[]))),
        ("config default", Command::ConfigDefault),
        ("config reference", Command::ConfigReference),
        ("doctor", doctor(None, false)),
        ("doctor --connections 1_000_000 --json", doctor(Some(1_000_000), true)),
        ("doctor --json --connections=5", doctor(Some(5), true)),
        (
            "doctor --config a --set a=1",
            Command::Doctor(given(Some("a"), &["a=1"]), Examination::default()),
        ),
        ("ping", Command::Ping(given(None, &[]), None)),
        ("ping host:1 --config a", Command::Ping(given(Some("a"), &[]), Some("host:1".into()))),
        ("--version", Command::Version),
        ("-V", Command::Version),
        ("--config a --help", Command::Help),
    ];
    for (text, expected) in cases {
        assert_eq!(parse(words(text)), Ok(expected), "{text}");
    }
}

#[test]
fn misuse_says_what_to_write_instead() {
    let cases = [
        ("--confg a", "unknown argument `--confg`; did you mean `--config`?"),
        ("--frobnicate", "unknown argument `--frobnicate`; see `ringmq --help`"),
        ("confg default", "unknown argument `confg`; did you mean `config`?"),
        ("--config", "--config needs a value; write --config /etc/ringmq/ringmq.yaml"),
        ("--config --set a=1", "--config needs a value; "),
        ("--config=", "--config needs a value; "),
        ("--set", "--set needs a value; write --set mqtt.max_qos=1"),
        ("--config a --config b", "--config is given twice; name one file"),
        ("--test-config=yes", "--test-config takes no value; remove the = and what follows"),
        ("config", "`ringmq config` needs to know what to print; "),
        ("config defaults", "`ringmq config` needs to know what to print; "),
        ("config default now", "`now` is one word too many; remove it"),
        ("doctor --connections", "--connections needs a value; write --connections 100000"),
        ("doctor --connections no", "--connections needs a value; write --connections 100000"),
        ("doctor --connections 0", "--connections needs a value; "),
        ("doctor --jsn", "unknown argument `--jsn`; did you mean `--json`?"),
        ("doctor --test-config", "`--test-config` cannot be combined with this command"),
        ("--connections 5", "--connections belongs to `doctor`; write `ringmq doctor --connect"),
        ("ping a b", "unknown argument `b`; see `ringmq --help`"),
        ("passwd file user", "`ringmq passwd` is not in this build yet"),
        ("--config a doctor", "`doctor` must be the first word; "),
        ("a.yaml", "unknown argument `a.yaml`; see `ringmq --help`"),
    ];
    for (text, expected) in cases {
        let misuse = parse(words(text)).unwrap_err().to_string();
        assert!(misuse.starts_with(expected), "{text}\n  found    {misuse}\n  expected {expected}");
    }
}
