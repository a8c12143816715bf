//! Enhanced authentication, of which this server offers no method: it says so and never begins an
//! exchange.

use crate::support::packet::properties;
use crate::support::reason::*;
use crate::support::wire::Writer;
use crate::support::*;

const AUTHENTICATION_METHOD: u32 = 21;
const AUTHENTICATION_DATA: u32 = 22;
const CONTINUE: u8 = 0x18;
const AGAIN: u8 = 0x19;

fn auth(reason: u8, list: &[Property]) -> Vec<u8> {
    properties(Writer::new().u8(reason), list).packet(0xf0)
}

#[test]
fn an_authentication_method_is_refused() {
    let method = Property::AuthenticationMethod("SCRAM-SHA-1".into());
    let with_data = vec![method.clone(), Property::AuthenticationData(vec![1, 2, 3])];
    for list in [vec![method], with_data, vec![Property::AuthenticationMethod(String::new())]] {
        let connect = Connect { properties: list, ..Connect::new(V5, unique("auth")) };
        // The next packet is this CONNACK and the last: no AUTH asks for more before it.
        let answer = connect.refused(Broker::plain(), BAD_AUTHENTICATION_METHOD);
        assert!(!answer.session_present);
        assert_eq!(answer.property(AUTHENTICATION_METHOD), None);
        assert_eq!(answer.property(AUTHENTICATION_DATA), None);
    }
}

#[test]
fn a_name_and_password_do_not_replace_the_method() {
    let connect = Connect::new(V5, unique("auth"))
        .with(Property::AuthenticationMethod("PLAIN".into()))
        .login(Some("name"), Some("password"));
    connect.refused(Broker::plain(), BAD_AUTHENTICATION_METHOD);
}

#[test]
fn a_refused_method_leaves_the_session_and_the_connection_of_the_client_alone() {
    let id = unique("auth");
    let mut c = Connect::durable(V5, &id).open(Broker::plain());
    let again = Connect::new(V5, &id).with(Property::AuthenticationMethod("none".into()));
    again.refused(Broker::plain(), BAD_AUTHENTICATION_METHOD);
    c.expect_nothing();
    c.disconnect();
    assert!(Connect::durable(V5, &id).open_with(Broker::plain()).1.session_present);
}

#[test]
fn without_a_method_nothing_of_it_is_in_connack() {
    for connect in [
        Connect::new(V5, unique("auth")),
        Connect::new(V5, unique("auth")).login(Some("name"), Some("password")),
    ] {
        let (mut c, answer) = connect.open_with(Broker::plain());
        assert_eq!(answer.property(AUTHENTICATION_METHOD), None);
        assert_eq!(answer.property(AUTHENTICATION_DATA), None);
        // And no AUTH comes.
        c.expect_nothing();
    }
}

#[test]
fn an_auth_packet_without_a_method_is_a_protocol_error() {
    let method = Property::AuthenticationMethod("PLAIN".into());
    for packet in [
        auth(AGAIN, std::slice::from_ref(&method)),
        auth(CONTINUE, std::slice::from_ref(&method)),
        auth(SUCCESS, &[method]),
        vec![0xf0, 0],
    ] {
        // Told with DISCONNECT, and closed: that is how a re-authentication fails.
        let mut c = Client::connect(Broker::plain(), V5, &unique("auth"));
        c.send(&packet);
        c.expect_violation(&[PROTOCOL_ERROR]);
    }
    let mut c = Client::connect(Broker::plain(), V311, &unique("auth"));
    c.send(&[0xf0, 0]);
    c.expect_closed();
}

#[test]
fn an_auth_packet_before_connack_is_not_answered() {
    let mut c = Client::raw(Broker::plain(), V5);
    c.send(&auth(CONTINUE, &[Property::AuthenticationMethod("PLAIN".into())]));
    c.expect_closed();
    // Behind a CONNECT that is refused it changes nothing.
    let mut c = Client::raw(Broker::plain(), V5);
    let method = Property::AuthenticationMethod("PLAIN".into());
    let connect = Connect::new(V5, unique("auth")).with(method.clone());
    c.send(&[connect.encode(), auth(CONTINUE, &[method])].concat());
    assert_eq!(c.connack().code, BAD_AUTHENTICATION_METHOD);
    c.expect_closed();
}
