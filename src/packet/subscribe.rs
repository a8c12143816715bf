//! SUBSCRIBE, SUBACK, UNSUBSCRIBE and UNSUBACK (MQTT 5.0 sections 3.8 to 3.11).

use super::cursor::Cursor;
use super::encode::{Encoded, put_binary, put_packet, put_sized, put_u16, varint_size};
use super::properties::{
    self, NOT_HERE, Reasons, SUBSCRIPTION_ID, USER_PROPERTY, UserProperties, nonzero, once,
    put_varint_property,
};
use super::{PacketId, Qos, ReasonCode, Version, Violation};

/// When retained messages are sent for a subscription.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(u8)]
pub enum RetainHandling {
    /// They are sent at every SUBSCRIBE.
    #[default]
    Send = 0,
    /// They are sent only when the subscription did not exist before.
    SendIfNew = 1,
    /// They are never sent.
    DoNotSend = 2,
}

/// The options of one subscription. In version 3 only the QoS is on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct SubscribeOptions {
    /// The highest QoS at which the subscriber wants messages.
    pub qos: Qos,
    /// No Local: the client does not get its own messages.
    pub no_local: bool,
    /// Retain As Published: the RETAIN flag of a message is forwarded as it was published.
    pub retain_as_published: bool,
    /// When retained messages are sent.
    pub retain_handling: RetainHandling,
}

impl SubscribeOptions {
    fn decode(version: Version, byte: u8) -> Result<Self, Violation> {
        let (byte, reserved) = match version {
            // MQTT 3.1, section 3.8: "The upper 6 bits of this byte are not used in the current
            // version of the protocol." It does not say that they are 0.
            Version::V31 => (byte & 3, 0),
            Version::V311 => (byte, 0xFC),
            Version::V5 => (byte, 0xC0),
        };
        if byte & reserved != 0 {
            return Err(RESERVED_BITS); // [MQTT-3.8.3-5]
        }
        let Some(qos) = Qos::from_u8(byte & 3) else {
            return Err(if version.is_v5() { QOS_3 } else { RESERVED_BITS });
        };
        let retain_handling = match byte >> 4 & 3 {
            0 => RetainHandling::Send,
            1 => RetainHandling::SendIfNew,
            2 => RetainHandling::DoNotSend,
            _ => return Err(Violation::protocol("The retain handling of a subscription is 3")),
        };
        Ok(SubscribeOptions {
            qos,
            no_local: byte & 0x04 != 0,
            retain_as_published: byte & 0x08 != 0,
            retain_handling,
        })
    }

    fn encode(self, version: Version) -> u8 {
        if !version.is_v5() {
            return self.qos as u8;
        }
        self.qos as u8
            | u8::from(self.no_local) << 2
            | u8::from(self.retain_as_published) << 3
            | (self.retain_handling as u8) << 4
    }
}

/// One entry of a SUBSCRIBE.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SubscribeFilter<'a> {
    /// The topic filter, valid UTF-8 and not empty. Its syntax is not checked here.
    pub filter: &'a str,
    /// The options of the subscription.
    pub options: SubscribeOptions,
}

impl SubscribeFilter<'_> {
    /// Appends the entry, for a list to be given to [`SubscribeFilters::parse`].
    ///
    /// # Errors
    /// The filter is longer than 65,535 bytes; then nothing is appended.
    pub fn write(&self, version: Version, out: &mut Vec<u8>) -> Encoded {
        put_binary(out, self.filter.as_bytes())?;
        out.push(self.options.encode(version));
        Ok(())
    }
}

/// The number of entries that are checked when a packet is decoded. The largest packet has tens of
/// millions of them.
const AT_ONCE: usize = 1024;

/// The entries of one SUBSCRIBE, as a view of its payload. Of a long list only the first
/// 1,024 entries have been checked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SubscribeFilters<'a> {
    raw: &'a [u8],
    count: usize,
    is_whole: bool,
    version: Version,
}

