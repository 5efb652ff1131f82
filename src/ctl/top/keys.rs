//! The keys of a terminal.

/// A key that was pressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TermKey {
    Char(char),
    Up,
    Down,
    PageUp,
    PageDown,
    Home,
    End,
    Tab,
    BackTab,
    Enter,
    Backspace,
    Escape,
    /// Control and C.
    Interrupt,
}

/// The sequences that keys send (xterm's ctlseqs; those of the keypad too).
const SEQUENCES: &[(&[u8], TermKey)] = &[
    (b"\x1b[A", TermKey::Up),
    (b"\x1bOA", TermKey::Up),
    (b"\x1b[B", TermKey::Down),
    (b"\x1bOB", TermKey::Down),
    (b"\x1b[5~", TermKey::PageUp),
    (b"\x1b[6~", TermKey::PageDown),
    (b"\x1b[H", TermKey::Home),
    (b"\x1bOH", TermKey::Home),
    (b"\x1b[1~", TermKey::Home),
    (b"\x1b[F", TermKey::End),
    (b"\x1bOF", TermKey::End),
    (b"\x1b[4~", TermKey::End),
    (b"\x1b[Z", TermKey::BackTab),
];

/// The keys that one read has brought. A sequence that breaks off counts as an Escape.
pub(super) fn keys(mut bytes: &[u8]) -> Vec<TermKey> {
    let mut found = Vec::new();
    while let Some((first, rest)) = bytes.split_first() {
        if let Some((sequence, key)) = SEQUENCES.iter().find(|(sequence, _)| bytes.starts_with(sequence)) {
            found.push(*key);
            bytes = bytes.get(sequence.len()..).unwrap_or_default();
            continue;
        }
        bytes = rest;
        found.extend(match first {
            b'\t' => Some(TermKey::Tab),
            b'\r' | b'\n' => Some(TermKey::Enter),
            0x08 | 0x7f => Some(TermKey::Backspace),
            0x03 => Some(TermKey::Interrupt),
            0x1b => {
                // Another sequence: it ends with a letter or a tilde.
                if rest.first() == Some(&b'[') {
                    let end = rest.iter().skip(1).position(|byte| byte.is_ascii_alphabetic() || *byte == b'~');
                    bytes = end.and_then(|end| rest.get(end + 2..)).unwrap_or_default();
                    None
                } else {
                    Some(TermKey::Escape)
                }
            }
            b' '..=b'~' => Some(TermKey::Char(char::from(*first))),
            _ => None,
        });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_told_apart() {
        assert_eq!(keys(b"q\x1b[A\x1bOB\r"), [TermKey::Char('q'), TermKey::Up, TermKey::Down, TermKey::Enter]);
        assert_eq!(keys(b"\x1b"), [TermKey::Escape]);
        // An unknown sequence is no key, and what follows it is one.
        assert_eq!(keys(b"\x1b[1;5Cx"), [TermKey::Char('x')]);
        assert_eq!(keys(b"\x1b[15"), []);
        assert_eq!(keys("ä\x03".as_bytes()), [TermKey::Interrupt]);
    }
}
