//! Why the first bytes of a client hold no name, and how many bytes are searched.

/// How many bytes are searched for a name.
pub const MOST: usize = 16 * 1024;

/// Why there is no name.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// It may be in the bytes that follow.
    Short,
    /// It cannot come any more.
    Never,
}
