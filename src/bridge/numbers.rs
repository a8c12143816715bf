//! The filters of a bridge by the numbers in its messages. A message may wait longer than a
//! configuration is in force: its number keeps its meaning when routes are added, removed or
//! reordered, even across a restart. Each route's filter has a number; if several routes have the
//! same filter, each of them has its own number.
//!
//! For messages on disk, the meaning of the numbers has to be on disk too: it is in the file
//! `filters` in the same directory.
#![allow(clippy::disallowed_methods, reason = "on the control thread and those of bridges")]

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::path::Path;

/// The name of the file.
const FILE: &str = "filters";
/// The most numbers. They begin anew when no message waits.
const MOST: usize = u16::MAX as usize;

/// A filter, and the number of earlier routes with the same filter.
type RouteName = (String, u16);

/// The numbers of a bridge's filters.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Numbers {
    /// Filters by number.
    names: Vec<RouteName>,
    /// The numbers of the present routes, in their order.
    current: Vec<u16>,
}

impl Numbers {
    /// Numbers for routes with these filters, for which no message waits.
    pub fn new<'a>(filters: impl Iterator<Item = &'a str>) -> Numbers {
        let mut numbers = Numbers::default();
        // There are fewer routes than numbers, so this does not fail.
        let _ = numbers.change(filters);
        numbers
    }

    /// The routes have these filters from now on.
    ///
    /// # Errors
    /// Fails when there have been too many filters since the numbers last began anew.
    pub fn change<'a>(&mut self, filters: impl Iterator<Item = &'a str>) -> io::Result<()> {
        let mut new = Numbers { names: self.names.clone(), current: Vec::new() };
        for filter in filters {
            let same = |&&number: &&u16| new.name(number).is_some_and(|name| name.0 == filter);
            let name = (filter.to_owned(), new.current.iter().filter(same).count() as u16);
            let known = new.names.iter().position(|known| *known == name);
            let number = known.unwrap_or(new.names.len());
            if number >= MOST {
                return Err(io::Error::other("too many filters since its buffer was empty"));
            }
            if known.is_none() {
                new.names.push(name);
            }
            new.current.push(number as u16);
        }
        *self = new;
        Ok(())
    }

    /// Numbers for routes with these filters, when messages may wait in `directory`.
    ///
    /// # Errors
    /// Fails when the file cannot be read or written, or has no valid content.
    pub fn open<'a>(
        directory: &Path,
        filters: impl Iterator<Item = &'a str>,
    ) -> io::Result<Numbers> {
        std::fs::create_dir_all(directory)?;
        let mut numbers = Numbers::default();
        if is_used(directory)? {
            numbers.names = match std::fs::read(directory.join(FILE)) {
                Ok(bytes) => read(&bytes).ok_or_else(|| {
                    let what = format!("{FILE}: not what was written there; remove it");
                    io::Error::new(ErrorKind::InvalidData, what)
                })?,
                // Without the file, the numbers in that directory are the routes' positions.
                Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
                Err(error) => return Err(error),
            };
        }
        numbers.change(filters)?;
        numbers.save(directory)?;
        Ok(numbers)
    }

    /// Writes the file.
    ///
    /// # Errors
    /// Fails when it cannot be written; then the old file is still there.
    pub fn save(&self, directory: &Path) -> io::Result<()> {
        let names: Vec<_> = self.names.iter().map(|(filter, nth)| (filter, nth)).collect();
        let text = serde_json::to_vec(&names).map_err(io::Error::other)?;
        let new = directory.join(format!("{FILE}.new"));
        let mut file = File::create(&new)?;
        file.write_all(&text)?;
        file.sync_all()?;
        std::fs::rename(&new, directory.join(FILE))?;
        File::open(directory)?.sync_all()
    }

    fn name(&self, number: u16) -> Option<&RouteName> {
        self.names.get(usize::from(number))
    }

    /// The numbers of the present routes, in their order.
    pub fn current(&self) -> &[u16] {
        &self.current
    }

    /// The position of the route for each number; `None` when the route has been removed.
    pub fn places(&self) -> Vec<Option<u16>> {
        let mut places = vec![None; self.names.len()];
        for (place, &number) in self.current.iter().enumerate() {
            if let Some(found) = places.get_mut(usize::from(number)) {
                *found = Some(place as u16);
            }
        }
        places
    }
}

/// Whether messages may wait in `directory`.
fn is_used(directory: &Path) -> io::Result<bool> {
    for entry in std::fs::read_dir(directory)? {
        if entry?.path().extension().is_some_and(|extension| extension == "seg") {
            return Ok(true);
        }
    }
    Ok(false)
}

fn read(bytes: &[u8]) -> Option<Vec<RouteName>> {
    let names: Vec<RouteName> = serde_json::from_slice(bytes).ok()?;
    (names.len() <= MOST).then_some(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bridge::testing::Scratch;

    fn filters(text: &str) -> impl Iterator<Item = &str> {
        text.split_terminator(' ')
    }

    #[test]
    fn a_number_means_the_same_filter_whatever_is_added_removed_or_moved() {
        let mut numbers = Numbers::new(filters("a b a"));
        assert_eq!(numbers.current(), [0, 1, 2]);
        numbers.change(filters("c a b")).unwrap();
        assert_eq!(numbers.current(), [3, 0, 1]);
        assert_eq!(numbers.places(), [Some(1), Some(2), None, Some(0)]);
        numbers.change(filters("a a")).unwrap();
        assert_eq!(numbers.current(), [0, 2]);
        assert_eq!(numbers.places(), [Some(0), None, Some(1), None]);
    }

    #[test]
    fn what_waits_on_disk_keeps_its_numbers_and_an_empty_disk_begins_anew() {
        let directory = Scratch::new();
        let path = &*directory.0;
        let first = Numbers::open(path, filters("a b")).unwrap();
        assert_eq!(first.current(), [0, 1]);
        assert_eq!(Numbers::open(path, filters("b")).unwrap().current(), [0], "nothing waits");
        std::fs::write(path.join("0000000001.seg"), b"").unwrap();
        let later = Numbers::open(path, filters("a b")).unwrap();
        assert_eq!(later.current(), [1, 0]);
        let later = Numbers::open(path, filters("c a")).unwrap();
        assert_eq!((later.current(), later.places().len()), (&[2, 1][..], 3));
        std::fs::write(path.join(FILE), b"[[").unwrap();
        let refused = Numbers::open(path, filters("a")).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidData);
        std::fs::remove_file(path.join(FILE)).unwrap();
        assert_eq!(Numbers::open(path, filters("a b")).unwrap().current(), [0, 1]);
    }

    #[test]
    fn there_are_so_many_numbers_and_no_more() {
        let mut numbers = Numbers::default();
        let all: Vec<String> = (0..MOST).map(|n| n.to_string()).collect();
        for some in all.chunks(256) {
            numbers.change(some.iter().map(String::as_str)).unwrap();
        }
        let before = numbers.clone();
        assert!(numbers.change(filters("0 one_more")).is_err());
        assert_eq!(numbers, before);
        numbers.change(filters("0 1")).unwrap();
    }
}
