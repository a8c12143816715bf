//! The encoding of values between the two processes of an upgrade: numbers are little-endian; texts
//! and lists are preceded by four bytes with their length. Reading may fail, and never allocates
//! more memory than the bytes that are there can fill.

use crate::ids::{ClientKey, ListenerId, Peer, Publisher, ShardId};
use crate::message::{Message, MessageRef};
use crate::overload::sources::{Banned, SourceNetwork};
use crate::packet::Qos;
use crate::session::{Queued, ShareName, SubscriptionIds};
use crate::time::Instant;
use std::net::IpAddr;
use zeroize::Zeroize;

/// A value with an encoding.
pub trait Code: Sized {
    /// The number of bytes that [`Code::put`] appends.
    fn length(&self) -> usize;
    /// Appends the value.
    fn put(&self, out: &mut Vec<u8>);
    /// Reads a value; `None` when the bytes are not one.
    fn get(from: &mut BodyReader<'_>) -> Option<Self>;
}

/// Makes room for `more` more bytes. `out` may hold secrets, so a buffer that is too small is wiped
/// before it is freed; a `Vec` that grows by itself would leave the secrets in freed memory.
pub fn make_room(out: &mut Vec<u8>, more: usize) {
    if out.capacity() - out.len() >= more {
        return;
    }
    let mut larger = Vec::with_capacity((out.len() + more).max(2 * out.capacity()));
    larger.extend_from_slice(out);
    std::mem::replace(out, larger).zeroize();
}

/// Bytes that are read from front to back.
pub struct BodyReader<'a>(&'a [u8]);

impl<'a> BodyReader<'a> {
    /// A reader of `bytes`.
    pub fn new(bytes: &'a [u8]) -> BodyReader<'a> {
        BodyReader(bytes)
    }

    /// Whether all bytes have been read.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(head)
    }

    fn slice(&mut self) -> Option<&'a [u8]> {
        let length = u32::get(self)? as usize;
        self.take(length)
    }

    fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.slice()?).ok()
    }
}

macro_rules! numbers {
    ($($number:ty),*) => {$(
        impl Code for $number {
            fn length(&self) -> usize {
                size_of::<$number>()
            }

            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }

            fn get(from: &mut BodyReader<'_>) -> Option<Self> {
                let (head, rest) = from.0.split_first_chunk()?;
                from.0 = rest;
                Some(<$number>::from_le_bytes(*head))
            }
        }
    )*};
}

numbers!(u8, u16, u32, u64);

impl Code for bool {
    fn length(&self) -> usize {
        1
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }

    fn get(from: &mut BodyReader<'_>) -> Option<Self> {
        u8::get(from).filter(|&byte| byte < 2).map(|byte| byte == 1)
    }
}

fn slice_length(bytes: &[u8]) -> usize {
    size_of::<u32>() + bytes.len()
}

fn put_slice(bytes: &[u8], out: &mut Vec<u8>) {
    // No value has 4 GiB: `frame::LONGEST` bounds a frame's body.
    (bytes.len() as u32).put(out);
    out.extend_from_slice(bytes);
}

impl Code for Box<str> {
    fn length(&self) -> usize {
        slice_length(self.as_bytes())
    }

    fn put(&self, out: &mut Vec<u8>) {
        put_slice(self.as_bytes(), out);
    }

    fn get(from: &mut BodyReader<'_>) -> Option<Self> {
        from.text().map(Into::into)
    }
}

/// A sequence of bytes.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct ByteString(pub Vec<u8>);

impl Code for ByteString {
    fn length(&self) -> usize {
        slice_length(&self.0)
    }

    fn put(&self, out: &mut Vec<u8>) {
        put_slice(&self.0, out);
    }

    fn get(from: &mut BodyReader<'_>) -> Option<Self> {
        from.slice().map(|bytes| ByteString(bytes.to_vec()))
    }
}

/// Bytes that contain secrets; they are wiped when the value is dropped.
#[derive(PartialEq, Eq, Default)]
pub struct SecretBytes(pub Vec<u8>);

impl Drop for SecretBytes {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl Code for SecretBytes {
    fn length(&self) -> usize {
        slice_length(&self.0)
    }

    fn put(&self, out: &mut Vec<u8>) {
        put_slice(&self.0, out);
    }

    fn get(from: &mut BodyReader<'_>) -> Option<Self> {
        from.slice().map(|bytes| SecretBytes(bytes.to_vec()))
    }
}

impl<T: Code> Code for Option<T> {
    fn length(&self) -> usize {
        1 + self.as_ref().map_or(0, T::length)
    }

