//! The table of options. The parser, the checks of what goes together, `--help`, the lists in the manual pages and the
//! completions for shells are made from it.

use crate::cli::option::{
    BY_TPROXY, Group, NEEDS_CHECKS, NEEDS_HTTP, OF_DENY, OF_LOCAL, OF_OUTPUT, OF_REJECT_QUIC, OF_TLS_CHECKS, Opt,
    OptionId as Id, Relation, Term, VIA_CONNECT, VIA_HTTP, VIA_SOCKS5, Value, command, matching, one, process, relay,
    text,
};

/// The entry of an option.
pub(crate) fn opt(id: Id) -> &'static Opt {
    // A test compares the order of both.
    &OPTIONS[id as usize]
}

/// All options, in the order in which the documentation shows them.
pub const OPTIONS: &[Opt] = &[
    Opt {
        value: text("PORT"),
        help: "Listen on this TCP port: a number from 1 to 65535, or a name from services(5).",
        more: "fd:NAME stands for the sockets that systemd passes under this name.",
        ..relay(Id::Listen, "s", "listen", Group::Listening)
    },
    Opt {
        value: text("ADDRESS"),
        goes_with: &[Relation::Needs(&[Term::Given(Id::Listen)], "")],
        help: "Listen on this address of this host only. The default is all addresses, IPv4 and IPv6.",
        more: "0.0.0.0 leaves IPv6 out, :: leaves IPv4 out.",
        ..relay(Id::Bind, "b", "bind", Group::Listening)
    },
    Opt {
        value: text("SOURCE"),
        repeatable: true,
        help: "Serve only clients from this address or network (CIDR), and reset others.",
        ..relay(Id::Allow, "a", "allow", Group::Listening)
    },
    Opt {
        goes_with: &[Relation::Excludes(&[Term::Given(Id::AcceptProxy)], "a balancer connects directly")],
        help: "Reset connections that were not redirected but come to the listening port directly.",
        ..relay(Id::OnlyRedirected, "", "only-redirected", Group::Listening)
    },
    Opt {
        goes_with: &[Relation::Needs(&[Term::Given(Id::Allow)], "the balancers that may speak for clients")],
        help: "Expect a header of the PROXY protocol, version 1 or 2, at the start of each connection.",
        more: "It names the client and its original destination.",
        ..relay(Id::AcceptProxy, "", "accept-proxy", Group::Listening)
    },
    Opt {
        help: "Redirect connections that match: what iptables takes between the chain name and -j. Needs root.",
        ..matching(Id::Redirect, "R", "redirect")
    },
    Opt {
        help: "Leave connections that match alone.",
        more: "-X, --reject and -R are tried in the order in which they are given.",
        ..matching(Id::Exempt, "X", "exempt")
    },
    Opt {
        help: "Refuse what matches, to this host and through it: TCP with a reset, UDP (-p udp) with an ICMP error.",
        ..matching(Id::Reject, "", "reject")
    },
    Opt {
        goes_with: OF_REJECT_QUIC,
        help: "Refuse HTTP/3 (UDP port 443) of what -R matches, so that browsers use TCP.",
        more: "The other conditions of the MATCH apply, and each -X before it.",
        ..one(Id::RejectQuic, "", "reject-quic", Group::Rules)
    },
    Opt {
        goes_with: OF_OUTPUT,
        help: "Apply the rules to this host's own connections too, except those of the user of -r.",
        ..one(Id::Output, "O", "output", Group::Rules)
    },
    Opt {
        value: Some(Value::OneOf(&["auto", "iptables", "nft"])),
        help: "Install the rules with iptables, the default, or with nft; auto decides. See FIREWALL RULES.",
        ..process(Id::Firewall, "", "firewall", Group::Rules)
    },
    Opt {
        value: text("SECONDS"),
        help: "Compare the rules in the firewall with what they should be this often. 0 means never. Default: 30.",
        ..process(Id::Verify, "", "verify", Group::Rules)
    },
    Opt {
        value: Some(Value::OneOf(&["open", "closed"])),
        help: "When no worker can be kept alive: open removes the redirection, so clients reach their original destination; closed rejects them. The default is open.",
        ..process(Id::Fail, "", "fail", Group::Rules)
    },
    Opt {
        value: Some(Value::Text("PORT", &["same"])),
        goes_with: OF_LOCAL,
        help: "Redirect to this port of this host, or to the same port that the client asked for. Nothing is relayed.",
        ..one(Id::Local, "", "local", Group::Without)
    },
    Opt {
        goes_with: &[Relation::Needs(&[Term::Given(Id::Redirect)], "")],
        help: "Let the kernel send connections to HOST PORT (DNAT and MASQUERADE). Nothing is relayed.",
        more: "Forwarding must be switched on.",
        ..one(Id::Kernel, "", "kernel", Group::Without)
    },
    Opt {
        value: Some(Value::OneOf(&["tcp", "udp"])),
        help: "Protocol of a MATCH that names none. The default is tcp.",
        more: "udp is for --local and --kernel.",
        ..one(Id::Proto, "", "proto", Group::Without)
    },
    Opt {
        value: Some(Value::OneOf(&["redirect", "tproxy"])),
        help: "How connections that match -R get to tproxy: with a new destination (REDIRECT, the default), or as they are (TPROXY, with policy routing).",
        ..relay(Id::Intercept, "", "intercept", Group::Interception)
    },
    Opt {
        value: Some(Value::Text("ADDRESS", &["client", "client:port"])),
        repeatable: true,
        help: "Connect to the upstream from this address of this host, or from that of the client, with the client's port if that is possible (client:port).",
        more: "Give one address for each family, or both as V4,V6. See SOURCE ADDRESS.",
        ..relay(Id::Source, "", "source", Group::Interception)
    },
    Opt {
        goes_with: &[Relation::Needs(&[BY_TPROXY], "REDIRECT translates by connection tracking")],
        help: "Keep these connections out of connection tracking, on both sides.",
        more: "Rules of others that ask for the state of a connection do not see them. See FIREWALL RULES.",
        ..relay(Id::NoConntrack, "", "no-conntrack", Group::Interception)
    },
    Opt {
        value: text("MARK"),
        help: "The mark for packets that policy routing keeps on this host: VALUE or VALUE/MASK. The default is 0x10000000/0x10000000.",
        more: "Without MASK only the bits count that VALUE has; the others are never changed.",
        ..process(Id::TproxyMark, "", "tproxy-mark", Group::Interception)
    },
    Opt {
        value: text("NUMBER"),
        help: "The routing table for them. The default is 12970.",
        ..process(Id::TproxyTable, "", "tproxy-table", Group::Interception)
    },
    Opt {
        overrides: Some(Id::ProxyOnly),
        goes_with: &[Relation::Excludes(&[VIA_HTTP, VIA_CONNECT, VIA_SOCKS5], "give the proxy's HOST PORT instead")],
        help: "Relay each connection to its original destination. HOST PORT is not needed.",
        ..relay(Id::Transparent, "t", "transparent", Group::Upstream)
    },
    Opt {
        overrides: Some(Id::Transparent),
        help: "Relay to HOST PORT only. This is the default; of -t and -p the last one counts.",
        ..one(Id::ProxyOnly, "p", "proxy-only", Group::Upstream)
    },
    Opt {
        value: Some(Value::OneOf(&["first", "round-robin", "source"])),
        help: "Order in which several upstreams are tried: as given, each first in turn, or by the client's address. The default is first.",
        ..relay(Id::Balance, "", "balance", Group::Upstream)
    },
    Opt {
        help: "When no upstream can be reached, relay to the original destination.",
        more: "Then --via and --proxy-protocol are ignored.",
        ..relay(Id::Fallback, "", "fallback", Group::Upstream)
    },
    Opt {
        value: text("SECONDS"),
        help: "When no upstream of a redirection can be reached for this long, do what --fail says until one answers. 0, the default, means never.",
        ..process(Id::UpstreamGrace, "", "upstream-grace", Group::Upstream)
    },
    Opt {
        value: text("NET"),
        repeatable: true,
        goes_with: OF_DENY,
        help: "Refuse connections whose original destination is in NET, directly or through a proxy.",
        more: "NET is an address or a network (CIDR). SECURITY CONSIDERATIONS lists what is always refused.",
        ..relay(Id::Deny, "", "deny", Group::Upstream)
    },
    Opt {
        value: text("NAME"),
        help: "Use this congestion control, or CLIENT,UPSTREAM.",
        more: "The default is that of the system. See CONGESTION CONTROL.",
        ..process(Id::CongestionControl, "", "congestion-control", Group::Upstream)
    },
    Opt {
        value: Some(Value::OneOf(&["v1", "v2"])),
        goes_with: &[Relation::Excludes(&[VIA_HTTP, VIA_CONNECT, VIA_SOCKS5], "")],
        help: "Send the client's address and its original destination to the upstream, in a header of the PROXY protocol.",
        ..relay(Id::ProxyProtocol, "", "proxy-protocol", Group::Upstream)
    },
    Opt {
        value: Some(Value::OneOf(&["tcp", "http", "connect", "socks5"])),
        help: "Speak to HOST as the client would (tcp, the default), as to an HTTP proxy (http), or ask a proxy to connect to the original destination (connect, socks5).",
        more: "http sends requests with absolute URLs.",
        ..relay(Id::Via, "", "via", Group::Proxies)
    },
    Opt {
        value: Some(Value::OneOf(&["connect"])),
        goes_with: NEEDS_HTTP,
        help: "Send what is not HTTP through the same proxy with CONNECT instead of refusing it.",
        ..relay(Id::ViaFallback, "", "via-fallback", Group::Proxies)
    },
    Opt {
        goes_with: &[Relation::Needs(&[VIA_CONNECT, VIA_SOCKS5, Term::Given(Id::ViaFallback)], "")],
        help: "Ask the proxy for the name in the client's TLS ClientHello or Host header, not for the address.",
        more: "Without such a name it is asked for the address. This waits at most 0.2 seconds for the client's first byte, and as long as --handshake-timeout for the rest of a ClientHello or head.",
        ..relay(Id::Sni, "", "sni", Group::Proxies)
    },
    Opt {
        value: Some(Value::File),
        goes_with: &[Relation::Needs(&[VIA_HTTP, VIA_CONNECT, VIA_SOCKS5], "")],
        help: "Take the proxy's user and password from this file: one line, USER:PASSWORD.",
        more: "Nobody but its owner may read or write the file. It is read at start and at a reload.",
        ..relay(Id::AuthFile, "", "auth-file", Group::Proxies)
    },
    Opt {
        value: Some(Value::OneOf(&["forwarded", "x-forwarded-for", "both"])),
        goes_with: NEEDS_HTTP,
        help: "Add the client's address to requests: Forwarded, X-Forwarded-For, or both.",
        more: "Forwarded is that of RFC 7239.",
        ..relay(Id::Forwarded, "", "forwarded", Group::Proxies)
    },
    Opt {
        goes_with: &[Relation::Needs(&[VIA_HTTP, Term::Given(Id::Sni)], "")],
        help: "Use the name in a Host header only if it resolves to the original destination.",
        more: "No address of the name may be a forbidden one. Otherwise the URL gets the address.",
        ..relay(Id::HostCheck, "", "host-check", Group::Proxies)
    },
    Opt {
        value: text("URL"),
        goes_with: NEEDS_HTTP,
        help: "Send every request to URL, except requests whose Referer is URL.",
        ..relay(Id::Page, "f", "page", Group::Proxies)
    },
    Opt {
        value: text("BYTES"),
        goes_with: NEEDS_HTTP,
        help: "Longest head of a request. The default is 16384.",
        more: "Longer ones are answered with status 431. Tokens of Kerberos may take 65536.",
        ..relay(Id::MaxHead, "", "max-head", Group::Proxies)
    },
    Opt {
        value: text("NUMBER"),
        help: "Serve at most this many connections at once; further clients wait. The default is what the limit of open files allows.",
        more: "Each worker has an equal share.",
        ..process(Id::MaxConnections, "m", "max-connections", Group::Limits)
    },
    Opt {
        value: text("NUMBER"),
        help: "Serve at most this many connections at once from one source, and reset further ones.",
        more: "The default is no limit.",
        ..process(Id::MaxPerSource, "", "max-per-source", Group::Limits)
    },
    Opt {
        value: text("V4:V6"),
        help: "Prefix lengths (IPv4:IPv6) by which --max-per-source groups clients. The default is 32:64.",
        more: "A host usually has one IPv4 address, and a whole network of IPv6 addresses.",
        ..process(Id::SourceBlock, "", "source-block", Group::Limits)
    },
    Opt {
        value: text("SECONDS"),
        help: "Try the next address of the upstream after this time without an answer. The default is 10.",
        ..relay(Id::ConnectTimeout, "", "connect-timeout", Group::Limits)
    },
    Opt {
        value: text("SECONDS"),
        help: "Give up when a PROXY header, the head of a request or a proxy's answer takes longer. The default is 10.",
        ..relay(Id::HandshakeTimeout, "", "handshake-timeout", Group::Limits)
    },
    Opt {
        value: text("SECONDS"),
        help: "Reset a connection on which no byte moved for this long. 0 means never. The default is 7440.",
        more: "These 2 hours and 4 minutes are the least that RFC 5382 allows.",
        ..relay(Id::IdleTimeout, "", "idle-timeout", Group::Limits)
    },
    Opt {
        value: text("SECONDS"),
        help: "Reset a connection when one direction has ended and the other is silent for this long. 0 means never. \
               The default is 300.",
        ..relay(Id::FinTimeout, "", "fin-timeout", Group::Limits)
    },
    Opt {
        value: text("SECONDS"),
        help: "Connect to each address of the upstreams this often, and use those only that answer.",
        ..relay(Id::CheckInterval, "", "check-interval", Group::Checks)
    },
    Opt {
        value: text("PATH"),
        goes_with: NEEDS_CHECKS,
        help: "Check with an HTTP request for PATH. A status from 200 to 399 is good.",
        ..relay(Id::CheckHttp, "", "check-http", Group::Checks)
    },
    Opt {
        goes_with: OF_TLS_CHECKS,
        help: "Check with a TLS ClientHello. A ServerHello is good.",
        ..relay(Id::CheckTls, "", "check-tls", Group::Checks)
    },
    Opt {
        value: text("NUMBER"),
        goes_with: NEEDS_CHECKS,
        help: "So many checks in a row must be good until an address is used again. The default is 2.",
        ..relay(Id::Rise, "", "rise", Group::Checks)
    },
    Opt {
        value: text("NUMBER"),
        goes_with: NEEDS_CHECKS,
        help: "So many checks in a row must fail until an address is used no longer. The default is 3.",
        ..relay(Id::Fall, "", "fall", Group::Checks)
    },
    Opt {
        value: Some(Value::Text("PATH", &["none"])),
        help: "Answer commands on this Unix socket. The default, for root with rules, is /run/tproxy/INSTANCE.sock.",
        more: "none makes no socket. See tproxyctl(8).",
        ..process(Id::Control, "", "control", Group::Control)
    },
    Opt {
        value: text("GROUP"),
        help: "Let this group use the socket to look, but not to change anything: a name or #GID.",
        ..process(Id::ControlGroup, "", "control-group", Group::Control)
    },
    Opt {
        value: text("ADDRESS:PORT|PATH"),
        help: "Answer HTTP requests for /metrics at this address, or on a Unix socket at PATH.",
        ..process(Id::Metrics, "", "metrics", Group::Control)
    },
    Opt {
        value: Some(Value::File),
        help: "Keep a number in this file: 0 while new clients are served and all rules are in place, else 1.",
        more: "keepalived can watch it (track_file).",
        ..process(Id::HealthFile, "", "health-file", Group::Control)
    },
    Opt {
        value: text("SECONDS"),
        help: "On SIGTERM, be unhealthy for this long before anything else changes. The default is 0.",
        ..process(Id::DrainDelay, "", "drain-delay", Group::Control)
    },
    Opt {
        value: Some(Value::File),
        help: "Read redirections from this file, one on each line; see tproxy.conf(5).",
        ..command(Id::Config, "c", "config", Group::Process)
    },
    Opt {
        value: text("USER"),
        help: "Relay as this user: a name or #UID. Needs root. The default is the user who starts tproxy.",
        more: "The processes have the primary group of this user and no other.",
        ..process(Id::User, "r", "user", Group::Process)
    },
    Opt {
        help: "Stay in the foreground and log to standard error.",
        ..command(Id::Foreground, "d", "foreground", Group::Process)
    },
    Opt {
        value: Some(Value::Text("NUMBER", &["auto"])),
        help: "Start this many workers; auto means one per processor. The default is 1.",
        more: "Each has its own listening sockets.",
        ..process(Id::Workers, "w", "workers", Group::Process)
    },
    Opt {
        value: Some(Value::File),
        help: "Append one line per connection to this file instead of the log.",
        more: "SIGURG opens it again, and so does a reload. It must be a regular file, and no link; /dev/null keeps no lines.",
        ..process(Id::AccessLog, "l", "access-log", Group::Process)
    },
    Opt {
        value: text("FACILITY"),
        help: "Log to this facility of syslog(3). The default is daemon.",
        ..process(Id::Syslog, "", "syslog", Group::Process)
    },
    Opt { help: "Log debug messages.", ..process(Id::Verbose, "v", "verbose", Group::Process) },
    Opt {
        value: Some(Value::File),
        help: "Write the process id of the daemon to this file, and remove the file at the end.",
        ..process(Id::PidFile, "P", "pidfile", Group::Process)
    },
    Opt {
        value: text("SECONDS"),
        help: "On SIGTERM, let connections go on for this long before they are reset. The default is 30.",
        ..process(Id::Drain, "", "drain", Group::Process)
    },
    Opt {
        value: text("SECONDS"),
        help: "After a reload or an upgrade, let the connections of before go on for this long before they are reset. \
               0 means to their end. The default is 86400, a day.",
        ..process(Id::RetireTimeout, "", "retire-timeout", Group::Process)
    },
    Opt {
        help: "Check the command line and the file of -c, resolve the names, print what would be done, and change \
               nothing.",
        ..command(Id::Check, "", "check", Group::Other)
    },
    Opt {
        help: "Print exactly what iptables-restore and ip6tables-restore would be given, and the commands of ip(8), and change \
               nothing.",
        ..command(Id::PrintRules, "", "print-rules", Group::Other)
    },
    Opt {
        help: "Remove the rules that tproxy has left in the firewall: those for the port of -s, those for the file of \
               -c, or all.",
        ..command(Id::Flush, "", "flush", Group::Other)
    },
    Opt {
        help: "After a crash, remove the rules that a daemon with the other options has left, or make them rejects with \
               --fail closed.",
        ..command(Id::AfterCrash, "", "after-crash", Group::Other)
    },
    Opt { help: "Print this summary.", ..command(Id::Help, "h", "help", Group::Other) },
    Opt { help: "Print the version.", ..command(Id::Version, "V", "version", Group::Other) },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_is_at_the_place_of_its_id() {
        for (place, opt) in OPTIONS.iter().enumerate() {
            assert_eq!((opt.id as usize, super::opt(opt.id).long), (place, opt.long));
        }
        assert_eq!(OPTIONS.len(), Id::Version as usize + 1);
    }

    #[test]
    fn every_long_and_short_name_stands_once() {
        let mut names: Vec<&str> = OPTIONS.iter().flat_map(|opt| [opt.short, opt.long]).collect();
        names.retain(|name| !name.is_empty());
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn every_relation_names_values_that_exist() {
        for opt in OPTIONS {
            for Relation::Needs(terms, _) | Relation::Excludes(terms, _) in opt.goes_with {
                for term in *terms {
                    let Term::Is(id, value) = term else { continue };
                    assert!(
                        super::opt(*id).value.is_some_and(|known| known.names().contains(value)),
                        "{}: {term:?}",
                        opt.long
                    );
                }
            }
        }
    }

    #[test]
    fn options_of_a_group_stand_together() {
        let mut groups: Vec<Group> = OPTIONS.iter().map(|opt| opt.group).collect();
        groups.dedup();
        assert_eq!(groups, Group::ALL);
    }
}
