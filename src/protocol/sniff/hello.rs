//! The server_name (RFC 6066, 3) in a ClientHello of TLS (RFC 8446, 4.1.2).
//!
//! A ClientHello may be spread over several records, each with its own header. It is parsed in place: only a name that
//! is spread too is copied.

use std::borrow::Cow;

use super::stop::{MOST, Stop};

/// The first byte of a TLS connection: the type of a handshake record.
pub(super) const HANDSHAKE: u8 = 22;

/// The major version of every TLS, in records and in the ClientHello.
const MAJOR: u8 = 3;

/// The most bytes in a record, without its header (RFC 8446, 5.1).
const RECORD: usize = 1 << 14;

/// Bytes of the type and length before every handshake message.
const MESSAGE: usize = 4;
const CLIENT_HELLO: usize = 1;

const RANDOM: usize = 32;
const LONGEST_SESSION: usize = 32;

/// The type of the extension, and of the name in it.
const SERVER_NAME: usize = 0;
const HOST_NAME: usize = 0;

/// The name, as soon as it has arrived: the rest of the ClientHello may be in another segment.
pub(super) fn server_name(bytes: &[u8]) -> Result<Cow<'_, [u8]>, Stop> {
    let mut hello = Hello { records: bytes, fragment: &[], left: MESSAGE };
    only_if(hello.number(1)? == CLIENT_HELLO)?;
    hello.left = hello.number(3)?;
    only_if(hello.left <= MOST)?;
    only_if(hello.number(1)? == usize::from(MAJOR))?;
    hello.skip(1 + RANDOM)?;
    let session = hello.length(1)?;
    only_if(session <= LONGEST_SESSION)?;
    hello.skip(session)?;
    let suites = hello.length(2)?;
    only_if(suites >= 2 && suites % 2 == 0)?;
    hello.skip(suites)?;
    let compressions = hello.length(1)?;
    only_if(compressions >= 1)?;
    hello.skip(compressions)?;
    only_if(hello.length(2)? == hello.left)?;
    loop {
        let kind = hello.number(2)?;
        let size = hello.length(2)?;
        if kind == SERVER_NAME {
            return hello.host_name(size);
        }
        hello.skip(size)?;
    }
}

fn only_if(good: bool) -> Result<(), Stop> {
    if good { Ok(()) } else { Err(Stop::Never) }
}

/// The unread part of a ClientHello.
struct Hello<'a> {
    /// The records after the current one.
    records: &'a [u8],
    /// The rest of the current record.
    fragment: &'a [u8],
    /// The unread bytes of the ClientHello, or of the message header before its length is known.
    left: usize,
}

impl<'a> Hello<'a> {
    /// The content of a server_name extension. The RFC allows a list of names, but implementations accept only one, so
    /// nobody sends more.
    fn host_name(&mut self, size: usize) -> Result<Cow<'a, [u8]>, Stop> {
        only_if(self.length(2)? + 2 == size)?;
        only_if(self.number(1)? == HOST_NAME)?;
        let name = self.length(2)?;
        only_if(name + 5 == size)?;
        self.take(name)
    }

    /// A length field. That many bytes must be left.
    fn length(&mut self, width: usize) -> Result<usize, Stop> {
        let length = self.number(width)?;
        only_if(length <= self.left)?;
        Ok(length)
    }

    fn number(&mut self, width: usize) -> Result<usize, Stop> {
        let (mut number, mut read) = (0, 0);
        while read < width {
            let piece = self.piece(width - read)?;
            number = piece.iter().fold(number, |number, byte| number << 8 | usize::from(*byte));
            read += piece.len();
        }
        Ok(number)
    }

    fn take(&mut self, count: usize) -> Result<Cow<'a, [u8]>, Stop> {
        let mut taken = Cow::Borrowed(self.piece(count)?);
        while taken.len() < count {
            let piece = self.piece(count - taken.len())?;
            taken.to_mut().extend_from_slice(piece);
        }
        Ok(taken)
    }

    fn skip(&mut self, count: usize) -> Result<(), Stop> {
        let mut skipped = 0;
        while skipped < count {
            skipped += self.piece(count - skipped)?.len();
        }
        Ok(())
    }

    /// At least one and at most `most` bytes, from one record.
    fn piece(&mut self, most: usize) -> Result<&'a [u8], Stop> {
        only_if((1..=self.left).contains(&most))?;
        if self.fragment.is_empty() {
            self.open_record()?;
        }
        let (piece, rest) = self.fragment.split_at_checked(most).unwrap_or((self.fragment, &[]));
        self.fragment = rest;
        self.left -= piece.len();
        Ok(piece)
    }

    fn open_record(&mut self) -> Result<(), Stop> {
        for (at, expected) in [HANDSHAKE, MAJOR].into_iter().enumerate() {
            only_if(self.records.get(at).is_none_or(|byte| *byte == expected))?;
        }
        let Some(([_, _, _, high, low], content)) = self.records.split_first_chunk() else { return Err(Stop::Short) };
        let size = usize::from(u16::from_be_bytes([*high, *low]));
        only_if((1..=RECORD).contains(&size))?;
        if content.is_empty() {
            return Err(Stop::Short);
        }
        (self.fragment, self.records) = content.split_at_checked(size).unwrap_or((content, &[]));
        Ok(())
    }
}
