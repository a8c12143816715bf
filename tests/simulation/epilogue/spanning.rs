//! Spans of sampled messages: one for the receipt, whoever has the message published, one for the
//! routing, one for what becomes of the message for each subscriber, on whichever shard, all of one
//! trace; what a publisher began goes on; who waits is seen to wait; and what was dropped for a
//! client is counted for it.

use super::overload::{limited, with};
use super::*;
use ringmq::ids::ClientKey;
use ringmq::message::MessageRef;
use ringmq::overload::limits::{LimitSet, LimitWanted};
use ringmq::packet::append_user_property;
use ringmq::shard::inquiry::PublishOutcome;
use ringmq::shard::{Answering, LinkPlan, Span, SpanKind, Via, WhenFull};
use ringmq::telemetry::trace_context::{TRACEPARENT, TraceContext};

const CONTEXT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

pub fn hold(world: &mut World, settings: &Settings) {
    let all = Settings { spans: Some(1.0), queue_qos0: false, ..settings.clone() };
    reload(world, all.clone());
    let mut readers: Vec<Peer> = (0..4)
        .map(|n| {
            let mut reader = guest(world, &format!("t-reader-{n}"));
            subscribe(world, &mut reader, Wish::new("t/#", 1));
            reader
        })
        .collect();
    let mut away = join(world, &hello("t-away", true, 600));
    subscribe(world, &mut away, Wish::new("t/#", 0));
    part(world, [away]);
    let mut publisher = guest(world, "t-publisher");
    begun_here(world, &mut publisher);
    read(world, &mut readers);
    begun_there(world, &mut publisher);
    read(world, &mut readers);
    let came = brought(world, &mut readers);
    reload(world, Settings { spans: Some(0.0), ..all.clone() });
    publish(world, &mut publisher, "t/b", b"not sampled", Said { qos: 1, ..Said::default() });
    assert_eq!(taken(world), [], "a share of nothing");
    read(world, &mut readers);
    let dropped = world.inquire(home(world, "t-away"), |shard| shard.dropped_for("t-away"));
    let counts = dropped.map(|dropped| dropped.counts);
    let wanted = Some(vec![("offline_qos0", 3 + came)]);
    assert_eq!(counts, wanted, "what was dropped for a client");
    assert!(world.inquire(home(world, "t-away"), |shard| shard.kick("t-away", true)));
    held(world, &all);
    part(world, readers);
    part(world, [publisher]);
    world.settle();
    reload(world, settings.clone());
    assert_eq!(taken(world), [], "nothing is recorded");
}

/// Each of them has one message: some windows take no more.
fn read(world: &mut World, readers: &mut [Peer]) {
    for reader in readers {
        assert_eq!(payloads(&reader.read_all(world)).len(), 1);
    }
}

/// The spans so far.
fn taken(world: &mut World) -> Vec<Span> {
    let mut all = Vec::new();
    for at in 0..world.nodes.len() {
        let (spans, lost) = world.inquire(at, |shard| shard.take_spans());
        assert_eq!(lost, 0, "spans");
        all.extend(spans);
    }
    all
}

fn only(spans: &[Span], kind: SpanKind) -> &Span {
    let mut of_kind = spans.iter().filter(|span| span.kind == kind);
    let span = of_kind.next().unwrap_or_else(|| panic!("{kind:?} in {spans:?}"));
    assert_eq!(of_kind.next(), None, "one {kind:?}");
    span
}

/// One of each kind, and what became of the message for each of five subscribers.
fn whole<'a>(world: &World, spans: &'a [Span], of: &str, via: Option<Via>) -> &'a Span {
    let (receipt, route) = (only(spans, SpanKind::Receive), only(spans, SpanKind::Route));
    assert_eq!((&*receipt.client_id, &receipt.via, receipt.error), (of, &via, None));
    assert_eq!(route.parent, Some(receipt.id));
    assert!(spans.iter().all(|span| span.trace == receipt.trace && span.ended >= span.began));
    let mut delivered = Vec::new();
    for span in spans.iter().filter(|span| span.kind == SpanKind::Deliver) {
        assert_eq!(span.parent, Some(route.id), "{span:?}");
        let at = ringmq::ids::ShardId(home(world, &span.client_id) as u8);
        assert!(span.shards.contains(at) && route.shards.contains(at), "{span:?}");
        delivered.push((&*span.client_id, span.error));
    }
    delivered.sort_unstable();
    let readers = ["t-reader-0", "t-reader-1", "t-reader-2", "t-reader-3"];
    let mut wanted = vec![("t-away", Some("offline_qos0"))];
    wanted.extend(readers.map(|reader| (reader, None)));
    assert_eq!(delivered, wanted, "what became of it for each subscriber");
    receipt
}

fn begun_here(world: &mut World, publisher: &mut Peer) {
    publish(world, publisher, "t/a", b"sampled", Said { qos: 1, ..Said::default() });
    world.settle();
    let spans = taken(world);
    let receipt = whole(world, &spans, "t-publisher", None);
    assert_eq!(receipt.parent, None, "the first span of the trace");
}

fn begun_there(world: &mut World, publisher: &mut Peer) {
    let context = TraceContext::parse(CONTEXT).unwrap();
    publish_within(world, publisher, CONTEXT, 1);
    world.settle();
    let spans = taken(world);
    let receipt = whole(world, &spans, "t-publisher", None);
    assert_eq!((receipt.trace, receipt.parent), (context.trace, Some(context.parent)));
}

