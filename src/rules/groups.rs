//! The words of a rule, taken together: each option with its values.

use crate::sys::services;

/// An option with its values.
pub(crate) struct OptionWords<'a> {
    pub negated: bool,
    pub option: &'a str,
    pub values: Vec<&'a str>,
}

impl<'a> OptionWords<'a> {
    /// The words again, one for each value.
    pub(crate) fn words(&self) -> impl Iterator<Item = &'a str> {
        self.negated.then_some("!").into_iter().chain([self.option]).chain(self.values.iter().copied())
    }
}

/// Groups words in normal form: no value in them begins with a dash.
pub(crate) fn groups<W: AsRef<str>>(words: &[W]) -> Vec<OptionWords<'_>> {
    let mut groups: Vec<OptionWords> = Vec::new();
    let mut negated = false;
    for word in words {
        let word = word.as_ref();
        if word == "!" {
            negated = true;
        } else if word.starts_with('-') {
            let (option, value) = match word.split_once('=') {
                Some((option, value)) => (option, Some(value)),
                None => (word, None),
            };
            groups.push(OptionWords {
                negated: std::mem::take(&mut negated),
                option,
                values: value.into_iter().collect(),
            });
        } else if let Some(last) = groups.last_mut() {
            last.values.push(word);
        }
    }
    groups
}

/// The interfaces that the words name.
pub(crate) fn interfaces(words: &[String]) -> Vec<&str> {
    let named = |group: &OptionWords| !group.negated && matches!(group.option, "-i" | "--in-interface");
    groups(words).iter().filter(|group| named(group)).filter_map(|group| group.values.first().copied()).collect()
}

/// The port that the words name, if they name one.
pub(crate) fn only_port(words: &[String]) -> Option<u16> {
    let groups = groups(words);
    let group = groups.iter().find(|group| matches!(group.option, "--dport" | "--destination-port"))?;
    let value = group.values.first().filter(|_| !group.negated)?;
    number(value).and_then(|port| port.try_into().ok()).or_else(|| services::tcp_port(value))
}

/// A number as iptables reads it, with strtoul(3): 010 is 8.
pub(crate) fn number(text: &str) -> Option<u32> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => (hex, 16),
        None if text.len() > 1 && text.starts_with('0') => (text, 8),
        None => (text, 10),
    };
    // Without a sign.
    let digits = Some(digits).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
    u32::from_str_radix(digits, radix).ok()
}
