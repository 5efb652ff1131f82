use super::*;

const AGREED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: a\r\n\r\n";

/// The answers to so many requests, and then to one that asks for a switch.
fn asked(before: usize, switch: Switch) -> Answers {
    let mut answers = Answers::default();
    (0..before).for_each(|_| answers.expect(false, None));
    answers.expect(false, Some(switch));
    answers
}

/// What is decided: whether the proxy has agreed; `None` while it is open.
fn decision(answers: &Answers) -> Option<bool> {
    (!answers.is_undecided()).then(|| answers.has_switched())
}

/// Hears it as a whole, in single bytes, and with what may pass unseen unseen: all the same.
fn heard(before: usize, switch: Switch, text: &str) -> Result<Option<bool>, BadAnswer> {
    let mut whole = asked(before, switch);
    let result = whole.hear(text.as_bytes());
    let mut single = asked(before, switch);
    let pieces = text.bytes().try_for_each(|byte| match single.opaque() {
        0 => single.hear(&[byte]),
        _ => {
            single.passed(1);
            Ok(())
        }
    });
    assert_eq!((result.is_ok(), decision(&whole)), (pieces.is_ok(), decision(&single)), "{text:?}");
    assert_eq!((whole.stage, whole.answered), (single.stage, single.answered), "{text:?}");
    result.map(|()| decision(&whole))
}