impl<'a> SubscribeFilters<'a> {
    /// A view of `raw`, the payload of a SUBSCRIBE ([`SubscribeFilter::write`]).
    ///
    /// # Errors
    /// There is no entry, or [`SubscribeFilters::check`] refuses one of the first 1,024.
    pub fn parse(version: Version, raw: &'a [u8]) -> Result<Self, Violation> {
        let (mut count, mut at) = (0, 0);
        while at < raw.len() && count < AT_ONCE {
            at += Self::check(version, &raw[at..])?.1;
            count += 1;
        }
        if count == 0 {
            return Err(NO_FILTER); // [MQTT-3.8.3-2]
        }
        Ok(SubscribeFilters { raw, count, is_whole: at == raw.len(), version })
    }

    /// The first entry of `raw`, which is the remainder of a list, and the number of its bytes.
    ///
    /// # Errors
    /// The filter is empty or invalid UTF-8, reserved option bits are set, No Local is set on a
    /// shared subscription, or the entry is not whole.
    #[inline]
    pub fn check(
        version: Version,
        raw: &'a [u8],
    ) -> Result<(SubscribeFilter<'a>, usize), Violation> {
        let mut cursor = Cursor::new(raw);
        let filter = cursor.topic_filter()?;
        let options = SubscribeOptions::decode(version, cursor.u8()?)?;
        if options.no_local && filter.starts_with("$share/") {
            return Err(SHARED_NO_LOCAL);
        }
        Ok((SubscribeFilter { filter, options }, raw.len() - cursor.rest().len()))
    }

    /// The number of entries that were checked: at least 1, and all of them if
    /// [`SubscribeFilters::is_whole`].
    #[inline]
    #[allow(clippy::len_without_is_empty)] // never empty
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether all entries were checked. Otherwise the rest may be malformed.
    #[inline]
    pub fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// The bytes of which this is a view.
    pub fn raw(&self) -> &'a [u8] {
        self.raw
    }

    /// The entries of `raw`, the remainder of a list that was parsed before. The iteration ends at
    /// the first malformed entry.
    pub fn unchecked(version: Version, raw: &'a [u8]) -> SubscribeFiltersIter<'a> {
        SubscribeFiltersIter { cursor: Cursor::new(raw), version }
    }

    /// The entries in the order received, which is also the order of the codes in the SUBACK
    /// [MQTT-3.9.3-1].
    pub fn iter(&self) -> SubscribeFiltersIter<'a> {
        SubscribeFiltersIter { cursor: Cursor::new(self.raw), version: self.version }
    }
}

impl std::fmt::Debug for SubscribeFilters<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<'a> IntoIterator for SubscribeFilters<'a> {
    type Item = SubscribeFilter<'a>;
    type IntoIter = SubscribeFiltersIter<'a>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Iterates over [`SubscribeFilters`].
#[derive(Clone)]
pub struct SubscribeFiltersIter<'a> {
    cursor: Cursor<'a>,
    version: Version,
}

impl SubscribeFiltersIter<'_> {
    /// The number of bytes that are left.
    pub fn left(&self) -> usize {
        self.cursor.rest().len()
    }
}

impl<'a> Iterator for SubscribeFiltersIter<'a> {
    type Item = SubscribeFilter<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let filter = self.cursor.text().ok()?;
        let options = SubscribeOptions::decode(self.version, self.cursor.u8().ok()?).ok()?;
        Some(SubscribeFilter { filter, options })
    }
}

/// A SUBSCRIBE.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Subscribe<'a> {
    /// The packet identifier, which the SUBACK repeats [MQTT-3.8.4-2].
    pub id: PacketId,
    /// The Subscription Identifier, 1 to 268,435,455.
    pub subscription_id: Option<u32>,
    /// The User Properties, in the order received.
    pub user: UserProperties<'a>,
    /// The entries, at least one.
    pub filters: SubscribeFilters<'a>,
}

/// A SUBACK.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SubAck<'a> {
    /// The packet identifier of the SUBSCRIBE.
    pub id: PacketId,
    /// One [`ReasonCode`] per filter; in version 3 a granted QoS or 0x80.
    pub codes: &'a [u8],
    /// The Reason String, which is for people and not for programs.
    pub reason_string: Option<&'a str>,
    /// The User Properties, in the order received.
    pub user: UserProperties<'a>,
}

