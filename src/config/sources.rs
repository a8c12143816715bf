//! The sources of a configuration, and how they are combined: built-in default, file, environment,
//! arguments, where each overrides those before it. Owns the names of environment variables.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::document::Document;
use super::host::Bind;
use super::problem::{Origin, Problem, Problems, Wrong};
use super::read::{self, elsewhere};
use super::schema::{self, SchemaKey};
use super::sections::Config;
use super::text;
use super::{check, convert};

/// The beginning of every environment variable that belongs to the broker.
const PREFIX: &str = "RINGMQ_";

/// The variable that names the file if the command line does not.
const FILE_VARIABLE: &str = "RINGMQ_CONFIG_FILE";
/// The largest file in bytes that is read. Reading a file takes a few hundred times as much memory
/// at worst.
const LONGEST_FILE: u64 = 4 << 20;
/// The number of problems that are reported one by one.
pub(super) const TOLD: usize = 500;

/// Everything from which a configuration is read. It is kept, so that a reload reads the same
/// sources again.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Sources {
    /// The file; `None` means built-in defaults.
    pub file: Option<PathBuf>,
    /// Environment variables that begin with `RINGMQ_`: name and value.
    pub environment: Vec<(String, String)>,
    /// The `KEY=VALUE` of each `--set`, in order.
    pub set: Vec<String>,
    /// `-p`: the port of the first listener.
    pub port: Option<u16>,
    /// `-v`: the level of the log is debug, unless `--set` says another.
    pub verbose: bool,
}

impl Sources {
    /// Adds what the environment of this process says to what the command line says.
    pub fn with_environment(self) -> Sources {
        // An image may declare the variable and leave it empty.
        let named = std::env::var_os(FILE_VARIABLE).filter(|file| !file.is_empty());
        let file = self.file.or_else(|| named.map(PathBuf::from));
        Sources { file, environment: ours(std::env::vars_os()), ..self }
    }

    /// Reads and checks everything.
    ///
    /// # Errors
    /// All problems, those of the file first and in the order of its lines. If there are more than
    /// 500, only the number of the others is reported.
    pub fn load(&self) -> Result<Config, Problems> {
        self.read().map(|(config, _)| config)
    }

    /// Does the same, with `bytes` in place of the file's content and `name` in place of its path.
    ///
    /// # Errors
    /// The same as those of [`Sources::load`].
    pub fn load_from(&self, name: &str, bytes: &[u8]) -> Result<Config, Problems> {
        let mut problems = Vec::new();
        let document = Document::of_file(name, bytes.to_vec(), &mut problems);
        self.finish(document, problems).map(|(config, _)| config)
    }

    /// A configuration file with the values that apply, each with its origin: a line of the file, a
    /// variable, an argument, or the built-in default.
    ///
    /// # Errors
    /// The same as those of [`Sources::load`].
    pub fn effective(&self) -> Result<String, Problems> {
        let (config, document) = self.read()?;
        Ok(text::effective(&config, |pointer| document.origin_of_value(pointer).to_string()))
    }

    fn read(&self) -> Result<(Config, Document), Problems> {
        let mut problems = Vec::new();
        let document = match self.read_file() {
            Ok(Some((name, bytes))) => Document::of_file(&name, bytes, &mut problems),
            Ok(None) => Document::empty(),
            Err(problem) => {
                problems.push(problem);
                Document::empty()
            }
        };
        self.finish(document, problems)
    }

    /// Remarks about environment variables that begin like those of the broker but name no key:
    /// sentences for the log and for `--test-config`. Images and shells may set such variables, for
    /// example `RINGMQ_VERSION`.
    pub fn remarks(&self) -> Vec<String> {
        let names = first_words();
        let foreign = self.environment.iter().filter(|(name, _)| is_foreign(name, &names));
        let foreign: Vec<_> = foreign.collect();
        if foreign.is_empty() {
            return Vec::new();
        }
        let schema = schema::root();
        let remark = |(name, _): &&(String, String)| {
            let hint = match elsewhere(SchemaKey(&schema), &key_of(name)) {
                Some(hint) => hint,
                None => "`ringmq config reference` lists the keys".to_owned(),
            };
            format!("{name}: this environment variable names no key and is not used; {hint}")
        };
        foreign.iter().map(remark).collect()
    }

    /// Lays the other sources over the file, and checks the result.
    fn finish(
        &self,
        mut document: Document,
        mut problems: Vec<Problem>,
    ) -> Result<(Config, Document), Problems> {
        let names = first_words();
        for (name, value) in self.environment.iter().filter(|(name, _)| !is_foreign(name, &names)) {
            document.lay(&key_of(name), value, &Origin::named(name), &mut problems);
        }
        if self.verbose {
            document.lay("log.level", "debug", &Origin::named("-v"), &mut problems);
        }
        for argument in &self.set {
            let origin = Origin::named(&format!("--set {}", named_in(argument)));
            match argument.split_once('=') {
                Some((key, value)) => document.lay(key.trim(), value, &origin, &mut problems),
                None => {
                    let fix = "write --set KEY=VALUE, such as --set mqtt.max_qos=1";
                    problems.push(Wrong::new("there is no =", fix).at(&origin, ""));
                }
            }
        }
        if let Some(port) = self.port {
            set_port(&mut document, port, &mut problems);
        }
        let mut config = read::read(&mut document, &mut problems);
        check::finish(&mut config, &document, &mut problems);
        if problems.is_empty() {
            return Ok((config, document));
        }
        problems.sort_by_key(|problem| problem.origin.line_number().unwrap_or(usize::MAX));
        if problems.len() > TOLD {
            let more = format!("{} more problems are not listed", problems.len() - TOLD);
            let first = problems[TOLD].origin.clone();
            problems.truncate(TOLD);
            problems.push(Wrong::new(more, "correct these first").at(&first, ""));
        }
        Err(Problems(problems))
    }

