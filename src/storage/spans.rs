//! What was read back for clients: many spans in one buffer, so that the shard, which did not
//! allocate it, gives one buffer back and not one for each message.

use std::ops::Range;

/// The bytes of spans, or why they cannot be read.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct ReadSpans {
    bytes: Vec<u8>,
    /// For each span: where its bytes are.
    spans: Vec<Result<Range<usize>, String>>,
}

impl ReadSpans {
    /// For so many spans, which together have about that many bytes. Nothing is read yet.
    pub fn new(count: usize, bytes: usize) -> ReadSpans {
        ReadSpans { bytes: Vec::with_capacity(bytes), spans: vec![Ok(0..0); count] }
    }

    /// Notes what was read of the span with that number.
    pub fn put(&mut self, at: usize, read: Result<&[u8], String>) {
        let place = read.map(|part| {
            let from = self.bytes.len();
            self.bytes.extend_from_slice(part);
            from..self.bytes.len()
        });
        if let Some(span) = self.spans.get_mut(at) {
            *span = place;
        }
    }

    /// The bytes of the span with that number; `None` when there is no such span.
    pub fn get(&self, at: usize) -> Option<Result<&[u8], &str>> {
        Some(match self.spans.get(at)? {
            Ok(place) => Ok(self.bytes.get(place.clone()).unwrap_or(&[])),
            Err(why) => Err(why),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_span_has_its_bytes_in_whatever_order_they_were_read() {
        let mut read = ReadSpans::new(3, 5);
        read.put(2, Ok(b"last"));
        read.put(0, Ok(b"first"));
        read.put(1, Err("broken".to_owned()));
        assert_eq!(read.get(0), Some(Ok(&b"first"[..])));
        assert_eq!(read.get(1), Some(Err("broken")));
        assert_eq!(read.get(2), Some(Ok(&b"last"[..])));
        assert_eq!(read.get(3), None);
    }
}
