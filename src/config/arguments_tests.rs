//! The command line.

use std::ffi::OsString;

use super::{Command, Given, parse};

fn words(text: &str) -> Vec<OsString> {
    text.split_whitespace().map(OsString::from).collect()
}

fn given(file: Option<&str>, set: &[&str]) -> Given {
    Given { file: file.map(Into::into), set: set.iter().map(|s| s.to_string()).collect() }
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
        ("doctor --connections 5", "`ringmq doctor` is not in this build yet"),
        ("passwd file user", "`ringmq passwd` is not in this build yet"),
        ("--config a doctor", "`doctor` must be the first word; "),
        ("a.yaml", "unknown argument `a.yaml`; see `ringmq --help`"),
    ];
    for (text, expected) in cases {
        let misuse = parse(words(text)).unwrap_err().to_string();
        assert!(misuse.starts_with(expected), "{text}\n  found    {misuse}\n  expected {expected}");
    }
}
