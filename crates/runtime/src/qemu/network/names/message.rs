//! What a guest asks, and what is read of the answers. Pure; everything here may come from a hostile guest or server.

use std::net::Ipv4Addr;

use base::Egress;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, RecordType};

use crate::limits::{ALIASES_MAX, ANSWER_ADDRESSES_MAX, ANSWER_BYTES_UDP_MAX};

/// Most bytes of an answer for whoever does not say how many it takes.
const ANSWER_BYTES_PLAIN: u16 = 512;
/// Bytes of a message before its first question.
const HEADER_BYTES: usize = 12;

/// One question for a record of the Internet.
#[derive(Debug)]
pub(crate) struct Question {
    /// Of the guest.
    id: u16,
    query: Query,
    /// In lower case, without its last dot.
    name: String,
    /// How it is asked on: with an id of ours.
    message: Message,
    /// Most bytes that the guest takes by UDP.
    takes: u16,
}

impl Question {
    /// # Errors
    /// For what is no such question: the answer to give, if any.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, Option<Vec<u8>>> {
        let Ok(asked) = Message::from_vec(bytes) else { return Err(unreadable(bytes)) };
        let (id, op_code) = (asked.metadata.id, asked.metadata.op_code);
        // An answer to an answer could go on for ever.
        if asked.metadata.message_type != MessageType::Query {
            return Err(None);
        }
        let refusal = |code| Err(Message::error_msg(id, op_code, code).to_vec().ok());
        if op_code != OpCode::Query {
            return refusal(ResponseCode::NotImp);
        }
        let [query] = asked.queries.as_slice() else { return refusal(ResponseCode::FormErr) };
        let transfer = matches!(query.query_type, RecordType::AXFR | RecordType::IXFR);
        if query.query_class != DNSClass::IN || transfer {
            return refusal(ResponseCode::NotImp);
        }
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        message.metadata.checking_disabled = asked.metadata.checking_disabled;
        message.metadata.authentic_data = asked.metadata.authentic_data;
        message.add_query(query.clone());
        let takes = asked.edns.as_ref().map_or(ANSWER_BYTES_PLAIN, |edns| {
            edns.max_payload().clamp(ANSWER_BYTES_PLAIN, ANSWER_BYTES_UDP_MAX)
        });
        if let Some(asked) = &asked.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(takes);
            edns.set_dnssec_ok(asked.flags().dnssec_ok);
            message.set_edns(edns);
        }
        Ok(Self { id, name: plain(&query.name), query: query.clone(), message, takes })
    }

    /// Whether `policy` lets it be asked. An allow-list has no name with a byte that is escaped: a dot within a
    /// label, say, would make one label look like two.
    pub(crate) fn is_allowed_by(&self, policy: &Egress) -> bool {
        let is_list = matches!(policy, Egress::Allow(_));
        policy.allows_name(&self.name) && !(is_list && self.name.contains('\\'))
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The question as it is asked on, byte by byte ours.
    pub(crate) fn asked_on(&self) -> Option<Vec<u8>> {
        self.message.to_vec().ok()
    }

    /// Whether `answer` is one to what was asked on.
    pub(crate) fn is_answered_by(&self, answer: &[u8]) -> bool {
        answer.len() > HEADER_BYTES
            && answer[..2] == self.message.metadata.id.to_be_bytes()
            && answer[2] & 0x80 != 0
    }

    /// The addresses that `answer` gives the name, through aliases too, each with the seconds that it lives.
    /// `None` for an answer that cannot be read or is one to another question.
    pub(crate) fn addresses(&self, answer: &[u8]) -> Option<Vec<(Ipv4Addr, u32)>> {
        let answer = Message::from_vec(answer).ok()?;
        let [query] = answer.queries.as_slice() else { return None };
        let same = plain(&query.name) == self.name
            && (query.query_type, query.query_class)
                == (self.query.query_type, self.query.query_class);
        if !same || answer.metadata.message_type != MessageType::Response {
            return None;
        }
        let mut names = vec![self.name.clone()];
        for _ in 0..ALIASES_MAX {
            let alias = answer.answers.iter().find_map(|record| match &record.data {
                RData::CNAME(target) if names.contains(&plain(&record.name)) => {
                    Some(plain(&target.0)).filter(|target| !names.contains(target))
                }
                _ => None,
            });
            match alias {
                Some(alias) => names.push(alias),
                None => break,
            }
        }
        let addresses = answer.answers.iter().filter_map(|record| match &record.data {
            RData::A(address) if names.contains(&plain(&record.name)) => {
                Some((address.0, record.ttl))
            }
            _ => None,
        });
        Some(addresses.take(ANSWER_ADDRESSES_MAX).collect())
    }

    /// An answer without a record.
    pub(crate) fn failed(&self, code: ResponseCode) -> Option<Vec<u8>> {
        self.reply(code).to_vec().ok()
    }

    /// `answer` as the guest gets it.
    pub(crate) fn passed_on(&self, mut answer: Vec<u8>, by_udp: bool) -> Option<Vec<u8>> {
        if by_udp && answer.len() > usize::from(self.takes) {
            let mut reply = self.reply(ResponseCode::NoError);
            reply.metadata.truncation = true;
            return reply.to_vec().ok();
        }
        answer.get_mut(..2)?.copy_from_slice(&self.id.to_be_bytes());
        Some(answer)
    }

    fn reply(&self, code: ResponseCode) -> Message {
        let mut reply = Message::error_msg(self.id, OpCode::Query, code);
        reply.metadata.recursion_desired = true;
        reply.metadata.recursion_available = true;
        reply.add_query(self.query.clone());
        reply
    }
}

/// The answer to bytes that cannot be read, where they begin like a question.
fn unreadable(bytes: &[u8]) -> Option<Vec<u8>> {
    if bytes.len() < HEADER_BYTES || bytes[2] & 0x80 != 0 {
        return None;
    }
    let id = u16::from_be_bytes([bytes[0], bytes[1]]);
    Message::error_msg(id, OpCode::Query, ResponseCode::FormErr).to_vec().ok()
}

/// In lower case, without the last dot. Bytes that no name of a policy has are escaped.
fn plain(name: &Name) -> String {
    let mut text = name.to_ascii().to_ascii_lowercase();
    if text.ends_with('.') {
        text.pop();
    }
    text
}
