//! The configuration file: each line of it is a command line.

use std::collections::HashSet;
use std::ffi::OsString;
use std::path::Path;

use crate::cli::option::Scope;
use crate::cli::parse::{self, Arguments};
use crate::cli::{options, quoting, relations};
use crate::config::global::{GlobalOptions, Process};
use crate::config::redirection::{self, Redirection};
use crate::config::trusted_file;
use crate::error::Error;
use crate::sys::files;

/// The most redirections: each has a number of 16 bits.
const MOST_REDIRECTIONS: usize = 1 << 16;

/// A line of a file.
#[derive(Debug, PartialEq, Eq)]
struct FileLine {
    /// Where it begins, counted from 1.
    number: usize,
    /// Its words, without the quotes.
    words: Vec<OsString>,
}

/// Checks what stands beside `-c`.
pub(super) fn check_beside(beside: &Arguments) -> Result<(), Error> {
    if let Some(opt) = beside.first_of(Scope::Redirection).map(options::opt) {
        return Err(Error::Usage(format!(
            "{opt}: cannot be used with -c; put it on the line of its redirection in the file"
        )));
    }
    if !beside.operands().is_empty() {
        let given = beside.operands().join(" ");
        return Err(Error::Usage(format!("'{given}': cannot be used with -c; put it on a line of the file")));
    }
    Ok(())
}

/// The text of the file of `-c`. /dev/null is an empty one that everybody may write to.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, Error> {
    if std::fs::metadata(path).is_ok_and(|about| files::is_null(&about)) {
        return Ok(Vec::new());
    }
    trusted_file::read("-c", path, u64::MAX, |_| None)
}

/// Reads the text of the file of `-c`. The options of the whole process that stand beside it count more than those in the
/// file.
pub(super) fn parse(beside: &Arguments, path: &Path, text: &[u8]) -> Result<(Process, Vec<Redirection>), Error> {
    let shown = path.display().to_string();
    let lines = split(text).map_err(|(line, error)| error.in_file(&shown, line))?;
    let directory = path.parent().unwrap_or(Path::new("/"));
    let mut table = Table { process: GlobalOptions::read(beside)?, redirections: Vec::new(), taken: HashSet::new() };
    for line in lines {
        let added = table.add(&line, directory, &shown).map_err(|error| quoting::explain(error, &line.words));
        added.map_err(|error| error.in_file(&shown, line.number))?;
    }
    if table.redirections.is_empty() {
        return Err(Error::Usage("-c: the file has no redirection".into()));
    }
    Ok((table.process.complete(), table.redirections))
}

/// What was read so far.
struct Table {
    process: GlobalOptions,
    redirections: Vec<Redirection>,
    /// The addresses at which they listen.
    taken: HashSet<std::net::SocketAddr>,
}

impl Table {
    fn add(&mut self, line: &FileLine, directory: &Path, shown: &str) -> Result<(), Error> {
        let arguments = parse::parse(&line.words, directory)?;
        if is_redirection(&arguments)? {
            relations::check(&arguments)?;
            let redirection = redirection::read(&arguments)?;
            self.push(Redirection { place: Some((shown.to_owned(), line.number)), ..redirection })
        } else {
            self.process.add(&arguments)
        }
    }

    fn push(&mut self, redirection: Redirection) -> Result<(), Error> {
        if self.redirections.len() == MOST_REDIRECTIONS {
            return Err(Error::Usage(format!("-c: more than {MOST_REDIRECTIONS} redirections")));
        }
        for address in redirection.addresses() {
            if !self.taken.insert(address) {
                let port = address.port();
                return Err(Error::Usage(format!("-s: another line listens on port {port} of the same address")));
            }
        }
        self.redirections.push(redirection);
        Ok(())
    }
}

