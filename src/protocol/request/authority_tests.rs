use super::*;

fn parse(value: &str) -> Option<Authority<'_>> {
    Authority::parse(value.as_bytes())
}

/// As it stands in the URL of a client that connected to this address.
fn written(value: &str, original: &str) -> String {
    let mut out = Vec::new();
    parse(value).unwrap().write(original.parse().unwrap(), &mut out);
    String::from_utf8(out).unwrap()
}

fn address(original: &str) -> String {
    let mut out = Vec::new();
    write_address(original.parse().unwrap(), &mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn the_port_is_added_where_none_is_named_and_it_is_not_80() {
    let table = [
        ("moose", "10.2.0.5:80", "moose"),
        ("moose", "10.2.0.5:8080", "moose:8080"),
        ("moose:", "10.2.0.5:80", "moose"),
        ("moose:", "10.2.0.5:8080", "moose:8080"),
        ("moose:80", "10.2.0.5:80", "moose:80"),
        ("moose:8081", "10.2.0.5:8080", "moose:8081"),
        ("Moose.Example.COM.", "10.2.0.5:80", "Moose.Example.COM."),
        ("a_b-c.example:65535", "10.2.0.5:80", "a_b-c.example:65535"),
        ("10.2.0.5", "10.2.0.5:8080", "10.2.0.5:8080"),
        ("10.2.0.5:80", "10.2.0.5:8080", "10.2.0.5:80"),
        ("[fd00:2::5]", "[fd00:2::5]:80", "[fd00:2::5]"),
        ("[fd00:2::5]", "[fd00:2::5]:8080", "[fd00:2::5]:8080"),
        ("[::ffff:10.2.0.5]:80", "10.2.0.5:8080", "[::ffff:10.2.0.5]:80"),
        ("1password.com", "10.2.0.5:80", "1password.com"),
        ("10.2.0.5.example", "10.2.0.5:80", "10.2.0.5.example"),
        ("xn--khe-hoa", "10.2.0.5:80", "xn--khe-hoa"),
    ];
    for (value, original, wanted) in table {
        assert_eq!(written(value, original), wanted, "{value} {original}");
    }
}

#[test]
fn what_is_no_host_is_not_valid() {
    let long_label = "a".repeat(64);
    let long_name = ["abcdefg."; 32].concat() + "a";
    let table = [
        "",
        ":80",
        " ",
        ".",
        "..",
        ".moose",
        "moose..",
        "moo..se",
        "moo se",
        " moose",
        "moose ",
        "moose/",
        "moose/x",
        "moose?x",
        "moose#x",
        "moose\\x",
        "user@moose",
        "moose:80@cow",
        "moose,cow",
        "moose%2e",
        "moo$e",
        "moo!se",
        "moo*se",
        "moo\tse",
        "kühe",
        "moose:0",
        "moose:00",
        "moose:65536",
        "moose:99999999999",
        "moose:+80",
        "moose:-80",
        "moose: 80",
        "moose:80 ",
        "moose:http",
        "moose:80:80",
        "fd00:2::5",
        "[fd00:2::5",
        "fd00:2::5]",
        "[fd00:2::5]x",
        "[fd00:2::5]80",
        "[fd00:2::5]]",
        "[]",
        "[]:80",
        "[10.2.0.5]",
        "[moose]",
        "[fe80::1%25eth0]",
        "[fe80::1%eth0]",
        "[v1.a]",
        "[::g]",
        "127.1",
        "10.2.0.5.",
        "10.2.0",
        "010.2.0.5",
        "256.2.0.5",
        "1.2.3.4.5",
        "2130706433",
        "0x7f000001",
        "0x7f.0.0.0x1",
        "moose.123",
        &long_label,
        &long_name,
    ];
    for value in table {
        assert_eq!(parse(value), None, "{value:?}");
    }
    assert_eq!(Authority::parse(b"m\xf6\xf6se"), None);
}

#[test]
fn the_longest_names_are_valid() {
    assert!(parse(&"a".repeat(63)).is_some());
    let longest = ["abcdefg."; 31].concat() + "abcde";
    assert_eq!(longest.len(), 253);
    assert!(parse(&longest).is_some());
    assert!(parse(&format!("{longest}.")).is_some());
}

/// The names that are known without a name server: `localhost`, and those of a hosts file.
fn local_names() -> LocalNames {
    LocalNames::read("10.3.0.1 gate", "")
}

fn claim<'a>(value: &'a str, original: &str, check: bool) -> HostClaim<'a> {
    parse(value).unwrap().claim(original.parse().unwrap(), check, &local_names())
}

