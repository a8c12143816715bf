//! `ringmq passwd`: changes a file of users. Asks for the password on a terminal, or reads a line
//! of standard input.

use std::fs;
use std::io::{self, BufRead, IsTerminal, Write};
use std::num::NonZeroU32;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use ringmq::access::password::{Hash, ITERATIONS, Scheme};
use ringmq::access::{passwd, scram};

/// What the command line says about a user.
#[derive(Args, Debug, PartialEq, Eq)]
pub struct Passwd {
    /// The file; made when it is not there.
    pub file: PathBuf,
    /// The user.
    pub user: String,
    /// The password, instead of the terminal or standard input: others see it in the list of
    /// processes.
    #[arg(short, value_name = "PASSWORD", conflicts_with = "delete")]
    pub batch: Option<String>,
    /// Delete the user.
    #[arg(short = 'D')]
    pub delete: bool,
    /// How the password is hashed. Mosquitto reads the first two, from version 2.1 all.
    #[arg(short = 'H', long, value_enum, default_value = "sha512-pbkdf2")]
    pub hash: HashArgument,
    /// Iterations of sha512-pbkdf2 and scram.
    #[arg(short = 'I', long, value_name = "N", default_value_t = ITERATIONS,
        value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub iterations: u32,
}

/// Names of hashes, as mosquitto_passwd has them.
#[derive(Clone, Copy, ValueEnum, Debug, PartialEq, Eq)]
pub enum HashArgument {
    /// $7$, PBKDF2.
    Sha512Pbkdf2,
    /// $6$, quickly broken: for old versions of mosquitto.
    Sha512,
    /// $argon2id$, the strongest.
    Argon2id,
    /// Keys of SCRAM-SHA-256 and SCRAM-SHA-512, for a file of access.authentication's scram.
    Scram,
}

/// The longest password that is read, in bytes: the longest that CONNECT can carry.
const LONGEST: u64 = 65_535;

/// Changes the file. Returns what was done, in a sentence.
///
/// # Errors
/// What went wrong, in a sentence. The file is as it was.
pub fn run(wanted: &Passwd) -> Result<String, String> {
    let (file, user) = (&wanted.file, &wanted.user);
    passwd::check_user(user)?;
    let old = match fs::read_to_string(file) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !wanted.delete => None,
        Err(error) => return Err(format!("cannot read {}: {error}", file.display())),
    };
    let text = old.as_deref().unwrap_or_default();
    let (new, known) = if wanted.delete {
        passwd::delete(text, user)
    } else {
        let password = password(wanted.batch.as_deref())?;
        let iterations = NonZeroU32::new(wanted.iterations).unwrap_or(NonZeroU32::MIN);
        let hash = match wanted.hash {
            HashArgument::Sha512 => Hash::make(&password, Scheme::Sha512),
            HashArgument::Argon2id => Hash::make(&password, Scheme::Argon2id),
            HashArgument::Sha512Pbkdf2 => Hash::make(&password, Scheme::Pbkdf2(iterations)),
            HashArgument::Scram => scram::make(&password, iterations),
        };
        let hash = hash.map_err(|_| "the system gives no random bytes".to_owned())?;
        passwd::set(text, user, &hash)
    };
    if wanted.delete && !known {
        return Err(format!("{} has no user {user}", file.display()));
    }
    replace(file, &new).map_err(|error| format!("cannot write {}: {error}", file.display()))?;
    let done = match (wanted.delete, known) {
        (true, _) => "deleted",
        (false, true) => "changed",
        (false, false) => "added",
    };
    Ok(format!("{user} {done}; `kill -HUP` makes a running broker read the file\n"))
}

/// The password: that of the command line, otherwise one typed at a terminal, otherwise the first
/// line of standard input.
///
/// # Errors
/// It cannot be read, is empty, or is longer than CONNECT can carry.
pub fn password(batch: Option<&str>) -> Result<Vec<u8>, String> {
    if let Some(password) = batch {
        return checked(password.as_bytes().to_vec());
    }
    if !io::stdin().is_terminal() {
        let mut line = Vec::new();
        let read = io::Read::take(io::stdin().lock(), LONGEST + 2).read_until(b'\n', &mut line);
        read.map_err(|error| format!("cannot read the password: {error}"))?;
        while line.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
            line.pop();
        }
        return checked(line);
    }
    let ask = |prompt: &str| {
        rpassword::prompt_password(prompt)
            .map_err(|error| format!("cannot read the password: {error}"))
    };
    let (first, second) = (ask("Password: ")?, ask("Again: ")?);
    if first != second {
        return Err("the passwords differ; nothing is changed".to_owned());
    }
    checked(first.into_bytes())
}

fn checked(password: Vec<u8>) -> Result<Vec<u8>, String> {
    match password.len() as u64 {
        0 => Err("the password is empty; nothing is changed".to_owned()),
        1..=LONGEST => Ok(password),
        _ => Err("the password has more than 65535 bytes".to_owned()),
    }
}

/// Writes a new file and renames it over the old one, whose owner and mode it gets. A broker that
/// reads the file meanwhile finds one of the two versions whole.
pub fn replace(file: &Path, text: &str) -> io::Result<()> {
    // A symbolic link stays, and the file to which it leads is replaced. A link that leads to no
    // file is refused, because it is not known where it should lead.
    let found = match fs::symlink_metadata(file) {
        Ok(found) if found.is_symlink() => fs::canonicalize(file)?,
        Ok(_) | Err(_) => file.to_owned(),
    };
    let file = &*found;
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(format!(".new-{}", std::process::id()));
    let new = file.with_file_name(name);
    let old = fs::metadata(file).ok();
    let written = (|| {
        let mut options = fs::OpenOptions::new();
        let mut out = options.write(true).create_new(true).mode(0o600).open(&new)?;
        if let Some(old) = &old {
            out.set_permissions(fs::Permissions::from_mode(old.mode() & 0o7777))?;
            // Only root can give a file to another owner. With the old mode, a broker of the same
            // user can read it in either case.
            let _ = std::os::unix::fs::fchown(&out, Some(old.uid()), Some(old.gid()));
        }
        out.write_all(text.as_bytes())?;
        out.sync_all()?;
        fs::rename(&new, file)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_of_the_command_line_is_checked_as_any_other() {
        assert_eq!(password(Some("x")), Ok(b"x".to_vec()));
        assert!(password(Some("")).is_err());
        assert!(password(Some(&"x".repeat(65_536))).is_err());
    }

    #[test]
    fn the_file_to_which_a_link_leads_is_replaced() {
        let name = format!("ringmq-passwd-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(directory.join("real")).unwrap();
        let (real, link) = (directory.join("real/users"), directory.join("users"));
        fs::write(&real, "old").unwrap();
        std::os::unix::fs::symlink("real/users", &link).unwrap();
        replace(&link, "new").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&real).unwrap(), "new");
        replace(&real, "newer").unwrap();
        assert_eq!(fs::read_to_string(&link).unwrap(), "newer");
        fs::remove_file(&real).unwrap();
        assert!(replace(&link, "x").is_err());
        fs::remove_dir_all(&directory).unwrap();
    }
}
