//! TLS with clients that are not ours: mosquitto, OpenSSL, Paho.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams,
    SerialNumber, date_time_ymd,
};

use crate::support::{Broker, patience, unique};

/// A directory with an authority's certificates.
pub struct Files {
    directory: PathBuf,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("signed")
}

impl Files {
    pub fn new() -> Files {
        let directory = std::env::temp_dir().join(unique("ringmq-tls"));
        std::fs::create_dir_all(&directory).expect("a temporary directory");
        let files = Files { directory, authority: authority("Test CA") };
        files.write("ca.crt", &files.authority.pem());
        files.server();
        files.client("good", |_| {});
        files
    }

    pub fn path(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.directory.join(name), text).expect("it can be written");
    }

    fn server(&self) {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        self.sign("server", CertificateParams::new(names).expect("names"), &self.authority);
    }

    fn client(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) {
        self.client_of(&self.authority, name, change);
    }

    fn client_of(
        &self,
        authority: &CertifiedIssuer<'static, KeyPair>,
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        self.sign(name, params, authority);
    }

    fn sign(
        &self,
        name: &str,
        params: CertificateParams,
        authority: &CertifiedIssuer<'static, KeyPair>,
    ) {
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, authority).expect("signed");
        self.write(&format!("{name}.crt"), &certificate.pem());
        self.write(&format!("{name}.key"), &key.serialize_pem());
    }

    /// A CRL with these serial numbers.
    fn crl(&self, serials: &[u8]) {
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(vec![*serial]),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2099, 1, 1),
            crl_number: SerialNumber::from(1u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&self.authority).expect("signed");
        self.write("crl.pem", &list.pem().expect("PEM"));
    }

    /// A broker with one TLS listener and these keys of it.
    #[track_caller]
    fn broker(&self, more: &[String]) -> Broker {
        let mut settings = vec![
            "listeners.0.type=tls".to_owned(),
            format!("listeners.0.tls.certificate={}", self.path("server.crt")),
            format!("listeners.0.tls.private_key={}", self.path("server.key")),
        ];
        settings.extend_from_slice(more);
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        Broker::start(&settings)
    }

    fn mutual(&self) -> Vec<String> {
        vec![
            format!("listeners.0.tls.client_ca={}", self.path("ca.crt")),
            "listeners.0.tls.username_from=cn".to_owned(),
        ]
    }

    /// `mosquitto_pub` or `mosquitto_sub`, with a client's certificate perhaps.
    fn mosquitto(&self, program: &str, broker: &Broker, client: Option<&str>) -> Command {
        let mut command = Command::new(program);
        let port = broker.address().port().to_string();
        command.args(["-h", "127.0.0.1", "-p", &port, "--cafile", &self.path("ca.crt")]);
        if let Some(name) = client {
            command.args(["--cert", &self.path(&format!("{name}.crt"))]);
            command.args(["--key", &self.path(&format!("{name}.key"))]);
        }
        command
    }

    /// `openssl s_client`, which is told these pieces one after the other.
    fn openssl(&self, broker: &Broker, arguments: &[&str], pieces: &[&[u8]]) -> String {
        let mut child = Command::new("openssl")
            .args(["s_client", "-connect", &broker.address().to_string()])
            .args(["-CAfile", &self.path("ca.crt")])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("openssl is installed: run scripts/test");
        let mut input = child.stdin.take().expect("a pipe");
        for piece in pieces {
            std::thread::sleep(Duration::from_millis(300));
            // It may have been turned away by then.
            let _ = std::io::Write::write_all(&mut input, piece);
        }
        std::thread::sleep(Duration::from_millis(300));
        drop(input);
        let Output { stdout, stderr, .. } = child.wait_with_output().expect("its output");
        String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned()
    }
}

#[track_caller]
pub fn succeeds(command: &mut Command) -> String {
    super::output(command)
}

