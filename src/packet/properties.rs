//! Properties (MQTT 5.0 section 2.2.2): the block at the end of the variable header, and in front
//! of a will message. Pure.

use super::cursor::Cursor;
use super::encode::{Encoded, put_binary, put_u16, put_u32, put_varint, whole};
use super::{ReasonCode, Violation};

pub(super) const PAYLOAD_FORMAT: u8 = 0x01;
pub(super) const MESSAGE_EXPIRY: u8 = 0x02;
pub(super) const CONTENT_TYPE: u8 = 0x03;
pub(super) const RESPONSE_TOPIC: u8 = 0x08;
pub(super) const CORRELATION_DATA: u8 = 0x09;
pub(super) const SUBSCRIPTION_ID: u8 = 0x0B;
pub(super) const SESSION_EXPIRY: u8 = 0x11;
pub(super) const ASSIGNED_CLIENT_ID: u8 = 0x12;
pub(super) const SERVER_KEEP_ALIVE: u8 = 0x13;
pub(super) const AUTHENTICATION_METHOD: u8 = 0x15;
pub(super) const AUTHENTICATION_DATA: u8 = 0x16;
pub(super) const REQUEST_PROBLEM_INFORMATION: u8 = 0x17;
pub(super) const WILL_DELAY: u8 = 0x18;
pub(super) const REQUEST_RESPONSE_INFORMATION: u8 = 0x19;
pub(super) const RESPONSE_INFORMATION: u8 = 0x1A;
pub(super) const SERVER_REFERENCE: u8 = 0x1C;
pub(super) const REASON_STRING: u8 = 0x1F;
pub(super) const RECEIVE_MAXIMUM: u8 = 0x21;
pub(super) const TOPIC_ALIAS_MAXIMUM: u8 = 0x22;
pub(super) const TOPIC_ALIAS: u8 = 0x23;
pub(super) const MAXIMUM_QOS: u8 = 0x24;
pub(super) const RETAIN_AVAILABLE: u8 = 0x25;
pub(super) const USER_PROPERTY: u8 = 0x26;
pub(super) const MAXIMUM_PACKET_SIZE: u8 = 0x27;
pub(super) const WILDCARD_AVAILABLE: u8 = 0x28;
pub(super) const SUBSCRIPTION_IDS_AVAILABLE: u8 = 0x29;
pub(super) const SHARED_AVAILABLE: u8 = 0x2A;

/// The identifier is unknown or does not belong in this packet (5.0 section 2.2.2.2).
pub(super) const NOT_HERE: Violation =
    Violation::malformed("A property is not one that the packet type may carry");
const TWICE: Violation = Violation::protocol("A property appears more than once");
const NOT_BOOL: Violation = Violation::protocol("A property that is 0 or 1 has another value");
const ZERO: Violation = Violation::protocol("A property that must not be 0 is 0");

/// Takes the property block off the front: its length, and as many bytes.
#[inline]
pub(super) fn block<'a>(cursor: &mut Cursor<'a>) -> Result<&'a [u8], Violation> {
    let length = cursor.varint()?;
    cursor.take(length as usize)
}

/// Stores a property that may appear only once.
#[inline]
pub(super) fn once<T>(place: &mut Option<T>, value: T) -> Result<(), Violation> {
    if place.replace(value).is_some() { Err(TWICE) } else { Ok(()) }
}

/// Reads a byte that must be 0 or 1.
pub(super) fn boolean(cursor: &mut Cursor) -> Result<bool, Violation> {
    match cursor.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(NOT_BOOL),
    }
}

/// Refuses the value 0 of a property for which 0 is a protocol error.
pub(super) fn nonzero<T: Default + PartialEq>(value: T) -> Result<T, Violation> {
    if value == T::default() { Err(ZERO) } else { Ok(value) }
}

/// Checks a User Property. It is not stored, because [`UserProperties`] reads it from the block.
pub(super) fn user_property(cursor: &mut Cursor) -> Result<(), Violation> {
    cursor.text()?;
    cursor.text()?;
    Ok(())
}

/// Reason String and User Properties, the only properties of acknowledgements.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Reasons<'a> {
    pub(super) reason_string: Option<&'a str>,
    pub(super) user: UserProperties<'a>,
}

impl<'a> Reasons<'a> {
    pub(super) fn parse(raw: &'a [u8]) -> Result<Self, Violation> {
        let mut cursor = Cursor::new(raw);
        let mut reasons = Reasons::default();
        while !cursor.is_empty() {
            match cursor.u8()? {
                REASON_STRING => once(&mut reasons.reason_string, cursor.text()?)?,
                USER_PROPERTY => reasons.user.note(&mut cursor, raw)?,
                _ => return Err(NOT_HERE),
            }
        }
        Ok(reasons)
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) -> Encoded {
        put_text_property(out, REASON_STRING, self.reason_string)?;
        self.user.write(out)
    }
}

