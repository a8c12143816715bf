//! `ringmq admin user`: changes the file of users of the admin server.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use ringmq::access::passwd;
use ringmq::access::password::{Hash, Scheme};
use ringmq::admin::users::{Role, Users};
use ringmq::config::Config;

use crate::arguments::Given;
use crate::passwd::{password, replace};

/// What is done with users.
#[derive(Subcommand, Debug, PartialEq, Eq)]
pub enum UserCommand {
    /// Add a user, or change its password and role.
    Add {
        #[command(flatten)]
        file: UserFile,
        /// The user.
        name: String,
        /// viewer, operator or admin.
        #[arg(long, value_parser = role)]
        role: Role,
        /// The password, instead of the terminal or standard input: others see it in the list of
        /// processes.
        #[arg(long, value_name = "PASSWORD")]
        batch: Option<String>,
    },
    /// Delete a user.
    Remove {
        #[command(flatten)]
        file: UserFile,
        /// The user.
        name: String,
    },
    /// Print users and their roles.
    List {
        #[command(flatten)]
        file: UserFile,
    },
}

/// Where the users are.
#[derive(Args, Debug, PartialEq, Eq)]
pub struct UserFile {
    #[command(flatten)]
    pub given: Given,
    /// The file, instead of admin.users; made when it is not there.
    #[arg(long)]
    pub file: Option<PathBuf>,
}

fn role(text: &str) -> Result<Role, String> {
    text.parse()
}

impl UserCommand {
    /// Where the configuration is.
    pub fn given(&self) -> &UserFile {
        match self {
            UserCommand::Add { file, .. }
            | UserCommand::Remove { file, .. }
            | UserCommand::List { file } => file,
        }
    }
}

/// Carries out the command. Returns what was done, in a sentence.
///
/// # Errors
/// What went wrong, in a sentence. The file is as it was.
pub fn run(command: &UserCommand, config: &Config) -> Result<String, String> {
    let file = match &command.given().file {
        Some(file) => file.clone(),
        None if config.admin.users.is_empty() => {
            return Err("say which file: --file FILE, or admin.users in the configuration".into());
        }
        None => PathBuf::from(&*config.admin.users),
    };
    let text = match fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(format!("cannot read {}: {error}", file.display())),
    };
    let users = Users::parse(&text).map_err(|problems| {
        let lines = problems.iter().map(|(at, what)| format!("{}:{at}: {what}", file.display()));
        lines.collect::<Vec<_>>().join("\n")
    })?;
    match command {
        UserCommand::Add { name, role, batch, .. } => {
            passwd::check_user(name)?;
            let password = password(batch.as_deref())?;
            let hash = Hash::make(&password, Scheme::Argon2id)
                .map_err(|_| "the system gives no random bytes".to_owned())?;
            let (text, known) = passwd::set(&text, name, &format!("{role}:{hash}"));
            write(&file, &text)?;
            Ok(format!("{name} ({role}) {}; {AGAIN}\n", if known { "changed" } else { "added" }))
        }
        UserCommand::Remove { name, .. } => {
            let (text, known) = passwd::delete(&text, name);
            if !known {
                return Err(format!("{} has no user {name}", file.display()));
            }
            write(&file, &text)?;
            Ok(format!("{name} deleted; {AGAIN}\n"))
        }
        UserCommand::List { .. } => {
            Ok(users.list().iter().map(|(name, role)| format!("{name} {role}\n")).collect())
        }
    }
}

const AGAIN: &str = "`kill -HUP` makes a running broker read the file";

fn write(file: &Path, text: &str) -> Result<(), String> {
    replace(file, text).map_err(|error| format!("cannot write {}: {error}", file.display()))
}
