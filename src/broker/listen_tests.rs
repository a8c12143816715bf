//! Listening sockets on a real kernel.

use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use socket2::Socket;

use super::{Bind, ListenerConfig, Listening, open};
use crate::config::{ListenerType, Or, Text};

fn tcp(address: &str) -> ListenerConfig {
    ListenerConfig { bind: Bind::Tcp(address.parse().unwrap()), ..ListenerConfig::default() }
}

fn unix(path: &std::path::Path) -> ListenerConfig {
    let bind = Bind::Unix(path.to_owned());
    ListenerConfig { kind: ListenerType::Unix, bind, ..ListenerConfig::default() }
}

fn path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("ringmq-{name}-{}.sock", std::process::id()))
}

fn sockets(listening: &Listening) -> Vec<Socket> {
    listening.sockets.iter().map(|fd| fd.try_clone().unwrap().into()).collect()
}

#[test]
fn every_shard_has_a_socket_on_the_port_that_the_kernel_chose_for_the_first() {
    let hosts: &[&str] = if has_ipv6() { &["127.0.0.1:0", "[::1]:0"] } else { &["127.0.0.1:0"] };
    for host in hosts {
        let listening = open(&tcp(host), 3).unwrap();
        let Bind::Tcp(bound) = listening.bound else { panic!("{host}") };
        assert_ne!(bound.port(), 0);
        let sockets = sockets(&listening);
        assert_eq!(sockets.len(), 3);
        for socket in &sockets {
            assert_eq!(socket.local_addr().unwrap().as_socket(), Some(bound));
            assert!(socket.reuse_port().unwrap() && socket.tcp_nodelay().unwrap());
            assert!(socket.keepalive().unwrap() && socket.is_listener().unwrap());
            // io_uring answers EAGAIN instead of waiting on a nonblocking socket.
            assert!(!socket.nonblocking().unwrap());
        }
        TcpStream::connect(bound).unwrap();
    }
}

fn has_ipv6() -> bool {
    TcpListener::bind("[::1]:0").is_ok()
}

#[test]
fn accepted_sockets_inherit_the_options() {
    let listening = open(&tcp("127.0.0.1:0"), 1).unwrap();
    let Bind::Tcp(bound) = listening.bound else { panic!() };
    let _client = TcpStream::connect(bound).unwrap();
    let (accepted, _) = sockets(&listening)[0].accept().unwrap();
    assert!(accepted.tcp_nodelay().unwrap() && accepted.keepalive().unwrap());
}

#[test]
fn every_address_is_that_of_both_families_unless_it_is_to_be_of_one() {
    let both = open(&tcp("[::]:0"), 2).unwrap();
    let Bind::Tcp(bound) = both.bound else { panic!() };
    TcpStream::connect(("127.0.0.1", bound.port())).unwrap();
    let four = format!("0.0.0.0:{}", bound.port());
    assert_eq!(open(&tcp(&four), 1).unwrap_err().error.kind(), ErrorKind::AddrInUse);
    if !has_ipv6() {
        assert!(bound.is_ipv4());
        return;
    }
    TcpStream::connect(("::1", bound.port())).unwrap();
    drop(both.sockets);
    let six = ListenerConfig { v6only: true, ..tcp(&format!("[::]:{}", bound.port())) };
    let _six = open(&six, 2).unwrap();
    assert!(TcpStream::connect(("127.0.0.1", bound.port())).is_err());
    open(&tcp(&four), 1).unwrap();
}

