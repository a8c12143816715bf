//! The time of the record layer of TLS beyond the AEAD below it, with expanded keys that are kept
//! and with keys that are expanded for one record; and the time of a handshake beyond rustls.

use super::timing::cpu_time;
use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use ringmq::config::{Config, Sources};
use ringmq::transport::tls::{Advanced, Handshake, KeyCache, Server, Tls, provider, ticket_keys};
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

const RECORDS: usize = 1000;
const PASSES: usize = 200;
/// The number of handshakes that are timed.
const HANDSHAKES: u32 = 500;

/// Nanoseconds per record in the best of many passes; `prepare` is not timed.
fn best<T>(mut prepare: impl FnMut() -> T, mut pass: impl FnMut(T)) -> f64 {
    let mut best = f64::MAX;
    for _ in 0..PASSES {
        let prepared = prepare();
        let started = Instant::now();
        pass(prepared);
        best = best.min(started.elapsed().as_nanos() as f64 / RECORDS as f64);
    }
    best
}

/// A server and a client that shows a certificate, both with certificates of one authority.
fn ends() -> (Arc<Server>, Arc<ClientConfig>) {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = KeyPair::generate().expect("a key");
    let authority = CertifiedIssuer::self_signed(params, authority).expect("signed");
    let signed = |name: &str| {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        (params.signed_by(&key, &authority).expect("signed").pem(), key.serialize_pem())
    };
    let (server, client) = (signed("localhost"), signed("meter"));
    let text = "listeners: [{type: tls, bind: 127.0.0.1:0, tls: {certificate: server.crt, \
                private_key: server.key, client_ca: ca.crt}}]";
    let config = Sources::default().load_from("micro.yaml", text.as_bytes());
    let config: Config = config.expect("it is valid");
    let read = |path: &Path| {
        let text = match path.to_str() {
            Some("server.crt") => server.0.clone(),
            Some("server.key") => server.1.clone(),
            _ => authority.pem(),
        };
        Ok(text.into_bytes())
    };
    let section = &config.listeners[0].tls;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.expect("after 1970").as_secs();
    let server = Server::new(section, "micro", ticket_keys(section), &read, now).expect("it fits");
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone()).expect("an authority");
    let builder = ClientConfig::builder_with_provider(provider());
    let builder = builder.with_safe_default_protocol_versions().expect("versions");
    let chain = vec![CertificateDer::from_pem_slice(client.0.as_bytes()).expect("PEM")];
    let key = PrivateKeyDer::from_pem_slice(client.1.as_bytes()).expect("PEM");
    let builder = builder.with_root_certificates(roots);
    let mut config = builder.with_client_auth_cert(chain, key).expect("they fit");
    config.resumption = Resumption::disabled();
    (Arc::new(server), Arc::new(config))
}

/// Makes a handshake. Returns the server's record layer, the client, and the server's CPU time in
/// nanoseconds.
fn shake(
    server: &Arc<Server>,
    config: &Arc<ClientConfig>,
    cache: &mut KeyCache,
) -> (Tls, ClientConnection, u64) {
    let name = ServerName::try_from("localhost").expect("a name");
    let mut client = ClientConnection::new(config.clone(), name).expect("a client");
    let begun = cpu_time();
    let mut handshake = Handshake::default();
    let mut spent = cpu_time() - begun;
    loop {
        let (mut up, mut down) = (Vec::new(), Vec::new());
        while client.wants_write() {
            client.write_tls(&mut up).expect("a Vec takes everything");
        }
        let begun = cpu_time();
        handshake.add(&up);
        let done = loop {
            match handshake.advance(server, cache, &mut down).map_err(|failure| failure.what) {
                Ok(Advanced::Wait) => break None,
                Ok(Advanced::Again) => {}
                Ok(Advanced::Done(established)) => break Some(established),
                Err(why) => panic!("{why}"),
            }
        };
        spent += cpu_time() - begun;
        let mut rest = &down[..];
        while !rest.is_empty() {
            client.read_tls(&mut rest).expect("from memory");
            client.process_new_packets().expect("it fits");
        }
        if let Some(established) = done {
            return (established.tls, client, spent.as_nanos() as u64);
        }
    }
}

fn bare(size: usize) -> (f64, f64) {
    let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &[7; 16]).expect("a key"));
    let nonce = || Nonce::assume_unique_for_key([1; 12]);
    let (aad, plain) = ([23u8, 3, 3, 1, 1], vec![b'x'; size]);
    let (mut sealed, mut tag) = (vec![0; size], [0; 16]);
    let sealing = best(
        || (),
        |()| {
            for _ in 0..RECORDS {
                key.seal_out_of_place_scatter(
                    nonce(),
                    Aad::from(&aad),
                    &plain,
                    &mut sealed,
                    &[],
                    &mut tag,
                )
                .expect("it fits");
            }
        },
    );
    let mut opened = vec![0; size];
    let opening = best(
        || (),
        |()| {
            for _ in 0..RECORDS {
                let aad = Aad::from(&aad);
                key.open_separate_gather(nonce(), aad, &sealed, &tag, &mut opened)
                    .expect("genuine");
            }
        },
    );
    (sealing, opening)
}

pub fn run() {
    let (server, config) = ends();
    let mut cache = KeyCache::default();
    for size in [20, 500] {
        let (mut tls, mut client, _) = shake(&server, &config, &mut cache);
        let plain = vec![b'x'; size];
        let mut out = Vec::with_capacity(RECORDS * (size + 64));
        let sealing = best(
            || (),
            |()| {
                out.clear();
                for _ in 0..RECORDS {
                    tls.layer().seal(&mut cache, &plain, &mut out);
                }
            },
        );
        let cold = best(
            || (),
            |()| {
                out.clear();
                for _ in 0..RECORDS {
                    tls.layer().forget(&mut cache);
                    tls.layer().seal(&mut cache, &plain, &mut out);
                }
            },
        );
        // The client's records, each of which can be opened only once.
        client.set_buffer_limit(None);
        let records = || {
            let mut wire = Vec::new();
            for _ in 0..RECORDS {
                client.writer().write_all(&plain).expect("without a limit");
                client.write_tls(&mut wire).expect("a Vec takes everything");
            }
            wire
        };
        let mut read = Vec::with_capacity(RECORDS * size);
        let mut answers = Vec::new();
        let opening = best(records, |wire| {
            read.clear();
            tls.layer().open(&mut cache, &wire, &mut read, &mut answers);
        });
        assert_eq!((read.len(), answers.len()), (RECORDS * size, 0), "all were genuine");
        let (seal, open) = bare(size);
        println!(
            "  {size} bytes sealed {sealing:.0} ns, bare {seal:.0} ({:.2}); opened {opening:.0}, \
             bare {open:.0} ({:.2}); sealed with a key made for it {cold:.0}",
            sealing / seal,
            opening / open
        );
    }
    let mut spent: Vec<u64> =
        (0..HANDSHAKES).map(|_| shake(&server, &config, &mut cache).2).collect();
    spent.sort_unstable();
    println!("  a full mutual handshake: {} us of the server", spent[spent.len() / 2] / 1000);
}
