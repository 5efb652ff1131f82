//! Transfers in both directions that check themselves: whatever was cut off must be a beginning of what was sent, and
//! a regular end must stand at the end of all of it.
//!
//! ```text
//!   client: head, upload, end                server: download, then length and SHA-256 of the upload, end
//! ```

use crate::clients::{self, IO_PATIENCE};
use crate::pattern::{Cut, Pattern, Sum};
use crate::servers::Server;
use sha2::{Digest, Sha256};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// When the server begins to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// At once, while it reads.
    AtOnce,
    /// When the client has sent its end.
    AfterEnd,
    /// At once, and its end as well: before it has read anything.
    EndFirst,
    /// At once, while it reads; the client keeps its end open until the server has ended. For proxies that know no half
    /// of a connection.
    EndOnce,
}

impl Order {
    const ALL: [Order; 4] = [Order::AtOnce, Order::AfterEnd, Order::EndFirst, Order::EndOnce];
}

/// What is sent both ways.
#[derive(Clone, Copy, Debug)]
pub struct Transfer {
    /// By the client.
    pub up: Pattern,
    /// By the server.
    pub down: Pattern,
    /// When the server sends.
    pub order: Order,
}

/// Bytes of the head.
const HEAD: usize = 33;
/// Bytes of what the server says of the upload.
const RECEIPT: usize = 40;

/// How a client behaves.
#[derive(Clone, Copy, Debug, Default)]
pub struct Manners {
    /// Stops reading for a while after so many bytes.
    pub pause: Option<(u64, Duration)>,
    /// Resets the connection after so many bytes.
    pub reset_after: Option<u64>,
}

impl Manners {
    /// Stops reading for that long in the middle of things.
    pub fn pausing(pause: Duration) -> Manners {
        Manners { pause: Some((1 << 20, pause)), ..Manners::default() }
    }
}

/// What became of a transfer, as the client sees it.
#[derive(Debug)]
pub struct Outcome {
    /// Bytes that came and were the right ones.
    pub bytes: u64,
    /// `None` for all of it both ways, and the regular end.
    pub cut: Option<ErrorKind>,
    /// The longest time without a byte.
    pub stall: Duration,
}

impl Transfer {
    /// With sizes in bytes, from a seed.
    pub fn new(seed: u64, up: u64, down: u64, order: Order) -> Transfer {
        let pattern = |salt: u64, bytes| Pattern { seed: seed.wrapping_mul(2).wrapping_add(salt), bytes };
        Transfer { up: pattern(0, up), down: pattern(1, down), order }
    }

    fn head(&self) -> Vec<u8> {
        let numbers = [self.up.seed, self.up.bytes, self.down.seed, self.down.bytes].map(u64::to_le_bytes);
        let order = Order::ALL.iter().position(|order| *order == self.order).expect("one of them");
        [&numbers.concat()[..], &[order as u8]].concat()
    }

    fn from_head(head: [u8; HEAD]) -> Transfer {
        let number = |at: usize| u64::from_le_bytes(head[8 * at..8 * at + 8].try_into().expect("eight bytes"));
        let order = Order::ALL[usize::from(head[HEAD - 1])];
        let pattern = |at| Pattern { seed: number(at), bytes: number(at + 1) };
        Transfer { up: pattern(0), down: pattern(2), order }
    }

    /// Plays the client on a connection. Panics on a byte that is not the right one.
    pub fn run(&self, stream: TcpStream, manners: Manners) -> Outcome {
        let stop = AtomicBool::new(false);
        stream.set_write_timeout(Some(UPLOAD_TURN)).expect("SO_SNDTIMEO");
        std::thread::scope(|scope| {
            let uploading = scope.spawn(|| self.upload(&Stoppable { stream: &stream, stop: &stop }));
            let mut meter = Meter::new(manners);
            let mut download = Tally::default();
            let mut receipt = Vec::new();
            let ended = download.take(&stream, self.down.bytes, &mut meter);
            let ended = ended.and_then(|()| meter.receipt(&stream, &mut receipt));
            if ended.is_err() {
                stop.store(true, Ordering::Relaxed);
                // Whoever gives up in the middle must not look like one that has said all.
                clients::reset_at_close(&stream);
            }
            let uploaded = uploading.join().expect("uploading");
            download.check(self.down).unwrap_or_else(|wrong| panic!("download of {self:?}: {wrong}"));
            // A reset is told once, to whoever asks first; the other hears of a regular end.
            let uploaded =
                uploaded.or_else(|error| if error.kind() == ErrorKind::WouldBlock { Ok(()) } else { Err(error) });
            let cut = uploaded.and(ended).err().map(|error| error.kind());
            if cut.is_none() {
                assert_eq!(receipt, receipt_of(&self.up.sum()), "the upload of {self:?} as the server saw it");
            }
            Outcome { bytes: download.bytes, cut, stall: meter.stall }
        })
    }

