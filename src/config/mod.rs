//! The configuration: YAML, environment and arguments in, one checked [`Config`] out.
//!
//! One table ([`table`]) names every key with its type, unit, default, bounds and meaning. Parsing, bounds, the default
//! file, the reference and the structs themselves are made from it. Reading reports every problem at once, each with its
//! place. Pure: it reads one file and opens nothing else; whether a core exists or a port is free is the broker's affair.

mod problem;
mod section;
mod spec;
mod table;
mod tree;
mod value;

pub use problem::{Origin, Problem, Problems};
pub use table::{
    Bind, Config, Cores, Format, KeepAlive, Level, Listener, ListenerType, Log, Mqtt, OnFull,
    Pending, ProxyProtocol, ReceiveBuffers, Retained, Runtime, SessionExpiry, SharedStrategy,
    Shutdown, Sys,
};