/// The topic filters of one UNSUBSCRIBE, as a view of its payload. Of a long list only the first
/// 1,024 filters have been checked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct UnsubscribeFilters<'a> {
    raw: &'a [u8],
    count: usize,
    is_whole: bool,
}

impl<'a> UnsubscribeFilters<'a> {
    /// A view of `raw`, the payload of an UNSUBSCRIBE: strings with their two-byte lengths.
    ///
    /// # Errors
    /// There is no filter, or [`UnsubscribeFilters::check`] refuses one of the first 1,024.
    pub fn parse(raw: &'a [u8]) -> Result<Self, Violation> {
        let (mut count, mut at) = (0, 0);
        while at < raw.len() && count < AT_ONCE {
            at += Self::check(&raw[at..])?.1;
            count += 1;
        }
        if count == 0 {
            return Err(NO_FILTER); // [MQTT-3.10.3-2]
        }
        Ok(UnsubscribeFilters { raw, count, is_whole: at == raw.len() })
    }

    /// The first filter of `raw`, which is the remainder of a list, and the number of bytes of its
    /// entry.
    ///
    /// # Errors
    /// The filter is empty or invalid UTF-8, or the entry is not whole.
    #[inline]
    pub fn check(raw: &'a [u8]) -> Result<(&'a str, usize), Violation> {
        let mut cursor = Cursor::new(raw);
        let filter = cursor.topic_filter()?;
        Ok((filter, raw.len() - cursor.rest().len()))
    }

    /// Appends one entry, for a list to be given to [`UnsubscribeFilters::parse`].
    ///
    /// # Errors
    /// The filter is longer than 65,535 bytes; then nothing is appended.
    pub fn write(filter: &str, out: &mut Vec<u8>) -> Encoded {
        put_binary(out, filter.as_bytes())
    }

    /// The number of entries that were checked: at least 1, and all of them if
    /// [`UnsubscribeFilters::is_whole`].
    #[inline]
    #[allow(clippy::len_without_is_empty)] // never empty
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether all entries were checked. Otherwise the rest may be malformed.
    #[inline]
    pub fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// The bytes of which this is a view.
    pub fn raw(&self) -> &'a [u8] {
        self.raw
    }

    /// The filters of `raw`, the remainder of a list that was parsed before. The iteration ends at
    /// the first malformed entry.
    pub fn unchecked(raw: &'a [u8]) -> UnsubscribeFiltersIter<'a> {
        UnsubscribeFiltersIter { cursor: Cursor::new(raw) }
    }

    /// The filters in the order received, which is also the order of the codes in the UNSUBACK
    /// [MQTT-3.11.3-1].
    pub fn iter(&self) -> UnsubscribeFiltersIter<'a> {
        UnsubscribeFiltersIter { cursor: Cursor::new(self.raw) }
    }
}

impl std::fmt::Debug for UnsubscribeFilters<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<'a> IntoIterator for UnsubscribeFilters<'a> {
    type Item = &'a str;
    type IntoIter = UnsubscribeFiltersIter<'a>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Iterates over [`UnsubscribeFilters`].
#[derive(Clone)]
pub struct UnsubscribeFiltersIter<'a> {
    cursor: Cursor<'a>,
}

impl UnsubscribeFiltersIter<'_> {
    /// The number of bytes that are left.
    pub fn left(&self) -> usize {
        self.cursor.rest().len()
    }
}

impl<'a> Iterator for UnsubscribeFiltersIter<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        self.cursor.text().ok()
    }
}

/// An UNSUBSCRIBE.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unsubscribe<'a> {
    /// The packet identifier, which the UNSUBACK repeats [MQTT-3.10.4-5].
    pub id: PacketId,
    /// The User Properties, in the order received.
    pub user: UserProperties<'a>,
    /// The topic filters, at least one.
    pub filters: UnsubscribeFilters<'a>,
}

