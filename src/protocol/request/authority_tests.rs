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

#[test]
fn an_address_is_compared_and_a_name_is_asked_for() {
    let claim = |value, original: &str| parse(value).unwrap().claim(original.parse().unwrap());
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
        ("moose", "10.2.0.5:80", HostClaim::Name("moose")),
        ("moose:", "10.2.0.5:8080", HostClaim::Name("moose")),
        ("moose:8080", "10.2.0.5:8080", HostClaim::Name("moose")),
    ];
    for (value, original, wanted) in table {
        assert_eq!(claim(value, original), wanted, "{value} {original}");
    }
}

#[test]
fn another_port_leads_elsewhere() {
    let original = "10.2.0.5:80".parse().unwrap();
    for value in ["moose:8080", "10.2.0.5:22"] {
        assert_eq!(parse(value).unwrap().claim(original), HostClaim::False, "{value}");
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
