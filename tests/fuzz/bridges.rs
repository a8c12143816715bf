//! Target `bridges`: any bytes as a template and a message's JSON, as records that waited on a
//! disk, and as what another broker says. No panic; what is read as a batch is written the same.

use crate::input::Input;
use ringmq::bridge::mqtt::session::{RemotePlan, RemoteSession};
use ringmq::bridge::mqtt::topics::Topics;
use ringmq::bridge::queue::Queue;
use ringmq::bridge::template::{MessageTemplate, Values};
use ringmq::config::Sources;
use ringmq::link_record::{LinkBatch, LinkRecord};
use ringmq::packet::{self, Framing, Qos, Version};
use ringmq::shard::WhenFull;

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    match input.below(4) {
        0 => template(&mut input),
        1 => records(input.rest()),
        2 => remote(&mut input, Version::V5),
        _ => remote(&mut input, Version::V311),
    }
}

fn record<'a>(payload: &'a [u8], properties: &'a [u8]) -> LinkRecord<'a> {
    LinkRecord {
        topic: "out/a",
        properties,
        payload,
        client_id: "c",
        username: "u",
        accepted: 1,
        qos: Qos::AtLeastOnce,
        ..LinkRecord::default()
    }
}

fn template(input: &mut Input<'_>) {
    let split = usize::from(input.byte());
    let rest = input.rest();
    let (text, payload) = rest.split_at(split.min(rest.len()));
    let Ok(template) = MessageTemplate::new(&String::from_utf8_lossy(text)) else { return };
    let values = Values::new(record(payload, payload));
    let (mut plain, mut url) = (Vec::new(), Vec::new());
    let whole = template.fill(&values, &mut plain);
    assert_eq!(template.fill_url(&values, &mut url), whole);
    assert!(url.len() >= plain.len());
    let _ = template.json(&values);
}

fn records(bytes: &[u8]) {
    let Some(batch) = LinkBatch::from_bytes(bytes.to_vec()) else { return };
    assert_eq!(batch.bytes(), bytes);
    let count = batch.count() as usize;
    let mut queue = Queue::new(1 << 20, WhenFull::DropNew);
    queue.push(batch);
    let mut read = 0;
    while let Some((number, _)) = queue.read() {
        queue.done(number);
        read += 1;
    }
    assert_eq!((read, queue.len()), (count, 0));
}

fn plan(version: Version) -> RemotePlan {
    let text = "bridges: [{name: b, mqtt: {addresses: ['h:1'], topics: [\
                {filter: 'out/#', qos: 2}, {filter: 'in/#', direction: in, qos: 2}]}}]";
    let config = Sources::default().load_from("t.yaml", text.as_bytes()).unwrap();
    RemotePlan {
        topics: Topics::new(&config.bridges[0].mqtt.as_ref().unwrap().topics),
        version,
        client_id: "me".to_owned(),
        username: String::new(),
        password: String::new(),
        clean_start: false,
        session_expiry: 60,
        keep_alive: 60,
        max_inflight: 3,
        receive_maximum: 4,
        state_topic: Some("s".to_owned()),
        max_hops: 3,
        instance: "here".to_owned(),
        max_packet_size: 1 << 16,
    }
}

/// What the session writes is whole packets of its version, whatever comes.
fn remote(input: &mut Input<'_>, version: Version) {
    let mut session = RemoteSession::new(plan(version));
    session.connect(true);
    let (mut events, mut number) = (Vec::new(), 0);
    let mut rest = input.rest();
    while let Ok(Framing::Complete { total, .. }) = packet::frame(rest, 1 << 16) {
        let (one, after) = rest.split_at(total);
        rest = after;
        let Ok(packet) = packet::decode(version, one) else { break };
        if session.take(&packet, &mut events).is_err() {
            session.connect(false);
        }
        if session.is_ready() && session.has_room() {
            session.publish(number, &record(b"x", &[]), 5);
            number += 1;
        }
        assert!(session.owes() <= 4 || !version.is_v5());
        let mut said = &session.out[..];
        while !said.is_empty() {
            let Ok(Framing::Complete { total, .. }) = packet::frame(said, u32::MAX) else {
                panic!("half a packet");
            };
            packet::decode(version, &said[..total]).expect("a packet of its version");
            said = &said[total..];
        }
        session.out.clear();
    }
}
