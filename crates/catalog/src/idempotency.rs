//! Replies that are kept, to be sent again when a request comes again under the same key.

use base::Timestamp;
use rusqlite::OptionalExtension as _;

use crate::{Catalog, Error, Result, int, nanos};

pub(crate) const TABLE: &str = "
CREATE TABLE idempotency (
    scope TEXT NOT NULL,
    key TEXT NOT NULL,
    request_hash TEXT NOT NULL,
    status INTEGER NOT NULL,
    headers TEXT NOT NULL,
    body BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (scope, key)
) STRICT;
CREATE INDEX idempotency_age ON idempotency (created_at);
";

/// A reply as it was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptReply {
    /// Digest of the request it answered.
    pub request_hash: String,
    /// HTTP status.
    pub status: u16,
    /// Headers that matter.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Catalog {
    /// The reply kept under a key, if it was kept after `not_before`.
    ///
    /// # Errors
    /// [`Error::Database`], [`Error::Corrupt`].
    pub fn kept_reply(
        &self,
        scope: &str,
        key: &str,
        not_before: Timestamp,
    ) -> Result<Option<KeptReply>> {
        self.read(|db| {
            let mut statement = db.prepare_cached(
                "SELECT request_hash, status, headers, body FROM idempotency
                 WHERE scope = ?1 AND key = ?2 AND created_at >= ?3",
            )?;
            let found = statement
                .query_row((scope, key, nanos(not_before)), |row| {
                    let headers: String = row.get("headers")?;
                    let reply = KeptReply {
                        request_hash: row.get("request_hash")?,
                        status: row.get("status")?,
                        headers: Vec::new(),
                        body: row.get("body")?,
                    };
                    Ok((reply, headers))
                })
                .optional()?;
            let Some((mut reply, headers)) = found else { return Ok(None) };
            reply.headers = serde_json::from_str(&headers)
                .map_err(|_| Error::Corrupt { column: "idempotency.headers" })?;
            Ok(Some(reply))
        })
    }

    /// Keeps a reply, replacing an expired one under the same key.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn keep_reply(
        &self,
        scope: &str,
        key: &str,
        reply: &KeptReply,
        now: Timestamp,
    ) -> Result<()> {
        let headers = serde_json::to_string(&reply.headers)
            .map_err(|error| Error::Unusable(error.to_string()))?;
        self.write(|db| {
            db.prepare_cached("INSERT OR REPLACE INTO idempotency VALUES (?1,?2,?3,?4,?5,?6,?7)")?
                .execute((
                    scope,
                    key,
                    &reply.request_hash,
                    reply.status,
                    headers,
                    &reply.body,
                    nanos(now),
                ))?;
            Ok(())
        })
    }

    /// Forgets replies kept before `before`, and the oldest beyond `max`. Returns how many went.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn expire_replies(&self, before: Timestamp, max: u64) -> Result<usize> {
        self.write(|db| {
            let old =
                db.execute("DELETE FROM idempotency WHERE created_at < ?1", [nanos(before)])?;
            let many = db.execute(
                "DELETE FROM idempotency WHERE rowid IN
                 (SELECT rowid FROM idempotency ORDER BY created_at DESC LIMIT -1 OFFSET ?1)",
                [int(max)],
            )?;
            Ok(old + many)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machines::tests::open;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn reply(body: &str) -> KeptReply {
        KeptReply {
            request_hash: "abc".to_owned(),
            status: 202,
            headers: vec![("etag".to_owned(), "\"7\"".to_owned())],
            body: body.into(),
        }
    }

    #[test]
    fn a_reply_is_kept_until_it_is_too_old() {
        let (_dir, catalog) = open();
        catalog.keep_reply("s", "k", &reply("one"), at(100)).unwrap();
        assert_eq!(catalog.kept_reply("s", "k", at(50)).unwrap(), Some(reply("one")));
        assert_eq!(catalog.kept_reply("other", "k", at(50)).unwrap(), None);
        assert_eq!(catalog.kept_reply("s", "k", at(101)).unwrap(), None);
        assert_eq!(catalog.expire_replies(at(101), 10).unwrap(), 1);
    }

    #[test]
    fn the_oldest_go_where_there_are_too_many() {
        let (_dir, catalog) = open();
        for n in 0..5 {
            catalog.keep_reply("s", &n.to_string(), &reply("x"), at(100 + n)).unwrap();
        }
        assert_eq!(catalog.expire_replies(at(0), 2).unwrap(), 3);
        assert_eq!(catalog.kept_reply("s", "2", at(0)).unwrap(), None);
        assert!(catalog.kept_reply("s", "4", at(0)).unwrap().is_some());
    }
}
