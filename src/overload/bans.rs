//! Who may not connect: for good, by the operator's file, or for a while, because of what a client
//! did.
//!
//! The file has a line for each ban: `address 192.0.2.0/24`, `client_id NAME` or `user NAME`. A `#`
//! at the start of a line or behind a space begins a comment. In a name `*` stands for any text.

use crate::access::pattern::Glob;
use crate::mutant::Mutant;
use crate::transport::network::Network;
use hashbrown::HashMap;
use std::hash::Hash;
use std::net::IpAddr;

/// Most lines of a ban file.
pub const MAX_LINES: usize = 100_000;
/// Names or networks that one [`WatchedKeys`] table counts at a time; more are not counted.
pub const WATCHED: usize = 65_536;

/// How often something may happen before it leads to a ban.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Trigger {
    /// The number of times within the window that leads to a ban; 0 for no ban.
    pub count: u32,
    /// The window, in milliseconds.
    pub window: u64,
    /// The duration of the ban, in milliseconds.
    pub ban: u64,
}

/// The section `bans:`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct BanRules {
    /// For a ClientId that connects too often.
    pub flapping: Trigger,
    /// For an address that shows wrong credentials too often.
    pub bad_credentials: Trigger,
}

/// The operator's bans.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct BanFile {
    addresses: Vec<Network>,
    client_ids: BannedNames,
    users: BannedNames,
}

#[derive(Clone, PartialEq, Eq, Default, Debug)]
struct BannedNames {
    exact: hashbrown::HashSet<Box<str>>,
    globs: Vec<Glob>,
}

impl BannedNames {
    fn add(&mut self, name: &str) {
        let glob = Glob::new(name);
        match glob.exact() {
            Some(exact) => _ = self.exact.insert(exact.into()),
            None => self.globs.push(glob),
        }
    }

    fn has(&self, name: &str) -> bool {
        self.exact.contains(name) || self.globs.iter().any(|glob| glob.matches(name))
    }
}

/// What is wrong with a ban file, and in which line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NoBan {
    /// The number of the line, counted from 1.
    pub line: usize,
    /// What is wrong.
    pub what: &'static str,
}

impl BanFile {
    /// Reads the file's text.
    ///
    /// # Errors
    /// The first line that is not a ban.
    pub fn parse(text: &str) -> Result<BanFile, NoBan> {
        let mut bans = BanFile::default();
        for (at, whole) in text.lines().enumerate() {
            let wrong = |what| NoBan { line: at + 1, what };
            if at >= MAX_LINES {
                return Err(wrong("the file has more than 100,000 lines"));
            }
            let line = whole.split_once(" #").map_or(whole, |(line, _)| line).trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let Some((kind, name)) = line.split_once(char::is_whitespace) else {
                return Err(wrong("write `address`, `client_id` or `user`, and then whom"));
            };
            let name = name.trim();
            match kind {
                "address" => {
                    let network = name.parse().map_err(|_| {
                        wrong("write an address, or a network such as 192.0.2.0/24")
                    })?;
                    bans.addresses.push(network);
                }
                "client_id" => bans.client_ids.add(name),
                "user" => bans.users.add(name),
                _ => return Err(wrong("a line begins with `address`, `client_id` or `user`")),
            }
        }
        Ok(bans)
    }

    /// The numbers of bans: of addresses, ClientIds, users.
    pub fn count(&self) -> [usize; 3] {
        let names = |names: &BannedNames| names.exact.len() + names.globs.len();
        [self.addresses.len(), names(&self.client_ids), names(&self.users)]
    }

    /// Whether nobody is banned.
    pub fn is_empty(&self) -> bool {
        self.count() == [0; 3]
    }

    /// Whether the address is banned.
    pub fn has_address(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|network| network.contains(address))
    }

    /// Whether the ClientId is banned.
    pub fn has_client(&self, client_id: &str) -> bool {
        self.client_ids.has(client_id)
    }

    /// Whether the user is banned.
    pub fn has_user(&self, username: &str) -> bool {
        self.users.has(username)
    }
}

/// Counts for each of many keys how often something happened within a window. Holds at most
/// [`WATCHED`] keys.
#[derive(Clone, Debug)]
pub struct WatchedKeys<K> {
    seen: HashMap<K, (u64, u32), foldhash::fast::FixedState>,
    /// The time of the next search for keys whose window is over, in milliseconds.
    swept: u64,
}

impl<K> Default for WatchedKeys<K> {
    fn default() -> Self {
        WatchedKeys { seen: HashMap::default(), swept: 0 }
    }
}

