//! A server of bare rustls that sends back what it is sent: what RingMQ's TLS is compared with
//! (`scripts/suites tlsfuzzer`). As RingMQ's it sends one ticket and keeps no sessions, half-closes
//! after a fatal alert, and asks for a client's certificate without demanding one when there is an
//! authority.
//!
//! rustls_echo CERTIFICATE KEY [AUTHORITY]; prints its port.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig, ServerConnection};

fn certificates(path: &str) -> Vec<CertificateDer<'static>> {
    let all = CertificateDer::pem_file_iter(path).expect("a file of certificates");
    all.map(|one| one.expect("a certificate")).collect()
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [certificate, key, authority @ ..] = &arguments[..] else {
        panic!("rustls_echo CERTIFICATE KEY [AUTHORITY]")
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("versions");
    let builder = match authority.first() {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(certificates(path));
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
                .allow_unauthenticated();
            builder.with_client_cert_verifier(verifier.build().expect("an authority"))
        }
    };
    let key = PrivateKeyDer::from_pem_file(key).expect("a key");
    let mut config = builder.with_single_cert(certificates(certificate), key).expect("a pair");
    config.alpn_protocols = vec![b"http/1.1".to_vec(), b"mqtt".to_vec()];
    // Nothing is kept of a client here: it comes back with a ticket, or not at all.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 1;
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().expect("random numbers");
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    println!("{}", listener.local_addr().expect("it is bound").port());
    for stream in listener.incoming().map_while(Result::ok) {
        let config = config.clone();
        std::thread::spawn(move || {
            // A client that breaks off is what this is for.
            let _ = echo(stream, config);
        });
    }
}

fn echo(mut stream: TcpStream, config: Arc<ServerConfig>) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.set_nodelay(true)?;
    let mut connection = ServerConnection::new(config).map_err(io::Error::other)?;
    let mut content = Vec::new();
    loop {
        let ended = connection.read_tls(&mut stream)? == 0;
        let state = connection.process_new_packets();
        let failed = state.is_err();
        let closed = state.is_ok_and(|state| state.peer_has_closed());
        content.clear();
        // "Would block": all there is has been read.
        let _ = connection.reader().read_to_end(&mut content);
        if !failed {
            connection.writer().write_all(&content)?;
        }
        if closed {
            connection.send_close_notify();
        }
        while connection.wants_write() {
            connection.write_tls(&mut stream)?;
        }
        if ended || closed || failed {
            // A reset would overtake the alert.
            stream.shutdown(Shutdown::Write)?;
            stream.set_read_timeout(Some(Duration::from_secs(1)))?;
            io::copy(&mut stream, &mut io::sink())?;
            return Ok(());
        }
    }
}
