//! The ring that this guest has for its home, made at boot: the kernel has whole large pages to give then, and a
//! guest that becomes many has it already.

use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, MutexGuard, PoisonError};

use guest_ring::{Area, Broken, Offer, Receiver, Sender};

use crate::Error;

/// How many large pages the kernel keeps ready.
const LARGE_PAGES: &str = "/proc/sys/vm/nr_hugepages";
/// One for each direction.
const AREAS: u64 = 2;
/// Where this process finds where its pages lie.
const PAGE_MAP: &str = "/proc/self/pagemap";
const PAGE_BYTES: u64 = 4096;
/// Bits of an entry of it: the page is there; its number.
const PAGE_IS_THERE: u64 = 1 << 63;
const PAGE_NUMBER: u64 = (1 << 55) - 1;

/// See the module.
#[derive(Debug)]
pub(crate) struct Ring {
    pub(super) offer: Offer,
    /// The host has said that it uses it.
    pub(super) agreed: AtomicBool,
    requests: Mutex<Sender>,
    replies: Mutex<Receiver>,
}

impl Ring {
    /// Takes the memory for it.
    pub(crate) fn prepare() -> Result<Self, Error> {
        let ready =
            fs::read_to_string(LARGE_PAGES).map_err(Error::io("read the number of large pages"))?;
        let ready = ready.trim().parse::<u64>().unwrap_or(0);
        fs::write(LARGE_PAGES, (ready + AREAS).to_string())
            .map_err(Error::io("ask for large pages"))?;
        let large_page = || Area::large_page().map_err(Error::io("map a large page"));
        let (to_host, to_guest) = (large_page()?, large_page()?);
        let token = RandomState::new().hash_one(0);
        to_host.mark(token);
        to_guest.mark(token);
        let place = |area: &Area| physical(area.address()).map_err(Error::io("find a large page"));
        let offer = Offer { to_host: place(&to_host)?, to_guest: place(&to_guest)?, token };
        Self::over(to_host, to_guest, offer)
            .map_err(|error| Error::Invalid(format!("a new ring: {error}")))
    }

    /// Over memory that `offer` says where to find.
    pub(super) fn over(to_host: Area, to_guest: Area, offer: Offer) -> Result<Self, Broken> {
        let (requests, replies) = (Sender::new(to_host)?, Receiver::new(to_guest)?);
        let (requests, replies) = (Mutex::new(requests), Mutex::new(replies));
        Ok(Self { offer, agreed: AtomicBool::new(false), requests, replies })
    }

    pub(super) fn requests(&self) -> MutexGuard<'_, Sender> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn replies(&self) -> MutexGuard<'_, Receiver> {
        self.replies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where memory of this process lies in that of the guest. It has been touched, and does not move.
fn physical(address: usize) -> io::Result<u64> {
    let mut entry = [0; 8];
    File::open(PAGE_MAP)?.read_exact_at(&mut entry, address as u64 / PAGE_BYTES * 8)?;
    let entry = u64::from_ne_bytes(entry);
    if entry & PAGE_IS_THERE == 0 || entry & PAGE_NUMBER == 0 {
        return Err(io::Error::other("the kernel does not say where it is"));
    }
    Ok((entry & PAGE_NUMBER) * PAGE_BYTES)
}
