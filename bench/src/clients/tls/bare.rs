//! The CPU time of a handshake in a server that is nothing but rustls, as a reference for the
//! broker's handshakes. Both ends run in memory, with the run's certificates; only the server's
//! half counts.

use super::TlsSettings;
use crate::certificates::TestCertificates;
use crate::clock;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConnection, ServerConfig, ServerConnection};
use std::sync::Arc;

/// Handshakes before those that are counted; with resumption they provide the first tickets.
const FIRST: u32 = 50;
const COUNTED: u32 = 400;

/// Microseconds of the server's CPU time per handshake, tickets included, with clients as in
/// `settings`.
pub fn handshake(made: &TestCertificates, settings: &TlsSettings) -> Result<f64, String> {
    let config = Arc::new(server(made)?);
    let mut spent = 0;
    for number in 0..FIRST + COUNTED {
        let one = shake(&config, settings, number).map_err(|e| format!("bare rustls: {e}"))?;
        spent += if number < FIRST { 0 } else { one };
    }
    Ok(spent as f64 / 1000.0 / f64::from(COUNTED))
}

fn server(made: &TestCertificates) -> Result<ServerConfig, String> {
    let fail = |e: &dyn std::fmt::Display| format!("bare rustls: {e}");
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| fail(&e))?;
    let builder = match made.clients.is_empty() {
        true => builder.with_no_client_auth(),
        false => {
            let roots = Arc::new(super::authorities(&made.authority)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
            builder.with_client_cert_verifier(verifier.build().map_err(|e| fail(&e))?)
        }
    };
    let chain = super::certificates(&made.server.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&made.server.key).map_err(|e| fail(&e))?;
    let mut config = builder.with_single_cert(chain, key).map_err(|e| fail(&e))?;
    config.ignore_client_order = true;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = aws_lc_rs::Ticketer::new().map_err(|e| fail(&e))?;
    config.send_tls13_tickets = 1;
    Ok(config)
}

/// Makes one handshake; returns the nanoseconds of CPU time of the server's half.
fn shake(
    config: &Arc<ServerConfig>,
    settings: &TlsSettings,
    number: u32,
) -> Result<u64, Box<dyn std::error::Error>> {
    let mut client = ClientConnection::new(settings.config(number), settings.name(0))?;
    let (mut up, mut down) = (Vec::new(), Vec::new());
    let begin = clock::cpu_of_thread();
    let mut server = ServerConnection::new(config.clone())?;
    let mut spent = clock::cpu_of_thread() - begin;
    for _ in 0..10 {
        while client.wants_write() {
            client.write_tls(&mut up)?;
        }
        let begin = clock::cpu_of_thread();
        let mut rest = &up[..];
        while !rest.is_empty() {
            server.read_tls(&mut rest)?;
            server.process_new_packets()?;
        }
        while server.wants_write() {
            server.write_tls(&mut down)?;
        }
        spent += clock::cpu_of_thread() - begin;
        let mut rest = &down[..];
        while !rest.is_empty() {
            client.read_tls(&mut rest)?;
            client.process_new_packets()?;
        }
        up.clear();
        down.clear();
        if !client.is_handshaking() && !server.is_handshaking() && !client.wants_write() {
            let begin = clock::cpu_of_thread();
            drop(server);
            return Ok(spent + clock::cpu_of_thread() - begin);
        }
    }
    Err("the handshake does not end".into())
}
