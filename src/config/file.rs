//! The configuration file: each line a command line.

use std::fs;
use std::path::Path;

use crate::error::Error;

/// One command line of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileLine {
    /// Where it begins, counted from 1.
    pub number: usize,
    /// Its words, without the quotes.
    pub words: Vec<String>,
}

/// Reads a file. Lines without words are left out.
pub(crate) fn read(path: &Path) -> Result<Vec<FileLine>, Error> {
    let shown = path.display().to_string();
    let text = fs::read_to_string(path).map_err(|error| Error::file(shown.clone(), error))?;
    split(&text).map_err(|(line, error)| error.in_file(&shown, line))
}

/// Takes a file's text apart: words as in a shell, `#` comments, lines that go on after a backslash.
fn split(text: &str) -> Result<Vec<FileLine>, (usize, Error)> {
    let mut found = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((first, line)) = lines.next() {
        let mut whole = line.to_owned();
        while let Some(goes_on) = whole.strip_suffix('\\') {
            whole = goes_on.to_owned();
            whole.push_str(lines.next().map(|(_, line)| line).unwrap_or_default());
        }
        let number = first + 1;
        let quotes = |_| (number, Error::Usage("a quote is opened and not closed".into()));
        let words = shell_words::split(&whole).map_err(quotes)?;
        if !words.is_empty() {
            found.push(FileLine { number, words });
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_split_as_a_shell_would() {
        let text =
            "# all of it\n\n-r nobody  # who\n-s 80 -R '-d moose \\\n --dport 80' \\\n  cow 80\n-s 81 \"co\"w 81\n";
        let lines = split(text).unwrap();
        let shown: Vec<(usize, String)> = lines.iter().map(|line| (line.number, line.words.join("|"))).collect();
        let wanted = [(3, "-r|nobody"), (4, "-s|80|-R|-d moose  --dport 80|cow|80"), (7, "-s|81|cow|81")];
        assert_eq!(shown, wanted.map(|(number, words)| (number, words.to_owned())));
    }

    #[test]
    fn a_quote_that_stays_open_is_told_with_its_line() {
        assert_eq!(split("a\nb 'c\n").unwrap_err().0, 2);
    }
}
