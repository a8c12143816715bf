//! Values that name something of this host or a part of a topic: cores, addresses, paths and
//! mountpoints. Owns how each of them is read, written and described. Whether the thing exists on
//! this host is not checked here.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Deref;
use std::path::PathBuf;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Value, json};

use super::notation::{Parsed, digits};
use super::problem::Wrong;
use super::value::{Get, Scalar, Text, WrittenValue, described, scalar};
use crate::limits;
use crate::transport::network::{Network, NoNetwork};

/// The highest core number to which a thread can be pinned: the width of the kernel's `cpu_set_t`,
/// less one.
const MAX_CORE: u16 = 1023;
/// The longest path of a unix socket in bytes (`sun_path` without its final zero).
const MAX_UNIX_PATH: usize = 107;
/// The placeholders that a mountpoint may contain.
const PLACEHOLDERS: [&str; 2] = ["client_id", "username"];
/// The values that [`Address`] accepts, in words.
const ADDRESS: &str = "address:port or \"[IPv6 address]:port\"";
/// The values that [`Proxy`] accepts, in words.
const NETWORK: &str = "an address, or a network such as 10.0.0.0/8 or 2001:db8::/32";
/// The values that [`UrlPath`] accepts, in words.
const URL_PATH: &str = "a path such as /mqtt, of at most 256 letters that need no escape";
/// The values that [`Bind`] accepts, in words.
const BIND: &str = "address:port, \"[IPv6 address]:port\", a port alone or a path with a /";

/// A version of TLS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TlsVersion {
    /// TLS 1.2.
    Tls12,
    /// TLS 1.3.
    Tls13,
}

impl Scalar for TlsVersion {
    fn read(written: &WrittenValue<'_>) -> Result<TlsVersion, Wrong> {
        match &*written.text() {
            "1.2" => Ok(TlsVersion::Tls12),
            "1.3" => Ok(TlsVersion::Tls13),
            text => {
                Err(Wrong::new(format!("there is no TLS version `{text}` here"), "use 1.2 or 1.3"))
            }
        }
    }

    fn written(&self) -> Value {
        match self {
            TlsVersion::Tls12 => json!("1.2"),
            TlsVersion::Tls13 => json!("1.3"),
        }
    }

    fn schema() -> (Value, String) {
        (json!({"enum": ["1.2", "1.3"]}), "1.2 or 1.3".to_owned())
    }
}
scalar! { [] TlsVersion TlsVersion }

/// The cores that run a shard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Cores {
    /// Every core that the process may use, by affinity and cgroup quota.
    Auto,
    /// One shard per entry, pinned to that core. A core may be listed twice; then two shards share
    /// it.
    List(Vec<u16>),
}

/// A core or a range of cores.
struct CoreRange(u16, u16);

impl Scalar for CoreRange {
    fn read(written: &WrittenValue<'_>) -> Result<CoreRange, Wrong> {
        let text = written.unquoted()?;
        let (first, last) = text.split_once('-').unwrap_or((&text, &text));
        match (digits(first.trim()), digits(last.trim())) {
            (Parsed::Value(first), Parsed::Value(last)) if last <= u64::from(MAX_CORE) => {
                if first > last {
                    let what = format!("the range `{text}` runs backwards");
                    return Err(Wrong::new(what, format!("write {last}-{first}")));
                }
                Ok(CoreRange(first as u16, last as u16))
            }
            _ => {
                let fix = format!("write numbers of 0 to {MAX_CORE} and ranges such as 4-7");
                Err(Wrong::new(format!("`{text}` is not a core or a range of cores"), fix))
            }
        }
    }

    fn written(&self) -> Value {
        json!(format!("{}-{}", self.0, self.1))
    }

    fn schema() -> (Value, String) {
        let range = json!({"type": "string", "pattern": "^[0-9]+ ?- ?[0-9]+$"});
        let core = json!({"type": "integer", "minimum": 0, "maximum": MAX_CORE});
        (json!({"anyOf": [core, range]}), "a core or a range of cores".to_owned())
    }
}
scalar! { [] CoreRange CoreRange }

struct CoresVisitor;

