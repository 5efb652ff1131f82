//! What the rules do to connections, within one host.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tproxy::testing::{Action, Gate, RuleSet};

use crate::common::*;
use lab::AtEnd;

#[test]
fn failing_open_and_closed_replace_the_rules_in_place() {
    in_namespace(|| {
        with_admin_rules();
        let before = save_all();
        let set = with_output(set(&[(TO, "-d 127.0.0.1 --dport 80")]));
        let web = TcpListener::bind("127.0.0.1:80").unwrap();
        let mut firewall = Wall::find();
        firewall.install(&set);
        assert_eq!(connect(80), Err(ErrorKind::ConnectionRefused), "redirected to where nobody listens");
        firewall.install(&set.with_gates(|_| Gate::Withdrawn));
        assert_eq!(connect(80), Ok(()));
        firewall.install(&set.with_gates(|_| Gate::Rejected));
        assert_eq!(connect(80), Err(ErrorKind::ConnectionRefused));
        firewall.remove("12970");
        assert_eq!(save_all(), before);
        assert_eq!(connect(80), Ok(()));
        drop(web);
    });
}

#[test]
fn the_order_of_the_rules_decides_who_is_redirected_refused_or_left_alone() {
    in_namespace(|| {
        for local in ["127.0.0.1", "[::1]"] {
            let address = |port| format!("{local}:{port}").parse::<SocketAddr>().unwrap();
            let proxy = TcpListener::bind(address(0)).unwrap();
            proxy.set_nonblocking(true).unwrap();
            let servers: Vec<TcpListener> = (81..=84).map(|port| TcpListener::bind(address(port)).unwrap()).collect();
            let to = Action::Redirect { port: proxy.local_addr().unwrap().port() };
            let rules = [
                (Action::Exempt, "--dport 81"),
                (Action::Reject, "--dport 82"),
                (to, "--dport 80:83"),
                // Holds for redirected connections too, which must not come to harm.
                (Action::Reject, "-m conntrack --ctstate NEW"),
                (Action::Exempt, "--dport 84"),
            ];
            let caught = with_output(RuleSet { own_uid: Some(65534), ..set(&rules) });
            let mut firewall = Wall::find();
            firewall.install(&caught);
            let redirected = |port| {
                let answer = connect_to(address(port));
                (answer, proxy.accept().is_ok())
            };
            let refused = (Err(ErrorKind::ConnectionRefused), false);
            assert_eq!(redirected(80), (Ok(()), true));
            assert_eq!(redirected(81), (Ok(()), false));
            assert_eq!(redirected(82), refused);
            assert_eq!(redirected(83), (Ok(()), true));
            assert_eq!(redirected(84), refused, "an exemption after the reject comes too late");
            // The relay's own connections (here: ours) are left alone, on the way out and on the way in.
            firewall.install(&RuleSet { own_uid: Some(0), ..caught.clone() });
            assert_eq!(redirected(82), (Ok(()), false));
            assert_eq!(redirected(83), (Ok(()), false));
            // Without -O this host's own connections are not meant at all.
            let mut caught = caught;
            caught.specs.iter_mut().for_each(|spec| spec.output = false);
            firewall.install(&caught);
            assert_eq!(redirected(82), (Ok(()), false));
            firewall.remove("12970");
            drop(servers);
        }
    });
}

#[test]
fn a_connection_that_is_open_survives_a_reject_installed_later() {
    in_namespace(|| {
        let server = TcpListener::bind("127.0.0.1:81").unwrap();
        let mut firewall = Wall::find();
        // Rules that already track connections, as on any host with a stateful firewall.
        firewall.install(&with_output(set(&[(TO, "--dport 80"), (Action::Reject, "--dport 82")])));
        let mut client = TcpStream::connect("127.0.0.1:81").unwrap();
        let mut served = server.accept().unwrap().0;
        served.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        firewall.install(&with_output(set(&[(Action::Reject, "--dport 81")])));
        client.write_all(b"still here").unwrap();
        let mut heard = [0; 10];
        served.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"still here");
        assert_eq!(connect(81), Err(ErrorKind::ConnectionRefused));
    });
}