/// Whether a line is a redirection. If not, it is about the whole process.
fn is_redirection(arguments: &Arguments) -> Result<bool, Error> {
    if let Some(opt) = arguments.first_of(Scope::Command).map(options::opt) {
        return Err(Error::Usage(format!("{opt}: cannot stand in a file; use it on the command line")));
    }
    let redirection = arguments.first_of(Scope::Redirection).is_some() || !arguments.operands().is_empty();
    match arguments.first_of(Scope::Process).map(options::opt) {
        Some(opt) if redirection => Err(Error::Usage(format!(
            "{opt}: concerns the whole process, not one redirection; put it on a line of its own"
        ))),
        Some(_) => Ok(false),
        None => Ok(true),
    }
}

/// Takes a file apart: words as in a shell, comments after `#`, lines that go on after a backslash. An editor may have put
/// a mark in front that says that it is UTF-8.
fn split(bytes: &[u8]) -> Result<Vec<FileLine>, (usize, Error)> {
    let failed = |index: usize, sentence: &str| (index + 1, Error::Usage(sentence.to_owned()));
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Err(failed(0, "the file is UTF-16; save it as UTF-8"));
    }
    let text = parse::to_text(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes));
    let mut found = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((first, line)) = lines.next() {
        let (mut last, mut whole) = (first, line.to_owned());
        loop {
            if whole.contains('\0') {
                return Err(failed(last, "there is a zero byte; this is no text file"));
            }
            match line_end(&whole) {
                LineEnd::Final => break,
                LineEnd::BlankAfterBackslash => {
                    return Err(failed(
                        last,
                        "a blank stands behind the backslash, so the line does not go on; delete the blank",
                    ));
                }
                LineEnd::GoesOn => whole.truncate(whole.len() - 1),
            }
            let Some((next, line)) = lines.next() else { break };
            last = next;
            whole.push_str(line);
        }
        let number = first + 1;
        let words = shell_words::split(&whole).map_err(|_| (number, Error::Usage("a quote is not closed".into())))?;
        if !words.is_empty() {
            found.push(FileLine { number, words: words.iter().map(|word| parse::from_text(word)).collect() });
        }
    }
    Ok(found)
}

/// How a line ends.
#[derive(Debug, PartialEq, Eq)]
enum LineEnd {
    /// Or with a comment, whatever that ends with.
    Final,
    /// With a backslash.
    GoesOn,
    BlankAfterBackslash,
}