/// An UNSUBACK.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UnsubAck<'a> {
    /// The packet identifier of the UNSUBSCRIBE.
    pub id: PacketId,
    /// One [`ReasonCode`] per filter; empty in version 3.
    pub codes: &'a [u8],
    /// The Reason String, which is for people and not for programs.
    pub reason_string: Option<&'a str>,
    /// The User Properties, in the order received.
    pub user: UserProperties<'a>,
}

const RESERVED_BITS: Violation =
    Violation::malformed("Reserved bits of the subscription options are set");
const QOS_3: Violation = Violation::protocol("The maximum QoS of a subscription is 3");
// [MQTT-3.8.3-4]
const SHARED_NO_LOCAL: Violation = Violation::protocol("No Local is set on a shared subscription");
const NO_FILTER: Violation = Violation::protocol("The packet has no topic filter");
const WRONG_CODE: Violation = Violation::protocol("A reason code is not one of the packet type");

pub(super) fn decode_subscribe(version: Version, body: &[u8]) -> Result<Subscribe<'_>, Violation> {
    let mut cursor = Cursor::new(body);
    let id = cursor.packet_id()?;
    let mut subscription_id = None;
    let mut user = UserProperties::default();
    if version.is_v5() {
        let raw = properties::block(&mut cursor)?;
        let mut block = Cursor::new(raw);
        while !block.is_empty() {
            match block.u8()? {
                SUBSCRIPTION_ID => once(&mut subscription_id, nonzero(block.varint()?)?)?,
                USER_PROPERTY => user.note(&mut block, raw)?,
                _ => return Err(NOT_HERE),
            }
        }
    }
    let filters = SubscribeFilters::parse(version, cursor.rest())?;
    Ok(Subscribe { id, subscription_id, user, filters })
}

pub(super) fn decode_unsubscribe(
    version: Version,
    body: &[u8],
) -> Result<Unsubscribe<'_>, Violation> {
    let mut cursor = Cursor::new(body);
    let id = cursor.packet_id()?;
    let mut user = UserProperties::default();
    if version.is_v5() {
        user = UserProperties::parse(properties::block(&mut cursor)?)?;
    }
    Ok(Unsubscribe { id, user, filters: UnsubscribeFilters::parse(cursor.rest())? })
}

pub(super) fn decode_suback(version: Version, body: &[u8]) -> Result<SubAck<'_>, Violation> {
    let mut cursor = Cursor::new(body);
    let id = cursor.packet_id()?;
    let mut reasons = Reasons::default();
    if version.is_v5() {
        reasons = Reasons::parse(properties::block(&mut cursor)?)?;
    }
    let codes = cursor.rest();
    let allowed = |code: &u8| match version {
        Version::V31 | Version::V311 => matches!(code, 0..=2 | 0x80), // [MQTT-3.9.3-2] in 3.1.1
        Version::V5 => ReasonCode::from_u8(*code).is_some_and(suback_allows),
    };
    if codes.is_empty() || !codes.iter().all(allowed) {
        return Err(WRONG_CODE);
    }
    Ok(SubAck { id, codes, reason_string: reasons.reason_string, user: reasons.user })
}

pub(super) fn decode_unsuback(version: Version, body: &[u8]) -> Result<UnsubAck<'_>, Violation> {
    let mut cursor = Cursor::new(body);
    let id = cursor.packet_id()?;
    if !version.is_v5() {
        cursor.end()?;
        return Ok(UnsubAck {
            id,
            codes: &[],
            reason_string: None,
            user: UserProperties::default(),
        });
    }
    let reasons = Reasons::parse(properties::block(&mut cursor)?)?;
    let codes = cursor.rest();
    let allowed = |code: &u8| ReasonCode::from_u8(*code).is_some_and(unsuback_allows);
    if codes.is_empty() || !codes.iter().all(allowed) {
        return Err(WRONG_CODE);
    }
    Ok(UnsubAck { id, codes, reason_string: reasons.reason_string, user: reasons.user })
}

