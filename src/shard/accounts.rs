//! Retained messages that count for bounds of their publishers ([`crate::overload::accounts`]).
//! Owns which accounts each of them is on: where it is kept, and not where its publisher is. It
//! stays on them when its publisher has gone.

use super::Shard;
use crate::message::{Accounts, Message};
use crate::mutant::Mutant;
use hashbrown::HashMap;

/// Bytes of memory for a message that is on an account.
const ENTRY: usize = 32;

/// What is kept here on accounts.
#[derive(Default)]
pub(super) struct Accounted {
    /// By the hash of the topic.
    of: HashMap<u64, Accounts, foldhash::fast::FixedState>,
}

impl Accounted {
    /// Bytes of memory, as they are counted.
    pub(super) fn held(&self) -> usize {
        self.of.len() * ENTRY
    }
}

impl Shard {
    fn place_of(&self, topic: &str) -> u64 {
        self.topology.shared.seeds.place(topic.as_bytes())
    }

    /// A message of so many bytes is to be kept; false when that is beyond a bound of the accounts.
    #[inline]
    pub(super) fn charge_accounts(&mut self, topic: &str, accounts: Accounts, bytes: u64) -> bool {
        accounts.is_none() || self.charge_known(topic, accounts, bytes)
    }

    #[inline(never)]
    fn charge_known(&mut self, topic: &str, accounts: Accounts, bytes: u64) -> bool {
        let book = &self.settings.policy.limits.accounts;
        // During a reload another shard may know more of them.
        let accounts = book.known(accounts);
        if !book.take(accounts, bytes) {
            if !Mutant::AccountUnbounded.is_on() {
                return false;
            }
            book.take_anyway(accounts, bytes);
        }
        self.put_on_accounts(topic, accounts);
        true
    }

    fn put_on_accounts(&mut self, topic: &str, accounts: Accounts) {
        if accounts.is_none() {
            return;
        }
        let place = self.place_of(topic);
        if self.retained.accounted.of.insert(place, accounts).is_none() {
            self.memory.tally.retained += ENTRY;
        }
    }

    /// A message that was kept before this process began, or on another one, is on these accounts,
    /// as far as there are such.
    pub(super) fn adopt_accounts(&mut self, topic: &str, accounts: Accounts, bytes: u64) {
        if accounts.is_none() {
            return;
        }
        let book = &self.settings.policy.limits.accounts;
        let accounts = book.known(accounts);
        book.take_anyway(accounts, bytes);
        self.put_on_accounts(topic, accounts);
    }

    /// The message of that topic, of so many bytes, is not kept any more.
    #[inline]
    pub(super) fn discharge_accounts(&mut self, topic: &str, bytes: u64) {
        if !self.retained.accounted.of.is_empty() {
            self.discharge_known(topic, bytes);
        }
    }

    #[inline(never)]
    fn discharge_known(&mut self, topic: &str, bytes: u64) {
        let place = self.place_of(topic);
        let Some(accounts) = self.retained.accounted.of.remove(&place) else { return };
        self.memory.tally.retained -= ENTRY;
        if !Mutant::AccountKept.is_on() {
            self.settings.policy.limits.accounts.give(accounts, bytes);
        }
    }

    /// The accounts that the message kept for a topic is on.
    pub(super) fn accounts_of_kept(&self, topic: &str) -> Accounts {
        let of = &self.retained.accounted.of;
        if of.is_empty() {
            return Accounts::NONE;
        }
        of.get(&self.place_of(topic)).copied().unwrap_or_default()
    }

    /// For checks: messages and bytes that are kept here on an account.
    pub fn kept_on_account(&self, number: u32) -> (u64, u64) {
        let (mut messages, mut bytes) = (0, 0);
        let visits = &mut { usize::MAX };
        let found = &mut |topic: &str, message: &Message| {
            if self.accounts_of_kept(topic).numbers().any(|one| one == number) {
                (messages, bytes) = (messages + 1, bytes + message.size() as u64);
            }
        };
        for filter in ["#", "$SYS/#"] {
            self.retained.messages.replay(filter, None, usize::MAX, visits, found);
        }
        (messages, bytes)
    }
}
