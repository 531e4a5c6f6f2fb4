//! What a guest asks its name server, and what those of the host answer.

use fuzz::{Target, outcome};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, CNAME, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::message::Question;
use crate::limits::{ANSWER_ADDRESSES_MAX, QUESTION_BYTES_MAX};

/// Largest message that is fed; by TCP they may have as much.
const MESSAGE_BYTES_MAX: usize = 65_535;
/// A name of one byte takes some 100 once it is decoded, and is compared as text.
const MEMORY_MAX: usize = 16 << 20;

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn asked(name: Name, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name, kind));
    message
}

#[test]
fn questions() {
    let mut extended = asked(name("a.b.c.example."), RecordType::AAAA);
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    extended.set_edns(edns);
    let examples = [
        asked(name("example.com."), RecordType::A),
        extended,
        asked(Name::root(), RecordType::ANY),
    ];
    let target = Target {
        name: "question",
        examples: examples.map(|message| message.to_vec().unwrap()).to_vec(),
        words: &[b"\xc0\x0c", b"\x3f", b"\x00\x29", b"\x07example", b"\xff\xff"],
        bytes_max: QUESTION_BYTES_MAX,
        memory_max: MEMORY_MAX,
    };
    target.run(|input| match Question::read(input) {
        Ok(question) => {
            let name = question.name();
            assert!(!name.ends_with('.') || name.ends_with("\\."), "{name}");
            assert_eq!(name, name.to_ascii_lowercase());
            let on = question.asked_on();
            assert!(on.is_none_or(|on| !question.is_answered_by(&on)), "a question is no answer");
            let refused = question.failed(ResponseCode::Refused).unwrap_or_default();
            vec![outcome((name.len(), refused.len()))]
        }
        Err(refusal) => vec![outcome(refusal.map(|bytes| bytes.len()))],
    });
}

#[test]
fn answers() {
    let question = asked(name("example.com."), RecordType::A).to_vec().unwrap();
    let question = Question::read(&question).unwrap();
    let reply = |records: &[Record]| {
        let mut message = Message::new(1, MessageType::Response, OpCode::Query);
        message.add_query(Query::query(name("example.com."), RecordType::A));
        message.add_answers(records.iter().cloned());
        message.to_vec().unwrap()
    };
    let a =
        |owner: &str, last| Record::from_rdata(name(owner), 60, RData::A(A::new(192, 0, 2, last)));
    let alias =
        |owner: &str, to: &str| Record::from_rdata(name(owner), 60, RData::CNAME(CNAME(name(to))));
    let text =
        Record::from_rdata(name("example.com."), 60, RData::TXT(TXT::new(vec!["x".repeat(200)])));
    let target = Target {
        name: "answer",
        examples: vec![
            reply(&[a("example.com.", 1), a("example.com.", 2), text]),
            reply(&[alias("example.com.", "b.net."), alias("b.net.", "c.net."), a("c.net.", 3)]),
            reply(&[alias("example.com.", "b.net."), alias("b.net.", "example.com.")]),
        ],
        words: &[b"\xc0\x0c", b"\x00\x01\x00\x01", b"\x00\x05\x00\x01", b"\x00\x04", b"\xff\xff"],
        bytes_max: MESSAGE_BYTES_MAX,
        memory_max: MEMORY_MAX,
    };
    target.run(|input| {
        let found = question.addresses(input);
        assert!(found.as_ref().is_none_or(|found| found.len() <= ANSWER_ADDRESSES_MAX));
        let passed = question.passed_on(input.to_vec(), true);
        assert!(
            passed.as_ref().is_none_or(|passed| passed.len() <= 512),
            "more than the guest takes"
        );
        vec![outcome((found.map(|found| found.len()), passed.is_some()))]
    });
}