#[test]
fn of_brokers_that_start_at_the_same_moment_one_has_the_address() {
    let path = path("race");
    for round in 0..20 {
        // A port that was free a moment ago.
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        if round % 2 == 1 {
            drop(UnixListener::bind(&path).unwrap());
        }
        let barrier = std::sync::Barrier::new(4);
        let opened: Vec<_> = std::thread::scope(|scope| {
            let start = || {
                barrier.wait();
                (open(&tcp(&free.to_string()), 3).ok(), open(&unix(&path), 3).ok())
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(start)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(opened.iter().filter(|(port, _)| port.is_some()).count(), 1);
        assert_eq!(opened.iter().filter(|(_, file)| file.is_some()).count(), 1);
    }
}

#[test]
fn a_unix_socket_has_the_rights_that_it_is_to_have() {
    let path = path("rights");
    let listeners = "listeners: [{type: unix, bind: /x, mode: \"0620\", owner: root, group: 0}]";
    let config = crate::config::Sources::default().load_from("f.yaml", listeners.as_bytes());
    let bind = Bind::Unix(path.clone());
    let listener = ListenerConfig { bind, ..config.unwrap().listeners[0].clone() };
    // Only root may give a file away, even to itself.
    if nix::unistd::geteuid().is_root() {
        let listening = open(&listener, 1).unwrap();
        let found = std::fs::metadata(&path).unwrap();
        assert_eq!((found.mode() & 0o777, found.uid(), found.gid()), (0o620, 0, 0));
        drop(listening);
    }
    let of_nobody = ListenerConfig { owner: Or::of(Text::of("no such user")), ..listener };
    let failure = open(&of_nobody, 1).unwrap_err().to_string();
    assert!(failure.contains("`no such user` is unknown; use a user and a group"), "{failure}");
    assert!(!path.exists());
}

#[test]
fn a_second_broker_is_told_that_the_port_is_taken_even_though_ports_can_be_shared() {
    let first = open(&tcp("127.0.0.1:0"), 2).unwrap();
    let failure = open(&tcp(&first.bound.to_string()), 2).unwrap_err();
    assert_eq!(failure.error.kind(), ErrorKind::AddrInUse);
    let text = failure.to_string();
    let expected = format!("listener default cannot listen on {}: ", first.bound);
    assert!(text.starts_with(&expected) && text.contains("stop the process"), "{text}");
    drop(first.sockets);
    open(&tcp(&first.bound.to_string()), 2).unwrap();
}

#[test]
fn an_address_of_another_host_is_said_to_be_one() {
    let failure = open(&tcp("192.0.2.1:1883"), 1).unwrap_err().to_string();
    assert!(failure.ends_with("use an address of this host, 0.0.0.0 or [::]"), "{failure}");
}

#[test]
fn a_unix_listener_listens_for_all_shards_and_takes_its_file_along() {
    let path = path("all");
    let listening = open(&unix(&path), 3).unwrap();
    assert_eq!(listening.sockets.len(), 3);
    UnixStream::connect(&path).unwrap();
    for socket in sockets(&listening) {
        assert!(socket.is_listener().unwrap());
    }
    drop(listening);
    assert!(!path.exists());
}

#[test]
fn only_a_socket_file_on_which_nobody_listens_is_removed() {
    let stale = path("stale");
    drop(UnixListener::bind(&stale).unwrap());
    assert!(stale.exists());
    let listening = open(&unix(&stale), 1).unwrap();

    let failure = open(&unix(&stale), 1).unwrap_err();
    assert_eq!(failure.error.kind(), ErrorKind::AddrInUse);
    UnixStream::connect(&stale).unwrap();

    // Somebody else's file in our place is not ours to remove.
    std::fs::remove_file(&stale).unwrap();
    std::fs::write(&stale, "mine").unwrap();
    drop(listening);
    assert_eq!(std::fs::read_to_string(&stale).unwrap(), "mine");
    let failure = open(&unix(&stale), 1).unwrap_err().to_string();
    assert!(failure.contains("remove the file if it is no socket"), "{failure}");
    std::fs::remove_file(&stale).unwrap();
}

#[test]
fn a_directory_that_is_missing_is_named_as_the_reason() {
    let failure = open(&unix(&path("dir").join("x")), 1).unwrap_err().to_string();
    assert!(failure.ends_with("create the directory of the socket"), "{failure}");
}
