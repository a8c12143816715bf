//! Settings that change while clients are connected take nothing back that a client was promised.

use crate::net::End;
use crate::peer::{Got, Peer, hello};
use crate::scripted::{fine, world};
use crate::settings::roomy;
use crate::world::Order;
use ringmq::packet::ReasonCode;
use ringmq::shard::Settings;
use std::sync::Arc;

#[test]
fn a_reload_that_ends_aliases_leaves_room_for_those_in_use() {
    let mut world = world(1, Settings { topic_alias_outbound: 4, ..roomy() });
    let mut narrow = hello("c", true, 0);
    narrow.properties.topic_alias_maximum = Some(4);
    narrow.properties.maximum_packet_size = Some(40);
    let mut peer = Peer::connect(&mut world, 0, &narrow);
    peer.subscribe(&mut world, 1, "t", 0);
    peer.take(&mut world);
    world.order(&Order::Reload(Arc::new(Settings { topic_alias_outbound: 0, ..roomy() })));
    for length in 30..40 {
        peer.publish(&mut world, "t", &vec![b'x'; length], 0, 0);
    }
    world.settle();
    let bytes = world.conns[peer.conn].down.len();
    let longest = peer.payloads(&mut world).iter().map(String::len).max();
    // Fixed header 2, topic 2 + 1, property length 1, alias 3: 31 bytes are left.
    assert_eq!(longest, Some(31), "{bytes} bytes");
    fine(&world);
}

#[test]
fn a_reload_takes_nothing_back_that_a_client_was_promised() {
    let mut world = world(2, roomy());
    let mut old = Peer::connect(&mut world, 0, &hello("old", true, 0));
    let mut reader = Peer::connect(&mut world, 1, &hello("reader", true, 0));
    reader.subscribe(&mut world, 1, "t", 0);
    old.take(&mut world);
    reader.take(&mut world);
    let less =
        Settings { max_packet_size: 100, max_qos: 0, retain: false, receive_maximum: 1, ..roomy() };
    // Twice: what was promised before the first still holds after the second.
    world.order(&Order::Reload(Arc::new(less.clone())));
    world.order(&Order::Reload(Arc::new(less)));
    old.publish(&mut world, "t", &[b'a'; 500], 2, 1);
    old.publish(&mut world, "t", &[b'b'; 500], 2, 2);
    old.publish_as(&mut world, "t", b"c", 0, 0, true);
    assert_eq!(old.take(&mut world).len(), 2, "two PUBREC");
    assert_eq!(reader.payloads(&mut world).len(), 3);
    for (payload, qos, retain, reason) in [
        (vec![b'a'; 500], 0, false, ReasonCode::PacketTooLarge),
        (vec![b'a'], 1, false, ReasonCode::QosNotSupported),
        (vec![b'a'], 0, true, ReasonCode::RetainNotSupported),
    ] {
        let mut new = Peer::connect(&mut world, 0, &hello("new", true, 0));
        new.take(&mut world);
        new.publish_as(&mut world, "t", &payload, qos, 1, retain);
        assert_eq!(new.take(&mut world), [Got::Disconnect(reason)]);
        new.end(&mut world, End::Fin);
        world.settle();
    }
    fine(&world);
}
