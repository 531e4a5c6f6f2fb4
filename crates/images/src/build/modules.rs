//! Which kernel modules must be loaded, in which order.
//!
//! `modules.dep` has a line per module: its path, a colon, and the paths it needs, the innermost last.
//! A module that is built in stands in `modules.builtin` and needs no loading.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use crate::Error;
use crate::command::{command, run};

/// Writes `modules.dep` below `tree/lib/modules/release`, which an unpacked package lacks.
///
/// # Errors
/// [`Error::ProgramMissing`] without kmod.
pub fn depmod(tree: &Path, release: &str) -> Result<(), Error> {
    run(command("depmod").arg("-b").arg(tree).arg(release), "kmod").map(drop)
}

/// Paths, below `lib/modules/<release>`, of the `wanted` modules and all they need, in the order of
/// loading. Names may be spelled with `-` or `_`.
pub(crate) fn closure(
    modules_dep: &str,
    modules_builtin: &str,
    wanted: &[&str],
) -> Result<Vec<String>, Error> {
    let mut needs: HashMap<&str, Vec<&str>> = HashMap::new();
    let mut paths: HashMap<String, &str> = HashMap::new();
    for line in modules_dep.lines() {
        let Some((path, rest)) = line.split_once(':') else { continue };
        paths.insert(module_name(path), path);
        needs.insert(path, rest.split_whitespace().collect());
    }
    let builtin: HashSet<String> = modules_builtin.lines().map(module_name).collect();

    let mut order = Vec::new();
    let mut seen = HashSet::new();
    for name in wanted {
        let name = name.replace('-', "_");
        match paths.get(&name) {
            // The line lists everything that is needed, also indirectly, so one level is enough.
            Some(path) => {
                let all = needs[path].iter().rev().chain(std::iter::once(path));
                order.extend(all.filter(|path| seen.insert(**path)).map(|path| (*path).to_owned()));
            }
            None if builtin.contains(&name) => {}
            None => return Err(Error::Kernel(format!("it has no module {name}"))),
        }
    }
    Ok(order)
}

/// `virtio_rng` for `kernel/drivers/char/hw_random/virtio-rng.ko`.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "kernel/virtio/virtio_ring.ko: kernel/virtio/virtio.ko\n\
        kernel/virtio/virtio.ko:\n\
        kernel/net/virtio_net.ko: kernel/net/net_failover.ko kernel/net/failover.ko \
        kernel/virtio/virtio_ring.ko kernel/virtio/virtio.ko\n\
        kernel/net/net_failover.ko: kernel/net/failover.ko\n\
        kernel/net/failover.ko:\n\
        kernel/char/virtio-rng.ko: kernel/virtio/virtio_ring.ko kernel/virtio/virtio.ko\n";

    #[test]
    fn what_a_module_needs_comes_before_it_and_nothing_twice() {
        let order = closure(DEP, "", &["virtio_net", "virtio-rng", "virtio_net"]).unwrap();
        assert_eq!(
            order,
            [
                "kernel/virtio/virtio.ko",
                "kernel/virtio/virtio_ring.ko",
                "kernel/net/failover.ko",
                "kernel/net/net_failover.ko",
                "kernel/net/virtio_net.ko",
                "kernel/char/virtio-rng.ko",
            ]
        );
    }

    #[test]
    fn a_module_that_is_built_in_needs_no_loading() {
        assert!(closure(DEP, "kernel/fs/fuse/fuse.ko\n", &["fuse"]).unwrap().is_empty());
    }

    #[test]
    fn a_module_that_does_not_exist_is_an_error() {
        let error = closure(DEP, "", &["p9"]).unwrap_err();
        assert_eq!(error.to_string(), "unpack the kernel: it has no module p9");
    }
}