#[track_caller]
pub fn wait_for_line(broker: &Broker, text: &str) {
    let end = Instant::now() + patience();
    while !broker.log().contains(text) {
        assert!(Instant::now() < end, "no line with `{text}`:\n{}", broker.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

const CONNECT: &[u8] = b"\x10\x0e\0\x04MQTT\x04\x02\0\x3c\0\x02s1";
const PING: &[u8] = b"\xc0\0";

#[test]
fn mosquitto_over_tls_of_both_versions() {
    let files = Files::new();
    for version in ["1.2", "1.3"] {
        let broker = files.broker(&[format!("listeners.0.tls.versions=['{version}']")]);
        let retained = ["-t", "a/b", "-m", "hello", "-q", "1", "-r"];
        succeeds(files.mosquitto("mosquitto_pub", &broker, None).args(retained));
        let mut sub = files.mosquitto("mosquitto_sub", &broker, None);
        let got = succeeds(sub.args(["-t", "a/b", "-C", "1", "-W", "10", "-q", "2"]));
        assert_eq!(got, "hello\n");
    }
}

#[test]
fn a_large_message_goes_through_tls_both_ways() {
    let files = Files::new();
    let broker = files.broker(&[]);
    let body: String = (0..600_000).map(|at| char::from(b'a' + (at % 23) as u8)).collect();
    files.write("body", &body);
    let mut publish = files.mosquitto("mosquitto_pub", &broker, None);
    succeeds(publish.args(["-t", "large", "-r", "-q", "1", "-f", &files.path("body")]));
    let mut sub = files.mosquitto("mosquitto_sub", &broker, None);
    let got = succeeds(sub.args(["-t", "large", "-C", "1", "-W", "20"]));
    assert!(got.trim_end() == body);
}

#[test]
fn a_clients_certificate_is_its_user_name() {
    let files = Files::new();
    let broker = files.broker(&files.mutual());
    let publish = ["-t", "a/b", "-m", "x", "-q", "1"];
    succeeds(files.mosquitto("mosquitto_pub", &broker, Some("good")).args(publish));
    wait_for_line(&broker, "username=\"good\"");
}

#[test]
fn bad_certificates_are_refused_and_the_log_says_why() {
    let files = Files::new();
    files.crl(&[0x66]);
    files.client("expired", |params| {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    });
    files.client("usage", |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    files.client("revoked", |params| {
        params.serial_number = Some(SerialNumber::from(vec![0x66]));
    });
    files.client_of(&authority("Other CA"), "stranger", |_| {});
    files.write("ca.key", &files.authority.key().serialize_pem());
    let path = |name: &str| files.path(name);
    files.write("short.ext", "extendedKeyUsage=clientAuth\n");
    let request = "openssl req -newkey rsa:1024 -nodes -subj /CN=short";
    let sign = "openssl x509 -req -days 2";
    let script = format!(
        "{request} -keyout {key} -out {csr} && {sign} -in {csr} -CA {ca} -CAkey {ca_key} \
         -set_serial 7 -extfile {ext} -out {out}",
        ext = path("short.ext"),
        key = path("short.key"),
        csr = path("short.csr"),
        ca = path("ca.crt"),
        ca_key = path("ca.key"),
        out = path("short.crt"),
    );
    succeeds(Command::new("sh").args(["-c", &script]));
    let mut settings = files.mutual();
    settings.push(format!("listeners.0.tls.crl=['{}']", path("crl.pem")));
    let broker = files.broker(&settings);
    for (name, why) in [
        ("expired", "it has expired, or is not yet valid"),
        ("usage", "does not allow extended key usage for client authentication"),
        ("revoked", "it was revoked"),
        ("stranger", "it leads to no authority that is trusted here"),
        ("short", "its RSA key of 1024 bits is too short"),
    ] {
        for version in ["-tls1_2", "-tls1_3"] {
            let arguments = [
                version,
                "-cipher",
                "DEFAULT@SECLEVEL=0",
                "-cert",
                &path(&format!("{name}.crt")),
                "-key",
                &path(&format!("{name}.key")),
            ];
            let said = files.openssl(&broker, &arguments, &[CONNECT]);
            assert!(said.contains("alert"), "{name} {version}: {said}");
            assert!(!said.contains("\x20\x02\0\0"), "{name} {version} has got in");
        }
        let lines = broker.log();
        let refused = lines.lines().filter(|line| line.contains(why));
        let refused: Vec<_> = refused.filter(|line| line.contains("peer=127.0.0.1")).collect();
        assert_eq!(refused.len(), 2, "{name}: {lines}");
    }
    files.openssl(&broker, &["-tls1_3"], &[CONNECT]);
    wait_for_line(&broker, "the client showed no certificate");
}

#[test]
fn openssl_resumes_updates_its_keys_and_is_not_renegotiated_with() {
    let files = Files::new();
    let broker = files.broker(&[]);
    for version in ["-tls1_2", "-tls1_3"] {
        let session = files.path("session");
        let first = files.openssl(&broker, &[version, "-sess_out", &session], &[CONNECT, PING]);
        assert!(first.contains("\x20\x02\0\0") && first.contains("New, TLSv1."), "{first}");
        let again = files.openssl(&broker, &[version, "-sess_in", &session], &[CONNECT, PING]);
        assert!(again.contains("Reused, TLSv1."), "{version}: {again}");
        assert!(again.contains("\x20\x02\0\0"), "{version}: {again}");
    }
    let pieces: [&[u8]; 6] = [CONNECT, b"K\n", PING, b"k\n", PING, b"Q\n"];
    let said = files.openssl(&broker, &["-tls1_3"], &pieces);
    assert_eq!(said.matches("KEYUPDATE").count(), 2, "{said}");
    assert_eq!(said.matches("\u{fffd}\0").count(), 2, "two answers to PINGREQ: {said}");
    let said = files.openssl(&broker, &["-tls1_2"], &[CONNECT, b"R\n"]);
    assert!(said.contains("no renegotiation"), "{said}");
    for old in ["-tls1", "-tls1_1"] {
        let said = files.openssl(&broker, &[old, "-cipher", "DEFAULT@SECLEVEL=0"], &[]);
        assert!(said.contains("alert"), "{old}: {said}");
    }
}

/// The process that takes the broker over has the keys of the tickets.
#[test]
fn openssl_resumes_after_an_upgrade_what_it_began_before() {
    let files = Files::new();
    let mut broker = files.broker(&[]);
    for version in ["-tls1_2", "-tls1_3"] {
        let session = files.path("session");
        let first = files.openssl(&broker, &[version, "-sess_out", &session], &[CONNECT, PING]);
        assert!(first.contains("New, TLSv1."), "{first}");
        let report = broker.ask_to_upgrade(&[]).expect("it is upgraded");
        broker.follow(&report);
        let again = files.openssl(&broker, &[version, "-sess_in", &session], &[CONNECT, PING]);
        assert!(again.contains("Reused, TLSv1."), "{version}: {again}");
        assert!(again.contains("\x20\x02\0\0"), "{version}: {again}");
    }
}

fn serial_of(files: &Files, broker: &Broker) -> String {
    let text = files.openssl(broker, &[], &[]);
    let begin = text.find("-----BEGIN").expect("a certificate");
    let end = text.find("-----END").expect("a whole one");
    text[begin..end].to_owned()
}

#[test]
fn certificates_are_read_again_and_live_clients_stay_unless_they_are_revoked() {
    let files = Files::new();
    files.crl(&[]);
    files.client("later", |params| {
        params.serial_number = Some(SerialNumber::from(vec![0x55]));
    });
    let mut settings = files.mutual();
    settings.push(format!("listeners.0.tls.crl=['{}']", files.path("crl.pem")));
    settings.push("listeners.0.tls.on_revoked=disconnect".to_owned());
    settings.push("listeners.0.tls.client_certificate=optional".to_owned());
    let broker = files.broker(&settings);
    let live = |name: &str| {
        let mut command = files.mosquitto("mosquitto_sub", &broker, Some(name));
        command.args(["-t", "news", "-C", "1", "-W", "30", "-i", name]).stdout(Stdio::piped());
        let child = command.spawn().expect("mosquitto_sub is installed: run scripts/test");
        wait_for_line(&broker, &format!("client_id=\"{name}\""));
        child
    };
    let (good, mut later) = (live("good"), live("later"));
    let before = serial_of(&files, &broker);

    let key = std::fs::read_to_string(Path::new(&files.path("server.key"))).expect("a key");
    files.write("server.key", "nothing\n");
    broker.signal("-HUP");
    wait_for_line(&broker, "there is no private key in it");
    wait_for_line(&broker, "what was read before stays in force");
    assert_eq!(serial_of(&files, &broker), before);
    files.write("server.key", &key);

    files.server();
    files.crl(&[0x55]);
    broker.signal("-HUP");
    wait_for_line(&broker, "certificates read again");
    wait_for_line(&broker, "the certificate was revoked");
    assert_ne!(serial_of(&files, &broker), before);
    assert!(!later.wait().expect("it ends").success(), "who was revoked is ended");
    succeeds(files.mosquitto("mosquitto_pub", &broker, Some("good")).args([
        "-t",
        "news",
        "-m",
        "all is well",
        "-q",
        "1",
    ]));
    let said = good.wait_with_output().expect("its output").stdout;
    assert_eq!(String::from_utf8_lossy(&said), "all is well\n");
}

#[test]
fn a_watched_certificate_is_read_without_a_signal() {
    let files = Files::new();
    let broker = files.broker(&["listeners.0.tls.watch=1s".to_owned()]);
    let before = serial_of(&files, &broker);
    files.server();
    wait_for_line(&broker, "certificates read again");
    assert_ne!(serial_of(&files, &broker), before);
}

#[test]
fn a_broker_with_a_wrong_key_does_not_start() {
    let files = Files::new();
    let config = files.path("ringmq.yaml");
    let tls = format!(
        "{{certificate: '{}', private_key: '{}'}}",
        files.path("server.crt"),
        files.path("good.key")
    );
    let text = format!("listeners: [{{type: tls, bind: '127.0.0.1:0', tls: {tls}}}]\n");
    files.write("ringmq.yaml", &text);
    for arguments in [&["--test-config", "--config", &config][..], &["--config", &config]] {
        let exit = crate::support::broker::run(arguments);
        assert_eq!(exit.code, Some(2), "{}", exit.stderr);
        assert!(exit.stderr.contains("it is not the key of"), "{}", exit.stderr);
    }
}

#[test]
fn paho_over_tls() {
    let files = Files::new();
    let broker = files.broker(&files.mutual());
    let port = broker.address().port().to_string();
    let (ca, certificate, key) =
        (files.path("ca.crt"), files.path("good.crt"), files.path("good.key"));
    println!("{}", super::python("paho_tls.py", &[&port, &ca, &certificate, &key]));
}

#[test]
fn paho_over_websockets_with_and_without_tls() {
    let files = Files::new();
    let tls = format!(
        "tls: {{certificate: '{}', private_key: '{}'}}",
        files.path("server.crt"),
        files.path("server.key")
    );
    let listeners = format!(
        "listeners=[{{name: web, type: ws, bind: '127.0.0.1:0'}}, \
         {{name: both, type: wss, bind: '127.0.0.1:0', {tls}}}]"
    );
    let broker = Broker::start(&[&listeners]);
    for (name, transport) in [("web", "ws"), ("both", "wss")] {
        let port = broker.bound(name).port().to_string();
        println!("{}", super::python("paho_web.py", &[transport, &port, &files.path("ca.crt")]));
    }
}
