//! Tests of the command line.

use clap::Parser;
use clap::error::ErrorKind;

use super::{Arguments, Command, Given, Passwd, Print, manual};

fn parse(text: &str) -> Result<Arguments, clap::Error> {
    Arguments::try_parse_from(std::iter::once("ringmq").chain(text.split_whitespace()))
}

fn given(file: Option<&str>, set: &[&str]) -> Given {
    let set = set.iter().map(|argument| argument.to_string()).collect();
    Given { config: file.map(Into::into), set, ..Given::default() }
}

fn run(given: Given) -> Arguments {
    Arguments { given, test_config: false, take_over: false, command: None }
}

fn test(given: Given) -> Arguments {
    Arguments { given, test_config: true, take_over: false, command: None }
}

fn command(command: Command) -> Arguments {
    Arguments {
        given: Given::default(),
        test_config: false,
        take_over: false,
        command: Some(command),
    }
}

fn doctor(connections: Option<u64>, json: bool) -> Arguments {
    command(Command::Doctor { given: Given::default(), connections, json })
}

#[test]
fn every_command_of_the_contract_is_understood() {
    let none = || given(None, &[]);
    let cases = [
        ("", run(none())),
        ("--config a.yaml", run(given(Some("a.yaml"), &[]))),
        ("-c a.yaml", run(given(Some("a.yaml"), &[]))),
        ("--config=a.yaml --set a=1 --set=b=2", run(given(Some("a.yaml"), &["a=1", "b=2"]))),
        ("-p 1884 -v", run(Given { port: Some(1884), verbose: true, ..none() })),
        ("-vp0", run(Given { port: Some(0), verbose: true, ..none() })),
        ("--test-config", test(none())),
        ("--test-config --config a", test(given(Some("a"), &[]))),
        ("--config a --test-config", test(given(Some("a"), &[]))),
        ("config default", command(Command::Config(Print::Default))),
        ("config reference", command(Command::Config(Print::Reference))),
        ("config schema", command(Command::Config(Print::Schema))),
        ("config show -c a", command(Command::Config(Print::Show(given(Some("a"), &[]))))),
        ("doctor", doctor(None, false)),
        ("doctor --connections 1_000_000 --json", doctor(Some(1_000_000), true)),
        ("doctor --json --connections=5", doctor(Some(5), true)),
        (
            "doctor --config a --set a=1",
            command(Command::Doctor {
                given: given(Some("a"), &["a=1"]),
                connections: None,
                json: false,
            }),
        ),
        ("ping", command(Command::Ping { given: none(), target: None })),
        (
            "ping host:1 --config a",
            command(Command::Ping { given: given(Some("a"), &[]), target: Some("host:1".into()) }),
        ),
        ("completions bash", command(Command::Completions { shell: clap_complete::Shell::Bash })),
        (
            "passwd file user",
            command(Command::Passwd(Passwd {
                file: "file".into(),
                user: "user".into(),
                batch: None,
                delete: false,
                hash: crate::passwd::HashArgument::Sha512Pbkdf2,
                iterations: 10_000,
            })),
        ),
        ("man doctor", command(Command::Man { command: vec!["doctor".into()] })),
    ];
    for (text, expected) in cases {
        assert_eq!(parse(text).expect(text), expected, "{text}");
    }
    for (text, kind) in [
        ("config", ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand),
        ("--version", ErrorKind::DisplayVersion),
        ("-V", ErrorKind::DisplayVersion),
        ("--config a --help", ErrorKind::DisplayHelp),
        ("doctor --help", ErrorKind::DisplayHelp),
        ("help ping", ErrorKind::DisplayHelp),
    ] {
        assert_eq!(parse(text).unwrap_err().kind(), kind, "{text}");
    }
}

#[test]
fn misuse_names_the_option_and_what_to_write_instead() {
    let cases = [
        (
            "--confg a",
            "unexpected argument '--confg' found\n\n  tip: a similar argument exists: '--config'",
        ),
        ("--frobnicate", "unexpected argument '--frobnicate' found"),
        (
            "confg default",
            "unrecognized subcommand 'confg'\n\n  tip: a similar subcommand exists: 'config'",
        ),
        ("--config", "a value is required for '--config <FILE>' but none was supplied"),
        ("--config --set a=1", "a value is required for '--config <FILE>'"),
        ("--config=", "a value is required for '--config <FILE>'"),
        ("--set", "a value is required for '--set <KEY=VALUE>'"),
        ("--config a --config b", "the argument '--config <FILE>' cannot be used multiple times"),
        ("--test-config=yes", "unexpected value 'yes' for '--test-config' found"),
        ("-p 65536", "invalid value '65536' for '-p <PORT>'"),
        (
            "config defaults",
            "unrecognized subcommand 'defaults'\n\n  tip: a similar subcommand exists: 'default'",
        ),
        ("config default now", "unexpected argument 'now' found"),
        ("config default --config a", "unexpected argument '--config' found"),
        ("doctor --connections", "a value is required for '--connections <N>'"),
        ("doctor --connections no", "invalid value 'no' for '--connections <N>': write a number"),
        ("doctor --connections 0", "invalid value '0' for '--connections <N>': write a number"),
        (
            "doctor --jsn",
            "unexpected argument '--jsn' found\n\n  tip: a similar argument exists: '--json'",
        ),
        ("doctor --test-config", "unexpected argument '--test-config' found"),
        ("--connections 5", "unexpected argument '--connections' found"),
        ("ping a b", "unexpected argument 'b' found"),
        ("--config a doctor", "the subcommand 'doctor' cannot be used with '--config <FILE>'"),
        ("a.yaml", "unrecognized subcommand 'a.yaml'"),
        ("completions tcsh", "invalid value 'tcsh' for '<SHELL>'\n  [possible values: bash, "),
    ];
    for (text, expected) in cases {
        let misuse = parse(text).unwrap_err();
        assert_eq!(misuse.exit_code(), 2, "{text}");
        let said = misuse.to_string();
        let begin = format!("error: {expected}");
        assert!(said.starts_with(&begin), "{text}\n  found    {said}\n  expected {expected}");
    }
}

#[test]
fn every_command_has_a_page_of_the_manual_and_completions() {
    let page = |words: &[&str]| {
        let words: Vec<String> = words.iter().map(|word| word.to_string()).collect();
        manual(&words).map(|page| String::from_utf8(page).unwrap())
    };
    assert!(page(&[]).unwrap().contains("\n.TH ringmq 1 "));
    assert!(page(&["doctor"]).unwrap().contains("\\-\\-connections"));
    assert!(page(&["config", "show"]).unwrap().contains("\\-\\-set"));
    assert_eq!(page(&["docter"]), None);
    for shell in [clap_complete::Shell::Bash, clap_complete::Shell::Zsh] {
        let script = String::from_utf8(super::completions(shell)).unwrap();
        assert!(script.contains("--connections") && script.contains("reference"), "{shell}");
    }
}
