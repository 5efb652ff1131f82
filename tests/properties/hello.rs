//! ClientHellos as clients could send them, spread over records and cut anywhere.

use super::*;

/// What openssl, curl and Chromium really sent.
const REAL: [&[u8]; 5] = [
    include_bytes!("../fixtures/openssl.hello"),
    include_bytes!("../fixtures/openssl-nameless.hello"),
    include_bytes!("../fixtures/openssl-records.hello"),
    include_bytes!("../fixtures/curl.hello"),
    include_bytes!("../fixtures/chromium.hello"),
];

/// Pieces of a hello.
const PIECES: &[u8] =
    b"\x16\x03\x01|\x16\x03\x01\0\x01\x01|\x01\0\0\x40|\x03\x03|\0\0\0\x08\0\x06\0\0\x03cow|\0|\x01|\0\0|\
    \0\x05|cow|\x20|\x13\x01";

/// A hello in its records.
#[derive(Debug, Clone)]
struct Hello {
    bytes: Vec<u8>,
    name: Option<String>,
    /// Bytes up to the end of the name, or of all when there is none.
    enough: usize,
}

fn counted(width: usize, content: &[u8]) -> Vec<u8> {
    [&content.len().to_be_bytes()[8 - width..], content].concat()
}

/// Extensions that are no server_name; twice as many make no hello of 16 KiB.
fn extensions() -> impl Strategy<Value = Vec<u8>> {
    let extension = (1..=u16::MAX, prop_oneof![9 => vec(any::<u8>(), 0..40), 1 => vec(any::<u8>(), 0..1000)]);
    let bytes = extension.prop_map(|(kind, content)| [&kind.to_be_bytes()[..], &counted(2, &content)].concat());
    vec(bytes, 0..8).prop_map(|list| list.concat())
}

/// What stands in a hello in front of its extensions, without the lengths of it all.
fn front() -> impl Strategy<Value = Vec<u8>> {
    let lists = (vec(any::<u8>(), 0..=32), vec(any::<[u8; 2]>(), 1..40), vec(any::<u8>(), 1..4));
    (any::<u8>(), any::<[u8; 32]>(), lists).prop_map(|(minor, random, (session, suites, compressions))| {
        [&[3, minor][..], &random, &counted(1, &session), &counted(2, &suites.concat()), &counted(1, &compressions)]
            .concat()
    })
}

/// The message in records of these sizes, and how many bytes of them it takes to have so many of the message.
fn spread(message: &[u8], sizes: &[usize], wanted: usize) -> (Vec<u8>, usize) {
    let (mut bytes, mut done, mut enough) = (Vec::new(), 0, 0);
    let mut sizes = sizes.iter().cycle();
    while done < message.len() {
        let size = sizes.next().map_or(1, |size| *size).min(message.len() - done);
        let record = [&[22, 3, 1][..], &counted(2, &message[done..done + size])].concat();
        if (done + 1..=done + size).contains(&wanted) {
            enough = bytes.len() + record.len() - (done + size - wanted);
        }
        bytes.extend(record);
        done += size;
    }
    (bytes, enough)
}

fn hello() -> impl Strategy<Value = Hello> {
    let sizes = prop_oneof![Just(vec![1 << 14]), vec(1..=100_usize, 1..5), vec(1..=3000_usize, 1..3)];
    (front(), extensions(), option::of(host_name()), extensions(), sizes).prop_map(
        |(front, before, name, after, sizes)| {
            let sni = name.as_ref().map_or(Vec::new(), |name| {
                let list = [&[0][..], &counted(2, name.as_bytes())].concat();
                [&[0, 0][..], &counted(2, &counted(2, &list))].concat()
            });
            let message = [&front[..], &counted(2, &[&before[..], &sni, &after].concat())].concat();
            let whole = [&[1][..], &counted(3, &message)].concat();
            let last = if name.is_some() { 4 + front.len() + 2 + before.len() + sni.len() } else { whole.len() };
            let (bytes, enough) = spread(&whole, &sizes, last);
            Hello { bytes, name, enough }
        },
    )
}

proptest! {
    #![proptest_config(cases(2_000))]

    #[test]
    fn a_hello_gives_its_name_with_the_last_byte_of_it(
        hello in hello(),
        early_data in vec(any::<u8>(), 0..20),
        cut in any::<Index>(),
    ) {
        let bytes = [&hello.bytes[..], &early_data].concat();
        let around = [hello.enough.saturating_sub(1), hello.enough, cut.index(bytes.len() + 1), bytes.len()];
        for count in around {
            let expected = match &hello.name {
                Some(name) if count.min(sniff::MOST) >= hello.enough => Sniff::Name(name.into()),
                None if count >= hello.enough => Sniff::None,
                _ if count >= sniff::MOST => Sniff::None,
                _ => Sniff::More,
            };
            prop_assert_eq!(sniff::name(&bytes[..count]), expected, "{} of {}", count, bytes.len());
        }
    }

    #[test]
    fn no_hello_surprises(
        bytes in prop_oneof![
            (hello(), damage()).prop_map(|(hello, by)| damaged(hello.bytes, &by)),
            (select(&REAL[..]), damage()).prop_map(|(hello, by)| damaged(hello.to_vec(), &by)),
            babble(PIECES),
            vec(any::<u8>(), 0..300).prop_map(|rest| [&[22, 3, 1, 1, 0, 1, 0, 0, 252, 3, 3][..], &rest].concat()),
        ],
        cut in any::<Index>(),
    ) {
        keeps_its_word(&bytes, cut, &Sniff::More, |bytes| owned(sniff::name(bytes)));
        finds_only_names(&bytes);
    }
}