pub(super) fn put_u8_property(out: &mut Vec<u8>, id: u8, value: Option<u8>) {
    if let Some(value) = value {
        out.extend_from_slice(&[id, value]);
    }
}

pub(super) fn put_bool_property(out: &mut Vec<u8>, id: u8, value: Option<bool>) {
    put_u8_property(out, id, value.map(u8::from));
}

pub(super) fn put_u16_property(out: &mut Vec<u8>, id: u8, value: Option<u16>) {
    if let Some(value) = value {
        out.push(id);
        put_u16(out, value);
    }
}

pub(super) fn put_u32_property(out: &mut Vec<u8>, id: u8, value: Option<u32>) {
    if let Some(value) = value {
        out.push(id);
        put_u32(out, value);
    }
}

pub(super) fn put_varint_property(out: &mut Vec<u8>, id: u8, value: u32) -> Encoded {
    out.push(id);
    put_varint(out, value as usize)
}

pub(super) fn put_binary_property(out: &mut Vec<u8>, id: u8, value: Option<&[u8]>) -> Encoded {
    let Some(value) = value else { return Ok(()) };
    out.push(id);
    put_binary(out, value)
}

pub(super) fn put_text_property(out: &mut Vec<u8>, id: u8, value: Option<&str>) -> Encoded {
    put_binary_property(out, id, value.map(str::as_bytes))
}

/// Appends one encoded User Property, for a block to be given to [`UserProperties::parse`].
///
/// # Errors
/// `name` or `value` is longer than 65,535 bytes; then nothing is appended.
pub fn append_user_property(out: &mut Vec<u8>, name: &str, value: &str) -> Encoded {
    whole(out, |out| {
        out.push(USER_PROPERTY);
        put_binary(out, name.as_bytes())?;
        put_binary(out, value.as_bytes())
    })
}

/// Takes one property off the front of a block that was checked before: its identifier, its value
/// as it is on the wire, and the rest. `None` at the end.
#[inline]
fn split_property(raw: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&id, value) = raw.split_first()?;
    let mut cursor = Cursor::new(value);
    skip_value(&mut cursor, id).ok()?;
    let (value, rest) = value.split_at(value.len() - cursor.rest().len());
    Some((id, value, rest))
}

/// Moves past the value of property `id` (5.0 table 2-4).
fn skip_value(cursor: &mut Cursor, id: u8) -> Result<(), Violation> {
    let fixed = match id {
        PAYLOAD_FORMAT
        | REQUEST_PROBLEM_INFORMATION
        | REQUEST_RESPONSE_INFORMATION
        | MAXIMUM_QOS
        | RETAIN_AVAILABLE
        | WILDCARD_AVAILABLE
        | SUBSCRIPTION_IDS_AVAILABLE
        | SHARED_AVAILABLE => 1,
        SERVER_KEEP_ALIVE | RECEIVE_MAXIMUM | TOPIC_ALIAS_MAXIMUM | TOPIC_ALIAS => 2,
        MESSAGE_EXPIRY | SESSION_EXPIRY | WILL_DELAY | MAXIMUM_PACKET_SIZE => 4,
        SUBSCRIPTION_ID => return cursor.varint().map(|_| ()),
        USER_PROPERTY => {
            cursor.binary()?;
            return cursor.binary().map(|_| ());
        }
        CONTENT_TYPE
        | RESPONSE_TOPIC
        | CORRELATION_DATA
        | ASSIGNED_CLIENT_ID
        | AUTHENTICATION_METHOD
        | AUTHENTICATION_DATA
        | RESPONSE_INFORMATION
        | SERVER_REFERENCE
        | REASON_STRING => return cursor.binary().map(|_| ()),
        _ => return Err(NOT_HERE),
    };
    cursor.take(fixed).map(|_| ())
}

/// The User Properties of one packet, as a view of its whole property block, which was checked
/// before.
#[derive(Clone, Copy, Default)]
pub struct UserProperties<'a> {
    /// The whole block if it has a User Property, otherwise empty.
    raw: &'a [u8],
}

impl<'a> UserProperties<'a> {
    /// A view of `raw`, a block that has only User Properties ([`append_user_property`]).
    ///
    /// # Errors
    /// `raw` is not a sequence of whole, valid User Properties.
    pub fn parse(raw: &'a [u8]) -> Result<Self, Violation> {
        let mut user = UserProperties::default();
        let mut cursor = Cursor::new(raw);
        while !cursor.is_empty() {
            match cursor.u8()? {
                USER_PROPERTY => user.note(&mut cursor, raw)?,
                _ => return Err(NOT_HERE),
            }
        }
        Ok(user)
    }

