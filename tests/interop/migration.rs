//! The worked examples of the README for those who come from other brokers, run as they are shown.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::access::{Directory, Service, login, publish};
use crate::output;
use crate::support::broker::run;
use crate::support::{Broker, Connect, Publish, V5, unique};

/// The n-th block of code below a heading of the README.
fn block(heading: &str, number: usize) -> String {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = fs::read_to_string(readme).expect("it can be read");
    let (_, section) = readme.split_once(heading).expect("a section of that name");
    let block = section.split("```").nth(2 * number + 1).expect("a block");
    block.split_once('\n').expect("a first line").1.to_owned()
}

#[test]
fn coming_from_mosquitto() {
    let directory = Directory::new();
    let (users, rules) = (directory.file("passwd"), directory.file("acl"));
    output(Command::new("mosquitto_passwd").args(["-c", "-b", &users, "ann", "apple"]));
    output(Command::new("mosquitto_passwd").args(["-b", &users, "bob", "pear"]));
    let lines = "user ann\ntopic plant/#\n\nuser bob\ntopic shed/#\n";
    fs::write(&rules, lines).expect("a file");
    // What the README shows, with the files of this test.
    let shown = block("### From mosquitto", 0);
    let theirs = shown.replace("/etc/mosquitto/passwd", &users);
    let theirs = theirs.replace("/etc/mosquitto/acl", &rules);
    let theirs = theirs.replace("listener 1883", "listener 1883 127.0.0.1");
    let theirs = theirs.replace("/var/lib/mosquitto/", &directory.file("store"));
    let old = directory.file("mosquitto.conf");
    fs::write(&old, &theirs).expect("a file");
    // Given as it is, the broker says what to do.
    let refused = run(&["--test-config", "-c", &old]);
    assert_eq!(refused.code, Some(2));
    let hint = format!("`ringmq config convert {old}` prints ours for it");
    assert!(refused.stderr.contains(&hint), "{}", refused.stderr);
    let converted = run(&["config", "convert", &old]);
    assert_eq!(converted.code, Some(0), "{}", converted.stderr);
    let new = directory.file("ringmq.yaml");
    let yaml = converted.stdout.replace("127.0.0.1:1883", "127.0.0.1:0");
    fs::write(&new, yaml).expect("a file");
    let checked = run(&["--test-config", "-c", &new]);
    assert_eq!(checked.code, Some(0), "{}", checked.stderr);
    let broker = Broker::of_file(&new);
    let (code, text) = publish(&broker, &login("ann", "apple", "plant/1"));
    assert!(code == 0 && text.contains("RC:16"), "{text}");
    assert!(publish(&broker, &login("ann", "apple", "else")).1.contains("RC:135"));
    assert_ne!(publish(&broker, &login("ann", "pear", "plant/1")).0, 0);
    assert_ne!(publish(&broker, &["-t", "plant/1", "-m", "x"]).0, 0, "nobody is anonymous");
    // Everybody may subscribe to everything, and gets what the rules allow.
    let login = |user, password| {
        Connect::new(V5, unique(user)).login(Some(user), Some(password)).open(&broker)
    };
    let (mut ann, mut bob) = (login("ann", "apple"), login("bob", "pear"));
    ann.granted("#", 1);
    bob.publish(&Publish::new("shed/1", 1, "hers it is not"));
    ann.publish(&Publish::new("plant/1", 1, "hers"));
    ann.expect("hers");
}

#[test]
fn coming_from_emqx() {
    let service = Service::start();
    let rule = r#"{"permission": "allow", "action": "all", "topic": "dev/${username}/#"}"#;
    service.says("200 OK", &format!(r#"{{"result": "allow", "acl": [{rule}]}}"#));
    let directory = Directory::new();
    let shown = block("### From EMQX", 0);
    let ours = shown.replace("https://auth.example", &format!("http://{}", service.address));
    let file = directory.file(&unique("emqx"));
    let listeners = "listeners: [{bind: '127.0.0.1:0'}]\n";
    fs::write(&file, listeners.to_owned() + &ours).expect("a file");
    let broker = Broker::of_file(&file);
    let (code, text) = publish(&broker, &login("ann", "apple", "dev/ann/state"));
    assert!(code == 0 && text.contains("RC:16"), "{text}");
    assert!(publish(&broker, &login("ann", "apple", "dev/bob/state")).1.contains("RC:135"));
    // The elements that may stand there besides.
    let more = directory.file(&unique("more"));
    fs::write(&more, block("### From EMQX", 1)).expect("a file");
    let checked = run(&["--test-config", "-c", &more]);
    assert_eq!(checked.code, Some(0), "{}", checked.stderr);
}
