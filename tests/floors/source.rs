//! Source files, read well enough to see what they define and what they use.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// One file, without its tests, its comments and the contents of its strings. Line breaks stay where they are.
#[derive(Debug)]
pub struct Source {
    /// The path below the root, for example `rules/chains.rs`.
    pub file: String,
    /// The module, for example `rules`, `chains`.
    pub module: Vec<String>,
    /// What is left of the text.
    pub code: String,
    /// Lines of the file that are not tests.
    pub lines: usize,
}

impl Source {
    /// Reads the text of a file.
    pub fn new(file: &str, text: &str) -> Source {
        let code = without_words(text);
        let tests = test_items(&code);
        let in_tests = |at: usize| tests.iter().any(|(start, end)| (*start..*end).contains(&at));
        let code: String = code.char_indices().filter(|(at, c)| *c == '\n' || !in_tests(*at)).map(|(_, c)| c).collect();
        let of_tests: usize = tests.iter().map(|(start, end)| text[*start..*end].matches('\n').count() + 1).sum();
        let mut module: Vec<String> = file.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
        if module.last().is_some_and(|name| name == "mod") {
            module.pop();
        }
        Source { file: file.to_owned(), module, code, lines: text.lines().count() - of_tests.min(text.lines().count()) }
    }

    /// Where a word stands that is a keyword or a name, and not a part of one.
    pub fn places<'a>(&'a self, word: &'a str) -> impl Iterator<Item = usize> + 'a {
        let code = self.code.as_bytes();
        let is_free = |at: Option<&u8>| at.is_none_or(|byte| !is_name(*byte));
        self.code.match_indices(word).map(|(at, _)| at).filter(move |at| {
            is_free(at.checked_sub(1).and_then(|before| code.get(before))) && is_free(code.get(at + word.len()))
        })
    }

    /// The paths that begin with `crate`, `super` or `self`, from the root of the crate. A list in braces is as many.
    pub fn paths(&self) -> BTreeSet<Vec<String>> {
        let mut found = BTreeSet::new();
        for start in ["crate", "super", "self"] {
            for at in self.places(start) {
                let is_first = !self.code[..at].trim_end().ends_with("::");
                let Some(rest) = self.code[at + start.len()..].strip_prefix("::").filter(|_| is_first) else {
                    continue;
                };
                let parent = &self.module[..self.module.len().saturating_sub(1)];
                let base = match start {
                    "crate" => &[],
                    "super" => parent,
                    _ => &self.module[..],
                };
                expand(base.to_vec(), rest, &mut found);
            }
        }
        found
    }

    /// Whether a path begins with this name, other than in what is passed on.
    pub fn begins_a_path(&self, name: &str) -> bool {
        self.places(name).any(|at| {
            let (before, behind) = (self.code[..at].trim_end(), &self.code[at + name.len()..]);
            behind.starts_with("::") && !before.ends_with("::") && !is_passed_on(before)
        })
    }

    /// What a file passes on with `pub use`: the name, and where it comes from. A path that names a module of the folder
    /// begins there.
    pub fn passed_on(&self) -> Vec<(String, Vec<String>)> {
        let mut found = BTreeSet::new();
        for at in self.places("use").filter(|at| is_passed_on(&self.code[..at + 3])) {
            let rest = self.code[at + 3..].trim_start();
            let base = match rest.split("::").next() {
                Some("crate") => Vec::new(),
                Some("super") => self.module[..self.module.len().saturating_sub(1)].to_vec(),
                _ => self.module.clone(),
            };
            let rest =
                ["crate::", "super::", "self::"].iter().find_map(|start| rest.strip_prefix(start)).unwrap_or(rest);
            expand(base, rest, &mut found);
        }
        found.into_iter().filter_map(|path| Some((path.last()?.clone(), path))).collect()
    }
}

/// Whether a text ends in the middle of a `pub use`.
fn is_passed_on(before: &str) -> bool {
    let statement = before.rsplit([';', '}']).next().unwrap_or_default().trim_start();
    statement.starts_with("pub") && statement.split_whitespace().any(|word| word == "use")
}

/// All source files below a folder.
pub fn sources(root: &str) -> Vec<Source> {
    let mut found = Vec::new();
    read_folder(Path::new(root), Path::new(root), &mut found);
    assert!(!found.is_empty(), "no source in {root}");
    found
}

