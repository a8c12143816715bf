//! Bytes: the primitive encodings of MQTT, written and read.

/// A protocol version a client speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    V31,
    V311,
    V5,
}

impl Version {
    pub fn level(self) -> u8 {
        match self {
            Version::V31 => 3,
            Version::V311 => 4,
            Version::V5 => 5,
        }
    }

    pub fn name(self) -> &'static str {
        if self == Version::V31 { "MQIsdp" } else { "MQTT" }
    }

    pub fn is_v5(self) -> bool {
        self == Version::V5
    }
}

/// Writes the primitive encodings; nothing stops a test from writing a wrong packet with it.
#[derive(Clone, Default)]
pub struct Writer(pub Vec<u8>);

impl Writer {
    pub fn new() -> Writer {
        Writer::default()
    }

    pub fn u8(mut self, value: u8) -> Writer {
        self.0.push(value);
        self
    }

    pub fn u16(mut self, value: u16) -> Writer {
        self.0.extend(value.to_be_bytes());
        self
    }

    pub fn u32(mut self, value: u32) -> Writer {
        self.0.extend(value.to_be_bytes());
        self
    }

    /// A variable byte integer in its shortest form.
    pub fn var(mut self, mut value: u32) -> Writer {
        loop {
            let more = value > 127;
            self.0.push((value % 128) as u8 | if more { 0x80 } else { 0 });
            value /= 128;
            if !more {
                return self;
            }
        }
    }

    pub fn raw(mut self, bytes: impl AsRef<[u8]>) -> Writer {
        self.0.extend(bytes.as_ref());
        self
    }

    /// A string or binary data: two bytes of length, then the bytes, checked for nothing.
    pub fn str(self, bytes: impl AsRef<[u8]>) -> Writer {
        let bytes = bytes.as_ref();
        self.u16(u16::try_from(bytes.len()).expect("a string has at most 65535 bytes")).raw(bytes)
    }

    /// The whole packet: this is the body, `first` the first byte of the fixed header.
    pub fn packet(self, first: u8) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).expect("a packet fits");
        Writer::new().u8(first).var(length).raw(self.0).0
    }
}

/// Reads the primitive encodings; panics on what no server may send.
pub struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes }
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub fn take(&mut self, length: usize) -> &'a [u8] {
        assert!(length <= self.bytes.len(), "the server's packet ends inside a field");
        let (head, tail) = self.bytes.split_at(length);
        self.bytes = tail;
        head
    }

    pub fn rest(&mut self) -> &'a [u8] {
        self.take(self.bytes.len())
    }

    pub fn u8(&mut self) -> u8 {
        self.take(1)[0]
    }

    pub fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.take(2).try_into().expect("two bytes"))
    }

    pub fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.take(4).try_into().expect("four bytes"))
    }

    pub fn var(&mut self) -> u32 {
        let mut value = 0;
        for shift in [0, 7, 14, 21] {
            let byte = self.u8();
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                // [MQTT-1.5.5-1]: the shortest form.
                assert!(shift == 0 || byte != 0, "the server sent a padded variable byte integer");
                return value;
            }
        }
        panic!("the server sent a variable byte integer of more than four bytes")
    }

    pub fn bin(&mut self) -> Vec<u8> {
        let length = self.u16();
        self.take(usize::from(length)).to_vec()
    }

    pub fn str(&mut self) -> String {
        let text = String::from_utf8(self.bin()).expect("the server sent a string not in UTF-8");
        assert!(!text.contains('\0'), "the server sent U+0000 in a string");
        text
    }
}