#[test]
fn an_address_is_compared_and_a_name_is_asked_for() {
    let table = [
        ("10.2.0.5", "10.2.0.5:80", HostClaim::True),
        ("10.2.0.5", "10.2.0.5:8080", HostClaim::True),
        ("10.2.0.5:80", "10.2.0.5:80", HostClaim::True),
        ("10.2.0.6", "10.2.0.5:80", HostClaim::False),
        ("10.2.0.5", "[::ffff:10.2.0.5]:80", HostClaim::True),
        ("[::ffff:10.2.0.5]", "10.2.0.5:80", HostClaim::True),
        ("[fd00:2::5]", "[fd00:2::5]:80", HostClaim::True),
        ("[FD00:2:0::5]", "[fd00:2::5]:80", HostClaim::True),
        ("[fd00:2::6]", "[fd00:2::5]:80", HostClaim::False),
        ("moose", "10.2.0.5:80", HostClaim::Ask("moose")),
        ("moose:", "10.2.0.5:8080", HostClaim::Ask("moose")),
        ("moose:8080", "10.2.0.5:8080", HostClaim::Ask("moose")),
    ];
    for (value, original, wanted) in table {
        assert_eq!(claim(value, original, true), wanted, "{value} {original}");
    }
}

#[test]
fn another_port_leads_elsewhere() {
    for value in ["moose:8080", "10.2.0.5:22"] {
        assert_eq!(claim(value, "10.2.0.5:80", true), HostClaim::False, "{value}");
    }
}

#[test]
fn what_is_not_checked_is_asked_for_if_no_name_server_is_needed_to_know_it() {
    let table = [
        ("10.2.0.5", HostClaim::True),
        ("10.2.0.5:22", HostClaim::True),
        ("[::ffff:10.2.0.5]", HostClaim::True),
        ("10.2.0.6", HostClaim::Ask("10.2.0.6")),
        ("127.0.0.1:3128", HostClaim::Ask("127.0.0.1")),
        ("[::1]:80", HostClaim::Ask("::1")),
        ("localhost", HostClaim::Ask("localhost")),
        ("a.LOCALHOST.:80", HostClaim::Ask("a.LOCALHOST.")),
        ("gate:80", HostClaim::Ask("gate")),
        ("moose", HostClaim::True),
        ("moose:8080", HostClaim::True),
    ];
    for (value, wanted) in table {
        assert_eq!(claim(value, "10.2.0.5:80", false), wanted, "{value}");
    }
}

#[test]
fn a_host_line_agrees_with_a_url_that_means_the_same() {
    let table = [
        ("moose", "moose", true),
        ("MOOSE", "moose", true),
        ("moose:80", "moose", true),
        ("moose", "moose:80", true),
        ("[FD00::1]", "[fd00:0::1]", true),
        ("moose", "moose:8080", true),
        ("moose:8080", "moose:8080", true),
        ("moose:8080", "moose", false),
        ("moose:81", "moose:8080", false),
        ("moose", "cow", false),
        ("moose.", "moose", false),
        ("10.2.0.5", "[::ffff:10.2.0.5]", false),
        ("", "moose", false),
        ("127.1", "10.2.0.5", false),
        ("moose cow", "moose", false),
    ];
    for (host, authority, wanted) in table {
        assert_eq!(agree(host.as_bytes(), authority.as_bytes()), wanted, "{host} {authority}");
    }
}

#[test]
fn the_original_destination_is_written_as_in_a_url() {
    let table = [
        ("10.2.0.5:80", "10.2.0.5"),
        ("10.2.0.5:8080", "10.2.0.5:8080"),
        ("[fd00:2::5]:80", "[fd00:2::5]"),
        ("[fd00:2::5]:8080", "[fd00:2::5]:8080"),
        ("[::ffff:10.2.0.5]:80", "10.2.0.5"),
        ("[fe80::1%2]:80", "[fe80::1]"),
    ];
    for (original, wanted) in table {
        assert_eq!(address(original), wanted, "{original}");
    }
}
