//! Finds the rule that iptables-restore complains about, and the redirection that it belongs to.

use crate::error::Error;
use crate::redirection::RedirectionId;
use crate::rules::rule::RuleSpec;

/// Comes before the rule in an error text.
const AT: &str = "at '";

/// Names the rule in the error of a tool that was fed `text`. The tool gives only the number of a line in that text,
/// which the user never sees.
pub(crate) fn name_rule(error: Error, text: &str) -> Error {
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

/// The redirection of the rule that [`name_rule`] has named.
pub(crate) fn redirection(specs: &[RuleSpec], error: &Error) -> Option<RedirectionId> {
    let Error::Firewall { said, .. } = error else { return None };
    let (_, rule) = said.rsplit_once(AT)?;
    let (_, rule) = rule.strip_prefix("-A ")?.split_once(' ')?;
    // One match may be the beginning of another. Each is followed by its verdict.
    let is_its =
        |spec: &&RuleSpec| rule.strip_prefix(&spec.rule(&[]).text).is_some_and(|rest| rest.starts_with(" -j "));
    specs.iter().find(is_its).map(|spec| spec.redirection)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::matching::{Match, RELAYED};
    use crate::rules::rule::Action;

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
            let quoted = said(name_rule(complaint(text), TEXT));
            assert!(quoted.ends_with("\nat '-A tproxy.1 -p tcp -m a --line 2 -j RETURN'"), "{quoted}");
            assert!(!quoted.contains("\n\n") && !quoted.contains("Try") && !quoted.contains("occurred"), "{quoted}");
        }
    }

    #[test]
    fn what_names_no_rule_stays_as_it_is() {
        for text in ["", "line", "iptables-restore: line 4 failed", "Error occurred at line: 99", "in line 3 of x"] {
            assert_eq!(said(name_rule(complaint(text), TEXT)), text);
        }
    }

    #[test]
    fn a_rule_is_its_owners() {
        let specs: Vec<RuleSpec> = [(3, "--dport 80"), (4, "--dport 80 -m a"), (5, "-m a --b 'c d' -d fd00::1")]
            .into_iter()
            .flat_map(|(redirection, text)| {
                let found = Match::parse("-R", text, RELAYED).unwrap().resolve(&|_| Vec::new()).unwrap();
                let (action, redirection) = (Action::Redirect { port: 1 }, RedirectionId(redirection));
                found.into_iter().map(move |matching| RuleSpec { action, matching, redirection, output: false })
            })
            .collect();
        let owner =
            |rule: &str| redirection(&specs, &name_rule(complaint("x: line 1 failed\nrestore: line 1 failed"), rule));
        assert_eq!(owner("-A tproxy.1 -p tcp --dport 80 -j REDIRECT --to-ports 1"), Some(RedirectionId(3)));
        assert_eq!(owner("-A tproxy.1 -p tcp --dport 80 -m a -j REDIRECT --to-ports 1"), Some(RedirectionId(4)));
        let third = specs.last().unwrap().rule(&[]).text;
        assert_eq!(owner(&format!("-A tproxy.1 {third} -j RETURN")), Some(RedirectionId(5)));
        assert_eq!(owner("-A tproxy.1 -p tcp -j RETURN"), None);
        assert_eq!(owner("-D PREROUTING -p tcp -j tproxy.1"), None);
    }
}
