//! What else can be mounted here on the same store, for comparison.

use std::path::Path;

use super::Bench;
use super::mount::Mount;
use super::store::Store;
use crate::bench::report::Row;
use crate::bench::samples::Samples;

type Make = fn(&Store, &Path, &Path) -> anyhow::Result<Mount>;

const ALL: [(&str, Make); 2] = [("rclone", Mount::rclone), ("s3fs", Mount::s3fs)];

impl Bench {
    /// Does `work` once in a fresh mount of each: they are slower by orders. Adds the seconds to `row`.
    /// One that is not there or fails is left out with a word.
    pub(super) fn beside_others(
        &self,
        row: Row,
        work: impl Fn(&Path) -> anyhow::Result<f64>,
    ) -> Row {
        ALL.into_iter().fold(row, |row, (name, make)| {
            let root = self.root();
            let once = make(&self.store, root, &root.join(name)).and_then(|mount| {
                let took = work(mount.dir())?;
                mount.stop()?;
                Ok(took)
            });
            match once {
                Ok(took) => row.peer(name, Some(&Samples::one(took))),
                Err(error) => {
                    eprintln!("{name} is left out: {error:#}");
                    row
                }
            }
        })
    }
}
