use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RecordType};

use super::*;

#[test]
fn a_label_with_a_dot_in_it_is_no_name_of_an_allow_list() {
    let ask = |labels: &[&[u8]]| {
        let mut message = Message::query();
        let name = Name::from_labels(labels.iter().copied()).unwrap();
        message.add_query(Query::query(name, RecordType::A));
        Question::read(&message.to_vec().unwrap()).unwrap()
    };
    let list: Egress = "allow=*.example.com,example.com".parse().unwrap();
    for (labels, allowed) in [
        (&[&b"www"[..], b"example", b"com"][..], true),
        (&[b"EXAMPLE", b"com"], true),
        (&[b"a.b", b"example", b"com"], false),
        (&[b"a\\", b"example", b"com"], false),
        (&[b"a.example", b"com"], false),
        (&[b"a\0", b"example", b"com"], false),
    ] {
        let question = ask(labels);
        assert_eq!(question.is_allowed_by(&list), allowed, "{question:?}");
        assert!(question.is_allowed_by(&Egress::Open));
    }
}

#[test]
fn questions_are_read_at_a_rate_after_a_burst() {
    let mut pace = Pace::new();
    let now = pace.since;
    let burst = (0..1_000).take_while(|_| pace.take(now).is_zero()).count();
    assert_eq!(burst, 400);
    assert!(pace.take(now) > Duration::from_millis(10), "who is ahead waits longer");
    let later = now + Duration::from_secs(60);
    assert!(pace.take(later).is_zero());
    assert!(pace.left <= QUESTIONS_BURST, "a pause saves up one burst at most");
}
