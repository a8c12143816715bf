//! Who may not connect: for good, by the operator's file, or for a while, because of what it did.
//!
//! The file has a line for each: `address 192.0.2.0/24`, `client_id NAME` or `user NAME`; text
//! behind `#` is a comment. A name may have `*` for any text.

use crate::access::pattern::Glob;
use crate::mutant::Mutant;
use crate::transport::network::Network;
use hashbrown::HashMap;
use std::hash::Hash;
use std::net::IpAddr;

/// Most lines of a ban file.
pub const MAX_LINES: usize = 100_000;
/// BannedNames that one table watches; more than that at a time are not watched.
pub const WATCHED: usize = 65_536;

/// What leads to a ban.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Trigger {
    /// So many within the window; 0: nothing leads to a ban.
    pub count: u32,
    /// Milliseconds.
    pub window: u64,
    /// Milliseconds that the ban lasts.
    pub ban: u64,
}

/// What `bans:` says.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct BanRules {
    /// A ClientId that connects so often.
    pub flapping: Trigger,
    /// An address that shows wrong credentials so often.
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
    /// Counted from one.
    pub line: usize,
    /// What is wrong.
    pub what: &'static str,
}

impl BanFile {
    /// Reads the file's text.
    ///
    /// # Errors
    /// The first line that is no ban.
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

    /// How many there are: addresses, ClientIds, users.
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

/// How often each of many did something within a window. Holds [`WATCHED`] at most.
#[derive(Clone, Debug)]
pub struct Watched<K> {
    seen: HashMap<K, (u64, u32), foldhash::fast::FixedState>,
    /// Nobody is looked for whose window is over before then.
    swept: u64,
}

impl<K> Default for Watched<K> {
    fn default() -> Self {
        Watched { seen: HashMap::default(), swept: 0 }
    }
}

/// What came of something that counts towards a ban.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Counted {
    /// It is not too often yet, or nothing leads to a ban.
    Fine,
    /// It is: a ban until then, in milliseconds.
    Ban(u64),
    /// Too many others are watched.
    Unwatched,
}

impl<K: Hash + Eq> Watched<K> {
    /// How many are watched.
    pub fn len(&self) -> usize {
        self.seen.len()
    }

    /// True when nobody is.
    pub fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }

    /// `who` did it once more at `now` milliseconds. The window begins with the first time.
    pub fn count(&mut self, who: K, now: u64, trigger: &Trigger) -> Counted {
        if trigger.count == 0 {
            return Counted::Fine;
        }
        let over = |since: u64| now.saturating_sub(since) >= trigger.window;
        if self.seen.len() >= WATCHED && !self.seen.contains_key(&who) {
            // At most four times per window: each sweep looks at all.
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
        // Counted anew once the ban is over.
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
        let mut watched = Watched::default();
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
        let mut watched = Watched::default();
        for who in 0..2 * WATCHED as u64 {
            watched.count(who, 0, &THREE);
        }
        assert_eq!(watched.len(), WATCHED);
        assert_eq!(watched.count(u64::MAX, 500, &THREE), Counted::Unwatched);
        assert_eq!(watched.count(u64::MAX, 1000, &THREE), Counted::Fine);
        assert_eq!(watched.len(), 1);
    }
}
