//! Packets of all kinds, from a client to a gateway.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;

use lab::dice::Dice;
use lab::netns::Net;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, sendto, socket,
};
use tproxy::testing::Family;

/// A packet without payload.
pub struct Packet {
    tcp: bool,
    from: (u8, u8, u16),
    to: (u8, u8, u16),
    flags: u8,
    dscp: u8,
}

impl Packet {
    pub fn random(dice: &mut Dice, _: Family) -> Packet {
        const PORTS: [u16; 9] = [80, 443, 53, 1000, 1500, 2000, 2001, 20, 40000];
        let mut end = || (1 + dice.roll(3) as u8, 1 + dice.roll(5) as u8, dice.pick(&PORTS));
        let (from, to) = (end(), end());
        let flags = dice.pick(&[2, 2, 2, 0x10, 0x12, 4, 0x18, 1, 0, 0x3f]);
        Packet { tcp: dice.roll(2) == 0, from, to, flags, dscp: dice.pick(&[0, 0, 10, 46]) }
    }

    fn transport(&self) -> Vec<u8> {
        let mut bytes = [self.from.2.to_be_bytes(), self.to.2.to_be_bytes()].concat();
        if self.tcp {
            bytes.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, self.flags, 0x20, 0, 0, 0, 0, 0]);
        } else {
            bytes.extend([0, 8, 0, 0]);
        }
        bytes
    }

    fn v4(&self) -> Vec<u8> {
        let transport = self.transport();
        let length = 20 + transport.len() as u8;
        let mut bytes = vec![0x45, self.dscp << 2, 0, length, 0, 0, 0, 0, 64, if self.tcp { 6 } else { 17 }, 0, 0];
        for (subnet, host, _) in [self.from, self.to] {
            bytes.extend(Ipv4Addr::new(10, subnet, 0, host).octets());
        }
        [bytes, transport].concat()
    }

    fn v6(&self) -> Vec<u8> {
        let transport = self.transport();
        let class = u32::from(self.dscp) << 22 | 6 << 28;
        let mut bytes = class.to_be_bytes().to_vec();
        bytes.extend([0, transport.len() as u8, if self.tcp { 6 } else { 17 }, 64]);
        for (subnet, host, _) in [self.from, self.to] {
            bytes.extend(Ipv6Addr::new(0xfd00, subnet.into(), 0, 0, 0, 0, 0, host.into()).octets());
        }
        [bytes, transport].concat()
    }
}

/// A cable between the two. Checksums are not looked at, and any source is taken.
pub fn connect(client: &Net, gateway: &Net) {
    let (here, there) = (client.name.as_str(), gateway.name.as_str());
    client.run(&["ip", "link", "add", "eth0", "netns", here, "type", "veth", "peer", "name", "eth0", "netns", there]);
    for (net, host, mac) in [(client, 9, "02:00:00:00:00:02"), (gateway, 1, "02:00:00:00:00:01")] {
        net.run(&["ip", "link", "set", "eth0", "address", mac]);
        net.run(&["ip", "addr", "add", &format!("10.1.0.{host}/24"), "dev", "eth0"]);
        net.run(&["ip", "addr", "add", &format!("fd00:1::{host}/64"), "dev", "eth0", "nodad"]);
        net.run(&["ip", "link", "set", "eth0", "up"]);
    }
    for route in [["ip", "-4", "route"], ["ip", "-6", "route"]] {
        let via = if route[1] == "-4" { "10.1.0.1" } else { "fd00:1::1" };
        client.run(&[&route[..], &["add", "default", "via", via]].concat());
        // Those of the client's own network too must go to the gateway, whatever they are.
        let net = if route[1] == "-4" { "10.1.0.0/24" } else { "fd00:1::/64" };
        client.run(&[&route[..], &["del", net, "dev", "eth0"]].concat());
        let host = if route[1] == "-4" { "10.1.0.1/32" } else { "fd00:1::1/128" };
        client.run(&[&route[..], &["replace", host, "dev", "eth0"]].concat());
        client.run(&[&route[..], &["replace", "default", "via", via]].concat());
    }
    for address in ["10.1.0.1", "fd00:1::1"] {
        client.run(&["ip", "neigh", "replace", address, "lladdr", "02:00:00:00:00:01", "dev", "eth0"]);
    }
    gateway.run(&["nft", "add table inet marks"]);
    gateway.run(&["nft", "add chain inet marks raw { type filter hook prerouting priority -300; }"]);
    gateway.run(&["nft", "add rule inet marks raw udp dport 53 notrack"]);
    gateway.run(&["nft", "add chain inet marks pre { type filter hook prerouting priority -180; }"]);
    gateway.run(&["nft", "add rule inet marks pre th sport 80 meta mark set 0x10"]);
    gateway.run(&["nft", "add rule inet marks pre th sport 1000-2000 meta mark set 0x1"]);
    gateway.run(&["nft", "add rule inet marks pre th dport 443 ct mark set 0x12"]);
    gateway.sysctl(&[
        "net.netfilter.nf_conntrack_checksum=0",
        "net.ipv4.conf.all.rp_filter=0",
        "net.ipv4.conf.eth0.rp_filter=0",
        "net.ipv4.conf.all.accept_local=1",
    ]);
}

/// Sends them from inside of the client's namespace.
pub fn send(family: Family, packets: &[Packet]) {
    let inet = if family == Family::V4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(inet, SockType::Raw, SockFlag::empty(), SockProtocol::Raw).expect("a raw socket");
    for packet in packets {
        let (subnet, host, _) = packet.to;
        let sent = match family {
            Family::V4 => {
                let to = SockaddrIn::new(10, subnet, 0, host, 0);
                sendto(socket.as_raw_fd(), &packet.v4(), &to, MsgFlags::empty())
            }
            Family::V6 => {
                let to = Ipv6Addr::new(0xfd00, subnet.into(), 0, 0, 0, 0, 0, host.into());
                let to = SockaddrIn6::from(std::net::SocketAddrV6::new(to, 0, 0, 0));
                sendto(socket.as_raw_fd(), &packet.v6(), &to, MsgFlags::empty())
            }
        };
        sent.expect("a packet is sent");
    }
}