#[test]
fn a_switch_is_granted_by_its_own_status_only() {
    let table = [
        (Switch::Upgrade, 101, Some(true)),
        (Switch::Upgrade, 100, None),
        (Switch::Upgrade, 102, None),
        (Switch::Upgrade, 103, None),
        (Switch::Upgrade, 200, Some(false)),
        (Switch::Upgrade, 204, Some(false)),
        (Switch::Upgrade, 426, Some(false)),
        (Switch::Tunnel, 100, None),
        (Switch::Tunnel, 103, None),
        (Switch::Tunnel, 200, Some(true)),
        (Switch::Tunnel, 204, Some(true)),
        (Switch::Tunnel, 299, Some(true)),
        (Switch::Tunnel, 301, Some(false)),
        (Switch::Tunnel, 407, Some(false)),
        (Switch::Tunnel, 503, Some(false)),
    ];
    for (switch, status, wanted) in table {
        let answer = format!("HTTP/1.1 {status} x\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(heard(0, switch, &answer), Ok(wanted), "{status}");
    }
    assert_eq!(heard(0, Switch::Tunnel, AGREED), Err(BadAnswer { good: 0 }), "nobody asked for it");
}

#[test]
fn each_way_to_end_a_body_is_known() {
    let table = [
        "200 OK\r\nContent-Length: 5\r\n\r\nHTTP/",
        "200 OK\r\ncontent-LENGTH:\t5 \r\nContent-Length: 5\r\n\r\nHTTP/",
        "200 OK\r\nTransfer-Encoding: gzip, Chunked\r\n\r\n5;a=b\r\nHTTP/\r\n0a  \r\n0123456789\r\n0\r\nX: y\r\n\r\n",
        "200 OK\nTransfer-Encoding: chunked\n\n1\nH\n0\n\n",
        "204 No Content\r\nContent-Length: 5\r\n\r\n",
        "304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n",
        "100 Continue\r\nContent-Length: 5\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.0 404\r\nContent-Length: 0\r\n\r\n",
        "200 OK\r\nContent-Length: 1\r\n\r\nx\r\n",
    ];
    for answer in table {
        let text = format!("HTTP/1.1 {answer}{AGREED}");
        assert_eq!(heard(1, Switch::Upgrade, &text), Ok(Some(true)), "{answer:?}");
        assert_eq!(heard(2, Switch::Upgrade, &text), Err(BadAnswer { good: text.len() - AGREED.len() }), "{answer:?}");
    }
}

#[test]
fn what_ends_with_the_connection_hides_what_follows() {
    for head in [
        "HTTP/1.1 200 OK",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked",
    ] {
        assert_eq!(heard(1, Switch::Upgrade, &format!("{head}\r\n\r\n{AGREED}")), Ok(None), "{head:?}");
        assert_eq!(heard(0, Switch::Upgrade, &format!("{head}\r\n\r\n{AGREED}")), Ok(Some(false)), "{head:?}");
    }
}

#[test]
fn there_is_no_body_behind_a_head_request() {
    let mut answers = Answers::default();
    for is_head in [true, false, true] {
        answers.expect(is_head, None);
    }
    answers.expect(true, Some(Switch::Upgrade));
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n";
    assert_eq!(answers.hear(format!("{head}{head}abc{head}{head}").as_bytes()), Ok(()));
    assert!(answers.rare.is_none());
    assert_eq!((decision(&answers), answers.stage), (Some(false), Stage::Status));
}

#[test]
fn an_answer_that_is_not_understood_decides_nothing() {
    let table = [
        "ICY 200 OK\r\n",
        "HTTP/2 101 x\r\n",
        "HTTP/1.1 1010 x\r\n",
        "HTTP/1.1 10 x\r\n",
        "HTTP/1.1 099 x\r\n",
        "HTTP/1.1  101 x\r\n",
        " HTTP/1.1 101 x\r\n",
        "HTTP/1.1\t101 x\r\n",
        "HTTP/1.1 +10 x\r\n",
        "HTTP/1.1 403 x\r\nContent-Length: a\r\n",
        "HTTP/1.1 403 x\r\nContent-Length: -1\r\n",
        "HTTP/1.1 403 x\r\nContent-Length: 1, 1\r\n",
        "HTTP/1.1 403 x\r\nContent-Length\r\n",
        "HTTP/1.1 403 x\r\nContent-Length : 1\r\n",
        "HTTP/1.1 403 x\r\nContent-Length: 1\r\n 2\r\n",
        "HTTP/1.1 403 x\r\nContent-Length: 1\r\nContent-Length: 2\r\n",
        "HTTP/1.1 403 x\r\nContent-Length: 99999999999999999999\r\n",
        "HTTP/1.1 403 x\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 403 x\r\nTransfer-Encoding: chunked, gzip\r\n",
        "HTTP/1.1 403 x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "HTTP/1.1 403 x\r\nTransfer-Encoding:\r\n",
        "GET / HTTP/1.1\r\n",
        "\0\0\n",
    ];
    for answer in table {
        for switch in [Switch::Upgrade, Switch::Tunnel] {
            assert_eq!(heard(0, switch, answer), Err(BadAnswer { good: 0 }), "{answer:?}");
            let good = "HTTP/1.1 204 x\r\n\r\n";
            assert_eq!(heard(1, switch, &format!("{good}{answer}")), Err(BadAnswer { good: good.len() }), "{answer:?}");
        }
    }
    for wrong in ["x\r\n", "\r\n", "-1\r\n", "1\r\nab\r\n", "11111111111111111\r\n"] {
        let answer = format!("HTTP/1.1 200 x\r\nTransfer-Encoding: chunked\r\n\r\n{wrong}");
        assert_eq!(heard(1, Switch::Upgrade, &answer), Err(BadAnswer { good: 0 }), "{wrong:?}");
    }
}

#[test]
fn heads_may_be_written_carelessly() {
    let table = [
        "HTTP/1.1 101\r\n\r\n",
        "HTTP/1.1 101 \n\n",
        "HTTP/1.7 101 x\r\n folded\r\nno colon\r\na b: c\r\n: d\r\n\0: ü\r\n\r\n",
        "\r\n\r\nHTTP/1.1 101 x\r\n\r\n",
    ];
    for answer in table {
        assert_eq!(heard(0, Switch::Upgrade, answer), Ok(Some(true)), "{answer:?}");
    }
    for (name, agrees) in [("Set-Cookie", true), ("Content-Length", false)] {
        let long = format!("HTTP/1.1 101 {0}\r\n{name}: {0}\r\n\r\n", "1".repeat(70_000));
        assert_eq!(heard(0, Switch::Upgrade, &long).is_ok(), agrees, "{name}");
    }
}

#[test]
fn when_nobody_asks_for_a_switch_nothing_is_wrong_and_the_counting_ends() {
    for answer in ["ICY 200 OK\r\n\r\n", AGREED, "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"] {
        let mut answers = Answers::default();
        answers.expect(false, None);
        assert_eq!(answers.hear(answer.as_bytes()), Ok(()));
        assert!(answers.is_lost() && !answers.has_switched(), "{answer:?}");
        assert_eq!(answers.opaque(), u64::MAX);
    }
    let mut answers = Answers::default();
    assert_eq!(answers.hear(b"HTTP/1.1 408 Timeout\r\nContent-Length: 0\r\n\r\n"), Ok(()));
    assert!(answers.is_lost(), "nobody asked");
    let mut answers = Answers::default();
    (0..=HEADS).for_each(|_| answers.expect(true, None));
    assert!(answers.is_lost());
}

#[test]
fn the_end_of_the_answers_grants_nothing() {
    for begun in ["", "HTTP/1.1 101", "HTTP/1.1 100 Continue\r\n\r\n"] {
        let mut answers = asked(0, Switch::Upgrade);
        answers.hear(begun.as_bytes()).unwrap();
        answers.end();
        assert_eq!(decision(&answers), Some(false));
    }
}

#[test]
fn no_more_than_one_line_is_kept() {
    let mut answers = asked(0, Switch::Upgrade);
    answers.hear(b"HTTP/1.1 200 ").unwrap();
    for _ in 0..10_000 {
        answers.hear(&[b'x'; 100]).unwrap();
    }
    assert!(answers.rare.as_ref().is_some_and(|rare| rare.line.len() <= LINE + 1) && answers.is_undecided());
}