    fn upload(&self, to: &Stoppable) -> io::Result<()> {
        let mut writer = to;
        writer.write_all(&self.head())?;
        self.up.send(&mut writer, Cut::Bulk)?;
        if self.order == Order::EndOnce { Ok(()) } else { to.stream.shutdown(Shutdown::Write) }
    }
}

/// How long an upload is held up before it asks whether it is still wanted.
const UPLOAD_TURN: Duration = Duration::from_millis(100);

/// A socket whose writer can be told to stop.
struct Stoppable<'a> {
    stream: &'a TcpStream,
    stop: &'a AtomicBool,
}

impl Write for &Stoppable<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let begin = Instant::now();
        loop {
            match (&*self.stream).write(bytes) {
                Err(error) if error.kind() == ErrorKind::WouldBlock && begin.elapsed() < IO_PATIENCE => {
                    if self.stop.load(Ordering::Relaxed) {
                        return Err(error);
                    }
                }
                result => return result,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn receipt_of(sum: &Sum) -> Vec<u8> {
    [&sum.bytes.to_le_bytes()[..], &sum.hash].concat()
}

/// What a client reads, and when.
struct Meter {
    manners: Manners,
    last: Instant,
    stall: Duration,
}

impl Meter {
    fn new(manners: Manners) -> Meter {
        Meter { manners, last: Instant::now(), stall: Duration::ZERO }
    }

    /// Bytes have come, `before` of them earlier than now.
    fn tick(&mut self, so_far: u64) -> io::Result<()> {
        self.stall = self.stall.max(self.last.elapsed());
        if let Some((_, pause)) = self.manners.pause.take_if(|(after, _)| *after <= so_far) {
            std::thread::sleep(pause);
        }
        self.last = Instant::now();
        match self.manners.reset_after {
            Some(after) if after <= so_far => Err(io::Error::other("on purpose")),
            _ => Ok(()),
        }
    }

    /// What the server says of the upload, and its end.
    fn receipt(&mut self, mut stream: &TcpStream, receipt: &mut Vec<u8>) -> io::Result<()> {
        let mut buffer = [0; RECEIPT + 1];
        while receipt.len() <= RECEIPT {
            match retried(|| stream.read(&mut buffer))? {
                0 if receipt.len() == RECEIPT => return Ok(()),
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                count => receipt.extend_from_slice(&buffer[..count]),
            }
            self.stall = self.stall.max(self.last.elapsed());
            self.last = Instant::now();
        }
        panic!("more came than was sent");
    }
}

/// Bytes read so far and their hash.
#[derive(Default)]
struct Tally {
    bytes: u64,
    hasher: Sha256,
}

impl Tally {
    /// Reads up to `most` bytes.
    fn take(&mut self, mut stream: &TcpStream, most: u64, meter: &mut Meter) -> io::Result<()> {
        let mut buffer = vec![0; 64 * 1024];
        while self.bytes < most {
            let room = buffer.len().min(usize::try_from(most - self.bytes).unwrap_or(usize::MAX));
            match retried(|| stream.read(&mut buffer[..room]))? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                count => self.add(&buffer[..count]),
            }
            meter.tick(self.bytes)?;
        }
        Ok(())
    }

    fn add(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    fn sum(&self) -> Sum {
        Sum { bytes: self.bytes, hash: self.hasher.clone().finalize().into() }
    }

    /// Whether this is a beginning of `whole`.
    fn check(&self, whole: Pattern) -> Result<(), String> {
        if self.bytes > whole.bytes {
            return Err(format!("{} bytes, more than were sent", self.bytes));
        }
        let beginning = Pattern { bytes: self.bytes, ..whole };
        if self.sum() == beginning.sum() { Ok(()) } else { Err(format!("wrong within {} bytes", self.bytes)) }
    }
}

/// A read or write with a timeout is interrupted when the process is stopped and continued (signal(7)).
fn retried(mut attempt: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match attempt() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// What the servers of a test have seen.
#[derive(Default)]
pub struct Ledger {
    /// Bytes that came and were the right ones.
    pub bytes: AtomicU64,
    /// Uploads that ended regularly before their end, and when.
    pub truncated: Mutex<Vec<(Instant, String)>>,
    /// What must never be.
    pub wrong: Mutex<Vec<String>>,
}

impl Ledger {
    /// Panics if a server has got a byte that was not sent.
    pub fn assert_right(&self) {
        let wrong = self.wrong.lock().expect("ledger");
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    /// Enters an upload that ended regularly.
    fn expect_whole(&self, upload: &Sum, transfer: &Transfer, stream: &TcpStream) {
        if upload.bytes < transfer.up.bytes {
            let peer = stream.peer_addr().map_or_else(|error| error.to_string(), |peer| peer.to_string());
            let what = format!("{peer}: {} bytes of {transfer:?}", upload.bytes);
            self.truncated.lock().expect("ledger").push((Instant::now(), what));
        }
    }

    /// Uploads that ended regularly before their end.
    pub fn truncated(&self) -> Vec<(Instant, String)> {
        self.truncated.lock().expect("ledger").clone()
    }
}

/// Starts the server, which enters what it sees into the ledger.
pub fn serve(at: &str, ledger: &Arc<Ledger>) -> Server {
    let ledger = Arc::clone(ledger);
    Server::threaded(at, move |stream| {
        let _ = stream.set_read_timeout(Some(IO_PATIENCE));
        let _ = stream.set_write_timeout(Some(IO_PATIENCE));
        let _ = stream.set_nodelay(true);
        if answer(&stream, &ledger).is_err() {
            clients::reset_at_close(&stream);
        }
    })
}

fn answer(stream: &TcpStream, ledger: &Arc<Ledger>) -> io::Result<()> {
    let mut head = [0; HEAD];
    let mut reader = stream;
    reader.read_exact(&mut head)?;
    let transfer = Transfer::from_head(head);
    if transfer.order == Order::EndFirst {
        transfer.down.send(&mut &*stream, Cut::Bulk)?;
        // The receipt cannot be given before the upload has come; so the client gets one for what it will send.
        (&*stream).write_all(&receipt_of(&transfer.up.sum()))?;
        stream.shutdown(Shutdown::Write)?;
        return receive(stream, transfer, ledger).map(|upload| ledger.expect_whole(&upload, &transfer, stream));
    }
    let reading = {
        let (stream, ledger) = (stream.try_clone()?, Arc::clone(ledger));
        std::thread::spawn(move || receive(&stream, transfer, &ledger))
    };
    let (reading, first) = match transfer.order {
        Order::AfterEnd => (None, Some(reading.join().expect("receiving")?)),
        _ => (Some(reading), None),
    };
    let sent = transfer.down.send(&mut &*stream, Cut::Bulk);
    let upload = match (reading, first) {
        (Some(reading), _) => reading.join().expect("receiving"),
        (None, upload) => Ok(upload.expect("the upload")),
    };
    // A reset is told once, to whoever asks first; the other hears of a regular end.
    sent?;
    let upload = upload?;
    ledger.expect_whole(&upload, &transfer, stream);
    (&*stream).write_all(&receipt_of(&upload))?;
    stream.shutdown(Shutdown::Write)
}

/// Reads the upload to its end and compares what has come with what was sent.
fn receive(mut stream: &TcpStream, transfer: Transfer, ledger: &Ledger) -> io::Result<Sum> {
    let mut upload = Tally::default();
    let mut buffer = vec![0; 64 * 1024];
    let whole = |upload: &Tally| transfer.order == Order::EndOnce && upload.bytes == transfer.up.bytes;
    let ended = loop {
        if whole(&upload) {
            break Ok(());
        }
        match retried(|| stream.read(&mut buffer)) {
            Ok(0) => break Ok(()),
            Ok(count) => upload.add(&buffer[..count]),
            Err(error) => break Err(error),
        }
    };
    match upload.check(transfer.up) {
        Ok(()) => drop(ledger.bytes.fetch_add(upload.bytes, Ordering::Relaxed)),
        Err(wrong) => ledger.wrong.lock().expect("ledger").push(format!("upload of {transfer:?}: {wrong}")),
    }
    ended.map(|()| upload.sum())
}
