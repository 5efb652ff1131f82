//! What is told at the start about a configuration that looks right and would not work.

use super::{MOOSE, MOOSE6, Scene};

#[test]
fn a_condition_of_one_family_makes_rules_of_that_family() {
    let Some(scene) = Scene::new() else { return };
    let gateway = &scene.lab.gateway;
    for words in [
        &["create", "inside", "hash:net"][..],
        &["add", "inside", "10.1.0.0/24"],
        &["create", "inside6", "hash:ip", "family", "inet6"],
        &["add", "inside6", "fd00:1::2"],
        &["create", "both", "list:set"],
        &["add", "both", "inside"],
        &["add", "both", "inside6"],
    ] {
        gateway.run(&[&["ipset"], words].concat());
    }
    for (matching, v4, v6) in [
        ("-m iprange --src-range 10.1.0.2-10.1.0.9 --dport 80", "cow", "moose"),
        ("-m iprange --src-range fd00:1::2-fd00:1::9 --dport 80", "moose", "cow"),
        ("-m iprange ! --dst-range 10.2.0.6-10.2.0.9 --dport 80", "cow", "moose"),
        ("-m set --match-set inside src --dport 80", "cow", "moose"),
        ("-m set --match-set inside6 src --dport 80", "moose", "cow"),
        ("-m set --match-set both src --dport 80", "cow", "cow"),
        ("-m set ! --match-set inside6 dst --dport 80", "moose", "cow"),
        ("-m ttl --ttl-gt 1 --dport 80", "cow", "moose"),
        ("-m conntrack --ctorigdst 10.2.0.5 --dport 80", "cow", "moose"),
    ] {
        let mut daemon = scene.relay(&["-d", "-s", "12970", "-r", "nobody", "-R", matching, "cow", "80"]);
        assert_eq!([scene.page(MOOSE), scene.page(MOOSE6)], [v4, v6], "{matching}");
        assert_eq!(daemon.stop(), 0);
    }
    for wrong in ["-d fd00:2::5 -m iprange --src-range 10.1.0.2", "-s 10.1.0.2 -m set --match-set inside6 dst"] {
        let done = scene.launch(&["-d", "-s", "12970", "-R", wrong, "10.3.0.3", "80"]).run();
        assert!(done.stderr.contains("address family"), "{done:?}");
    }
}
