//! Which rule it is that the tools complain about, and where it was written.

use crate::error::Error;
use crate::redirection::RedirectionId;
use crate::rules::address::Family;
use crate::rules::chains::Rule;
use crate::rules::spec::RuleSpec;

/// What stands before the rule in a complaint.
const AT: &str = "at '";

/// The complaint of a tool that was fed with `text`. The tool gives a line's number in a text that nobody sees: the
/// line itself takes its place.
pub(crate) fn quote(error: Error, text: &str) -> Error {
    let Error::Firewall { command, status, said } = error else { return error };
    let number = said.lines().find_map(line_number);
    let rule = number.and_then(|number: usize| text.lines().nth(number.checked_sub(1)?));
    let Some(rule) = rule.filter(|rule| rule.starts_with('-')) else {
        return Error::Firewall { command, status, said };
    };
    let noise =
        |line: &&str| line.trim().is_empty() || line.starts_with("Error occurred at") || line.starts_with("Try `");
    let mut said: Vec<&str> = said.lines().filter(|line| !noise(line)).collect();
    let rule = format!("{AT}{rule}'");
    said.push(&rule);
    Error::Firewall { command, status, said: said.join("\n") }
}

/// `Error occurred at line: 4`, `iptables-restore: line 4 failed`, `line 4: RULE_APPEND failed`.
fn line_number(said: &str) -> Option<usize> {
    let rest = ["Error occurred at line: ", "restore: line ", "line "].iter().find_map(|before| {
        let (start, rest) = said.split_once(before)?;
        (start.is_empty() || before.starts_with("restore")).then_some(rest)
    })?;
    rest.split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()
}

/// The redirection of the line whose rule was complained about.
pub(crate) fn redirection(lines: &[RuleSpec], error: &Error) -> Option<RedirectionId> {
    let Error::Firewall { said, .. } = error else { return None };
    let (_, rule) = said.rsplit_once(AT)?;
    let (_, rule) = rule.strip_prefix("-A ")?.split_once(' ')?;
    // One MATCH may begin as another one does; each is followed by its verdict.
    let is_its = |line: &&RuleSpec| {
        let words = Family::BOTH.into_iter().filter_map(|family| line.matching.words(family));
        let mut texts = words.map(|words| Rule::new(&words.words, 1).text);
        texts.any(|text| rule.strip_prefix(&text).is_some_and(|rest| rest.starts_with(" -j ")))
    };
    lines.iter().find(is_its).map(|line| line.redirection)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::matching::{Match, RELAYED};
    use crate::rules::spec::Action;

    fn complaint(said: &str) -> Error {
        Error::Firewall { command: "x".into(), status: "exit status: 2".into(), said: said.into() }
    }

    fn said(error: Error) -> String {
        match error {
            Error::Firewall { said, .. } => said,
            other => panic!("{other}"),
        }
    }

    const TEXT: &str = "*nat\n:tproxy.1 - [0:0]\n-A tproxy.1 -p tcp -m a --line 2 -j RETURN\nCOMMIT\n";

    #[test]
    fn the_number_of_a_line_becomes_the_line() {
        let table = [
            "iptables-nft-restore v1.8.9 (nf_tables): Couldn't load match `a':No such file or directory\n\n\
             Error occurred at line: 3\nTry `iptables-nft-restore -h' for more information.\n",
            "iptables-restore v1.8.9 (legacy): Couldn't load match `a':No such file or directory\n\nError occurred at line: 3\n",
            "iptables-nft-restore: line 3 failed: Bad rule.\n",
            "iptables-restore v1.8.9 (nf_tables): \nline 3: RULE_APPEND failed (No such file or directory): x\n",
        ];
        for text in table {
            let quoted = said(quote(complaint(text), TEXT));
            assert!(quoted.ends_with("\nat '-A tproxy.1 -p tcp -m a --line 2 -j RETURN'"), "{quoted}");
            assert!(!quoted.contains("\n\n") && !quoted.contains("Try") && !quoted.contains("occurred"), "{quoted}");
        }
    }

    #[test]
    fn what_names_no_rule_stays_as_it_is() {
        for text in ["", "line", "iptables-restore: line 4 failed", "Error occurred at line: 99", "in line 3 of x"] {
            assert_eq!(said(quote(complaint(text), TEXT)), text);
        }
    }

    #[test]
    fn a_rule_is_its_owners() {
        let line = |redirection: u16, text: &str| {
            let matching = Match::parse("-R", text, RELAYED).unwrap().resolve(&|_| Vec::new()).unwrap();
            RuleSpec {
                action: Action::Redirect { port: 1 },
                matching,
                redirection: RedirectionId(redirection),
                output: false,
            }
        };
        let lines = [line(3, "--dport 80"), line(4, "--dport 80 -m a"), line(5, "-m a --b 'c d' -d fd00::1")];
        let owner =
            |rule: &str| redirection(&lines, &quote(complaint("x: line 1 failed\nrestore: line 1 failed"), rule));
        assert_eq!(owner("-A tproxy.1 -p tcp --dport 80 -j REDIRECT --to-ports 1"), Some(RedirectionId(3)));
        assert_eq!(owner("-A tproxy.1 -p tcp --dport 80 -m a -j REDIRECT --to-ports 1"), Some(RedirectionId(4)));
        let third = lines[2].matching.words(Family::V6).map(|words| Rule::new(&words.words, 1).text).unwrap();
        assert_eq!(owner(&format!("-A tproxy.1 {third} -j RETURN")), Some(RedirectionId(5)));
        assert_eq!(owner("-A tproxy.1 -p tcp -j RETURN"), None);
        assert_eq!(owner("-D PREROUTING -p tcp -j tproxy.1"), None);
    }
}
