//! One operation of the broker's pure core, repeated as often as asked, for a tool that counts
//! instructions: `ringmq-instructions OPERATION COUNT`. This program takes the place of driver,
//! mailboxes and clock and makes no system calls for them.
//!
//! The difference between the counts of two runs with different COUNT leaves out what is done once.
//! The program uses only what a shard offers to its driver, so that other revisions of the broker
//! can be built with it.

mod files;
mod operations;
mod packets;
mod world;

use operations::*;
use std::process::exit;

/// Messages per step in the busy operations, and clients per step in the one that moves several at
/// once.
const BUSY: usize = 32;

/// The name, what one operation is, and the function that repeats it.
type Operation = (&'static str, &'static str, fn(usize));

const OPERATIONS: [Operation; 26] = [
    ("decode", "a QoS 1 PUBLISH framed and decoded", decoding),
    ("publish-qos0", "a QoS 0 message to one subscriber, a step each", |n| publishing(1, 1, 1, n)),
    ("publish-qos0-busy", "the same, 32 messages per step", |n| publishing(1, 1, BUSY, n)),
    ("publish-qos1", "a QoS 1 message to one subscriber, acknowledged by both", acknowledged),
    ("publish-qos2", "a QoS 2 message to one subscriber, with all answers of both", assured),
    ("publish-10", "a QoS 0 message to ten subscribers, a step each", |n| publishing(1, 10, 1, n)),
    ("publish-100", "a QoS 0 message to a hundred", |n| publishing(1, 100, 1, n)),
    ("publish-across", "one to another shard, a step of each", |n| publishing(2, 1, 1, n)),
    ("publish-across-busy", "the same, 32 messages per step", |n| publishing(2, 1, BUSY, n)),
    ("publish-rules-10", "publish-qos0 under 10 rules, decision remembered", |n| ruled(10, 1, n)),
    ("publish-rules-1000", "the same under 1000 rules", |n| ruled(1000, 1, n)),
    ("publish-topics", "publish-qos0 to 400 topics in turn, no rules", unruled),
    ("publish-anew-10", "the same under 10 rules, nothing remembered", |n| ruled_anew(10, n)),
    ("publish-anew-1000", "the same under 1000 rules", |n| ruled_anew(1000, n)),
    ("away-kept", "a QoS 1 message to an offline session, which takes it later", |n| {
        away(false, n)
    }),
    ("away-stored", "the same with a store: more by the shard's share of it", |n| away(true, n)),
    ("subscribe", "SUBSCRIBE and UNSUBSCRIBE of one filter, two steps", subscribing),
    ("connect", "CONNECT and DISCONNECT of a clean session, three steps", connecting),
    ("connect-across", "the same by way of another shard, six steps", |n| moving(1, n)),
    ("connect-across-busy", "the same, 32 clients per step", |n| moving(BUSY, n)),
    ("ping", "PINGREQ and the timers that are due meanwhile, of 1000 clients", pinging),
    ("rest-1", "a step without anything to do", |n| resting(1, n)),
    ("rest-16", "the same beside 15 other shards", |n| resting(16, n)),
    ("rest-64", "the same beside 63", |n| resting(64, n)),
    ("rest-112", "the same beside 111", |n| resting(112, n)),
    ("tls-record", "a PUBLISH sealed as a TLS 1.2 record of AES-256, and opened", sealing),
];

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let count = arguments.get(1).and_then(|count| count.parse().ok());
    let (Some(operation), Some(count)) = (arguments.first(), count) else {
        OPERATIONS.iter().for_each(|(name, what, _)| println!("{name}\t{what}"));
        exit(if arguments.is_empty() { 0 } else { 2 });
    };
    let Some((_, _, run)) = OPERATIONS.iter().find(|(name, ..)| name == operation) else {
        eprintln!("no operation {operation}");
        exit(2);
    };
    run(count);
}
