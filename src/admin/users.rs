//! Who may use the management API: a file of users, with `name:role:hash` on each line, as `ringmq
//! admin user add` writes it.

use crate::access::password::Hash;
use hashbrown::HashMap;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use utoipa::ToSchema;

/// The largest number of bytes of the file that are read.
pub const LONGEST_FILE: u64 = 1 << 20;

/// What a user may do; each role may do what those before it may.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Look at everything but the configuration.
    Viewer,
    /// Disconnect clients, publish, clear retained messages.
    Operator,
    /// See and reload the configuration.
    Admin,
}

/// All roles, the lowest first.
pub const ROLES: [Role; 3] = [Role::Viewer, Role::Operator, Role::Admin];

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Viewer => "viewer",
            Role::Operator => "operator",
            Role::Admin => "admin",
        })
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Role, String> {
        let found = ROLES.into_iter().find(|role| role.to_string() == text);
        found.ok_or_else(|| format!("`{text}` is no role: viewer, operator or admin"))
    }
}

/// The users of a file.
#[derive(Clone, Default, Debug)]
pub struct Users {
    by_name: HashMap<Box<str>, (Role, Hash)>,
}

impl Users {
    /// Parses the text of a file. Empty lines and lines that begin with `#` are passed over.
    ///
    /// # Errors
    /// The number of each wrong line, counted from 1, and what is wrong with it.
    pub fn parse(text: &str) -> Result<Users, Vec<(usize, String)>> {
        let (mut users, mut problems) = (Users::default(), Vec::new());
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match parsed(line) {
                Ok((name, role, hash)) => {
                    if users.by_name.insert(name.into(), (role, hash)).is_some() {
                        problems.push((at + 1, format!("{name} is there twice")));
                    }
                }
                Err(what) => problems.push((at + 1, what)),
            }
        }
        if problems.is_empty() { Ok(users) } else { Err(problems) }
    }

    /// Whether there is no user.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// The role and the hash of a user.
    pub fn get(&self, name: &str) -> Option<&(Role, Hash)> {
        self.by_name.get(name)
    }

    /// The hash of some user, if there is one. Checking a password against it takes as long as
    /// against the right hash.
    pub fn any_hash(&self) -> Option<Hash> {
        self.by_name.values().next().map(|(_, hash)| hash.clone())
    }

    /// Names and roles, in order of names.
    pub fn list(&self) -> Vec<(&str, Role)> {
        let mut all: Vec<_> =
            self.by_name.iter().map(|(name, (role, _))| (&**name, *role)).collect();
        all.sort_unstable();
        all
    }
}

fn parsed(line: &str) -> Result<(&str, Role, Hash), String> {
    let mut parts = line.splitn(3, ':');
    let (Some(name), Some(role), Some(hash)) = (parts.next(), parts.next(), parts.next()) else {
        return Err("write name:role:hash, or use `ringmq admin user add`".to_owned());
    };
    let hash = Hash::parse(hash).map_err(str::to_owned)?;
    if !matches!(hash, Hash::Argon2(_)) {
        return Err(format!("the password of {name} must be hashed with argon2id"));
    }
    Ok((name, role.parse()?, hash))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::password::Scheme;

    #[test]
    fn a_file_is_read_whole_or_every_wrong_line_is_named() {
        let hash = Hash::make(b"secret", Scheme::Argon2id).unwrap();
        let text = format!("# staff\nann:admin:{hash}\n\nbob:viewer:{hash}\n");
        let users = Users::parse(&text).unwrap();
        assert_eq!(users.list(), [("ann", Role::Admin), ("bob", Role::Viewer)]);
        assert!(users.get("ann").unwrap().1.is_of(b"secret"));
        let wrong = format!("ann\nbob:king:{hash}\neve:viewer:$6$x$y\nann:admin:{hash}");
        let problems = Users::parse(&format!("{wrong}\nann:admin:{hash}")).unwrap_err();
        let lines: Vec<usize> = problems.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [1, 2, 3, 5]);
    }
}
