//! A store in one file, for another host or version: `ringmq storage export` and `import`. The file
//! has a line of magic, the records of everything that is alive, and a checksum of all bytes before
//! it.

use super::image::{Image, QueuedImage, RETURNING, SessionImage};
use super::index::{IndexValue, RecordPosition};
use super::record::{self, Record};
use super::rewrite::rewrite;
use super::store::{Store, UnusableStore};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::path::Path;

const MAGIC: &[u8] = b"ringmq-export 1\n";
/// Bytes of the checksum.
const CHECKSUM: usize = 4;

/// A writer that computes the checksum of the bytes it has written.
struct Summed<'a> {
    out: &'a mut dyn Write,
    sum: u32,
    buffer: Vec<u8>,
}

impl Summed<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), UnusableStore> {
        self.sum = crc32c::crc32c_append(self.sum, bytes);
        self.out.write_all(bytes).map_err(cannot_write)
    }

    fn record(&mut self, record: &Record<'_>) -> Result<(), UnusableStore> {
        let mut bytes = std::mem::take(&mut self.buffer);
        bytes.clear();
        record.encode(&mut bytes);
        let written = self.write(&bytes);
        self.buffer = bytes;
        written
    }
}

impl Summed<'_> {
    /// Writes the records that `tell` passes to its argument.
    fn each(
        &mut self,
        tell: impl FnOnce(&mut dyn FnMut(&Record<'_>)),
    ) -> Result<(), UnusableStore> {
        let mut outcome = Ok(());
        tell(&mut |record| {
            if outcome.is_ok() {
                outcome = self.record(record);
            }
        });
        outcome
    }
}

fn cannot_write(error: std::io::Error) -> UnusableStore {
    UnusableStore::new(format!("the export cannot be written: {error}"))
}

/// Writes waiting messages; each body comes before the first reference to it.
#[derive(Default)]
struct BodyWriter {
    /// A message's number in the export, by its shard and its number there.
    numbers: HashMap<(usize, u64), u64>,
}

impl BodyWriter {
    fn waiting(
        &mut self,
        out: &mut Summed<'_>,
        (session, slot): (u64, u32),
        waiting: &QueuedImage,
        (shard, image): (usize, &Image),
    ) -> Result<(), UnusableStore> {
        let Some(body) = image.body(waiting.message) else { return Ok(()) };
        let next = self.numbers.len() as u64 + 1;
        let message = *self.numbers.entry((shard, waiting.message)).or_insert(next);
        if message == next {
            out.record(&Record::Put { message, body: body.stored() })?;
        }
        out.each(|say| waiting.records(session, slot, message, say))
    }
}

/// Writes everything that is stored to `out`. The same content gives the same bytes, however it is
/// distributed among shards.
///
/// # Errors
/// When the store cannot be read or is damaged, or `out` cannot be written.
pub fn export(store: &Store, out: &mut dyn Write) -> Result<(), UnusableStore> {
    let mut images = store.images()?;
    for stored in images.iter_mut().flat_map(|image| image.sessions_mut()) {
        stored.inbound.sort_unstable();
    }
    let mut out = Summed { out, sum: 0, buffer: Vec::new() };
    out.write(MAGIC)?;
    let mut retained: Vec<_> = images.iter().flat_map(|image| &image.retained).collect();
    retained.sort_unstable_by_key(|&(topic, _)| topic);
    for (_, body) in retained {
        out.record(&Record::Retain(body.stored()))?;
    }
    let mut sessions = Vec::new();
    for (shard, image) in images.iter().enumerate() {
        let named = |(_, stored)| name_of(stored).map(|name| (name, shard, stored));
        sessions.extend(image.sessions().filter_map(named));
    }
    sessions.sort_unstable_by_key(|&(name, shard, _)| (name, shard));
    let mut bodies = BodyWriter::default();
    for (number, (_, shard, stored)) in (1..).zip(sessions) {
        let Some(image) = images.get(shard) else { continue };
        out.each(|say| stored.records(number, say))?;
        for (&slot, waiting) in stored.waiting.iter() {
            bodies.waiting(&mut out, (number, slot), waiting, (shard, image))?;
        }
    }
    let mut slot = 0;
    for (shard, image) in images.iter().enumerate() {
        for (_, waiting) in image.returning.iter() {
            slot += 1;
            bodies.waiting(&mut out, (RETURNING, slot), waiting, (shard, image))?;
        }
    }
    let sum = out.sum.to_le_bytes();
    out.out.write_all(&sum).and_then(|()| out.out.flush()).map_err(cannot_write)
}

fn name_of(stored: &SessionImage) -> Option<&str> {
    stored.head.as_ref().map(|head| &*head.client_id)
}

/// Makes a store at `path` from what [`export`] wrote. The store has one shard; a broker with
/// another number of shards rewrites it when it starts.
///
/// # Errors
/// When there is a store already, the input is not a whole export, or the store cannot be written.
pub fn import(path: &Path, input: &mut dyn Read, fresh: [u64; 2]) -> Result<(), UnusableStore> {
    if Store::is_at(path) {
        let place = path.display();
        return Err(UnusableStore::new(format!("{place} is a store already; name another path")));
    }
    let mut bytes = Vec::new();
    let cannot = |error| UnusableStore::new(format!("the export cannot be read: {error}"));
    input.read_to_end(&mut bytes).map_err(cannot)?;
    let image = read(&bytes, fresh)?;
    let mut store = Store::open(path, 1, fresh)?;
    rewrite(&mut store, &[image], 1, &|_, _| 0, false)
}

fn read(bytes: &[u8], fresh: [u64; 2]) -> Result<Image, UnusableStore> {
    let refuse = |what: &str| Err(UnusableStore::new(format!("this is no whole export: {what}")));
    let Some((body, sum)) = bytes.split_last_chunk::<CHECKSUM>() else {
        return refuse("it is too short");
    };
    let Some(records) = body.strip_prefix(MAGIC) else {
        return refuse("it does not begin with `ringmq-export 1`");
    };
    if crc32c::crc32c(body) != u32::from_le_bytes(*sum) {
        return refuse("its checksum is wrong");
    }
    let (mut image, mut at) = (Image::default(), 0);
    while let Some(rest) = records.get(at..).filter(|rest| !rest.is_empty()) {
        let (record, length) = match record::decode(rest) {
            Ok(decoded) => decoded,
            Err(why) => return refuse(&format!("it holds {why}")),
        };
        let value = IndexValue { position: RecordPosition::new(1, 0), length: length as u32 };
        image.take(&record, value, record::StoreSecret(fresh));
        at += length;
    }
    image.finish(record::StoreSecret(fresh));
    Ok(image)
}
