//! CONNECT and CONNACK.
use crate::support::*;
#[test]
fn a_client_is_accepted() {
    for v in all() {
        let mut c = Client::connect(Broker::plain(), v, &unique("c"));
        c.ping();
    }
}
