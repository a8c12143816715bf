//! Judgement of the network: backlogs, TCP memory, ports, connection tracking, and whether the
//! network is a bridge or the host's.

use super::facts::Facts;
use super::finding::{Finding, Fix, Severity};
use super::need::{Need, follows_connections};
use super::place::NetworkView;
use super::report::{bytes, count};

/// The size of a page of memory in bytes, in which `tcp_mem` counts on the machines the broker is
/// built for.
const PAGE: u64 = 4096;
/// A receive or send buffer above this size is worth a remark, because a single slow client can
/// fill it.
const LARGE_BUFFER: u64 = 1 << 20;

/// With fewer TCP sockets than this, an empty conntrack table does not show that no rule uses
/// conntrack.
const FEW_SOCKETS: u64 = 8;

/// Whether each network namespace has its own value of a setting.
enum SettingScope {
    Namespace,
    Host,
}

/// The fix that changes a kernel setting, at once and permanently.
fn setting(facts: &Facts, name: &str, value: &str, scope: SettingScope) -> Fix {
    let quoted =
        if value.contains(' ') { format!("'{name}={value}'") } else { format!("{name}={value}") };
    let host = format!("sysctl -w {quoted} (lasting: tuning/sysctl.conf)");
    match (scope, facts.place.network) {
        (SettingScope::Namespace, NetworkView::Bridge | NetworkView::Loopback) => Fix::either(
            host,
            format!(
                "{} run --sysctl {quoted} (Kubernetes: securityContext.sysctls)",
                facts.place.program()
            ),
        ),
        // In the host's network the host's value holds, and no container engine sets it. A network
        // that cannot be seen is treated in the same way.
        _ => Fix::host(host),
    }
}

pub(super) fn somaxconn(facts: &Facts, need: &Need) -> Finding {
    let check = "somaxconn";
    let Some(found) = facts.sysctl.somaxconn else {
        return Finding::new(check, Severity::Note, "unreadable", "the listeners' backlog or more");
    };
    let Some(backlog) = need.backlog else {
        return Finding::new(check, Severity::Fine, found.to_string(), "no TCP listener");
    };
    if found >= backlog {
        let needed = format!("{backlog} or more: the listeners' backlog");
        return Finding::new(check, Severity::Fine, found.to_string(), needed);
    }
    let needed = format!("{backlog}: the kernel cuts the listeners' backlog; a burst is refused");
    Finding::new(check, Severity::Warning, found.to_string(), needed).fixed_by(setting(
        facts,
        "net.core.somaxconn",
        &backlog.max(65_535).to_string(),
        SettingScope::Namespace,
    ))
}

pub(super) fn syn_backlog(facts: &Facts, need: &Need) -> Finding {
    let check = "tcp_max_syn_backlog";
    let Some(found) = facts.sysctl.syn_backlog else {
        return Finding::new(check, Severity::Note, "unreadable", "the listeners' backlog or more");
    };
    let backlog = need.backlog.unwrap_or(0);
    if found >= backlog {
        let needed = "the listeners' backlog or more";
        return Finding::new(check, Severity::Fine, found.to_string(), needed);
    }
    let (severity, needed) = match facts.sysctl.syncookies {
        Some(1 | 2) => {
            (Severity::Note, format!("{backlog} matters only without SYN cookies, which are on"))
        }
        _ => (
            Severity::Warning,
            format!("{backlog}: SYN cookies are off, so a burst of new connections is dropped"),
        ),
    };
    Finding::new(check, severity, found.to_string(), needed).fixed_by(setting(
        facts,
        "net.ipv4.tcp_max_syn_backlog",
        "65535",
        SettingScope::Namespace,
    ))
}

pub(super) fn tcp_mem(facts: &Facts, need: &Need) -> Finding {
    let Some([_, pressure, most]) = facts.sysctl.tcp_mem else {
        return Finding::new("tcp_mem", Severity::Note, "not visible here", "a host setting");
    };
    let found = format!("pressure at {}, most {}", bytes(pressure * PAGE), bytes(most * PAGE));
    // An idle socket takes none of this memory. A socket with unread or unsent bytes takes at least
    // one page.
    let busy = format!("{} clients may have data in flight at once", count(pressure));
    match need.clients {
        Some(clients) if clients > pressure => {
            let needed = format!("{busy}; a page each for {} is more", count(clients));
            let pages = |n: u64| clients.saturating_mul(n).to_string();
            let value = format!("{} {} {}", pages(1), pages(2), pages(3));
            Finding::new("tcp_mem", Severity::Warning, found, needed).fixed_by(setting(
                facts,
                "net.ipv4.tcp_mem",
                &value,
                SettingScope::Host,
            ))
        }
        _ => Finding::new("tcp_mem", Severity::Fine, found, busy),
    }
}

