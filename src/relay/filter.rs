//! Code that sees the bytes of a flow and may replace them.

/// Looks at the bytes of one direction, and may send others in their place. By itself it lets everything pass.
pub(crate) trait Filter {
    /// How the next bytes pass.
    fn sight(&self) -> Sight {
        Sight::Unseen(u64::MAX)
    }
    /// So many of the unseen bytes have passed.
    fn passed(&mut self, _count: u64) {}
    /// These bytes pass.
    fn seen(&mut self, bytes: &[u8]) -> Result<(), SeenRefusal> {
        self.passed(bytes.len() as u64);
        Ok(())
    }
    /// Puts what was kept of the last look at the front of `buffer`, and returns how much that is.
    fn restore(&mut self, _buffer: &mut [u8]) -> usize {
        0
    }
    /// Looks at `input`, appends to `output` what is to be sent in its place, and keeps the rest.
    fn look(&mut self, _input: &[u8], _output: &mut Vec<u8>) -> Result<(), FilterRefusal> {
        Ok(())
    }
    /// The source has ended.
    fn eof(&mut self) -> Result<(), FilterRefusal> {
        Ok(())
    }
    /// What it waits for before it looks again.
    fn readiness(&self) -> Readiness {
        Readiness::Bytes
    }
}

/// How the next bytes pass a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sight {
    /// So many of them as they are, and without being shown.
    Unseen(u64),
    /// As they are. They are shown ([`Filter::seen`]).
    Seen,
    /// The filter sends others in their place ([`Filter::look`]).
    Replaced,
}

/// What a filter needs before it looks again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// More bytes.
    Bytes,
    /// An answer to its question.
    Answer,
    /// An answer to its question. It has kept nothing, so the end of the source may pass before.
    AnswerOrEnd,
    /// Nothing: it looks once more without new bytes.
    Nothing,
}

/// A filter does not let pass what has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FilterRefusal;

/// A filter does not let pass some of the bytes that it has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SeenRefusal {
    /// Bytes in front of those.
    pub good: usize,
}

/// Lets everything pass. It compiles to nothing.
#[derive(Debug)]
pub(crate) struct Plain;

impl Filter for Plain {}