fn read_folder(root: &Path, folder: &Path, found: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            read_folder(root, &path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            let file = path.strip_prefix(root).expect("inside").display().to_string();
            found.push(Source::new(&file, &fs::read_to_string(&path).expect("source")));
        }
    }
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// The name at the beginning of a text.
pub fn name(text: &str) -> &str {
    let end = text.bytes().position(|byte| !is_name(byte)).unwrap_or(text.len());
    &text[..end]
}

/// Follows a path, and all that are in its braces.
fn expand(mut path: Vec<String>, mut rest: &str, found: &mut BTreeSet<Vec<String>>) {
    loop {
        rest = rest.trim_start();
        if let Some(list) = rest.strip_prefix('{') {
            let end = closing(list, '{', '}').unwrap_or(list.len());
            for part in split(&list[..end]) {
                expand(path.clone(), part, found);
            }
            return;
        }
        let step = name(rest);
        match step {
            "" => break,
            "super" => _ = path.pop(),
            "self" => {}
            _ => path.push(step.to_owned()),
        }
        match rest[step.len()..].strip_prefix("::") {
            Some(more) => rest = more,
            None => break,
        }
    }
    found.insert(path);
}

/// Where the bracket closes that was opened before this text.
pub fn closing(text: &str, open: char, close: char) -> Option<usize> {
    let mut depth = 1;
    text.char_indices().find_map(|(at, c)| {
        depth += i32::from(c == open) - i32::from(c == close);
        (depth == 0).then_some(at)
    })
}

/// Cuts a text at the commas that stand in no brackets.
pub fn split(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts, mut before) = (0, 0, Vec::new(), ' ');
    for (at, c) in text.char_indices() {
        match c {
            '(' | '[' | '{' | '<' => depth += 1,
            '>' if before == '-' || before == '=' => {}
            ')' | ']' | '}' | '>' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
        before = c;
    }
    parts.push(&text[start..]);
    parts.retain(|part| !part.trim().is_empty());
    parts
}

/// The items that are marked as tests, from the mark to their end.
fn test_items(code: &str) -> Vec<(usize, usize)> {
    let mut found: Vec<(usize, usize)> = Vec::new();
    for (start, mark) in code.match_indices("#[cfg(test)]") {
        if found.last().is_some_and(|(_, end)| *end > start) {
            continue;
        }
        let rest = &code[start + mark.len()..];
        let body = rest.find(['{', ';']).unwrap_or(rest.len());
        let length = match rest[body..].strip_prefix('{') {
            Some(inside) => body + 1 + closing(inside, '{', '}').unwrap_or(inside.len()),
            None => body,
        };
        found.push((start, (start + mark.len() + length + 1).min(code.len())));
    }
    found
}

/// Puts blanks in the place of comments and of what is in quotes.
fn without_words(text: &str) -> String {
    let (mut out, mut rest) = (String::new(), text);
    while let Some(first) = rest.chars().next() {
        let length = word_length(rest, out.as_bytes().last().copied());
        if length == 0 {
            out.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            // Bytes, so that places in the text and in the result are the same.
            out.extend(rest[..length].bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }));
            rest = &rest[length..];
        }
    }
    out
}

/// How long the comment, the string or the character is that begins here.
fn word_length(text: &str, before: Option<u8>) -> usize {
    let to = |end: &str, from: usize| text[from..].find(end).map_or(text.len(), |at| from + at + end.len());
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    if text.starts_with("/*") {
        return to("*/", 2);
    }
    let raw = text.strip_prefix("br").or_else(|| text.strip_prefix('r')).filter(|_| !before.is_some_and(is_name));
    if let Some(raw) = raw {
        let hashes = raw.bytes().take_while(|byte| *byte == b'#').count();
        if raw[hashes..].starts_with('"') {
            return to(&format!("\"{}", "#".repeat(hashes)), text.len() - raw.len() + hashes + 1);
        }
    }
    match text.as_bytes()[0] {
        b'"' => quoted(text, b'"'),
        // A lifetime has no second quote, and a character has one behind it or behind what is escaped.
        b'\'' if text[1..].starts_with('\\') || text[1..].chars().nth(1) == Some('\'') => quoted(text, b'\''),
        _ => 0,
    }
}

fn quoted(text: &str, quote: u8) -> usize {
    let (bytes, mut at) = (text.as_bytes(), 1);
    while at < bytes.len() && bytes[at] != quote {
        at += 1 + usize::from(bytes[at] == b'\\');
    }
    (at + 1).min(bytes.len())
}