impl<'de> Visitor<'de> for CoresVisitor {
    type Value = Cores;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("auto or a list of cores")
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Cores, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_bool<E: Error>(self, switch: bool) -> Result<Cores, E> {
        self.visit_str(&switch.to_string())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Cores, E> {
        if text == "auto" {
            return Ok(Cores::Auto);
        }
        let fix = "write [4] for core 4, or [0-3] for four cores";
        Err(E::custom(Wrong::new(format!("`{text}` is neither auto nor a list"), fix)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Cores, A::Error> {
        let mut cores = Vec::new();
        let mut count = 0;
        while let Some(CoreRange(first, last)) = items.next_element()? {
            count += usize::from(last - first) + 1;
            if count <= limits::MAX_SHARDS {
                cores.extend(first..=last);
            }
        }
        match count {
            0 => Err(Error::custom(Wrong::value("no core is listed"))),
            1..=limits::MAX_SHARDS => Ok(Cores::List(cores)),
            _ => {
                let fix = format!("list at most {}", limits::MAX_SHARDS);
                Err(Error::custom(Wrong::new(format!("{count} cores are listed"), fix)))
            }
        }
    }
}

impl<'de> Deserialize<'de> for Cores {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(CoresVisitor)
    }
}

impl Serialize for Cores {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Cores::Auto => "auto".serialize(to),
            Cores::List(cores) => cores.serialize(to),
        }
    }
}

impl JsonSchema for Cores {
    fn schema_name() -> Cow<'static, str> {
        "Cores".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let range = generator.subschema_for::<CoreRange>();
        let list = json!({"type": "array", "items": range, "minItems": 1});
        let accepts = "a list of cores such as [0, 2, 4-7], or auto";
        described(json!({"anyOf": [{"const": "auto"}, list]}), accepts.to_owned())
    }
}

/// An IP address and port; port 0 lets the kernel choose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Address(pub SocketAddr);

impl Get for Address {
    type Plain = SocketAddr;

    fn get(&self) -> SocketAddr {
        self.0
    }
}

impl Scalar for Address {
    fn read(written: &WrittenValue<'_>) -> Result<Address, Wrong> {
        let text = written.text();
        text.parse().map(Address).map_err(|_| no_address(&text, ADDRESS, 18083))
    }

    fn written(&self) -> Value {
        json!(self.0.to_string())
    }

    fn schema() -> (Value, String) {
        (json!({"type": "string"}), ADDRESS.to_owned())
    }
}
scalar! { [] Address Address }

/// Where a listener listens.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Bind {
    /// An IP address and port; port 0 lets the kernel choose.
    Tcp(SocketAddr),
    /// The path of a unix socket.
    Unix(PathBuf),
}

impl Bind {
    /// The default of the first listener.
    pub const USUAL: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1883);
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bind::Tcp(address) => write!(f, "{address}"),
            Bind::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Scalar for Bind {
    fn read(written: &WrittenValue<'_>) -> Result<Bind, Wrong> {
        let text = written.text();
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Bind::Tcp(address));
        }
        if let Parsed::Value(port) = digits(&text)
            && let Ok(port) = u16::try_from(port)
        {
            return Ok(Bind::Tcp(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port)));
        }
        if !text.contains('/') || text.contains('\0') {
            return Err(no_address(&text, BIND, 1883));
        }
        if text.len() > MAX_UNIX_PATH {
            let fix = format!("use a path of at most {MAX_UNIX_PATH} bytes");
            return Err(Wrong::new(format!("the path has {} bytes", text.len()), fix));
        }
        Ok(Bind::Unix(PathBuf::from(&*text)))
    }

    fn written(&self) -> Value {
        json!(self.to_string())
    }

    fn schema() -> (Value, String) {
        let port = json!({"type": "integer", "minimum": 0, "maximum": u16::MAX});
        (json!({"anyOf": [{"type": "string"}, port]}), BIND.to_owned())
    }
}
scalar! { [] Bind Bind }

/// An address or network of proxies, which are trusted to say who their clients are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Proxy(pub Network);

impl Scalar for Proxy {
    fn read(written: &WrittenValue<'_>) -> Result<Proxy, Wrong> {
        let text = written.text();
        let what = match text.parse() {
            Ok(network) => return Ok(Proxy(network)),
            Err(NoNetwork::Address) => format!("`{text}` does not begin with an IP address"),
            Err(NoNetwork::Prefix) => format!("the prefix of `{text}` is none of that address"),
            Err(NoNetwork::Bits) => format!("`{text}` has bits behind its prefix"),
        };
        Err(Wrong::new(what, format!("write {NETWORK} (host names are not looked up)")))
    }

    fn written(&self) -> Value {
        json!(self.0.to_string())
    }

    fn schema() -> (Value, String) {
        (json!({"type": "string"}), NETWORK.to_owned())
    }
}
scalar! { [] Proxy Proxy }

/// The path of a URL, without query.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UrlPath(Text<1, 256>);

impl UrlPath {
    /// The path that clients use unless they are told another.
    pub fn usual() -> UrlPath {
        UrlPath(Text::of("/mqtt"))
    }
}

impl Deref for UrlPath {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Scalar for UrlPath {
    fn read(written: &WrittenValue<'_>) -> Result<UrlPath, Wrong> {
        let text = Text::read(written)?;
        let is_plain =
            |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@%".contains(&byte);
        if !text.starts_with('/') || !text.bytes().all(is_plain) {
            return Err(Wrong::new(format!("`{text}` is no path"), format!("write {URL_PATH}")));
        }
        Ok(UrlPath(text))
    }

    fn written(&self) -> Value {
        self.0.written()
    }