/// What the API and a bridge have published, and a will, are received as well; how many messages
/// that were.
fn brought(world: &mut World, readers: &mut [Peer]) -> u64 {
    let context = TraceContext::parse(CONTEXT).unwrap();
    let mut carries = Vec::new();
    append_user_property(&mut carries, TRACEPARENT, CONTEXT).unwrap();
    let own = (ClientKey::new(79), "uplink");
    let message = |topic, properties| MessageRef {
        topic,
        properties,
        payload: b"brought",
        qos: Qos::AtLeastOnce,
        retain: false,
        expires: None,
        publisher: None,
    };
    let accepted = PublishOutcome::Accepted { matched: true };
    for (properties, parent) in [(&[][..], None), (&carries[..], Some(context.parent))] {
        let of_api = message("t/api", properties);
        let said = world.inquire(0, |s| s.publish_as_operator(&of_api, None));
        assert_eq!(said, accepted);
        world.settle();
        let spans = taken(world);
        assert_eq!(whole(world, &spans, "", Some(Via::Api)).parent, parent);
        read(world, readers);
        let of_bridge = message("t/bridge", properties);
        let said = world.inquire(0, |s| s.publish_as_bridge(&of_bridge, None, own));
        assert_eq!(said, accepted);
        world.settle();
        let spans = taken(world);
        let via = Some(Via::Bridge("uplink".into()));
        assert_eq!(whole(world, &spans, "", via).parent, parent);
        read(world, readers);
    }
    let denied = message("$SYS/said", &carries);
    world.inquire(0, |s| s.publish_as_operator(&denied, None));
    let spans = taken(world);
    assert!(only(&spans, SpanKind::Receive).error.is_some() && spans.len() == 1, "{spans:?}");
    let mut connect = hello("t-willing", true, 0);
    connect.will = Some(crate::peer::will("t/will", 0));
    let mut willing = join(world, &connect);
    willing.end(world, End::Fin);
    world.settle();
    let spans = taken(world);
    assert_eq!(whole(world, &spans, "", Some(Via::Will)).parent, None);
    read(world, readers);
    waits(world, readers, &message("t/late", &carries));
    7
}

/// What a bridge brings waits while another bridge has no room, and its span says for how long.
fn waits(world: &mut World, readers: &mut [Peer], message: &MessageRef<'_>) {
    let plan = LinkPlan {
        filters: vec!["t/late".into()],
        numbers: Vec::new(),
        once: false,
        part: None,
        bytes: 1,
        when_full: WhenFull::Pause,
        names: false,
        own: None,
        zero: 0,
        answering: Answering::Accepted,
    };
    let link = world.inquire(0, |s| s.open_link(plan)).unwrap();
    let own = (ClientKey::new(79), "uplink");
    let tell = |world: &mut World| world.inquire(0, |s| s.publish_as_bridge(message, None, own));
    assert_eq!(tell(world), PublishOutcome::Accepted { matched: true });
    world.settle();
    taken(world);
    read(world, readers);
    assert_eq!(tell(world), PublishOutcome::Busy);
    assert_eq!(taken(world), [], "it has not been received");
    wait(world, 700);
    world.inquire(0, |s| s.close_link(link));
    assert_eq!(tell(world), PublishOutcome::Accepted { matched: true });
    world.settle();
    let spans = taken(world);
    let receipt = whole(world, &spans, "", Some(Via::Bridge("uplink".into())));
    let micros = receipt.ended - receipt.began;
    // Each step takes a microsecond, which the clock in milliseconds does not count.
    assert!(micros >= 650_000, "who waits: Some({micros})");
    read(world, readers);
}

/// A publish that carries a context; its acknowledgement is not waited for.
fn publish_within(world: &mut World, peer: &mut Peer, context: &str, number: u16) {
    let mut forwarded = Vec::new();
    append_user_property(&mut forwarded, TRACEPARENT, context).unwrap();
    peer.write(world, |out, version| {
        let publish = OutPublish {
            dup: false,
            qos: Qos::AtLeastOnce,
            retain: false,
            topic: "t/a",
            id: Some(id(number)),
            message_expiry: None,
            topic_alias: None,
            subscription_ids: &[],
            forwarded: &forwarded,
            payload: b".",
        };
        packet::encode_publish(out, version, &publish).unwrap();
    });
    if number == 1 {
        assert_eq!(peer.take(world).len(), 1, "PUBACK");
    }
}

/// Who is beyond its rate waits, and its span says for how long.
fn held(world: &mut World, settings: &Settings) {
    let one = LimitSet { messages: LimitWanted::At(1), ..LimitSet::default() };
    with(world, settings, limited(one));
    let mut peer = guest(world, "t-held");
    for number in 2..=4 {
        publish_within(world, &mut peer, CONTEXT, number);
    }
    wait(world, 4000);
    assert_eq!(peer.take(world).len(), 3, "acknowledged in time");
    let spans = taken(world);
    let of_held = |span: &&Span| span.kind == SpanKind::Receive && &*span.client_id == "t-held";
    let longest = spans.iter().filter(of_held).map(|span| span.ended - span.began).max();
    assert!(longest.is_some_and(|micros| micros > 500_000), "who waits: {longest:?}");
    part(world, [peer]);
    world.settle();
    reload(world, settings.clone());
    taken(world);
}
