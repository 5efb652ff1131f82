//! The set-ups with containers of the manual page: a container is a network namespace on a bridge of its host.

use super::{Launch, Scene, Server};
use lab::clients;
use lab::netns::Net;
use std::io::Write;

/// What Docker leaves to root in a container by default, and the one that rules need.
const CAPABILITIES: &str = "exec setpriv --bounding-set=-all,+chown,+dac_override,+fsetid,+fowner,+mknod,+net_raw,+setgid,\
                            +setuid,+setfcap,+setpcap,+net_bind_service,+sys_chroot,+kill,+audit_write,+net_admin \
                            \"$0\" \"$@\"";

/// A bridge on the gateway, set up as Docker sets up its own.
fn add_bridge(host: &Net) {
    for command in [
        "ip link add docker0 type bridge",
        "ip addr add 172.17.0.1/16 dev docker0",
        "ip link set docker0 up",
        "iptables -w -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE",
        "iptables -w -P FORWARD DROP",
        "iptables -w -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "iptables -w -A FORWARD -i docker0 -j ACCEPT",
    ] {
        host.run(&command.split(' ').collect::<Vec<_>>());
    }
}

/// A container at 172.17.0.NUMBER.
fn container(host: &Net, number: u8, gateway: u8) -> Net {
    let net = Net::alone().expect("there are others");
    let port = format!("veth{number}");
    host.run(&["ip", "link", "add", "eth0", "netns", &net.name, "type", "veth", "peer", "name", &port]);
    host.run(&["ip", "link", "set", &port, "master", "docker0", "up"]);
    net.run(&["ip", "addr", "add", &format!("172.17.0.{number}/16"), "dev", "eth0"]);
    net.run(&["ip", "link", "set", "eth0", "up"]);
    net.run(&["ip", "route", "add", "default", "via", &format!("172.17.0.{gateway}")]);
    net
}

/// Tells each client its address.
fn mirror(net: &Net) -> Server {
    net.enter(|| {
        Server::inline("0.0.0.0:7", 1, |mut stream| {
            let peer = stream.peer_addr();
            let _ = peer.and_then(|peer| write!(stream, "{}", peer.ip()));
        })
    })
}

fn seen(scene: &Scene, to: &str) -> String {
    let mut stream = scene.lab.client.connect(to).expect("connect");
    let (bytes, error) = clients::read_all(&mut stream);
    error.map_or_else(|| String::from_utf8_lossy(&bytes).into_owned(), |error| format!("({error})"))
}

#[test]
fn a_server_in_a_container_sees_the_client_that_its_host_relays() {
    let Some(scene) = Scene::new() else { return };
    add_bridge(&scene.lab.gateway);
    let server = container(&scene.lab.gateway, 2, 1);
    let _mirror = mirror(&server);
    for interception in ["redirect", "tproxy"] {
        let mut daemon = scene.relay(&[
            "-d",
            "-s",
            "12970",
            "-r",
            "nobody",
            "--source",
            "client",
            "--intercept",
            interception,
            "-R",
            "-d 10.1.0.1 --dport 80",
            "172.17.0.2",
            "7",
        ]);
        assert_eq!(seen(&scene, "10.1.0.1:80"), "10.1.0.2", "{interception}: {}", daemon.journal.text());
        assert_eq!(daemon.stop(), 0);
    }
}

#[test]
fn tproxy_in_a_container_is_the_gateway_of_the_server_beside_it() {
    let Some(scene) = Scene::new() else { return };
    let host = &scene.lab.gateway;
    add_bridge(host);
    let (proxy, server) = (container(host, 3, 1), container(host, 2, 3));
    let _mirror = mirror(&server);
    // What `docker run -p 80:80` does.
    for command in [
        "iptables -w -t nat -A PREROUTING -p tcp -d 10.1.0.1 --dport 80 -j DNAT --to-destination 172.17.0.3:80",
        "iptables -w -A FORWARD -o docker0 -p tcp -d 172.17.0.3 --dport 80 -j ACCEPT",
    ] {
        host.run(&command.split(' ').collect::<Vec<_>>());
    }
    for more in [&["-s", "80"][..], &["-s", "12970", "--intercept", "tproxy", "-R", "--dport 80"]] {
        let args = [&["-d", "-r", "nobody", "--source", "client"], more, &["172.17.0.2", "7"]].concat();
        let mut daemon = Launch::new(&args).after(CAPABILITIES).within(&proxy).ready();
        assert_eq!(seen(&scene, "10.1.0.1:80"), "10.1.0.2", "{more:?}: {}", daemon.journal.text());
        assert_eq!(daemon.stop(), 0);
    }
}