    fn schema() -> (Value, String) {
        (json!({"type": "string", "minLength": 1, "maxLength": 256}), URL_PATH.to_owned())
    }
}
scalar! { [] UrlPath UrlPath }

/// The origin of a web page, in the form in which browsers send it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WebOrigin(Text<1, 256>);

impl Deref for WebOrigin {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Scalar for WebOrigin {
    fn read(written: &WrittenValue<'_>) -> Result<WebOrigin, Wrong> {
        let text = Text::read(written)?;
        let host = text.split_once("://").map(|(_, host)| host);
        if !host.is_some_and(|host| !host.is_empty() && !host.contains('/')) {
            let fix = "write it as browsers do: https://app.example, with a port if it has one";
            return Err(Wrong::new(format!("`{text}` is no origin"), fix));
        }
        Ok(WebOrigin(text))
    }

    fn written(&self) -> Value {
        self.0.written()
    }

    fn schema() -> (Value, String) {
        let accepts = "an origin such as https://app.example".to_owned();
        (json!({"type": "string", "minLength": 1, "maxLength": 256}), accepts)
    }
}
scalar! { [] WebOrigin WebOrigin }

/// The rights of a file, in octal digits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileMode(u32);

impl Get for FileMode {
    type Plain = u32;

    fn get(&self) -> u32 {
        self.0
    }
}

impl Scalar for FileMode {
    fn read(written: &WrittenValue<'_>) -> Result<FileMode, Wrong> {
        let text = written.text();
        let octal = text.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
        match u32::from_str_radix(&text, 8) {
            Ok(mode) if octal && (3..=4).contains(&text.len()) && mode <= 0o777 => {
                Ok(FileMode(mode))
            }
            _ => {
                let what = format!("`{text}` is no mode of a file");
                Err(Wrong::new(what, "write three octal digits, such as \"0660\""))
            }
        }
    }

    fn written(&self) -> Value {
        json!(format!("{:04o}", self.0))
    }

    fn schema() -> (Value, String) {
        let pattern = json!({"type": "string", "pattern": "^0?[0-7]{3}$"});
        let number = json!({"type": "integer", "minimum": 0, "maximum": 777});
        (json!({"anyOf": [pattern, number]}), "octal digits such as \"0660\"".to_owned())
    }
}
scalar! { [] FileMode FileMode }

fn no_address(text: &str, accepted: &str, usual: u16) -> Wrong {
    let port = text.rsplit(':').next().filter(|port| port.parse::<u16>().is_ok());
    let fix = match port {
        Some(port) => format!(
            "write 0.0.0.0:{port}, \"[::]:{port}\" or 127.0.0.1:{port} (host names are not \
             looked up)"
        ),
        None => format!("write {accepted}, such as 127.0.0.1:{usual}"),
    };
    Wrong::new(format!("`{text}` is not an address with a port"), fix)
}

/// The beginning of topic names and filters. It is empty, or consists of plain levels and
/// placeholders and ends with a slash.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mountpoint(Text<0, 1024>);

impl Default for Mountpoint {
    fn default() -> Mountpoint {
        Mountpoint(Text::of(""))
    }
}

impl Deref for Mountpoint {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Scalar for Mountpoint {
    fn read(written: &WrittenValue<'_>) -> Result<Mountpoint, Wrong> {
        let text = Text::read(written)?;
        legal_beginning(&text)?;
        Ok(Mountpoint(text))
    }

    fn written(&self) -> Value {
        self.0.written()
    }

    fn schema() -> (Value, String) {
        Text::<0, 1024>::schema()
    }
}
scalar! { [] Mountpoint Mountpoint }

/// A mountpoint becomes the beginning of topic names and filters, so it must be a valid beginning
/// of both.
fn legal_beginning(text: &str) -> Result<(), Wrong> {
    if text.contains(['+', '#']) {
        return Err(Wrong::new("a mountpoint cannot have + or #", "use plain topic levels"));
    }
    if text.starts_with('$') && !text.starts_with("${") {
        let what = "topics that begin with $ belong to the broker";
        return Err(Wrong::new(what, "begin the mountpoint with another character"));
    }
    let mut rest = text;
    while let Some((_, name)) = rest.split_once("${") {
        let Some((name, after)) = name.split_once('}') else {
            let fix = "write ${client_id} or ${username}";
            return Err(Wrong::new("a placeholder has no closing }", fix));
        };
        if !PLACEHOLDERS.contains(&name) {
            let what = format!("${{{name}}} is not a placeholder");
            return Err(Wrong::new(what, "use ${client_id} or ${username}"));
        }
        rest = after;
    }
    if !text.is_empty() && !text.ends_with('/') {
        // Without the slash, `#` would become `dev#`, which is not a valid filter, and `a` would
        // become a part of another level.
        return Err(Wrong::new("a mountpoint must end with /", format!("write {text}/")));
    }
    if text.split('/').count() > limits::MAX_TOPIC_LEVELS {
        let fix = format!("use at most {}", limits::MAX_TOPIC_LEVELS);
        return Err(Wrong::new("the mountpoint has too many levels", fix));
    }
    Ok(())
}
