//! Long streams that need no memory: made on the fly from a seed, in the segments a test wants, and hashed.

use sha2::{Digest, Sha256};
use std::io::{self, Read, Write};
use std::time::Duration;

const CHUNK: usize = 64 * 1024;

/// The SHA-256 of a stream and its length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sum {
    /// How many bytes there were.
    pub bytes: u64,
    /// Their SHA-256.
    pub hash: [u8; 32],
}

/// How a stream is cut into writes. On a socket with TCP_NODELAY each write is a segment.
#[derive(Clone, Copy, Debug)]
pub enum Cut {
    /// 64 KiB at a time.
    Bulk,
    /// This many bytes at a time.
    Every(usize),
    /// One byte, then 1,448, and so on.
    OneThenFull,
}

/// A pseudo-random stream that a seed and a length define.
#[derive(Clone, Copy, Debug)]
pub struct Pattern {
    /// Which stream.
    pub seed: u64,
    /// How long.
    pub bytes: u64,
}

impl Pattern {
    /// Writes all of it and gives its sum.
    pub fn send(&self, to: &mut impl Write, cut: Cut) -> io::Result<Sum> {
        let mut hasher = Sha256::new();
        let mut chunk = self.first_chunk();
        let mut left = self.bytes;
        let mut index = 0u64;
        while left > 0 {
            // A stamp makes every chunk differ, so that a lost, doubled or swapped one cannot go unseen.
            chunk[..8].copy_from_slice(&(index ^ self.seed).to_le_bytes());
            let size = CHUNK.min(usize::try_from(left).unwrap_or(CHUNK));
            hasher.update(&chunk[..size]);
            write_cut(to, &chunk[..size], cut)?;
            left -= size as u64;
            index += 1;
        }
        Ok(Sum { bytes: self.bytes, hash: hasher.finalize().into() })
    }

    /// What a reader of the whole stream must find.
    pub fn sum(&self) -> Sum {
        self.send(&mut io::sink(), Cut::Bulk).expect("a sink takes all")
    }

    fn first_chunk(&self) -> Vec<u8> {
        let mut state = self.seed;
        let mut chunk = Vec::with_capacity(CHUNK);
        while chunk.len() < CHUNK {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            chunk.extend_from_slice(&(state >> 13).to_le_bytes());
        }
        chunk
    }
}

fn write_cut(to: &mut impl Write, mut data: &[u8], cut: Cut) -> io::Result<()> {
    let mut small = true;
    while !data.is_empty() {
        let size = match cut {
            Cut::Bulk => data.len(),
            Cut::Every(size) => size,
            Cut::OneThenFull if small => 1,
            Cut::OneThenFull => 1448,
        };
        let (now, later) = data.split_at(size.min(data.len()));
        to.write_all(now)?;
        data = later;
        small = !small;
    }
    Ok(())
}

/// Reads to the end of the stream.
pub fn sum_of(from: &mut impl Read) -> io::Result<Sum> {
    sum_with_pause(from, u64::MAX, Duration::ZERO)
}

/// Reads to the end of the stream, with one pause after `after` bytes.
pub fn sum_with_pause(from: &mut impl Read, after: u64, pause: Duration) -> io::Result<Sum> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    let (mut bytes, mut paused) = (0u64, false);
    loop {
        if bytes >= after && !paused {
            // The pause is the subject of the test, not a way to wait for something.
            std::thread::sleep(pause);
            paused = true;
        }
        let count = match from.read(&mut buffer) {
            // A read with a timeout is interrupted when the process is stopped and continued (signal(7)).
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            result => result?,
        };
        if count == 0 {
            return Ok(Sum { bytes, hash: hasher.finalize().into() });
        }
        hasher.update(&buffer[..count]);
        bytes += count as u64;
    }
}
