//! A thread that does what it is told, and is there before that.
//!
//! A guest that becomes many has its threads already: an emulated one has to translate what makes a thread in
//! each of its clones, and keeps the translation.

use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use crate::Error;

type Work = Box<dyn FnOnce() + Send>;

/// See the module. The thread ends once it has done what it was told by the last of its clones.
#[derive(Debug, Clone)]
pub(crate) struct Worker {
    name: &'static str,
    work: SyncSender<Work>,
}

impl Worker {
    /// Starts a thread that waits.
    pub(crate) fn start(name: &'static str) -> Result<Self, Error> {
        let (work, told) = sync_channel::<Work>(1);
        let run = move || told.into_iter().for_each(|work| work());
        let thread = thread::Builder::new().name(name.to_owned()).spawn(run);
        thread.map_err(Error::io(format!("start {name}")))?;
        Ok(Self { name, work })
    }

    /// Has it do `work`, which waits its turn behind one other; a third would wait here.
    ///
    /// # Errors
    /// Where an earlier work ended the thread by a panic.
    pub(crate) fn begin(&self, work: impl FnOnce() + Send + 'static) -> Result<(), Error> {
        let sent = self.work.send(Box::new(work));
        sent.map_err(|_| Error::Invalid(format!("the thread {} has ended", self.name)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;

    #[test]
    fn it_does_one_thing_after_another_under_its_name() {
        let (sender, done) = channel();
        let worker = Worker::start("waits").unwrap();
        for number in 1..=2 {
            let sender = sender.clone();
            let name = || thread::current().name().map(str::to_owned);
            worker.begin(move || sender.send((number, name())).unwrap()).unwrap();
        }
        drop((worker, sender));
        let done = || done.recv_timeout(Duration::from_secs(20));
        assert_eq!(done(), Ok((1, Some("waits".to_owned()))));
        assert_eq!(done(), Ok((2, Some("waits".to_owned()))), "also where nobody else tells it");
        assert!(done().is_err(), "then it ends");
    }
}
