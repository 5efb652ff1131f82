//! Code that sees the bytes of a flow and may replace them.

/// Looks at the bytes of one direction, and may send others in their place.
pub(crate) trait Filter {
    /// Bytes that come next and pass unseen; 0 when the next ones have to be looked at.
    fn opaque(&self) -> u64;
    /// So many of these have passed.
    fn passed(&mut self, count: u64);
    /// Puts what was kept of the last look at the front of `buffer`, and returns how much that is.
    fn restore(&mut self, buffer: &mut [u8]) -> usize;
    /// Looks at `input`, appends to `output` what is to be sent in its place, and keeps the rest.
    fn look(&mut self, input: &[u8], output: &mut Vec<u8>) -> Result<(), FilterRefusal>;
    /// The source has ended.
    fn eof(&mut self) -> Result<(), FilterRefusal>;
    /// What it waits for before it looks again.
    fn readiness(&self) -> Readiness;
}

/// What a filter needs before it looks again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// More bytes.
    Bytes,
    /// An answer to its question.
    Answer,
    /// Nothing: it looks once more without new bytes.
    Nothing,
}

/// A filter does not let pass what has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FilterRefusal;

/// Lets everything pass. It compiles to nothing.
#[derive(Debug)]
pub(crate) struct Plain;

impl Filter for Plain {
    fn opaque(&self) -> u64 {
        u64::MAX
    }
    fn passed(&mut self, _count: u64) {}
    fn restore(&mut self, _buffer: &mut [u8]) -> usize {
        0
    }
    fn look(&mut self, _input: &[u8], _output: &mut Vec<u8>) -> Result<(), FilterRefusal> {
        Ok(())
    }
    fn eof(&mut self) -> Result<(), FilterRefusal> {
        Ok(())
    }
    fn readiness(&self) -> Readiness {
        Readiness::Bytes
    }
}