/// The outcome of an event that counts towards a ban.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Counted {
    /// It did not happen too often yet, or does not lead to a ban.
    Fine,
    /// It happened too often: a ban until this time, in milliseconds.
    Ban(u64),
    /// It was not counted, because the table is full.
    Unwatched,
}

impl<K: Hash + Eq> WatchedKeys<K> {
    /// How many keys are counted.
    pub fn len(&self) -> usize {
        self.seen.len()
    }

    /// True when no key is counted.
    pub fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }

    /// What is counted: for each key when its window began, in milliseconds, and how often it was
    /// counted since.
    pub fn listed(&self) -> impl Iterator<Item = (&K, (u64, u32))> {
        self.seen.iter().map(|(who, &counted)| (who, counted))
    }

    /// Goes on with what another table has counted, if there is room.
    pub fn adopt(&mut self, who: K, counted: (u64, u32)) {
        if self.seen.len() < WATCHED {
            self.seen.entry(who).or_insert(counted);
        }
    }

    /// Counts one more event of `who` at `now` milliseconds. A window begins with its first event.
    pub fn count(&mut self, who: K, now: u64, trigger: &Trigger) -> Counted {
        if trigger.count == 0 {
            return Counted::Fine;
        }
        let over = |since: u64| now.saturating_sub(since) >= trigger.window;
        if self.seen.len() >= WATCHED && !self.seen.contains_key(&who) {
            // The search visits every key, so it is made at most four times per window.
            if self.swept <= now {
                self.seen.retain(|_, (since, _)| !over(*since));
                self.swept = now + trigger.window / 4;
            }
            if self.seen.len() >= WATCHED {
                return Counted::Unwatched;
            }
        }
        let (since, count) = self.seen.entry(who).or_insert((now, 0));
        if over(*since) && !Mutant::BanWindowForever.is_on() {
            (*since, *count) = (now, 0);
        }
        *count += 1;
        if *count < trigger.count {
            return Counted::Fine;
        }
        // The count begins anew once the ban is over.
        *count = 0;
        Counted::Ban(now.saturating_add(trigger.ban))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_names_addresses_clients_and_users() {
        let text = "# bans\n\naddress 192.0.2.0/24 # a lab\naddress 2001:db8::1\n\
                    client_id meter-*\nclient_id x y\nuser eve\n";
        let bans = BanFile::parse(text).expect("it can be read");
        assert_eq!(bans.count(), [2, 2, 1]);
        assert!(bans.has_address("192.0.2.7".parse().expect("an address")));
        assert!(!bans.has_address("192.0.3.7".parse().expect("an address")));
        assert!(bans.has_address("2001:db8::1".parse().expect("an address")));
        assert!(bans.has_client("meter-7") && bans.has_client("x y") && !bans.has_client("x"));
        assert!(bans.has_user("eve") && !bans.has_user("meter-7"));
        assert!(BanFile::parse("").expect("nobody").is_empty());
    }

    #[test]
    fn what_is_no_ban_is_said_with_its_line() {
        for (text, line) in [
            ("user a\nadress 1.2.3.4", 2),
            ("address 1.2.3.4/99", 1),
            ("address 10.1.2.3/8", 1),
            ("\n\nuser", 3),
        ] {
            assert_eq!(BanFile::parse(text).expect_err(text).line, line, "{text}");
        }
    }

    const THREE: Trigger = Trigger { count: 3, window: 1000, ban: 5000 };

    #[test]
    fn so_often_within_a_window_is_a_ban() {
        let mut watched = WatchedKeys::default();
        assert_eq!(watched.count(1, 0, &THREE), Counted::Fine);
        assert_eq!(watched.count(1, 900, &THREE), Counted::Fine);
        assert_eq!(watched.count(2, 950, &THREE), Counted::Fine);
        assert_eq!(watched.count(1, 999, &THREE), Counted::Ban(5999));
        assert_eq!(watched.count(1, 1000, &THREE), Counted::Fine);
        assert_eq!(watched.count(2, 1949, &THREE), Counted::Fine);
        assert_eq!(watched.count(2, 1950, &THREE), Counted::Fine, "another window");
    }

    #[test]
    fn the_table_is_bounded() {
        let mut watched = WatchedKeys::default();
        for who in 0..2 * WATCHED as u64 {
            watched.count(who, 0, &THREE);
        }
        assert_eq!(watched.len(), WATCHED);
        assert_eq!(watched.count(u64::MAX, 500, &THREE), Counted::Unwatched);
        assert_eq!(watched.count(u64::MAX, 1000, &THREE), Counted::Fine);
        assert_eq!(watched.len(), 1);
    }
}
