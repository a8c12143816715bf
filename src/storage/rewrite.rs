//! Rewrites a store: for another number of shards, without dead records, or from what is left of a
//! damaged store. The new logs lie beside the old ones until `FORMAT` names them. That takes one
//! rename, so a crash at any moment leaves either the old store or the new one.

use super::StorageAnswer;
use super::files::LogFiles;
use super::image::{Image, LastWill, QueuedImage, RETURNING, SessionImage};
use super::log::{Log, LogBounds, RecoveredLog};
use super::record::{Record, StoreSecret, StoredSession};
use super::store::{Store, UnusableStore};
use std::collections::HashMap;

/// Bytes that are gathered before they are written.
const GATHER: usize = 4 << 20;

/// Something that is to be assigned to a shard.
#[derive(Clone, Copy, Debug)]
pub enum Placed<'a> {
    /// A session, by its ClientId.
    Session(&'a str),
    /// A retained message, by its topic.
    Topic(&'a str),
}

/// Returns the new store's shard for something that was in the given shard of the old store.
pub type ChooseShard<'a> = dyn Fn(Placed<'_>, u8) -> u8 + 'a;

impl SessionImage {
    /// Passes the records of the session under this number to `say`, except for messages that wait
    /// for it.
    pub fn records(&self, session: u64, say: &mut dyn FnMut(&Record<'_>)) {
        let Some(head) = &self.head else { return };
        say(&Record::Session(StoredSession {
            session,
            client_id: &head.client_id,
            mountpoint: &head.mountpoint,
            expiry: head.expiry,
            ends: head.ends,
            level: head.level,
            bridge: head.bridge,
        }));
        for (filter, &(options, subscription_id)) in self.subscriptions.iter() {
            say(&Record::Subscribed { session, filter, options, subscription_id });
        }
        for &packet in &self.inbound {
            say(&Record::Inbound { session, packet });
        }
        if let Some(LastWill { delay, lifetime, due, body }) = self.will.as_deref() {
            let (delay, lifetime, due) = (*delay, *lifetime, *due);
            say(&Record::Will { session, delay, lifetime, due, body: body.stored() });
        }
    }
}

impl QueuedImage {
    /// Passes the records of this waiting message, with its new numbers, to `say`.
    pub fn records(&self, session: u64, slot: u32, message: u64, say: &mut dyn FnMut(&Record<'_>)) {
        let ids: Vec<u8> = self.ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        let (flags, ids, share) = (self.flags, &*ids, &*self.share);
        say(&Record::Fan { session, slot, message, flags, ids, share });
        if let Some((packet, phase)) = self.sent {
            say(&Record::State { session, slot, packet, phase });
        }
    }
}

/// A log of the new store.
struct NewLog {
    log: Log,
    files: LogFiles,
    now: u64,
    last_session: u64,
    /// The slot of the last message that is on its way between members of a share group.
    last_returning: u32,
    /// The new number of each message, by its old shard and its number there.
    messages: HashMap<(u8, u64), u64>,
}

impl NewLog {
    fn new(id: u64, secret: StoreSecret, files: LogFiles) -> NewLog {
        let bounds = LogBounds { gather: 0, ..LogBounds::BROKER };
        let log = Log::new(id, secret, bounds, RecoveredLog::default());
        let messages = HashMap::new();
        NewLog { log, files, now: 1, last_session: 0, last_returning: 0, messages }
    }

    fn append(&mut self, record: &Record<'_>) {
        self.log.append(record, self.now);
    }

    /// Writes what was appended, if it is `least` bytes or more.
    fn write(&mut self, least: usize) -> Result<(), UnusableStore> {
        if self.log.backlog() < least {
            return Ok(());
        }
        while !self.log.is_settled() {
            self.now += 1;
            self.log.turn(self.now);
            for command in std::mem::take(&mut self.log.commands) {
                let answer = self.files.obey(command);
                if let StorageAnswer::Failed { why, .. } | StorageAnswer::NoSegment { why, .. } =
                    &answer
                {
                    return Err(UnusableStore::new(format!(
                        "the store cannot be written anew: {why}"
                    )));
                }
                self.log.answered(answer, self.now);
            }
        }
        Ok(())
    }

    fn session(
        &mut self,
        source: u8,
        stored: &SessionImage,
        image: &Image,
    ) -> Result<(), UnusableStore> {
        self.last_session += 1;
        let session = self.last_session;
        stored.records(session, &mut |record| {
            self.log.append(record, self.now);
        });
        for (&slot, waiting) in stored.waiting.iter() {
            self.waiting(session, slot, source, waiting, image)?;
        }
        self.write(GATHER)
    }

    /// Appends a message that waits for a session, with its body if that is not in the log yet.
    fn waiting(
        &mut self,
        session: u64,
        slot: u32,
        source: u8,
        waiting: &QueuedImage,
        image: &Image,
    ) -> Result<(), UnusableStore> {
        let Some(body) = image.body(waiting.message) else { return Ok(()) };
        let next = self.messages.len() as u64 + 1;
        let message = *self.messages.entry((source, waiting.message)).or_insert(next);
        if message == next {
            self.append(&Record::Put { message, body: body.stored() });
        }
        waiting.records(session, slot, message, &mut |record| {
            self.log.append(record, self.now);
        });
        self.write(GATHER)
    }
}

/// Writes the content of `images` (one for each old shard) to `shards` new logs, and makes these
/// the store. With `kept` the old logs stay in the directory under other names.
///
/// # Errors
/// When something cannot be written. The store is then as it was, unless only the removal of the
/// old logs has failed.
pub fn rewrite(
    store: &mut Store,
    images: &[Image],
    shards: u8,
    place: &ChooseShard<'_>,
    kept: bool,
) -> Result<(), UnusableStore> {
    let mut targets = Vec::new();
    for shard in 0..shards {
        let (id, files) = store.begin_anew(shard)?;
        targets.push(NewLog::new(id, store.secret(), files));
    }
    for (source, image) in images.iter().enumerate() {
        let source = source as u8;
        for (topic, body) in &image.retained {
            let Some(target) = targets.get_mut(usize::from(place(Placed::Topic(topic), source)))
            else {
                continue;
            };
            target.append(&Record::Retain(body.stored()));
            target.write(GATHER)?;
        }
        for (_, stored) in image.sessions() {
            let Some(head) = &stored.head else { continue };
            let shard = place(Placed::Session(&head.client_id), source);
            let Some(target) = targets.get_mut(usize::from(shard)) else { continue };
            target.session(source, stored, image)?;
        }
        // These may go to any shard: the shard that has them passes them to their groups.
        let at = usize::from(source) % targets.len().max(1);
        let Some(target) = targets.get_mut(at) else { continue };
        for (_, waiting) in image.returning.iter() {
            target.last_returning += 1;
            target.waiting(RETURNING, target.last_returning, source, waiting, image)?;
        }
    }
    for target in &mut targets {
        target.write(1)?;
    }
    drop(targets);
    store.switch(shards, kept)
}
