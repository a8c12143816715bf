//! A client of the admin server.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::{Broker, patience};

/// A connection to the admin server.
pub struct Http {
    pub stream: TcpStream,
    bytes: Vec<u8>,
}

pub struct Page {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Page {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// The sum of a figure over all shards, for series that carry all of `labels`.
    #[track_caller]
    pub fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        let lines = self.body.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
                && labels.iter().all(|label| line.contains(label))
        });
        let values: Vec<f64> =
            lines.map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect();
        assert!(!values.is_empty(), "no {name} {labels:?} in\n{}", self.body);
        values.iter().sum()
    }
}

impl Http {
    #[track_caller]
    pub fn open(address: SocketAddr) -> Http {
        let stream = TcpStream::connect(address).expect("the admin server listens");
        stream.set_read_timeout(Some(patience() + Duration::from_secs(10))).unwrap();
        Http { stream, bytes: Vec::new() }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        // That it hung up is seen when the answer is read.
        let _ = self.stream.write_all(bytes);
    }

    /// True when there was something.
    pub fn fill(&mut self) -> bool {
        let mut chunk = [0; 65_536];
        match self.stream.read(&mut chunk) {
            Ok(count) => {
                self.bytes.extend_from_slice(&chunk[..count]);
                count > 0
            }
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => false,
            Err(error) => panic!("no answer: {error}"),
        }
    }

    /// The next answer; to HEAD it has no body, whatever its length.
    #[track_caller]
    pub fn answer(&mut self, body: bool) -> Page {
        let head = loop {
            if let Some(at) = self.bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            assert!(self.fill(), "closed without an answer");
        };
        let text = String::from_utf8(self.bytes.drain(..head).collect()).unwrap();
        let mut lines = text.trim_end().lines();
        let status = lines.next().unwrap();
        assert!(status.starts_with("HTTP/1."), "{status}");
        let status = status.split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines.map(|line| {
            let (name, value) = line.split_once(':').unwrap();
            (name.to_owned(), value.trim().to_owned())
        });
        let mut page = Page { status, headers: headers.collect(), body: String::new() };
        let length = match page.header("content-length") {
            Some(length) => length.parse().unwrap(),
            None => {
                assert_eq!(page.status, 204, "a length");
                0
            }
        };
        while body && self.bytes.len() < length {
            assert!(self.fill(), "closed within the body");
        }
        let length = if body { length } else { 0 };
        page.body = String::from_utf8(self.bytes.drain(..length).collect()).unwrap();
        page
    }

    #[track_caller]
    pub fn get(&mut self, path: &str) -> Page {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes());
        self.answer(true)
    }

    /// Any request, with headers of its own and a JSON body perhaps.
    #[track_caller]
    pub fn request(&mut self, method: &str, path: &str, headers: &str, body: &str) -> Page {
        let host = self.stream.peer_addr().unwrap();
        let kind = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
        let length = if body.is_empty() {
            String::new()
        } else {
            format!("Content-Length: {}\r\n", body.len())
        };
        let head =
            format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n{kind}{length}{headers}\r\n");
        self.send((head + body).as_bytes());
        self.answer(method != "HEAD")
    }

    #[track_caller]
    pub fn expect_closed(&mut self) {
        while self.fill() {}
    }
}

/// Where the admin server listens, from the last line of the log that says so.
#[track_caller]
pub fn admin(broker: &Broker) -> SocketAddr {
    let log = broker.log();
    let told = log.lines().rev().find_map(|line| {
        let (_, rest) = line.split_once("admin=").or_else(|| line.split_once("moved bound="))?;
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.' && c != ':');
        rest[..end.unwrap_or(rest.len())].parse().ok()
    });
    told.unwrap_or_else(|| panic!("no address of the admin server in\n{log}"))
}
