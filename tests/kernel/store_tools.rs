//! What people do to a store: they copy it while a broker uses it, move it to another place and
//! number of shards, compact it, and repair it.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::line::Line;
use crate::storage::{Place, come_back, subscribe};
use crate::support::broker::Launch;
use crate::support::*;

const PATIENCE: Duration = Duration::from_secs(20);
/// How long nothing is taken for no further message.
const QUIET: Duration = Duration::from_millis(300);

/// Runs `ringmq storage …` with that on its standard input.
fn tool(arguments: &[&str], input: &[u8]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringmq"));
    command.arg("storage").args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program runs");
    // Who does not read it closes it.
    let _ = child.stdin.take().expect("a pipe").write_all(input);
    child.wait_with_output().expect("it ends")
}

fn done(arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let output = tool(arguments, input);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {stderr}");
    output.stdout
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn start(path: &Path, shards: usize) -> Broker {
    let setting = format!("storage.path={}", path.display());
    Launch { shards, ..Launch::new(&[&*setting]) }.start()
}

fn stop(broker: &Broker) {
    broker.signal("-TERM");
    assert_eq!(broker.wait(PATIENCE), Some(0));
}

/// What waits for the session, in order, and what is retained.
fn content(broker: &Broker) -> (Vec<String>, Vec<String>) {
    let (mut line, present) = come_back(broker.address(), "away").expect("it accepts");
    assert!(present, "the session is gone");
    let waiting = payloads(&mut line);
    let mut reader =
        Line::open(broker.address(), &Connect::new(V5, "reader"), PATIENCE).expect("it accepts");
    subscribe(&mut reader, "kept/#", 0);
    let mut kept = payloads(&mut reader);
    kept.sort();
    (waiting, kept)
}

fn payloads(line: &mut Line) -> Vec<String> {
    let mut payloads = Vec::new();
    while let Some(packet) = line.next(QUIET).expect("it stays") {
        if let Packet::Publish(publish) = packet {
            payloads.push(publish.text().to_owned());
        }
    }
    payloads
}

fn numbered(name: &str, numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|number| format!("{name}{number}")).collect()
}

/// A session that is away, with messages that wait for it, and retained ones: those numbers.
fn furnish(broker: &Broker, numbers: std::ops::Range<usize>) {
    let (mut line, present) = come_back(broker.address(), "away").expect("it accepts");
    if !present {
        subscribe(&mut line, "stored/#", 2);
    }
    drop(line);
    let mut publisher = Client::connect(broker, V5, "publisher");
    for number in numbers {
        let qos = 1 + number as u8 % 2;
        publisher.publish(&Publish::new("stored/a", qos, format!("s{number}")));
        let topic = format!("kept/{number}");
        publisher.publish(&Publish::new(&topic, 1, format!("k{number}")).retain());
    }
}

#[test]
fn a_store_is_copied_while_it_is_used_and_moves_whole_to_another_place() {
    let (place, copy, moved) = (Place::new(), Place::new(), Place::new());
    let broker = start(&place.0, 2);
    furnish(&broker, 0..4);
    done(&["backup", text(&place.0), text(&copy.0)], b"");
    furnish(&broker, 4..6);
    let busy = tool(&["export", text(&place.0)], b"");
    assert!(String::from_utf8_lossy(&busy.stderr).contains("another process"));
    stop(&broker);
    // The same content gives the same bytes, wherever it lies and however often it was moved.
    let export = done(&["export", text(&place.0)], b"");
    done(&["import", text(&moved.0)], &export);
    assert_eq!(done(&["export", text(&moved.0)], b""), export);
    done(&["compact", text(&place.0)], b"");
    assert_eq!(done(&["export", text(&place.0)], b""), export);
    let again = tool(&["import", text(&moved.0)], &export);
    assert!(String::from_utf8_lossy(&again.stderr).contains("a store already"));
    let mut damaged = export.clone();
    damaged[40] ^= 1;
    let refused = tool(&["import", text(&moved.0.join("new"))], &damaged);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("checksum"));
    // A broker with another number of shards goes on with it.
    for (path, shards, count) in [(&moved.0, 3, 6), (&place.0, 2, 6), (&copy.0, 1, 4)] {
        let broker = start(path, shards);
        let expected = (numbered("s", 0..count), numbered("k", 0..count));
        assert_eq!(content(&broker), expected, "{shards} shards");
    }
}

