//! A root without all capabilities, as in most containers: what is missing is named before anything is touched.

use super::{Launch, STAND_IN, Scene, stand_in_detached};
use lab::rules;

fn without(capability: &str) -> String {
    format!("exec setpriv --bounding-set=-{capability} \"$0\" \"$@\"")
}

#[test]
fn a_missing_capability_is_status_77_and_is_named() {
    let Some(scene) = Scene::new() else { return };
    let gateway = &scene.lab.gateway;
    let before = rules::saved(gateway);
    let plain = ["-d", "-s", "81", "10.3.0.3", "80"];
    let table: [(&str, &str, &[&str], &str); 7] = [
        ("net_admin", "CAP_NET_ADMIN", STAND_IN, "-R, -X and --reject: "),
        ("net_admin", "CAP_NET_ADMIN", &["--local", "113", "-R", "--dport 113"], "-R, -X and --reject: "),
        ("net_admin", "CAP_NET_ADMIN", &["--flush"], "--flush: "),
        ("setuid", "CAP_SETUID", STAND_IN, "-r: "),
        ("setgid", "CAP_SETGID", STAND_IN, "-r: "),
        ("kill", "CAP_KILL", &stand_in_detached(&[]), "-r: "),
        ("net_bind_service", "CAP_NET_BIND_SERVICE", &plain, "listening on 0.0.0.0:81: "),
    ];
    for (capability, name, args, option) in table {
        let done = Launch::new(args).after(&without(capability)).within(gateway).run();
        assert_eq!(done.status, 77, "{done:?}");
        let is_named = done.stderr.contains(name) && done.stderr.starts_with(&format!("tproxy: {option}"));
        assert!(is_named && done.stderr.lines().count() == 1, "{done:?}");
        assert_eq!(rules::saved(gateway), before);
    }
    // What needs no capability works without any.
    let unprivileged = ["-d", "-w", "2", "-s", "12970", "10.3.0.3", "80"];
    let mut daemon = Launch::new(&unprivileged).after(&without("all")).within(gateway).ready();
    assert_eq!(scene.page("10.1.0.1:12970"), "cow");
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn a_user_namespace_in_which_root_cannot_become_another_user_ends_the_start() {
    let Some(scene) = Scene::new() else { return };
    let gateway = &scene.lab.gateway;
    for host in ["10.3.0.3", "cow"] {
        for options in [&["-d"][..], &[]] {
            let args = [options, &["-s", "12970", "-r", "nobody", host, "80"]].concat();
            let launch = Launch::new(&args).after("exec unshare -Ur \"$0\" \"$@\"").within(gateway);
            let (done, family) = launch.start();
            assert_eq!(done.status, 77, "{done:?}");
            assert!(done.stderr.contains("giving up root: ") || options.is_empty(), "{done:?}");
            assert!(done.stderr.trim_end().ends_with("ended with status 77 while it started"), "{done:?}");
            assert!(!done.stderr.contains("another one"), "{done:?}");
            family.wait_gone();
        }
    }
}

#[test]
fn a_check_of_a_name_that_does_not_resolve_has_a_status_of_its_own() {
    let Some(scene) = Scene::new() else { return };
    for args in [
        &["--check", "-s", "12970", "goat", "80"][..],
        &["--check", "-s", "12970", "-R", "-d goat --dport 80", "cow", "80"],
        &["--print-rules", "-s", "12970", "-R", "-d goat --dport 80", "cow", "80"],
    ] {
        let done = scene.launch(args).run();
        assert_eq!(done.status, 68, "{done:?}");
        assert!(done.stderr.starts_with("tproxy: cannot resolve 'goat': "), "{done:?}");
    }
    assert_eq!(scene.launch(&["--check", "-s", "12970", "cow", "80"]).run().status, 0);
}
