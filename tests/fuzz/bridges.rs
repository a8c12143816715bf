//! Target `bridges`: any bytes as a template and a message's JSON, as records that waited on a
//! disk, as the file that they were in, as what another broker says, and as a record of Kafka's. No
//! panic; what is read as a batch is written the same.

use crate::input::Input;
use ringmq::bridge::kafka::inbound::{Brought, InboundPlan};
use ringmq::bridge::mqtt::session::{RemotePlan, RemoteSession};
use ringmq::bridge::mqtt::topics::Topics;
use ringmq::bridge::queue::Queue;
use ringmq::bridge::segment::{Search, scan};
use ringmq::bridge::template::{MessageTemplate, Values};
use ringmq::config::Sources;
use ringmq::link_record::{LinkBatch, LinkRecord};
use ringmq::packet::{self, Framing, PublishProperties, Qos, Version};
use ringmq::shard::WhenFull;
use ringmq::storage::frame::{self, BatchStamp};
use ringmq::topic;

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    match input.below(6) {
        0 => template(&mut input),
        1 => records(input.rest()),
        2 => remote(&mut input, Version::V5),
        3 => remote(&mut input, Version::V311),
        4 => file(&mut input),
        _ => kafka(&mut input),
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

/// A segment of a bridge's disk: frames with right checksums around any bytes, with bytes between
/// and in them that are turned over. What is found is whole, in order, and where it says.
fn file(input: &mut Input<'_>) {
    const SEARCH: Search = Search { log: 7, segment: 3, from: 5 };
    let (mut bytes, mut next) = (Vec::new(), 0);
    for _ in 0..input.below(6) {
        let odd = input.byte();
        next = if odd & 1 == 0 { next + 1 } else { u64::from(input.byte()) };
        let (log, segment) = (7 + u64::from(odd & 2), 3 + u32::from(odd & 4));
        let batch = if odd & 8 == 0 { next } else { u64::MAX - next };
        let payload = match odd & 48 {
            0 => (0..input.below(60)).map(|_| input.byte()).collect(),
            _ => {
                let mut batch = LinkBatch::default();
                (0..input.below(4)).for_each(|_| batch.push(&record(&[odd; 9], b"")));
                batch.bytes().to_vec()
            }
        };
        let stamp = BatchStamp { log, segment, batch, needed: next, unsynced: 0 };
        frame::write(stamp, &payload, &mut bytes);
        bytes.extend((0..usize::from(odd >> 6) * 4096).map(|_| 0));
    }
    for _ in 0..input.below(4) {
        let at = usize::from(input.byte()) << 8 | usize::from(input.byte());
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= input.byte();
        }
    }
    bytes.truncate(bytes.len() - input.below(4096).min(bytes.len()));
    bytes.extend_from_slice(input.rest());
    let (mut end, mut last) = (0, None);
    let scanned = scan(&bytes, SEARCH, |found| {
        assert!(found.batch >= SEARCH.from && last.is_none_or(|last| found.batch > last));
        assert!(found.offset >= end && found.offset < bytes.len());
        let mut payload = Vec::new();
        let whole = &bytes[found.offset..(found.offset + found.size).min(bytes.len())];
        let (header, _) = frame::read_batch(whole, &mut payload).expect("it is whole");
        assert_eq!((header.batch, &payload[..]), (found.batch, found.messages.bytes()));
        (end, last) = (found.offset + found.size, Some(found.batch));
    });
    assert!(last.is_none_or(|last| scanned.next > last));
    assert!(scanned.torn.is_none_or(|torn| torn >= scanned.next));
}

/// A record of Kafka's becomes a message with a valid topic, not larger than messages are, or none.
fn kafka(input: &mut Input<'_>) {
    const TO: [&str; 4] = ["t", "x/${key}", "${payload.a}/b", "${header.u}/${topic}"];
    let to = TO[input.below(4)];
    let text = format!(
        "bridges: [{{name: b, kafka: {{servers: ['h:1'], topics: [{{topic: t, to: '{to}'}}]}}}}]"
    );
    let config = Sources::default().load_from("t.yaml", text.as_bytes());
    let Ok(config) = config else { return };
    let Some(kafka) = config.bridges[0].kafka.as_ref() else { return };
    let plan = InboundPlan::new(kafka, 100).expect("checked with the configuration");
    let (key, name, header) = (input.below(20), input.below(20), input.below(40));
    let mut take = |length: usize| (0..length).map(|_| input.byte()).collect::<Vec<u8>>();
    let (key, name, header) = (take(key), take(name), take(header));
    let name = String::from_utf8_lossy(&name);
    let headers = [(&*name, &header[..]), ("u", &header[..])];
    let record = Brought { topic: "t", key: &key, value: input.rest(), timestamp: 1 };
    let Ok(message) = plan.message(&record, headers.into_iter(), 9) else { return };
    assert!(topic::valid_name(&message.topic) && message.payload == record.value);
    assert!(message.payload.len() + message.properties.len() <= 100);
    PublishProperties::parse(&message.properties).expect("properties that can be read");
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