    /// A view of the User Properties in a block of any properties that was checked before.
    pub fn within(raw: &'a [u8]) -> Self {
        UserProperties { raw }
    }

    /// Checks the User Property at the cursor, which lies within the block `raw`, and makes `raw`
    /// the block that is viewed.
    #[inline]
    pub(super) fn note(&mut self, cursor: &mut Cursor<'a>, raw: &'a [u8]) -> Result<(), Violation> {
        user_property(cursor)?;
        self.raw = raw;
        Ok(())
    }

    /// True when there is none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.raw.is_empty()
    }

    /// Names and values, in the order received [MQTT-3.3.2-18].
    pub fn iter(&self) -> UserPropertiesIter<'a> {
        UserPropertiesIter { raw: self.raw }
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) -> Encoded {
        self.iter().try_for_each(|(name, value)| append_user_property(out, name, value))
    }
}

impl PartialEq for UserProperties<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for UserProperties<'_> {}

impl std::fmt::Debug for UserProperties<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<'a> IntoIterator for UserProperties<'a> {
    type Item = (&'a str, &'a str);
    type IntoIter = UserPropertiesIter<'a>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Iterates over [`UserProperties`].
#[derive(Clone, Debug)]
pub struct UserPropertiesIter<'a> {
    raw: &'a [u8],
}

impl<'a> Iterator for UserPropertiesIter<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        while let Some((id, value, rest)) = split_property(self.raw) {
            self.raw = rest;
            if id == USER_PROPERTY {
                let mut cursor = Cursor::new(value);
                return Some((cursor.text().ok()?, cursor.text().ok()?));
            }
        }
        None
    }
}

/// The Subscription Identifiers of one PUBLISH, as a view of its property block, which was checked
/// before.
#[derive(Clone, Copy, Default)]
pub struct VarInts<'a> {
    /// The whole block if it has a Subscription Identifier, otherwise empty.
    raw: &'a [u8],
}

impl<'a> VarInts<'a> {
    /// True when there is none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.raw.is_empty()
    }

    /// The identifiers, 1 to 268,435,455, in the order received.
    pub fn iter(&self) -> VarIntsIter<'a> {
        VarIntsIter { raw: self.raw }
    }
}

impl PartialEq for VarInts<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for VarInts<'_> {}

impl std::fmt::Debug for VarInts<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<'a> IntoIterator for VarInts<'a> {
    type Item = u32;
    type IntoIter = VarIntsIter<'a>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Iterates over [`VarInts`].
#[derive(Clone, Debug)]
pub struct VarIntsIter<'a> {
    raw: &'a [u8],
}

impl Iterator for VarIntsIter<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        while let Some((id, value, rest)) = split_property(self.raw) {
            self.raw = rest;
            if id == SUBSCRIPTION_ID {
                return Cursor::new(value).varint().ok();
            }
        }
        None
    }
}

/// The properties of a PUBLISH or of a will message. Empty for version 3.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PublishProperties<'a> {
    /// Payload Format Indicator. 0: unspecified bytes. 1: the payload is UTF-8, which is checked
    /// here for a will message only; for a PUBLISH see
    /// [`Publish::has_promised_format`](super::Publish::has_promised_format).
    pub payload_format: Option<u8>,
    /// Message Expiry Interval: the lifetime of the message in seconds.
    pub message_expiry: Option<u32>,
    /// Topic Alias, 1 to 65,535. Never present in a will message.
    pub topic_alias: Option<u16>,
    /// Response Topic. Not empty, without wildcards [MQTT-3.3.2-14].
    pub response_topic: Option<&'a str>,
    /// Correlation Data, by which the requester recognizes the response.
    pub correlation_data: Option<&'a [u8]>,
    /// Content Type, free text.
    pub content_type: Option<&'a str>,
    /// The User Properties, in the order received.
    pub user: UserProperties<'a>,
    /// Subscription Identifiers. Only a server sends them. From a client they are a protocol error
    /// [MQTT-3.3.4-6], which the caller has to detect.
    pub subscription_ids: VarInts<'a>,
    /// The property block as received, without its length.
    pub raw: &'a [u8],
    will_delay: Option<u32>,
}

impl<'a> PublishProperties<'a> {
    /// Decodes the property block of a PUBLISH, without its length.
    ///
    /// # Errors
    /// There is a property that a PUBLISH may not have, a property appears twice, or its value is
    /// not allowed.
    pub fn parse(raw: &'a [u8]) -> Result<Self, Violation> {
        let mut properties = PublishProperties { raw, ..Default::default() };
        let mut cursor = Cursor::new(raw);
        while !cursor.is_empty() {
            match cursor.u8()? {
                TOPIC_ALIAS => {
                    let alias = cursor.u16()?;
                    if alias == 0 {
                        return Err(ALIAS_ZERO);
                    }
                    once(&mut properties.topic_alias, alias)?;
                }
                SUBSCRIPTION_ID => {
                    nonzero(cursor.varint()?)?;
                    properties.subscription_ids.raw = raw;
                }
                id => properties.common(id, &mut cursor)?,
            }
        }
        Ok(properties)
    }