/// Words and comments begin where shell_words lets them begin.
fn line_end(line: &str) -> LineEnd {
    let (mut quote, mut in_word) = (None, false);
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match (quote, letter) {
            (_, '\\') if letters.as_str().is_empty() => return LineEnd::GoesOn,
            (_, '\\') if letters.as_str().chars().all(|rest| rest == ' ' || rest == '\t') => {
                return LineEnd::BlankAfterBackslash;
            }
            (None | Some('"'), '\\') => drop(letters.next()),
            (None, '#') if !in_word => return LineEnd::Final,
            (None, '\'' | '"') => quote = Some(letter),
            (Some(open), close) if open == close => quote = None,
            _ => {}
        }
        in_word = quote.is_some() || !matches!(letter, ' ' | '\t' | '\n');
    }
    LineEnd::Final
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    fn table(lines: &str) -> Result<Table, Error> {
        let mut table = Table { process: GlobalOptions::default(), redirections: Vec::new(), taken: HashSet::new() };
        let lines = split(lines.as_bytes()).map_err(|(_, error)| error)?;
        lines.iter().try_for_each(|line| table.add(line, Path::new("/etc"), "t"))?;
        Ok(table)
    }

    #[test]
    fn lines_are_split_as_a_shell_would() {
        let text =
            "# all of it\n\n-r nobody  # who\n-s 80 -R '-d moose \\\n --dport 80' \\\n  cow 80\n-s 81 \"co\"w 81\n";
        let lines = split(text.as_bytes()).unwrap();
        let shown: Vec<(usize, String)> =
            lines.iter().map(|line| (line.number, line.words.join("|".as_ref()).into_string().unwrap())).collect();
        let wanted = [(3, "-r|nobody"), (4, "-s|80|-R|-d moose  --dport 80|cow|80"), (7, "-s|81|cow|81")];
        assert_eq!(shown, wanted.map(|(number, words)| (number, words.to_owned())));
    }

    #[test]
    fn a_quote_that_stays_open_is_told_with_its_line() {
        assert_eq!(split(b"a\nb 'c\n").unwrap_err().0, 2);
    }

    #[test]
    fn a_comment_ends_with_its_line() {
        let table: &[(&str, &[(usize, usize)])] = &[
            ("# a comment \\\n-s 80\n", &[(2, 2)]),
            ("#\\\n#\\\n-s 80\n", &[(3, 2)]),
            ("-s 80 # a comment \\\n-s 81\n", &[(1, 2), (2, 2)]),
            ("-s 80 \\\n # a comment \\\n-s 81\n", &[(1, 2), (3, 2)]),
            ("-s '8 # 0' \\\n -s 81\n", &[(1, 4)]),
            ("-s 8#0 \\\n -s 81\n", &[(1, 4)]),
            ("-s \\# \\\n -s 81\n", &[(1, 4)]),
            ("-s \"a\\\" # b\" \\\r\n -s 81\r\n", &[(1, 4)]),
            ("-s 80 \\", &[(1, 2)]),
            ("-s 'a\\\\ ' x\n-s 81", &[(1, 3), (2, 2)]),
        ];
        for (text, wanted) in table {
            let lines = split(text.as_bytes()).unwrap();
            let found: Vec<(usize, usize)> = lines.iter().map(|line| (line.number, line.words.len())).collect();
            assert_eq!(found, *wanted, "{text}");
        }
    }

    #[test]
    fn what_an_editor_may_do_to_a_file_is_taken_or_told() {
        let words = |bytes: &[u8]| split(bytes).unwrap().iter().map(|line| line.words.len()).collect::<Vec<_>>();
        assert_eq!(words(b"\xef\xbb\xbf-s 80\n"), [2]);
        assert_eq!(words(b"\xef\xbb\xbf# caf\xe9\n-s 80 # \xfc"), [2]);
        let table: &[(&[u8], usize, &str)] = &[
            (b"-s 80\n-s \\ \n81\n", 2, "a blank stands behind the backslash"),
            (b"-s 80 \\\n -R '-d moose \\\t \n'\n", 2, "a blank stands behind the backslash"),
            (b"\xff\xfe-\0s\0", 1, "the file is UTF-16; save it as UTF-8"),
            (b"-s 80\n\0\n", 2, "there is a zero byte"),
        ];
        for (text, line, wanted) in table {
            let (number, error) = split(text).unwrap_err();
            assert!(number == *line && error.to_string().starts_with(wanted), "{number}: {error}");
        }
    }

    #[test]
    fn a_line_keeps_bytes_that_are_not_text() {
        let lines = split(b"-l '\xff \xc3\xbc'\n\xa0\x85\n").unwrap();
        assert_eq!(lines[0].words[1].as_bytes(), b"\xff \xc3\xbc");
        assert_eq!(lines[1].words[0].as_bytes(), b"\xa0\x85", "blanks in Latin-1, but not here");
    }

    #[test]
    fn more_redirections_than_there_are_numbers_are_refused() {
        let mut table = table("-s 1 10.0.0.1 80").unwrap();
        let one = Redirection { listen: crate::config::Listen::Passed(None), ..table.redirections[0].clone() };
        table.redirections.resize(MOST_REDIRECTIONS - 1, one.clone());
        table.push(one.clone()).unwrap();
        assert_eq!(table.redirections.len(), 1 + usize::from(u16::MAX));
        assert_eq!(table.push(one).unwrap_err().to_string(), "-c: more than 65536 redirections");
    }

    #[test]
    fn an_address_is_listened_on_once() {
        assert!(table("-s 1 cow 80\n-s 2 cow 80\n-b 10.0.0.1 -s 3 cow 80\n-b 10.0.0.2 -s 3 cow 80").is_ok());
        let error = table("-s 1 cow 80\n-s 1 moose 80").err().unwrap().to_string();
        assert_eq!(error, "-s: another line listens on port 1 of the same address");
    }
}