#[test]
fn a_damaged_store_is_refused_by_name_and_repaired_with_what_is_whole() {
    let place = Place::new();
    let broker = start(&place.0, 1);
    furnish(&broker, 0..8);
    stop(&broker);
    let segment = place.0.join("shard-000/0000000001.seg");
    let mut bytes = fs::read(&segment).expect("it is there");
    // The batch of some message in the middle.
    let at = bytes.windows(2).position(|two| two == b"k3").expect("it is stored");
    bytes[at] ^= 4;
    fs::write(&segment, &bytes).expect("writable");
    let checked = tool(&["check", text(&place.0)], b"");
    assert_eq!(checked.status.code(), Some(1));
    let said = String::from_utf8_lossy(&checked.stdout);
    let place_of = format!("damaged at byte {}", at / 4096 * 4096);
    assert!(said.contains("0000000001.seg") && said.contains(&place_of), "{said}: {place_of}");
    assert_eq!(fs::read(&segment).expect("it is there"), bytes, "a check changes nothing");
    done(&["check", "--repair", text(&place.0)], b"");
    assert!(place.0.join("damaged-shard-000").is_dir(), "the damaged log is kept");
    done(&["check", text(&place.0)], b"");
    let broker = start(&place.0, 1);
    let (waiting, kept) = content(&broker);
    // Only what was in that batch may be missing.
    let lost = |all: Vec<String>, left: &[String]| all.iter().filter(|n| !left.contains(n)).count();
    assert!(!kept.contains(&"k3".to_owned()) && lost(numbered("k", 0..8), &kept) == 1, "{kept:?}");
    assert!(lost(numbered("s", 0..8), &waiting) <= 1 && waiting.is_sorted(), "{waiting:?}");
}

/// What a reload forbids is gone for good: a restart with the old rules does not bring it back.
#[test]
fn a_subscription_that_a_reload_has_ended_is_stored_no_more() {
    let (place, rules) = (Place::new(), Temporary::file("acl", "topic readwrite a/#\n"));
    let access = format!("access.authorization=[{{acl_file: {{path: {}}}}}]", rules.display());
    let path = place.setting();
    let settings = [&*path, &*access];
    let broker = Broker::start(&settings);
    let (mut line, _) = come_back(broker.address(), "stays").expect("it accepts");
    subscribe(&mut line, "a/b", 1);
    subscribe(&mut line, "$share/g/a/c", 1);
    fs::write(&*rules, "topic write a/#\n").expect("it can be written");
    broker.signal("-HUP");
    eventually("they end", || broker.log().matches("subscription ended").count() == 2);
    broker.signal("-TERM");
    assert_eq!(broker.wait(PATIENCE), Some(0));
    fs::write(&*rules, "topic readwrite a/#\n").expect("it can be written");
    let broker = Broker::start(&settings);
    let mut publisher = Line::open(broker.address(), &Connect::new(V5, "p"), PATIENCE).unwrap();
    for (id, topic) in [(1, "a/b"), (2, "a/c")] {
        publisher.send(&Publish::new(topic, 1, "x").id(id).encode(V5)).expect("it takes it");
        let answer = publisher.next(PATIENCE).expect("it answers");
        let Some(Packet::Ack(ack)) = answer else { panic!("{answer:?}") };
        assert_eq!(ack.reason, 0x10, "{topic}: nobody is subscribed");
    }
}