    /// Decodes the property block of a will message, without its length. The second value is the
    /// Will Delay Interval in seconds.
    pub(super) fn parse_will(raw: &'a [u8]) -> Result<(Self, u32), Violation> {
        let mut properties = PublishProperties { raw, ..Default::default() };
        let mut cursor = Cursor::new(raw);
        while !cursor.is_empty() {
            match cursor.u8()? {
                WILL_DELAY => once(&mut properties.will_delay, cursor.u32()?)?,
                id => properties.common(id, &mut cursor)?,
            }
        }
        Ok((properties, properties.will_delay.unwrap_or(0)))
    }

    /// Reads a property that PUBLISH and will messages have in common.
    fn common(&mut self, id: u8, cursor: &mut Cursor<'a>) -> Result<(), Violation> {
        match id {
            PAYLOAD_FORMAT => once(&mut self.payload_format, u8::from(boolean(cursor)?)),
            MESSAGE_EXPIRY => once(&mut self.message_expiry, cursor.u32()?),
            CONTENT_TYPE => once(&mut self.content_type, cursor.text()?),
            RESPONSE_TOPIC => once(&mut self.response_topic, cursor.topic_name()?),
            CORRELATION_DATA => once(&mut self.correlation_data, cursor.binary()?),
            USER_PROPERTY => self.user.note(cursor, self.raw),
            _ => Err(NOT_HERE),
        }
    }

    /// Checks the payload if the Payload Format Indicator says that it is UTF-8.
    #[inline]
    pub(super) fn check_payload(&self, payload: &[u8]) -> Result<(), Violation> {
        if self.payload_format == Some(1) && str::from_utf8(payload).is_err() {
            return Err(PAYLOAD_NOT_UTF8);
        }
        Ok(())
    }

    /// True when [`raw`](Self::raw) has only properties that a server forwards unaltered.
    #[inline]
    pub fn is_forwardable_raw(&self) -> bool {
        self.message_expiry.is_none()
            && self.topic_alias.is_none()
            && self.subscription_ids.is_empty()
            && self.will_delay.is_none()
    }

    /// Appends, in the order received, the properties that a server forwards unaltered
    /// ([MQTT-3.3.2-4], [MQTT-3.3.2-15] to [MQTT-3.3.2-18], [MQTT-3.3.2-20]): all but Message
    /// Expiry Interval, Topic Alias, Subscription Identifier and Will Delay Interval.
    pub fn write_forwardable(&self, out: &mut Vec<u8>) {
        if self.is_forwardable_raw() {
            out.extend_from_slice(self.raw);
            return;
        }
        let mut raw = self.raw;
        while let Some((id, _, rest)) = split_property(raw) {
            if !matches!(id, MESSAGE_EXPIRY | TOPIC_ALIAS | SUBSCRIPTION_ID | WILL_DELAY) {
                out.extend_from_slice(&raw[..raw.len() - rest.len()]);
            }
            raw = rest;
        }
    }

    /// Appends the properties that a server forwards unaltered, from the fields and not from `raw`.
    ///
    /// # Errors
    /// A text is longer than 65,535 bytes.
    pub fn put_forwardable(&self, out: &mut Vec<u8>) -> Encoded {
        PublishProperties { message_expiry: None, ..*self }.put(out)
    }

    /// Appends the properties that a server forwards unaltered, and the Message Expiry Interval,
    /// from the fields and not from `raw`.
    pub(super) fn put(&self, out: &mut Vec<u8>) -> Encoded {
        put_u8_property(out, PAYLOAD_FORMAT, self.payload_format);
        put_u32_property(out, MESSAGE_EXPIRY, self.message_expiry);
        put_text_property(out, CONTENT_TYPE, self.content_type)?;
        put_text_property(out, RESPONSE_TOPIC, self.response_topic)?;
        put_binary_property(out, CORRELATION_DATA, self.correlation_data)?;
        self.user.write(out)
    }
}

const ALIAS_ZERO: Violation =
    Violation { reason: ReasonCode::TopicAliasInvalid, what: "The topic alias is 0" };
const PAYLOAD_NOT_UTF8: Violation = Violation {
    reason: ReasonCode::PayloadFormatInvalid,
    what: "The payload format indicator is 1 and the payload is not UTF-8",
};
