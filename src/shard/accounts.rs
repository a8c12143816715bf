//! Retained messages that count against bounds of their publishers ([`crate::overload::accounts`]).
//! This module owns, for each retained message that this shard keeps, the accounts that the message
//! is charged to. The charge belongs to the shard that keeps the message, wherever the publisher is
//! connected, and it stays when the publisher has gone.

use super::Shard;
use crate::message::{Accounts, Message};
use crate::mutant::Mutant;
use hashbrown::HashMap;

/// Bytes of memory for a message that is on an account.
const ENTRY: usize = 32;

/// The accounts of the retained messages that this shard keeps.
#[derive(Default)]
pub(super) struct Accounted {
    /// By the hash of the topic name.
    of: HashMap<u64, Accounts, foldhash::fast::FixedState>,
}

impl Accounted {
    /// Bytes of memory that the shard's tally has for the entries.
    pub(super) fn held(&self) -> usize {
        self.of.len() * ENTRY
    }
}

impl Shard {
    fn place_of(&self, topic: &str) -> u64 {
        self.topology.shared.seeds.place(topic.as_bytes())
    }

    /// Charges a message that is to be retained, of `bytes` bytes, to `accounts`. False, and
    /// nothing is charged, when that exceeds a bound of one of them.
    #[inline]
    pub(super) fn charge_accounts(&mut self, topic: &str, accounts: Accounts, bytes: u64) -> bool {
        accounts.is_none() || self.charge_known(topic, accounts, bytes)
    }

    #[inline(never)]
    fn charge_known(&mut self, topic: &str, accounts: Accounts, bytes: u64) -> bool {
        let book = &self.settings.policy.limits.accounts;
        // During a reload, the publisher's shard may already have accounts that this shard has not.
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

    /// Charges a message that was retained before this process began, or in another process, to
    /// those of `accounts` that exist here. No bound refuses a message that is retained already.
    pub(super) fn adopt_accounts(&mut self, topic: &str, accounts: Accounts, bytes: u64) {
        if accounts.is_none() {
            return;
        }
        let book = &self.settings.policy.limits.accounts;
        let accounts = book.known(accounts);
        book.take_anyway(accounts, bytes);
        self.put_on_accounts(topic, accounts);
    }

    /// The message of that topic, of `bytes` bytes, is not retained any more: its accounts get back
    /// what it was charged.
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

    /// The accounts that the retained message of a topic is charged to.
    pub(super) fn accounts_of_kept(&self, topic: &str) -> Accounts {
        let of = &self.retained.accounted.of;
        if of.is_empty() {
            return Accounts::NONE;
        }
        of.get(&self.place_of(topic)).copied().unwrap_or_default()
    }

    /// For checks: how many messages that are retained here are charged to the account of that
    /// number, and their bytes.
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