#[test]
fn a_new_set_replaces_the_old_one_without_a_moment_between() {
    in_namespace(|| {
        // Nobody listens on port 80: a connection that meets no rule is refused.
        let services = [8001, 8002].map(|port| TcpListener::bind(("127.0.0.1", port)).unwrap());
        let sets = [8001, 8002].map(|port| {
            with_output(set(&[(Action::Local { port: Some(port) }, "--dport 80"), (Action::Reject, "--dport 81")]))
        });
        let mut firewall = Wall::find();
        firewall.install(&sets[0]);
        let (done, connections) = (AtomicBool::new(false), AtomicUsize::new(0));
        let path = format!("/proc/self/task/{}/ns/net", nix::unistd::gettid());
        std::thread::scope(|scope| {
            for service in &services {
                service.set_nonblocking(true).unwrap();
            }
            scope.spawn(|| {
                let here = std::fs::File::open(&path).unwrap();
                nix::sched::setns(here, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                while !done.load(Ordering::Relaxed) {
                    assert_eq!(connect(80), Ok(()), "after {connections:?} connections");
                    services.iter().for_each(|service| while service.accept().is_ok() {});
                    connections.fetch_add(1, Ordering::Relaxed);
                }
            });
            let _end = AtEnd(&done);
            for turn in 1..=40 {
                firewall.install(&sets[turn % 2]);
            }
        });
        let made = connections.into_inner();
        assert!(made > 100, "only {made} connections");
    });
}

#[test]
fn one_redirection_is_withdrawn_or_refused_and_the_others_go_on() {
    in_namespace(|| {
        let servers: Vec<TcpListener> =
            [81, 82, 9001, 9002].map(|port| TcpListener::bind(("127.0.0.1", port)).unwrap()).into();
        let to = |port| Action::Redirect { port };
        let set =
            with_output(set(&[(to(9001), "--dport 81"), (to(9002), "--dport 82"), (Action::Reject, "--dport 81")]));
        servers.iter().for_each(|server| server.set_nonblocking(true).unwrap());
        let reached = |port| -> Result<u16, ErrorKind> {
            connect(port)?;
            let taken = servers.iter().find(|server| server.accept().is_ok()).unwrap();
            Ok(taken.local_addr().unwrap().port())
        };
        let mut firewall = Wall::find();
        let gates = [
            (Gate::Normal, Ok(9001)),
            // It goes where it wanted to, and not to the next rule, which refuses it.
            (Gate::Withdrawn, Ok(81)),
            (Gate::Rejected, Err(ErrorKind::ConnectionRefused)),
            (Gate::Normal, Ok(9001)),
        ];
        for (gate, wanted) in gates {
            firewall.install(&set.with_gates(|id| if id.0 == 0 { gate } else { Gate::Normal }));
            assert_eq!((reached(81), reached(82)), (wanted, Ok(9002)), "{gate:?}");
        }
    });
}

#[test]
fn this_hosts_own_connections_are_caught_only_by_the_rules_that_ask_for_them() {
    in_namespace(|| {
        let servers: Vec<TcpListener> =
            [81, 82, 83, 9001].map(|port| TcpListener::bind(("127.0.0.1", port)).unwrap()).into();
        servers.iter().for_each(|server| server.set_nonblocking(true).unwrap());
        let to = Action::Redirect { port: 9001 };
        let mut set = set(&[
            (to, "--dport 81"),
            (to, "--dport 82"),
            (Action::Reject, "--dport 83"),
            (Action::Reject, "--dport 81:82"),
        ]);
        set.specs.iter_mut().for_each(|spec| spec.output = matches!(spec.redirection.0, 1 | 2));
        let mut firewall = Wall::find();
        firewall.install(&set);
        let reached = |port| {
            connect(port)
                .map(|()| servers.iter().find(|server| server.accept().is_ok()).unwrap().local_addr().unwrap().port())
        };
        assert_eq!([reached(81), reached(82), reached(83)], [Ok(81), Ok(9001), Err(ErrorKind::ConnectionRefused)]);
    });
}
