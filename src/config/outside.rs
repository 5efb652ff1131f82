//! What a configuration takes from outside its text: the credentials in a file, the numbers of a user and of a service.
//!
//! The answers are kept with the configuration that was read. A child that reads its text again gets the same answers, and
//! asks nobody: the file may have changed by then, or be gone.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;

/// Questions, each of a kind, and the answers. Never shown, since credentials are among them.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct OutsideAnswers(BTreeMap<(String, OsString), String>);

impl OutsideAnswers {
    /// Adds an answer.
    pub(crate) fn add(&mut self, kind: &str, name: &OsStr, answer: String) {
        self.0.insert((kind.to_owned(), name.to_owned()), answer);
    }

    /// All of them: kind and name of the question, and the answer.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&str, &OsStr, &str)> {
        self.0.iter().map(|((kind, name), answer)| (kind.as_str(), name.as_os_str(), answer.as_str()))
    }
}

impl fmt::Debug for OutsideAnswers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OutsideAnswers")
    }
}

thread_local! {
    // A parameter would go through every function that reads an option.
    static ANSWERS: RefCell<OutsideAnswers> = RefCell::default();
}

/// Reads a configuration. The questions whose answers are not `given` are asked, and all answers are returned.
pub(super) fn collecting<T>(given: OutsideAnswers, read: impl FnOnce() -> T) -> (T, OutsideAnswers) {
    ANSWERS.set(given);
    let result = read();
    (result, ANSWERS.take())
}

/// The answer to a question: the one that is given, or else the one that `ask` finds.
pub(super) fn answer<E>(
    kind: &str,
    name: &OsStr,
    ask: impl FnOnce() -> Result<Option<String>, E>,
) -> Result<Option<String>, E> {
    let question = (kind.to_owned(), name.to_owned());
    if let Some(answer) = ANSWERS.with_borrow(|answers| answers.0.get(&question).cloned()) {
        return Ok(Some(answer));
    }
    let found = ask()?;
    if let Some(answer) = &found {
        ANSWERS.with_borrow_mut(|answers| answers.0.insert(question, answer.clone()));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_reads_again_is_given_the_same_answers_and_asks_nobody() {
        let http = OsStr::new("http");
        let read = |port: Option<&str>| answer("service", http, || Ok::<_, ()>(port.map(str::to_owned))).unwrap();
        let (first, answers) = collecting(OutsideAnswers::default(), || read(Some("80")));
        assert_eq!(first.as_deref(), Some("80"));
        let (second, again) = collecting(answers.clone(), || read(None));
        assert_eq!((second, again), (first, answers));
        // Another configuration asks anew.
        let (third, none) = collecting(OutsideAnswers::default(), || read(None));
        assert_eq!((third, none), (None, OutsideAnswers::default()));
    }
}
