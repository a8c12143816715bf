//! Conformance: the broker as a process, spoken to in bytes, against MQTT 3.1, 3.1.1 and 5.0.
//!
//! One broker is shared by the tests that need the same settings; client ids and topics are unique
//! per test, so tests run side by side and with any placement of clients on shards.
//! `statements.tsv` names, for each normative statement that binds a server, the tests that cover
//! it.

#[path = "../support/mod.rs"]
mod support;

mod access;
mod auth;
mod connect;
mod features;
mod flow;
mod hostile;
mod idle;
mod keep_alive;
mod listeners;
mod malformed;
mod order;
mod pending;
mod process;
mod properties;
mod publish;
mod retained;
mod scram;
mod session;
mod shared;
mod sizes;
mod statements;
mod stream;
mod subscribe;
mod websocket;
mod will;