    fn put(&self, out: &mut Vec<u8>) {
        self.is_some().put(out);
        if let Some(value) = self {
            value.put(out);
        }
    }

    fn get(from: &mut BodyReader<'_>) -> Option<Self> {
        match bool::get(from)? {
            true => T::get(from).map(Some),
            false => Some(None),
        }
    }
}

fn list_length<T: Code>(list: &[T]) -> usize {
    size_of::<u32>() + list.iter().map(T::length).sum::<usize>()
}

fn put_list<T: Code>(list: &[T], out: &mut Vec<u8>) {
    (list.len() as u32).put(out);
    list.iter().for_each(|value| value.put(out));
}

impl<T: Code> Code for Vec<T> {
    fn length(&self) -> usize {
        list_length(self)
    }

    fn put(&self, out: &mut Vec<u8>) {
        put_list(self, out);
    }

    fn get(from: &mut BodyReader<'_>) -> Option<Self> {
        // Each value takes at least one byte, so a longer list cannot be in the bytes that are
        // left.
        let length = u32::get(from)? as usize;
        (length <= from.0.len()).then_some(())?;
        let mut list = Vec::new();
        for _ in 0..length {
            list.push(T::get(from)?);
        }
        Some(list)
    }
}

impl<T: Code> Code for Box<[T]> {
    fn length(&self) -> usize {
        list_length(self)
    }

    fn put(&self, out: &mut Vec<u8>) {
        put_list(self, out);
    }

    fn get(from: &mut BodyReader<'_>) -> Option<Self> {
        Vec::get(from).map(Vec::into_boxed_slice)
    }
}

impl<A: Code, B: Code> Code for (A, B) {
    fn length(&self) -> usize {
        self.0.length() + self.1.length()
    }

    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
        self.1.put(out);
    }

    fn get(from: &mut BodyReader<'_>) -> Option<Self> {
        Some((A::get(from)?, B::get(from)?))
    }
}

/// A moment on the clock that both processes share.
impl Code for Instant {
    fn length(&self) -> usize {
        self.0.length()
    }

    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
    }

    fn get(from: &mut BodyReader<'_>) -> Option<Self> {
        u64::get(from).map(Instant)
    }
}

impl Code for ListenerId {
    fn length(&self) -> usize {
        self.0.length()
    }

    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
    }

    fn get(from: &mut BodyReader<'_>) -> Option<Self> {
        u16::get(from).map(ListenerId)
    }
}

impl Code for ShardId {
    fn length(&self) -> usize {
        self.0.length()
    }

    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
    }

    fn get(from: &mut BodyReader<'_>) -> Option<Self> {
        u8::get(from).map(ShardId)
    }
}

impl Code for Peer {
    fn length(&self) -> usize {
        match self {
            Peer::Unix => 1,
            Peer::Tcp(IpAddr::V4(_), _) => 7,
            Peer::Tcp(IpAddr::V6(_), _) => 19,
        }
    }

    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Peer::Unix => 0u8.put(out),
            Peer::Tcp(IpAddr::V4(ip), port) => {
                4u8.put(out);
                ip.to_bits().put(out);
                port.put(out);
            }
            Peer::Tcp(IpAddr::V6(ip), port) => {
                6u8.put(out);
                let bits = ip.to_bits();
                ((bits >> 64) as u64, bits as u64).put(out);
                port.put(out);
            }
        }
    }

    fn get(from: &mut BodyReader<'_>) -> Option<Self> {
        let ip = match u8::get(from)? {
            0 => return Some(Peer::Unix),
            4 => IpAddr::V4(u32::get(from)?.into()),
            6 => {
                let (high, low) = <(u64, u64)>::get(from)?;
                IpAddr::V6((u128::from(high) << 64 | u128::from(low)).into())
            }
            _ => return None,
        };
        Some(Peer::Tcp(ip, u16::get(from)?))
    }
}

