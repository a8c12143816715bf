//! What the keys of adoptions hold, as text that an operator can read.

use crate::cluster::frame::is_name;

/// A node whose sessions are stored in journals.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DurableMember {
    /// Its name.
    pub name: Box<str>,
    /// Its incarnation.
    pub incarnation: u64,
    /// The number of its shards, each of which has a journal.
    pub shards: u8,
    /// What it can do ([`crate::cluster::frame::LEVEL`]): nodes of a lower level may not be able to
    /// read its journals.
    pub level: u8,
}

impl DurableMember {
    /// Reads members, one in each line. A line that is none is left out.
    pub fn read_all(bytes: &[u8]) -> Vec<DurableMember> {
        let text = str::from_utf8(bytes).unwrap_or_default();
        text.lines().filter_map(DurableMember::read).collect()
    }

    fn read(line: &str) -> Option<DurableMember> {
        let mut words = line.split(' ');
        let (name, incarnation, shards) = (words.next()?, words.next()?, words.next()?);
        Some(DurableMember {
            name: Some(name).filter(|name| is_name(name))?.into(),
            incarnation: incarnation.parse().ok()?,
            shards: shards.parse().ok()?,
            // What follows is of later releases.
            level: words.next().map_or(Some(0), |level| level.parse().ok())?,
        })
    }

    /// The members as bytes.
    pub fn write_all(members: &[DurableMember]) -> Vec<u8> {
        let line = |DurableMember { name, incarnation, shards, level }: &DurableMember| {
            format!("{name} {incarnation} {shards} {level}\n")
        };
        members.iter().map(line).collect::<String>().into_bytes()
    }
}

/// The adoption of a node's sessions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AdoptionLock {
    /// The incarnation of the lost node.
    pub incarnation: u64,
    /// The name of the node that adopts.
    pub by: Box<str>,
    /// The incarnation of that node.
    pub by_incarnation: u64,
    /// Whether it is done.
    pub done: bool,
}

impl AdoptionLock {
    /// Reads a lock; `None` when the bytes are none.
    pub fn read(bytes: &[u8]) -> Option<AdoptionLock> {
        let mut words = str::from_utf8(bytes).ok()?.split(' ');
        let (incarnation, by) = (words.next()?.parse().ok()?, words.next()?);
        let (by_incarnation, stage) = (words.next()?.parse().ok()?, words.next()?);
        let by = Some(by).filter(|name| is_name(name))?.into();
        let done = stage == "done";
        let known = done || stage == "begun";
        (known && words.next().is_none()).then_some(AdoptionLock {
            incarnation,
            by,
            by_incarnation,
            done,
        })
    }

    /// The lock as bytes.
    pub fn write(&self) -> Vec<u8> {
        let AdoptionLock { incarnation, by, by_incarnation, done } = self;
        let stage = if *done { "done" } else { "begun" };
        format!("{incarnation} {by} {by_incarnation} {stage}").into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_and_locks_are_read_as_they_were_written() {
        let member = |name: &str, incarnation, shards| DurableMember {
            name: name.into(),
            incarnation,
            shards,
            level: shards / 10,
        };
        let members = [member("a", 7, 1), member("b-2", u64::MAX, 60)];
        assert_eq!(DurableMember::read_all(&DurableMember::write_all(&members)), members);
        assert_eq!(DurableMember::read_all(b"a b c\n\na 1\nc 1 300\n\xff"), []);
        assert_eq!(DurableMember::read_all(b"a.b 1 2\nok 1 2\n"), [member("ok", 1, 2)]);
        assert_eq!(DurableMember::read_all(b"later 1 20 2 more\n"), [member("later", 1, 20)]);
        for done in [false, true] {
            let lock = AdoptionLock { incarnation: 3, by: "b".into(), by_incarnation: 9, done };
            assert_eq!(AdoptionLock::read(&lock.write()), Some(lock));
        }
        for text in ["", "1 b 2", "1 b 2 over", "1 b 2 done more", "x b 2 done", "1 b. 2 done"] {
            assert_eq!(AdoptionLock::read(text.as_bytes()), None, "{text}");
        }
    }
}
