//! Which options go together, by the table.

use crate::cli::option::{OptionId, Relation, Term};
use crate::cli::options;
use crate::cli::parse::{Arguments, listed};
use crate::error::Error;

/// Checks every option against those beside it.
///
/// Errors: the first option, in the order of the command line, whose relations do not hold.
pub(crate) fn check(arguments: &Arguments) -> Result<(), Error> {
    arguments.options().iter().try_for_each(|argument| check_one(arguments, argument.id))
}

fn check_one(arguments: &Arguments, id: OptionId) -> Result<(), Error> {
    let holds = |term: &Term| match term {
        Term::Given(other) => arguments.has(*other),
        Term::Is(other, value) => arguments.text(*other) == Some(*value),
        Term::Operands => !arguments.operands().is_empty(),
    };
    let opt = options::opt(id);
    if opt.relay_only
        && let Some(target) = [OptionId::Local, OptionId::Kernel].into_iter().find(|target| arguments.has(*target))
    {
        return Err(Error::Usage(format!("{opt}: cannot be used with {}, which relays nothing", options::opt(target))));
    }
    for relation in opt.goes_with {
        match relation {
            Relation::Needs(terms, why) if !terms.iter().any(holds) => {
                return Err(Error::Usage(format!("{opt}: needs {}{}", text(terms), because(why))));
            }
            Relation::Excludes(terms, why) => {
                if let Some(term) = terms.iter().find(|term| holds(term)) {
                    return Err(Error::Usage(format!("{opt}: cannot be used with {}{}", text(&[*term]), because(why))));
                }
            }
            Relation::Needs(..) => {}
        }
    }
    Ok(())
}

fn because(why: &str) -> String {
    if why.is_empty() { String::new() } else { format!(" ({why})") }
}

/// The terms as a list in a sentence. The values of one option that follow each other are one word of it.
pub(crate) fn text(terms: &[Term]) -> String {
    let mut words: Vec<String> = Vec::new();
    let mut former = None;
    for term in terms {
        match (term, words.last_mut()) {
            (Term::Is(id, value), Some(last)) if former == Some(id) => *last += &format!("|{value}"),
            (Term::Is(id, value), _) => words.push(format!("{} {value}", options::opt(*id))),
            (Term::Given(id), _) => words.push(options::opt(*id).to_string()),
            (Term::Operands, _) => words.push("HOST PORT".to_owned()),
        }
        former = if let Term::Is(id, _) = term { Some(id) } else { None };
    }
    listed(&words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;
    use std::path::Path;

    #[test]
    fn a_refusal_says_what_is_missing_or_in_the_way() {
        let table = [
            ("--sni", "--sni: needs --via connect|socks5 or --via-fallback"),
            ("--sni --via http", "--sni: needs --via connect|socks5 or --via-fallback"),
            ("--host-check --via connect", "--host-check: needs --via http or --sni"),
            ("--auth-file x", "--auth-file: needs --via http|connect|socks5"),
            ("--proxy-protocol v1 --via socks5", "--proxy-protocol: cannot be used with --via socks5"),
            ("-b 10.0.0.1", "-b: needs -s"),
            ("-O", "-O: needs -R, -X or --reject"),
            ("--local same", "--local: needs -R"),
            ("--local same -R x --kernel", "--local: cannot be used with --kernel"),
            ("--local same -R x cow 80", "--local: cannot be used with HOST PORT"),
            ("-R x --kernel --balance first", "--balance: cannot be used with --kernel, which relays nothing"),
            ("-t --via http", "-t: cannot be used with --via http (give the proxy's HOST PORT instead)"),
            (
                "--deny 10.0.0.1",
                "--deny: needs -t, --fallback or --via http|connect|socks5 (otherwise clients do not choose the \
                 destination)",
            ),
            ("--accept-proxy", "--accept-proxy: needs -a (the balancers that may speak for clients)"),
        ];
        for (text, wanted) in table {
            let words: Vec<OsString> = text.split(' ').map(OsString::from).collect();
            let arguments = crate::cli::parse::parse(&words, Path::new("/")).unwrap();
            assert_eq!(check(&arguments).unwrap_err().to_string(), wanted);
        }
    }
}