/// The address is that of the network's first host; new's configuration tells the prefix length.
impl Code for Banned {
    fn length(&self) -> usize {
        match self {
            Banned::Address(source) => 1 + Peer::Tcp(source.address(), 0).length(),
            Banned::Client(name) | Banned::User(name) => 1 + name.length(),
        }
    }

    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Banned::Address(source) => {
                0u8.put(out);
                Peer::Tcp(source.address(), 0).put(out);
            }
            Banned::Client(name) => {
                1u8.put(out);
                name.put(out);
            }
            Banned::User(name) => {
                2u8.put(out);
                name.put(out);
            }
        }
    }

    fn get(from: &mut BodyReader<'_>) -> Option<Self> {
        match u8::get(from)? {
            0 => match Peer::get(from)? {
                Peer::Tcp(address, 0) => Some(Banned::Address(SourceNetwork::whole(address))),
                Peer::Tcp(..) | Peer::Unix => None,
            },
            1 => Code::get(from).map(Banned::Client),
            2 => Code::get(from).map(Banned::User),
            _ => None,
        }
    }
}

impl Code for Qos {
    fn length(&self) -> usize {
        1
    }

    fn put(&self, out: &mut Vec<u8>) {
        (*self as u8).put(out);
    }

    fn get(from: &mut BodyReader<'_>) -> Option<Self> {
        Qos::from_u8(u8::get(from)?)
    }
}

impl Code for Message {
    fn length(&self) -> usize {
        let view = self.view();
        let texts = [view.topic.as_bytes(), view.properties, view.payload];
        let publisher = view.publisher.map(|by| by.client.0.get());
        texts.map(slice_length).iter().sum::<usize>()
            + view.qos.length()
            + view.retain.length()
            + view.expires.length()
            + publisher.length()
    }

    fn put(&self, out: &mut Vec<u8>) {
        let view = self.view();
        put_slice(view.topic.as_bytes(), out);
        put_slice(view.properties, out);
        put_slice(view.payload, out);
        view.qos.put(out);
        view.retain.put(out);
        view.expires.put(out);
        view.publisher.map(|by| by.client.0.get()).put(out);
    }

    fn get(from: &mut BodyReader<'_>) -> Option<Self> {
        let (topic, properties, payload) = (from.text()?, from.slice()?, from.slice()?);
        let (qos, retain, expires) = (Qos::get(from)?, bool::get(from)?, Option::get(from)?);
        // The number of shards may differ from old's, so the publisher's home is unknown here. For
        // a message that is kept, the home of its publisher does not matter.
        let publisher = Option::<u64>::get(from)?;
        let publisher =
            publisher.map(|key| Publisher { client: ClientKey::new(key), shard: ShardId(0) });
        let message = MessageRef { topic, properties, payload, qos, retain, expires, publisher };
        Some(Message::new(&message, &mut Vec::new()))
    }
}

impl Code for Queued {
    fn length(&self) -> usize {
        let share = self.share.as_ref().map_or("", |share| share.as_str());
        self.message.length()
            + slice_length(&[])
            + size_of_val(self.subscription_ids.as_slice())
            + self.qos.length()
            + self.retain.length()
            + slice_length(share.as_bytes())
    }

    fn put(&self, out: &mut Vec<u8>) {
        self.message.put(out);
        self.subscription_ids.as_slice().to_vec().put(out);
        self.qos.put(out);
        self.retain.put(out);
        put_slice(self.share.as_ref().map_or("", |share| share.as_str()).as_bytes(), out);
    }

    fn get(from: &mut BodyReader<'_>) -> Option<Self> {
        let message = Message::get(from)?;
        let subscription_ids = SubscriptionIds::from_slice(&Vec::<u32>::get(from)?);
        let (qos, retain, share) = (Qos::get(from)?, bool::get(from)?, from.text()?);
        let share = (!share.is_empty()).then(|| ShareName::new(share));
        Some(Queued { message, subscription_ids, qos, retain, share, stored: 0 })
    }
}

/// Implements [`Code`] for a record that is declared elsewhere: its fields, one after the other.
macro_rules! fields {
    ($kind:ident { $($field:tt),* }) => {
        impl Code for $kind {
            fn length(&self) -> usize {
                0 $(+ self.$field.length())*
            }

            fn put(&self, out: &mut Vec<u8>) {
                $(self.$field.put(out);)*
            }

            fn get(from: &mut BodyReader<'_>) -> Option<Self> {
                Some($kind { $($field: Code::get(from)?,)* })
            }
        }
    };
}
pub(crate) use fields;

/// Declares a record and implements [`Code`] for it: its fields, one after the other.
macro_rules! record {
    (
        $(#[$about:meta])*
        pub struct $name:ident { $($(#[$says:meta])* pub $field:ident: $kind:ty,)* }
    ) => {
        $(#[$about])*
        pub struct $name {
            $($(#[$says])* pub $field: $kind,)*
        }

        $crate::upgrade::code::fields!($name { $($field),* });
    };
}
pub(crate) use record;
