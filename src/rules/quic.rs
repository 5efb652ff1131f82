//! `--reject-quic`: HTTP/3 of the traffic that a redirection matches. Browsers use it instead of the TCP that is
//! redirected, and go on with TCP where it is refused.

use crate::rules::groups::groups;
use crate::rules::matching::ResolvedMatch;

/// Where servers have HTTP/3: a browser that knows of another port has learned it over TCP.
const PORT: &str = "443";

/// Conditions on the ports of a TCP connection, which say nothing of HTTP/3.
const PORTS: &[&str] = &[
    "--dport",
    "--destination-port",
    "--dports",
    "--destination-ports",
    "--sport",
    "--source-port",
    "--sports",
    "--source-ports",
    "--ports",
    "--syn",
];

/// Modules with no other conditions than these.
const MODULES_OF_PORTS: &[&str] = &["tcp", "multiport"];

/// Conditions that only TCP has, or that compare its ports with something.
const OF_TCP: &[&str] = &[
    "--tcp-flags",
    "--tcp-option",
    "--mss",
    "--ctorigdstport",
    "--ctorigsrcport",
    "--ctreplsrcport",
    "--ctrepldstport",
];

/// The condition of a MATCH that cannot be tested for HTTP/3, if there is one. The rest of a MATCH is about addresses,
/// interfaces and the like, or iptables refuses it.
pub(crate) fn unfit(words: &[String]) -> Option<&str> {
    let groups = groups(words);
    let unfit = groups.iter().find(|group| {
        // An entry of a set with ports has a protocol.
        let has_ports = group.option == "--match-set" && group.values.iter().any(|value| value.contains(','));
        has_ports || OF_TCP.contains(&group.option)
    });
    unfit.map(|group| group.option)
}

/// What is rejected beside the redirect of this match; `None` if it is about UDP itself.
pub(crate) fn rejected(matching: &ResolvedMatch) -> Option<ResolvedMatch> {
    let groups = groups(&matching.words);
    let kept = groups.iter().filter(|group| {
        let is_module = group.option == "-m" && group.values.iter().all(|name| MODULES_OF_PORTS.contains(name));
        group.option != "-p" && !is_module && !PORTS.contains(&group.option)
    });
    let mut words: Vec<String> = ["-p", "udp"].map(String::from).into();
    for group in kept {
        words.extend(group.words().map(str::to_owned));
    }
    words.extend(["--dport", PORT].map(String::from));
    of_tcp(matching).then(|| ResolvedMatch { protocol: "udp".into(), words, ..matching.clone() })
}

/// What is left alone beside an exemption of this match: the same of UDP. It may exempt nothing that the match does not
/// name, so it keeps the ports; a match that only TCP has exempts nothing.
pub(crate) fn exempted(matching: &ResolvedMatch) -> Option<ResolvedMatch> {
    let is_fit =
        of_tcp(matching) && unfit(&matching.words).is_none() && !matching.words.iter().any(|word| word == "--syn");
    let udp = |word: &String| if word == "tcp" { "udp".to_owned() } else { word.clone() };
    let words = matching.words.iter().map(udp).collect();
    is_fit.then(|| ResolvedMatch { protocol: "udp".into(), words, ..matching.clone() })
}

fn of_tcp(matching: &ResolvedMatch) -> bool {
    matching.protocol == "tcp"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::matching::{Match, RELAYED};

    fn resolved(text: &str) -> ResolvedMatch {
        Match::parse("-R", text, RELAYED).unwrap().resolve(&|_| Vec::new()).unwrap().remove(0)
    }

    #[test]
    fn a_match_of_tcp_becomes_one_of_http3_with_all_that_is_not_about_ports() {
        for (text, wanted) in [
            ("--dport 443", "-p udp --dport 443"),
            ("-p tcp", "-p udp --dport 443"),
            (
                "-s 10.0.0.0/8 ! -d 10.1.0.0/16 -i eth1 --dport 443",
                "-p udp -s 10.0.0.0/8 ! -d 10.1.0.0/16 -i eth1 --dport 443",
            ),
            ("-m tcp --dport 80 --syn -m comment --comment tcp", "-p udp -m comment --comment tcp --dport 443"),
            (
                "-m multiport ! --dports 22,25 -m mac --mac-source 00:11:22:33:44:55",
                "-p udp -m mac --mac-source 00:11:22:33:44:55 --dport 443",
            ),
            (
                "-m set --match-set inside src -m multiport --dports 80,443",
                "-p udp -m set --match-set inside src --dport 443",
            ),
        ] {
            let matching = resolved(text);
            assert_eq!(unfit(&matching.words), None, "{text}");
            let twin = rejected(&matching).unwrap();
            assert_eq!((twin.words.join(" ").as_str(), twin.protocol.as_str()), (wanted, "udp"), "{text}");
        }
    }

    #[test]
    fn what_udp_cannot_have_is_named() {
        for (text, option) in [
            ("--tcp-flags SYN,ACK SYN", "--tcp-flags"),
            ("-m conntrack --ctorigdstport 443", "--ctorigdstport"),
            ("-m set --match-set web dst,dst", "--match-set"),
        ] {
            assert_eq!(unfit(&resolved(text).words), Some(option), "{text}");
        }
    }

    #[test]
    fn an_exemption_exempts_no_more_than_it_says() {
        let words = |text| exempted(&resolved(text)).map(|matching| matching.words.join(" "));
        assert_eq!(words("-s 10.3.0.9").unwrap(), "-p udp -s 10.3.0.9");
        assert_eq!(words("-s 10.3.0.9 -m tcp --dport 443").unwrap(), "-p udp -s 10.3.0.9 -m udp --dport 443");
        assert_eq!(words("-s 10.3.0.9 --syn"), None);
        assert_eq!(words("--tcp-flags SYN SYN"), None);
    }
}