/// Whether a SUBACK may carry this code [MQTT-3.9.3-2].
fn suback_allows(reason: ReasonCode) -> bool {
    use ReasonCode as R;
    matches!(
        reason,
        R::Success
            | R::GrantedQos1
            | R::GrantedQos2
            | R::UnspecifiedError
            | R::ImplementationSpecificError
            | R::NotAuthorized
            | R::TopicFilterInvalid
            | R::PacketIdentifierInUse
            | R::QuotaExceeded
            | R::SharedSubscriptionsNotSupported
            | R::SubscriptionIdentifiersNotSupported
            | R::WildcardSubscriptionsNotSupported
    )
}

/// Whether an UNSUBACK may carry this code [MQTT-3.11.3-2].
fn unsuback_allows(reason: ReasonCode) -> bool {
    use ReasonCode as R;
    matches!(
        reason,
        R::Success
            | R::NoSubscriptionExisted
            | R::UnspecifiedError
            | R::ImplementationSpecificError
            | R::NotAuthorized
            | R::TopicFilterInvalid
            | R::PacketIdentifierInUse
    )
}

/// Appends a SUBSCRIBE. `subscribe.filters` must have been made for the same `version`.
///
/// # Errors
/// The properties or the whole packet are too long.
pub fn encode_subscribe(out: &mut Vec<u8>, version: Version, subscribe: &Subscribe) -> Encoded {
    put_packet(out, 0x82, |out| {
        put_u16(out, subscribe.id.get());
        if version.is_v5() {
            put_sized(out, |out| {
                if let Some(id) = subscribe.subscription_id {
                    put_varint_property(out, SUBSCRIPTION_ID, id)?;
                }
                subscribe.user.write(out)
            })?;
        }
        subscribe.filters.iter().try_for_each(|filter| filter.write(version, out))
    })
}

/// Appends a SUBACK. In version 3 every failure becomes 0x80, the only failure code of that
/// version.
///
/// # Errors
/// The properties or the whole packet are too long.
pub fn encode_suback(out: &mut Vec<u8>, version: Version, suback: &SubAck) -> Encoded {
    put_packet(out, 0x90, |out| {
        put_u16(out, suback.id.get());
        if version.is_v5() {
            put_reasons(out, suback.reason_string, suback.user)?;
            out.extend_from_slice(suback.codes);
            return Ok(());
        }
        out.extend(suback.codes.iter().map(|code| (*code).min(0x80)));
        Ok(())
    })
}

/// The size in bytes of a version 5 SUBACK or UNSUBACK with `codes` reason codes and no properties.
pub fn answer_size(codes: usize) -> usize {
    let remaining = 2 + 1 + codes;
    1 + varint_size(remaining) + remaining
}

/// Appends an UNSUBSCRIBE.
///
/// # Errors
/// The properties or the whole packet are too long.
pub fn encode_unsubscribe(
    out: &mut Vec<u8>,
    version: Version,
    unsubscribe: &Unsubscribe,
) -> Encoded {
    put_packet(out, 0xA2, |out| {
        put_u16(out, unsubscribe.id.get());
        if version.is_v5() {
            put_sized(out, |out| unsubscribe.user.write(out))?;
        }
        out.extend_from_slice(unsubscribe.filters.raw);
        Ok(())
    })
}

/// Appends an UNSUBACK. Version 3 has only the identifier.
///
/// # Errors
/// The properties or the whole packet are too long.
pub fn encode_unsuback(out: &mut Vec<u8>, version: Version, unsuback: &UnsubAck) -> Encoded {
    put_packet(out, 0xB0, |out| {
        put_u16(out, unsuback.id.get());
        if version.is_v5() {
            put_reasons(out, unsuback.reason_string, unsuback.user)?;
            out.extend_from_slice(unsuback.codes);
        }
        Ok(())
    })
}

fn put_reasons(out: &mut Vec<u8>, reason_string: Option<&str>, user: UserProperties) -> Encoded {
    put_sized(out, |out| Reasons { reason_string, user }.put(out))
}