pub(super) fn buffers(facts: &Facts, need: &Need) -> Finding {
    let check = "tcp_rmem/wmem";
    let Some((rmem, wmem)) = facts.sysctl.tcp_rmem.zip(facts.sysctl.tcp_wmem) else {
        return Finding::new(check, Severity::Note, "unreadable", "idle clients use none");
    };
    let mut found = format!("at most {} and {}", bytes(rmem[2]), bytes(wmem[2]));
    if let Some((core_rmem, core_wmem)) = facts.sysctl.core_mem_max {
        // The values of net.core bound SO_RCVBUF and SO_SNDBUF only, and not the sizes that the
        // kernel chooses by itself. The broker never sets SO_SNDBUF.
        let (rmem, wmem) = (bytes(core_rmem), bytes(core_wmem));
        found += &match need.receive_buffer {
            None => format!(" (net.core: {rmem} and {wmem}, not used)"),
            Some(_) => format!(" (net.core.rmem_max {rmem}; wmem_max {wmem}, not used)"),
        };
        if let Some(wanted) = need.receive_buffer.filter(|wanted| *wanted > core_rmem) {
            let needed = format!(
                "net.core.rmem_max of {}: the kernel cuts the listeners' receive_buffer to it",
                bytes(wanted)
            );
            let fix = setting(facts, "net.core.rmem_max", &wanted.to_string(), SettingScope::Host);
            return Finding::new(check, Severity::Warning, found, needed).fixed_by(fix);
        }
    }
    let slow = wmem[2] + need.outgoing_bytes;
    let needed =
        format!("idle clients use none; one that does not read holds up to {}", bytes(slow));
    if wmem[2] <= LARGE_BUFFER {
        return Finding::new(check, Severity::Fine, found, needed);
    }
    Finding::new(check, Severity::Note, found, needed).fixed_by(setting(
        facts,
        "net.ipv4.tcp_wmem",
        "4096 16384 1048576",
        SettingScope::Namespace,
    ))
}

pub(super) fn ports(facts: &Facts, need: &Need) -> Finding {
    let check = "ip_local_port_range";
    let Some((first, last)) = facts.sysctl.port_range else {
        return Finding::new(
            check,
            Severity::Note,
            "unreadable",
            "only outgoing connections use it",
        );
    };
    let found = format!("{first} to {last}");
    let inside = |port: &&u16| **port != 0 && (first..=last).contains(&u64::from(**port));
    if let Some(port) = need.ports.iter().find(inside) {
        let needed = format!("port {port} outside it: an outgoing connection may hold it at start");
        return Finding::new(check, Severity::Warning, found, needed).fixed_by(setting(
            facts,
            "net.ipv4.ip_local_reserved_ports",
            &port.to_string(),
            SettingScope::Namespace,
        ));
    }
    let needed = "only outgoing connections use it; clients need no port of this host";
    Finding::new(check, Severity::Fine, found, needed)
}

pub(super) fn conntrack(facts: &Facts, need: &Need, most: u64) -> Finding {
    let Some(conntrack) = facts.conntrack else {
        return Finding::new("conntrack", Severity::Fine, "not loaded", "not needed");
    };
    let found = format!("{} of {} entries", conntrack.count, conntrack.max);
    let left = conntrack.max.saturating_sub(conntrack.count);
    // Where no number of clients was asked for, as many as the memory holds.
    let clients = need.clients.unwrap_or(most);
    if left >= clients {
        return Finding::new("conntrack", Severity::Fine, found, "one entry per connection");
    }
    if !follows_connections(facts) {
        return if facts.tcp_sockets < FEW_SOCKETS {
            let needed = "one entry per connection if a firewall rule uses it, which shows only \
                          when there are connections";
            Finding::new("conntrack", Severity::Note, found, needed)
        } else {
            Finding::new("conntrack", Severity::Fine, found, "loaded, but no rule uses it")
        };
    }
    let severity = match need.clients {
        Some(_) => Severity::Blocker,
        None => Severity::Warning,
    };
    let needed = format!("{}: one entry per connection, else new ones are dropped", count(clients));
    let max = clients.saturating_add(conntrack.count) / 4 * 5;
    Finding::new("conntrack", severity, found, needed).fixed_by(Fix::host(format!(
        "sysctl -w net.netfilter.nf_conntrack_max={max} (lasting: tuning/sysctl.conf); or do not \
         follow MQTT at all: nft add rule inet raw prerouting tcp dport 1883 notrack (and the \
         same for sport in output)"
    )))
}

pub(super) fn network(facts: &Facts, _: &Need) -> Finding {
    let kind = facts.place.network;
    let found = match facts.place.container {
        Some(engine) => format!("{}, {} network", engine.name(), kind.word()),
        None => format!("no container, {} network", kind.word()),
    };
    match (facts.place.container, kind) {
        (Some(_), NetworkView::Bridge) => Finding::new(
            "network",
            Severity::Warning,
            found,
            "host network: a bridge adds address translation, an entry in the host's conntrack \
             table per client (not visible from here), and for published ports perhaps a proxy",
        )
        .fixed_by(Fix::either(
            "run the container in the host's network",
            format!(
                "{} run --network host; compose: network_mode: host; Kubernetes: hostNetwork: \
                 true; ECS: \"networkMode\": \"host\"",
                facts.place.program()
            ),
        )),
        (_, NetworkView::Unseen) => {
            let needed = "/sys of this network: whether it is the host's own cannot be told";
            Finding::new("network", Severity::Note, found, needed)
        }
        (Some(_), NetworkView::Loopback) => {
            Finding::new("network", Severity::Note, found, "no client outside can connect")
        }
        _ => Finding::new("network", Severity::Fine, found, "the host's own network"),
    }
}
