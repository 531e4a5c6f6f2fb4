//! A disk that is served over a connection in place of its file.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nbd_serve::{Disk, Server};
use runtime::{DiskServer, Memory, Network, ServesDisk, Spec};

use crate::guest::{Guest, image, spec};

/// The disk's own file, behind a connection.
#[derive(Debug)]
struct Served {
    file: File,
    /// Nothing can be read at the moment, and nobody is to be told that it never can.
    held: AtomicBool,
    reads: AtomicU64,
    flushes: AtomicU64,
    server: Mutex<Option<Server>>,
}

#[derive(Debug)]
struct Blocks(Arc<Served>);

#[derive(Debug)]
struct Door(Arc<Served>);

impl Disk for Blocks {
    fn bytes(&self) -> u64 {
        self.0.file.metadata().unwrap().len()
    }

    fn read(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        if self.0.held.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.0.reads.fetch_add(1, Ordering::SeqCst);
        self.0.file.read_exact_at(into, at)
    }

    fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.file.write_all_at(bytes, at)
    }

    fn zero(&self, at: u64, len: u64, _keep: bool) -> io::Result<()> {
        self.0.file.write_all_at(&vec![0; len as usize], at)
    }

    fn trim(&self, _at: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        self.0.flushes.fetch_add(1, Ordering::SeqCst);
        self.0.file.sync_data()
    }
}

impl ServesDisk for Door {
    fn connect(&self) -> io::Result<UnixStream> {
        let (ours, theirs) = UnixStream::pair()?;
        let server = Server::start(ours, Arc::new(Blocks(self.0.clone())))?;
        *self.0.server.lock().unwrap() = Some(server);
        Ok(theirs)
    }
}

fn serve(disk: &Path) -> (Arc<Served>, DiskServer) {
    let served = Arc::new(Served {
        file: OpenOptions::new().read(true).write(true).open(disk).unwrap(),
        held: AtomicBool::new(false),
        reads: AtomicU64::new(0),
        flushes: AtomicU64::new(0),
        server: Mutex::new(None),
    });
    (served.clone(), DiskServer(Arc::new(Door(served))))
}

const READ: &str = "dd if=/dev/vdb bs=1M skip=100 count=32 iflag=direct 2>/tmp/dd | sha256sum";

#[tokio::test(flavor = "multi_thread")]
async fn a_served_disk_is_as_its_file_also_to_memory_that_knew_the_other() {
    let Some(image) = image() else { return };
    let dir = tempfile::tempdir().unwrap();
    let plain = spec(&image, dir.path(), Network::None);
    let (memory, state) = (dir.path().join("memory"), dir.path().join("devices"));
    let (served, server) = serve(&plain.upper_image);
    let fresh =
        Spec { memory: Memory::File(memory.clone()), upper_server: Some(server), ..plain.clone() };
    let mut guest = Guest::start(&fresh).await;
    let write = "dd if=/dev/urandom of=/tmp/all bs=1M count=32 2>/dev/null && \
                 dd if=/tmp/all of=/dev/vdb bs=1M seek=100 oflag=direct conv=fsync 2>/dev/null && sha256sum </tmp/all";
    let (code, sum) = guest.shell(write);
    assert_eq!(code, 0, "{sum}");
    assert_eq!(guest.shell(READ), (0, sum.clone()));
    assert!(served.reads.load(Ordering::SeqCst) > 0 && served.flushes.load(Ordering::SeqCst) > 0);
    eprintln!("served: {}", guest.shell("tail -1 /tmp/dd").1);

    // It waits for something that does not come, and is suspended.
    served.held.store(true, Ordering::SeqCst);
    guest.shell("(dd if=/dev/vdb of=/tmp/late bs=1M skip=101 count=1 iflag=direct; echo $? >/tmp/code) >/dev/null 2>&1 & true");
    tokio::time::sleep(Duration::from_millis(500)).await;
    guest.instance.suspend(&state).await.unwrap();
    drop(guest);
    served.held.store(false, Ordering::SeqCst);
    let saved = Memory::Saved { file: memory, state: state.clone() };
    let mut guest = Guest::resume(&Spec { memory: saved.clone(), ..fresh }).await;
    let came = "for i in $(seq 100); do test -e /tmp/code && break; sleep 0.1; done; cat /tmp/code; \
                dd if=/tmp/all bs=1M skip=1 count=1 2>/dev/null | cmp - /tmp/late && echo same; \
                dmesg | grep -ci 'i/o error'";
    assert_eq!(guest.shell(came).1, "0\nsame\n0", "the guest knows nothing of it");

    // All is here: the file itself.
    guest.instance.suspend(&state).await.unwrap();
    drop(guest);
    let mut guest = Guest::resume(&Spec { memory: saved, ..plain }).await;
    assert_eq!(guest.shell(READ), (0, sum));
    eprintln!("file: {}", guest.shell("tail -1 /tmp/dd").1);
    assert_eq!(guest.shell("dmesg | grep -ci 'i/o error'").1, "0");
}