    /// The name and the content of the file; `None` when there is no file.
    fn read_file(&self) -> Result<Option<(String, Vec<u8>)>, Problem> {
        let Some(path) = &self.file else { return Ok(None) };
        let name = path.display().to_string();
        let mut bytes = Vec::new();
        let read =
            File::open(path).and_then(|file| file.take(LONGEST_FILE + 1).read_to_end(&mut bytes));
        let wrong = match read {
            Ok(length) if length as u64 <= LONGEST_FILE => {
                let foreign = std::str::from_utf8(&bytes).ok().and_then(convert::recognize);
                let Some(broker) = foreign else { return Ok(Some((name, bytes))) };
                let what = format!("this is a configuration of {broker}");
                Wrong::new(what, format!("`ringmq config convert {name}` prints ours for it"))
            }
            Ok(_) => {
                let what = "the configuration file has more than 4 MiB";
                Wrong::new(what, "check the path given with --config or RINGMQ_CONFIG_FILE")
            }
            Err(error) => {
                let what = format!("the configuration file cannot be read ({error})");
                Wrong::new(
                    what,
                    "check the path given with --config or RINGMQ_CONFIG_FILE, and its permissions",
                )
            }
        };
        Err(wrong.at(&Origin::named(&name), ""))
    }
}

/// The part of a `--set` argument that names its key. Origins are shown to others, and whatever
/// follows the key may be a secret.
fn named_in(argument: &str) -> &str {
    let is_key = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let argument = argument.trim_start();
    let end = argument.find(|c: char| !is_key(c)).unwrap_or(argument.len());
    argument.get(..end).unwrap_or_default()
}

/// Gives the first listener another port, at the address that it has.
fn set_port(document: &mut Document, port: u16, problems: &mut Vec<Problem>) {
    let origin = Origin::named(&format!("-p {port}"));
    let written = document.tree.pointer("/listeners/0/bind").cloned();
    let bind = match written.map(serde_json::from_value) {
        None => Bind::USUAL,
        Some(Ok(Bind::Tcp(address))) => address,
        Some(Ok(Bind::Unix(_)) | Err(_)) => {
            let what = "the first listener has no address that could have this port";
            let fix = "give it one: --set listeners.0.bind=127.0.0.1:1883";
            return problems.push(Wrong::new(what, fix).at(&origin, "listeners.0.bind"));
        }
    };
    let address = SocketAddr::new(bind.ip(), port).to_string();
    document.lay("listeners.0.bind", &address, &origin, problems);
}

/// The variables that are meant for the broker. A name or value that is not UTF-8 is kept with
/// replacement characters, so that it is reported and not skipped.
fn ours(variables: impl Iterator<Item = (OsString, OsString)>) -> Vec<(String, String)> {
    let mut ours: Vec<(String, String)> = variables
        .map(|(name, value)| {
            (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())
        })
        .filter(|(name, _)| name.starts_with(PREFIX) && name != FILE_VARIABLE)
        .filter(|(name, _)| !is_service_variable(name))
        .collect();
    ours.sort();
    ours
}

/// The dotted key that a variable names.
fn key_of(name: &str) -> String {
    let path = name.strip_prefix(PREFIX).unwrap_or(name);
    path.to_ascii_lowercase().replace("__", ".")
}

/// The keys at the top of the configuration. A variable that is meant for the broker begins with
/// one of them.
fn first_words() -> Vec<String> {
    let keys = text::values(&Config::default());
    keys.as_object().into_iter().flatten().map(|(key, _)| key.clone()).collect()
}

/// True for a variable that is not meant for the broker: it has no `__`, which leads into a
/// section, and no key begins with its first word.
fn is_foreign(name: &str, keys: &[String]) -> bool {
    let key = key_of(name);
    let word = key.split(['.', '_', '-']).next().unwrap_or_default();
    !key.contains('.') && !word.is_empty() && !keys.iter().any(|key| key.starts_with(word))
}

/// Kubernetes sets variables for every Service in every container: a Service called `ringmq` or
/// `ringmq-anything` leads to `RINGMQ_SERVICE_HOST`, `RINGMQ_PORT_1883_TCP_ADDR` and so on. These
/// are not meant for the broker, and must not keep it from starting.
fn is_service_variable(name: &str) -> bool {
    if name.contains("__") {
        return false;
    }
    let ends = ["_SERVICE_HOST", "_SERVICE_PORT", "_PORT"];
    let inside = ["_SERVICE_PORT_", "_PORT_"];
    ends.iter().any(|end| name.ends_with(end)) || inside.iter().any(|part| name.contains(part))
}

#[cfg(test)]
#[path = "sources_tests.rs"]
mod tests;
