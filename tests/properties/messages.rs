//! What our processes say to each other, as an enemy would say it in the place of one: any bytes mean one of the few
//! messages or nothing, and what they mean is within its bounds.

use proptest::collection::vec;
use proptest::prelude::*;
use tproxy::testing::ADDRESSES;
use tproxy::testing::message::{Answer, NAME, PART, Question, SIZE, ToGuardian, ToWorker};

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
