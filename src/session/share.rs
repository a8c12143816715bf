//! The memberships of a client in share groups, as the session sees them. The group itself lives on
//! the shard that its name hashes to.

use crate::ids::{ShardId, ShardSet};
use crate::keyed::{Keyed, KeyedList};
use std::hash::{Hash, Hasher};
use triomphe::ThinArc;

/// The name of a share group, which is its whole filter `$share/group/filter` with the mountpoint
/// inserted. One shared text serves everything that refers to it: the membership, the group, and
/// each message on its way to a member.
#[derive(Clone)]
pub struct ShareName(ThinArc<(), u8>);

const _: () = assert!(size_of::<Option<ShareName>>() == 8);

impl ShareName {
    /// The group with this filter.
    pub fn new(filter: &str) -> Self {
        ShareName(ThinArc::from_header_and_slice((), filter.as_bytes()))
    }

    /// The filter.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0.slice).expect("written from a str")
    }
}

impl PartialEq for ShareName {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.0.slice.as_ptr(), other.0.slice.as_ptr()) || self.0.slice == other.0.slice
    }
}

impl Eq for ShareName {}

impl Hash for ShareName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.slice.hash(state);
    }
}

impl std::fmt::Debug for ShareName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.as_str().fmt(f)
    }
}

/// A membership in a share group.
pub struct Membership {
    /// The group.
    pub name: ShareName,
    /// Granted options, packed as in the index.
    pub options: u8,
    /// Subscription Identifier; 0 for none.
    pub subscription_id: u32,
}

impl Keyed for Membership {
    type Key = ShareName;
    fn key(&self) -> &ShareName {
        &self.name
    }
}

/// All memberships of one session.
#[derive(Default)]
pub struct Shares {
    /// The memberships.
    pub list: KeyedList<Membership>,
    /// The home shards of the groups: all of them, and possibly those of groups that the session
    /// has left.
    pub homes: ShardSet,
    /// Some group was told that the session accepts no more messages for now. All groups are told
    /// when it does again.
    pub refused: bool,
}

impl Shares {
    /// Adds a membership, or replaces the options of the one with the same name. True when it is
    /// new.
    pub fn set(&mut self, membership: Membership, home: ShardId) -> bool {
        self.homes.insert(home);
        match self.list.get_mut(&membership.name) {
            Some(known) => {
                (known.options, known.subscription_id) =
                    (membership.options, membership.subscription_id);
                false
            }
            None => {
                self.list.push(membership);
                true
            }
        }
    }
}
