//! The examples of the manual page, run as they are written there.

use nix::sys::signal::Signal;

use super::{MOOSE, Scene};
use lab::attack::connect_from;
use lab::peers::{self, Peer};
use lab::servers::Server;
use lab::{process, rules};

/// The commands under a heading of the section EXAMPLES.
fn commands(heading: &str) -> Vec<String> {
    let page = std::fs::read_to_string("man/tproxy.8").expect("man page");
    let examples = page.split(".Sh EXAMPLES").nth(1).expect("EXAMPLES").split("\n.Sh ").next().expect("section");
    let section = examples.split(".Ss ").find(|section| section.starts_with(&format!("{heading}\n")));
    let section = section.unwrap_or_else(|| panic!("no example '{heading}'")).replace("\\e\n", " ");
    let lines = section.lines().map(|line| line.strip_prefix(".Dl ").unwrap_or(line).to_owned());
    lines.filter(|line| line.starts_with("tproxy ") || line.starts_with("iptables ")).collect()
}

/// Runs the example in its daemon form, makes `sure`, stops it, and sees that nothing is left. What is relayed by rules is
/// tried with both kinds of interception.
fn run(scene: &Scene, heading: &str, sure: impl Fn()) {
    let commands = commands(heading);
    assert!(!commands.is_empty(), "the example '{heading}' holds no command");
    let words = shell_words::split(&commands[0]).expect("words");
    let args: Vec<&str> = words[1..].iter().map(String::as_str).collect();
    let is_relayed = args.contains(&"-R") && !args.iter().any(|word| ["--local", "--kernel"].contains(word));
    let kinds: &[&[&str]] = if is_relayed { &[&[], &["--intercept", "tproxy"]] } else { &[&[]] };
    let before = rules::saved_with_routing(&scene.lab.gateway);
    for kind in kinds {
        let (done, family) = scene.launch(&[kind, &args[..]].concat()).start();
        assert_eq!(done.status, 0, "{heading} {kind:?}: {}", done.stderr);
        for command in &commands[1..] {
            let words = shell_words::split(command).expect("words");
            scene.lab.gateway.run(&words.iter().map(String::as_str).collect::<Vec<_>>());
        }
        sure();
        process::signal(family.guardian(), Signal::SIGTERM);
        family.wait_gone();
        let left = rules::saved_with_routing(&scene.lab.gateway);
        assert!(left == before || commands.len() > 1, "{heading} {kind:?}: {left}");
        assert_eq!(rules::count_of_ours(&scene.lab.gateway), 0, "{heading} {kind:?}");
    }
}

#[test]
fn every_example_of_the_page_does_what_it_says() {
    let Some(scene) = Scene::new() else { return };
    let _ident = scene.lab.gateway.enter(|| Server::page("[::]:1113", "ident"));
    assert_eq!(scene.page(MOOSE), "moose");
    run(&scene, "Stand-in server", || assert_eq!(scene.page(MOOSE), "cow"));
    scene.lab.client.run(&["ip", "addr", "add", "192.0.2.9/32", "dev", "eth0"]);
    scene.lab.gateway.run(&["ip", "route", "add", "192.0.2.9", "via", "10.1.0.2"]);
    run(&scene, "Plainly down for outsiders", || {
        assert_eq!(scene.page(MOOSE), "cow");
        let outside = ("192.0.2.9".parse().expect("an address"), MOOSE.parse().expect("an address"));
        let refused = scene.lab.client.enter(|| connect_from(outside.0, outside.1)).expect_err("an outsider");
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    });
    run(&scene, "Many ports of one server", || assert_eq!(scene.page(MOOSE), "cow"));
    run(&scene, "Split by source on one host", || assert_eq!(scene.page("10.2.0.5:113"), "ident"));
    run(&scene, "All in the kernel", || assert_eq!(scene.page(MOOSE), "cow"));
    run(&scene, "Fully transparent", || assert_eq!(scene.page(MOOSE), "moose"));
    run(&scene, "By hand", || assert_eq!(scene.page(MOOSE), "cow"));
    scene.lab.gateway.run(&["iptables", "-w", "-t", "nat", "-F"]);
    enforced_proxies(&scene);
    let _same = scene.lab.gateway.enter(|| Server::page("[::]:80", "gateway"));
    run(&scene, "Redirect without naming a port", || assert_eq!(scene.page(MOOSE), "gateway"));
}

/// The examples with the company's proxy, which is Squid on cow.
fn enforced_proxies(scene: &Scene) {
    let hosts = "10.2.0.5 moose moose.example\n10.3.0.3 cow proxy\n";
    [&scene.lab.gateway, &scene.lab.cow, &scene.lab.client].into_iter().for_each(|net| net.hosts(hosts));
    let _secret = Peer::nginx_tls(&scene.lab.moose, "DNS:moose.example");
    let squid = Peer::squid(&scene.lab.cow);
    run(scene, "Enforce the proxy", || assert_eq!(scene.page(MOOSE), "moose"));
    squid.wait_for("GET http://10.2.0.5/ 200");
    run(scene, "Enforce the proxy for https", || {
        let done = peers::attempt(&scene.lab.client, &["curl", "-sSk", "--max-time", "20", "https://moose.example/"]);
        assert_eq!(String::from_utf8_lossy(&done.stdout), "secret of moose.example moose.example", "{done:?}");
    });
    squid.wait_for("CONNECT moose.example:443 200");
}
