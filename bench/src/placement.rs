//! The home shard of a ClientId in RingMQ. The placement differs from one start of the broker to
//! the next and cannot be computed here; the broker's admin server tells it to programs on the same
//! host.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// The longest wait for an answer of the admin server.
const PATIENCE: Duration = Duration::from_secs(5);

/// A connection to a broker's admin server.
pub struct Placement(BufReader<TcpStream>);

impl Placement {
    /// Connects to the admin server at `address`.
    pub fn of(address: SocketAddr) -> Result<Placement, String> {
        let failed = |error| format!("the broker's admin server at {address}: {error}");
        let stream = TcpStream::connect_timeout(&address, PATIENCE).map_err(failed)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        Ok(Placement(BufReader::new(stream)))
    }

    /// The home shard of `client_id`, which must consist of letters, digits and `-`.
    pub fn home_of(&mut self, client_id: &str) -> Result<u8, String> {
        let page = self.ask(client_id).map_err(|error| format!("/placement: {error}"))?;
        page.trim().parse().map_err(|_| format!("/placement: {page}"))
    }

    fn ask(&mut self, client_id: &str) -> std::io::Result<String> {
        let request =
            format!("GET /placement?client_id={client_id} HTTP/1.1\r\nHost: bench\r\n\r\n");
        self.0.get_mut().write_all(request.as_bytes())?;
        let (mut length, mut line) = (0, String::new());
        loop {
            line.clear();
            if self.0.read_line(&mut line)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            match line.trim_end().split_once(": ") {
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                    length = value.parse().unwrap_or(0);
                }
                _ if line == "\r\n" => break,
                _ => {}
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }
}

/// A ClientId that begins with `prefix` and whose home is the shard `home`, according to `home_of`.
pub fn named(
    prefix: &str,
    home: u8,
    home_of: &mut impl FnMut(&str) -> Result<u8, String>,
) -> Result<String, String> {
    // With 64 shards, one name in about 10^13 would need more tries.
    for number in 0..2000 {
        let name = format!("{prefix}-{number}");
        if home_of(&name)? == home {
            return Ok(name);
        }
    }
    Err(format!("no ClientId lives on shard {home}: the broker has fewer (--shards)"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn names_live_where_they_are_wanted() {
        let mut last_digit = |name: &str| Ok(name.as_bytes()[name.len() - 1] - b'0');
        for home in 0..10 {
            assert_eq!(named("x", home, &mut last_digit).unwrap(), format!("x-{home}"));
        }
        assert!(named("x", 10, &mut last_digit).is_err());
    }

    #[test]
    fn the_broker_is_asked() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut placement = Placement::of(listener.local_addr().unwrap()).unwrap();
        let server = std::thread::spawn(move || {
            let mut stream = BufReader::new(listener.accept().unwrap().0);
            for answer in ["1\n", "63\n", "no"] {
                let (mut first, mut line) = (String::new(), String::new());
                stream.read_line(&mut first).unwrap();
                while line != "\r\n" {
                    line.clear();
                    stream.read_line(&mut line).unwrap();
                }
                assert_eq!(first, "GET /placement?client_id=c HTTP/1.1\r\n");
                let length = answer.len();
                let page = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{answer}");
                stream.get_mut().write_all(page.as_bytes()).unwrap();
            }
        });
        assert_eq!(placement.home_of("c"), Ok(1));
        assert_eq!(placement.home_of("c"), Ok(63));
        assert!(placement.home_of("c").is_err());
        server.join().unwrap();
        assert!(placement.home_of("c").is_err());
    }
}
