//! Deleting what nothing needs any more: objects of the store, and space in them.
//!
//! ```text
//! graves      what died, in the home's database
//! keep        what pins and ancestors keep (pure)
//! grace       how long ago a commit was confirmed (pure)
//! chain       commits and bases below the newest full state
//! page_objects  and what only they named
//! victims     which packs are worth rewriting (pure)
//! compact     rewriting them
//! sweep       uploads that a crash left behind
//! collector   all of it, for an open home
//! sleeping    and for one that nobody writes
//! ```
//!
//! # Order
//! The commit without the reference is confirmed; the grace passes; the pins are listed; the epoch is
//! looked at again; the object goes; then its row. Nothing is deleted where one of these failed.
//!
//! # Why nothing live goes
//! - Every name is given once: packs have random numbers in an epoch, chunks and page objects end
//!   with their birth. So what is dead stays dead, and a late deletion, also by a writer that lost
//!   the home without knowing, hits nothing that came after.
//! - What somebody wants to keep is pinned while it is still part of the newest state, or pinned
//!   already. So no pin comes to a grave later.
//! - Any doubt (a pin that cannot be read, a commit that is damaged) stops the collector.
//! - The first commit of an epoch is never deleted while the home lives. It is the number that the
//!   writer before would create next, so a writer that slept through everything is fenced whatever
//!   its clocks say.
//!
//! # Not here
//! The end of a home (`replica::delete`); local files (`local_copies`).

pub(crate) mod chain;
pub(crate) mod collector;
pub(crate) mod compact;
pub(crate) mod grace;
pub(crate) mod graves;
pub(crate) mod keep;
pub(crate) mod page_objects;
pub(crate) mod sleeping;
pub(crate) mod sweep;
pub(crate) mod victims;
