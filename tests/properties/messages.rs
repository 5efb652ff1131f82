//! What our processes say to each other, as an enemy would say it in the place of one: any bytes mean one of the few
//! messages or nothing, and what they mean is within its bounds.

use proptest::collection::vec;
use proptest::prelude::*;
use tproxy::testing::message::{Answer, NAME, PART, Question, SIZE, ToGuardian, ToWorker};
use tproxy::testing::{ADDRESSES, FromControl, UpstreamOrder};

use super::cases::cases;

/// Bytes of about the right length, most of them beginning as some message does, and a good many of them short of
/// arbitrary: zeros are what most fields hold.
fn anything() -> impl Strategy<Value = Vec<u8>> {
    let length = prop_oneof![8 => Just(SIZE), 1 => 0..SIZE, 1 => SIZE..2 * SIZE];
    let byte = || prop_oneof![any::<u8>(), Just(0), 0..20_u8, b'a'..=b'z'];
    (length, byte(), byte()).prop_flat_map(move |(length, kind, count)| {
        vec(byte(), length).prop_map(move |mut bytes| {
            bytes.iter_mut().zip([kind, count]).for_each(|(place, byte)| *place = byte);
            bytes
        })
    })
}

#[test]
fn any_bytes_mean_one_of_the_messages_or_nothing() {
    proptest!(cases(5_000), |(bytes in anything())| {
        let whole = bytes.len() == SIZE;
        if let Some(word) = ToGuardian::decode(&bytes) {
            prop_assert!(whole);
            // What it means is all that is left of it: said again it is the same.
            prop_assert_eq!(ToGuardian::decode(&word.encode()), Some(word));
        }
        if let Some(answer) = Answer::decode(&bytes) {
            prop_assert!(whole);
            match &answer {
                Answer::Addresses(list) | Answer::Part(list) => prop_assert!((1..=PART).contains(&list.len())),
                Answer::Failed(why) => {
                    prop_assert!(why.len() <= 255 && !why.chars().any(char::is_control), "{:?}", why);
                }
            }
        }
        if let Some(Question { name }) = Question::decode(&bytes) {
            prop_assert!(whole && name.len() <= 255 && !name.chars().any(char::is_control));
        }
        if let Some(ToWorker::Addresses { name, addresses }) = ToWorker::decode(&bytes) {
            prop_assert!(whole && name.len() <= 255 && addresses.len() <= ADDRESSES);
        }
    });
}

#[test]
fn wild_names_come_through_whole_or_cut_and_never_as_others_kinds() {
    proptest!(cases(5_000), |(name in "\\PC{0,300}")| {
        let question = Question { name: name.clone() }.encode();
        let Some(Question { name: read }) = Question::decode(&question) else {
            return Err(TestCaseError::fail("a question that means nothing"));
        };
        prop_assert!(read.len() <= NAME && name.starts_with(&read));
        prop_assert_eq!(read.len() == name.len(), name.len() <= NAME);
        let answer = Answer::Failed(name.clone());
        let Some(Answer::Failed(read)) = Answer::decode(&answer.encode()) else {
            return Err(TestCaseError::fail("an answer that means nothing"));
        };
        prop_assert!(name.starts_with(&read));
    });
}

/// Bytes as the control process sends them: a kind, the length of a text, six numbers, and a text. All may be anything.
fn anything_of_control() -> impl Strategy<Value = Vec<u8>> {
    let number = prop_oneof![0..4_u64, any::<u32>().prop_map(u64::from), any::<u64>()];
    let text = prop_oneof!["[a-z.:0-9]{0,64}".prop_map(String::into_bytes), vec(any::<u8>(), 0..SIZE)];
    let kind = prop_oneof![4 => 0..11_u8, 1 => any::<u8>()];
    let length = prop_oneof![4 => Just(None), 1 => any::<u16>().prop_map(Some)];
    let whole = prop_oneof![8 => Just(SIZE), 1 => 0..2 * SIZE];
    (kind, length, vec(number, 6), text, whole).prop_map(|(kind, length, numbers, text, whole)| {
        let mut bytes = vec![kind, 0, 0, 0, 0, 0];
        bytes.extend(length.unwrap_or(text.len() as u16).to_be_bytes());
        numbers.iter().for_each(|number| bytes.extend(number.to_be_bytes()));
        bytes.extend(text);
        bytes.resize(whole, 0);
        bytes
    })
}

#[test]
fn any_bytes_of_the_control_process_mean_one_of_its_messages_or_nothing() {
    let mut understood = [0; 10];
    let mut runner = proptest::test_runner::TestRunner::new(cases(5_000));
    let understood_all = std::cell::RefCell::new(&mut understood);
    let judged = runner.run(&anything_of_control(), |bytes| {
        let Some(message) = FromControl::decode(&bytes) else { return Ok(()) };
        prop_assert_eq!(bytes.len(), SIZE);
        understood_all.borrow_mut()[usize::from(bytes[0])] += 1;
        // What it means is all that is left of it: said again it is the same.
        prop_assert_eq!(FromControl::decode(&message.encode()), Some(message.clone()));
        if let FromControl::Upstream { name, order, .. } = message {
            prop_assert!(name.len() < SIZE && UpstreamOrder::ALL.contains(&order));
        }
        Ok(())
    });
    judged.unwrap_or_else(|error| panic!("{error}"));
    assert!(understood[1..].iter().all(|count| *count > 0), "each kind is understood: {understood:?}");
}
