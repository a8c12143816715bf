//! The byte that tells the kind of a record. A number keeps its meaning for ever, since stores on
//! disk have it.

pub(super) const SESSION: u8 = 1;
pub(super) const END: u8 = 2;
pub(super) const SUBSCRIBED: u8 = 3;
pub(super) const UNSUBSCRIBED: u8 = 4;
pub(super) const PUT: u8 = 5;
pub(super) const FAN: u8 = 6;
pub(super) const STATE: u8 = 7;
pub(super) const ACK: u8 = 8;
pub(super) const INBOUND: u8 = 9;
pub(super) const OUTBOUND: u8 = 10;
pub(super) const RETAIN: u8 = 11;
pub(super) const UNRETAIN: u8 = 12;
pub(super) const WILL: u8 = 13;
pub(super) const NO_WILL: u8 = 14;
pub(super) const NOTHING: u8 = 15;
