//! TLS for tests that speak plain TCP: a listener in this process that passes what comes on to the
//! broker through rustls, and back.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

/// Files for a TLS listener, and whom its clients trust.
#[derive(Clone)]
pub struct Identity {
    roots: RootCertStore,
}

impl Identity {
    /// Writes `server.crt` and `server.key`, valid for 127.0.0.1, to `directory`.
    pub fn write(directory: &Path) -> Identity {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("a name");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = KeyPair::generate().expect("a key");
        let authority = rcgen::CertifiedIssuer::self_signed(params, authority).expect("signed");
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("a name");
        let certificate = params.signed_by(&key, &authority).expect("signed");
        std::fs::write(directory.join("server.crt"), certificate.pem()).expect("written");
        std::fs::write(directory.join("server.key"), key.serialize_pem()).expect("written");
        let mut roots = RootCertStore::empty();
        roots.add(authority.der().clone()).expect("an authority");
        Identity { roots }
    }

    /// An address where plain TCP arrives at `broker` as TLS, as long as this process lives.
    pub fn tunnel(self, broker: SocketAddr) -> SocketAddr {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(self.roots)
            .with_no_client_auth();
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        std::thread::spawn(move || {
            for plain in listener.incoming().map_while(Result::ok) {
                let Ok(sealed) = TcpStream::connect(broker) else { continue };
                let _ = (plain.set_nodelay(true), sealed.set_nodelay(true));
                let name = ServerName::try_from("127.0.0.1").expect("an address");
                let mut client = ClientConnection::new(config.clone(), name).expect("a client");
                client.set_buffer_limit(None);
                let client = Arc::new(Mutex::new(client));
                let ends = |stream: &TcpStream| stream.try_clone().expect("a second handle");
                let (to_plain, to_sealed) = (ends(&plain), ends(&sealed));
                let other = Arc::clone(&client);
                std::thread::spawn(move || inwards(plain, to_sealed, &other));
                std::thread::spawn(move || outwards(sealed, to_plain, &client));
            }
        });
        address
    }
}

fn say(client: &mut ClientConnection, sealed: &mut TcpStream) -> std::io::Result<()> {
    while client.wants_write() {
        client.write_tls(sealed)?;
    }
    Ok(())
}

/// From the test to the broker.
fn inwards(mut plain: TcpStream, mut sealed: TcpStream, client: &Mutex<ClientConnection>) {
    if say(&mut client.lock().expect("no panic"), &mut sealed).is_err() {
        return;
    }
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = plain.read(&mut buffer);
        let mut client = client.lock().expect("no panic");
        match read {
            Ok(count) if count > 0 => {
                client.writer().write_all(&buffer[..count]).expect("it has no limit");
            }
            _ => {
                client.send_close_notify();
                let _ = say(&mut client, &mut sealed);
                let _ = sealed.shutdown(Shutdown::Write);
                return;
            }
        }
        if say(&mut client, &mut sealed).is_err() {
            let _ = plain.shutdown(Shutdown::Both);
            return;
        }
    }
}

/// From the broker to the test.
fn outwards(mut sealed: TcpStream, mut plain: TcpStream, client: &Mutex<ClientConnection>) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count) = sealed.read(&mut buffer) {
        let mut bytes = &buffer[..count];
        let mut content = Vec::new();
        {
            let mut client = client.lock().expect("no panic");
            while !bytes.is_empty() {
                if client.read_tls(&mut bytes).is_err() || client.process_new_packets().is_err() {
                    break;
                }
                let _ = client.reader().read_to_end(&mut content);
            }
            let mut to_sealed = sealed.try_clone().expect("a second handle");
            let _ = say(&mut client, &mut to_sealed);
        }
        if count == 0 || plain.write_all(&content).is_err() {
            break;
        }
    }
    let _ = plain.shutdown(Shutdown::Both);
}
