//! Bounds of the retained messages that groups of clients have published: those of a listener, or
//! of an entry of `limits.users`. Owns how much is kept on the account of each group, and the
//! account's name.
//!
//! The number of an account is derived from its name. So a message that outlives the process is
//! still on the same account in the next process.

use crate::mesh::quota::Quota;
use crate::message::Accounts;
use crate::telemetry::AccountRow;
use std::sync::Arc;

/// What all shards keep on an account.
#[derive(Default, Debug)]
pub struct AccountUse {
    /// Messages.
    pub messages: Quota,
    /// Bytes of these messages, topics included.
    pub bytes: Quota,
}

/// An account.
#[derive(Clone, Debug)]
pub struct Account {
    /// Its number; not 0.
    pub number: u32,
    /// Its name: that of a listener, or the clients that an entry is about.
    pub name: Box<str>,
    /// Most messages.
    pub most_messages: u64,
    /// Most bytes.
    pub most_bytes: u64,
    /// What is kept on it.
    pub used: Arc<AccountUse>,
}

impl Account {
    /// An account with these bounds; `None` for no bound.
    pub fn new(name: &str, most_messages: Option<u64>, most_bytes: Option<u64>) -> Account {
        Account {
            number: crc32c::crc32c(name.as_bytes()).max(1),
            name: name.into(),
            most_messages: most_messages.unwrap_or(u64::MAX),
            most_bytes: most_bytes.unwrap_or(u64::MAX),
            used: Arc::default(),
        }
    }

    /// Adds a message of this many bytes; false when that exceeds a bound.
    fn take(&self, bytes: u64) -> bool {
        if !self.used.messages.take(1, self.most_messages) {
            return false;
        }
        if !self.used.bytes.take(bytes, self.most_bytes) {
            self.used.messages.give(1);
            return false;
        }
        true
    }

    fn give(&self, bytes: u64) {
        self.used.messages.give(1);
        self.used.bytes.give(bytes);
    }
}

/// All accounts. An account stays until the process ends. When the configuration does not have it
/// any more it has no bounds, but what was added to it can still be subtracted.
#[derive(Clone, Default, Debug)]
pub struct AccountBook(Vec<Account>);

impl AccountBook {
    /// Adds an account. If it exists already, the lower of the bounds hold.
    pub fn add(&mut self, account: Account) {
        match self.0.iter_mut().find(|known| known.number == account.number) {
            None => self.0.push(account),
            Some(known) => {
                known.most_messages = known.most_messages.min(account.most_messages);
                known.most_bytes = known.most_bytes.min(account.most_bytes);
            }
        }
    }

    /// Takes over what is kept on the accounts of `old`.
    pub fn adopt(&mut self, old: &AccountBook) {
        for known in &old.0 {
            match self.0.iter_mut().find(|one| one.number == known.number) {
                Some(one) => one.used = Arc::clone(&known.used),
                None => self.0.push(Account {
                    most_messages: u64::MAX,
                    most_bytes: u64::MAX,
                    ..known.clone()
                }),
            }
        }
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them.
    pub fn all(&self) -> &[Account] {
        &self.0
    }

    /// For each account, its name and how many messages and bytes are kept on it.
    pub fn rows(&self) -> Vec<AccountRow> {
        let row = |account: &Account| AccountRow {
            name: account.name.to_string(),
            messages: account.used.messages.used(),
            bytes: account.used.bytes.used(),
        };
        self.0.iter().map(row).collect()
    }

    fn find(&self, number: u32) -> Option<&Account> {
        self.0.iter().find(|account| account.number == number)
    }

    fn of(&self, accounts: Accounts) -> impl Iterator<Item = &Account> {
        accounts.numbers().filter_map(|number| self.find(number))
    }

    /// The accounts among `accounts` that exist.
    pub fn known(&self, accounts: Accounts) -> Accounts {
        accounts.only(|number| self.find(number).is_some())
    }

    /// Adds a message of this many bytes to these accounts; false when that exceeds a bound of any,
    /// and then none has it.
    pub fn take(&self, accounts: Accounts, bytes: u64) -> bool {
        for (taken, account) in self.of(accounts).enumerate() {
            if !account.take(bytes) {
                self.of(accounts).take(taken).for_each(|account| account.give(bytes));
                return false;
            }
        }
        true
    }

    /// Adds a message that is kept already to these accounts, whatever their bounds are.
    pub fn take_anyway(&self, accounts: Accounts, bytes: u64) {
        for account in self.of(accounts) {
            account.used.messages.take(1, u64::MAX);
            account.used.bytes.take(bytes, u64::MAX);
        }
    }

    /// Subtracts a message of this many bytes from these accounts.
    pub fn give(&self, accounts: Accounts, bytes: u64) {
        self.of(accounts).for_each(|account| account.give(bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn book(bounds: &[(&str, u64, u64)]) -> AccountBook {
        let mut book = AccountBook::default();
        for &(name, messages, bytes) in bounds {
            book.add(Account::new(name, Some(messages), Some(bytes)));
        }
        book
    }

    fn on(names: [&str; 2]) -> Accounts {
        Accounts::new(names.map(|name| match name {
            "" => 0,
            name => Account::new(name, None, None).number,
        }))
    }

    fn used(book: &AccountBook, at: usize) -> (u64, u64) {
        let used = &book.all()[at].used;
        (used.messages.used(), used.bytes.used())
    }

    #[test]
    fn a_message_is_on_both_accounts_or_on_none() {
        let book = book(&[("listener lab", 2, 100), ("users x*", 10, 30)]);
        let both = on(["listener lab", "users x*"]);
        assert!(book.take(both, 20));
        assert!(!book.take(both, 20), "the second has no room");
        assert_eq!((used(&book, 0), used(&book, 1)), ((1, 20), (1, 20)));
        assert!(book.take(on(["listener lab", ""]), 80));
        assert!(!book.take(on(["listener lab", ""]), 0), "the third message");
        book.give(both, 20);
        assert_eq!((used(&book, 0), used(&book, 1)), ((1, 80), (0, 0)));
        assert!(book.take(on(["", "somebody else"]), 1000), "nobody bounds it");
        assert_eq!(book.known(on(["listener lab", "somebody else"])), on(["listener lab", ""]));
    }

    #[test]
    fn a_reload_goes_on_with_what_is_kept_and_forgets_no_account() {
        let old = book(&[("listener lab", 2, 100), ("users x*", 10, 30)]);
        let both = on(["listener lab", "users x*"]);
        assert!(old.take(both, 20));
        let mut new = book(&[("users x*", 1, 30)]);
        new.adopt(&old);
        assert!(!new.take(on(["", "users x*"]), 1), "a lower bound");
        assert!(new.take(on(["listener lab", ""]), 1000), "no bound any more");
        new.give(on(["listener lab", ""]), 1000);
        new.give(both, 20);
        let mut again = book(&[("listener lab", 2, 100)]);
        again.adopt(&new);
        assert_eq!((used(&again, 0), used(&again, 1)), ((0, 0), (0, 0)));
        assert!(again.take(on(["listener lab", ""]), 100));
    }
}
