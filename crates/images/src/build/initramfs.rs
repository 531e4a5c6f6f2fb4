//! The initramfs: the agent as `/init`, the modules it loads, and nothing else.
//!
//! Not compressed: unpacking under TCG costs more than reading it.

use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::path::Path;

use super::cpio::Writer;
use super::modules::closure;
use crate::Error;
use crate::limits::MODULE_BYTES_MAX;

/// In the initramfs: paths of the modules to load, one a line, in order.
pub const MODULE_LIST: &str = "/modules.list";

/// What a guest needs before it has its root: transport, disks, ports, network, entropy, memory
/// hand-back, and the file systems of root and home.
pub const MODULES: [&str; 9] = [
    "virtio_mmio",
    "virtio_blk",
    "virtio_console",
    "virtio_net",
    "virtio-rng",
    "virtio_balloon",
    "erofs",
    "overlay",
    "fuse",
];

/// Mount points that the agent finds there.
const DIRECTORIES: [&str; 8] = ["bin", "dev", "l", "modules", "newroot", "proc", "sys", "u"];

/// Writes an initramfs to `to`: `agent` (a static program) as `/init`, and the modules of the kernel
/// `release` that was unpacked into `kernel_tree`. The same input gives the same bytes.
///
/// # Errors
/// [`Error::Kernel`] where the tree lacks a module or [`super::depmod`] has not been run.
pub fn write_initramfs(
    to: &Path,
    agent: &Path,
    kernel_tree: &Path,
    release: &str,
) -> Result<(), Error> {
    let modules = kernel_tree.join("lib/modules").join(release);
    let read_text = |name: &str| {
        let path = modules.join(name);
        fs::read_to_string(&path).map_err(Error::io("read", path))
    };
    let order = closure(&read_text("modules.dep")?, &read_text("modules.builtin")?, &MODULES)?;

    let out = File::create(to).map_err(Error::io("create", to))?;
    let write = Error::io("write", to);
    let mut cpio = Writer::new(BufWriter::new(out));
    let mut contents = Vec::new();
    for path in &order {
        contents.push((guest_path(path)?, read_bounded(&modules.join(path))?));
    }
    let agent = read_bounded(agent)?;
    let list: String = contents.iter().map(|(path, _)| format!("/{path}\n")).collect();
    let mut assemble = || {
        for directory in DIRECTORIES {
            cpio.directory(directory, 0o755)?;
        }
        // The kernel opens it for the agent's standard streams before devtmpfs is mounted.
        cpio.character_device("dev/console", 0o600, (5, 1))?;
        cpio.file("init", 0o755, &agent)?;
        cpio.file(MODULE_LIST.trim_start_matches('/'), 0o644, list.as_bytes())?;
        contents.iter().try_for_each(|(path, content)| cpio.file(path, 0o644, content))
    };
    assemble().and_then(|()| cpio.finish()).and_then(|mut out| out.flush()).map_err(write)
}

/// `modules/virtio.ko` for `kernel/drivers/virtio/virtio.ko`.
fn guest_path(path: &str) -> Result<String, Error> {
    match path.rsplit('/').next() {
        Some(file) if file.ends_with(".ko") => Ok(format!("modules/{file}")),
        _ => Err(Error::Kernel(format!("module {path} is compressed, which is not supported"))),
    }
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, Error> {
    let mut content = Vec::new();
    let n = File::open(path)
        .and_then(|file| file.take(MODULE_BYTES_MAX).read_to_end(&mut content))
        .map_err(Error::io("read", path))?;
    if n as u64 == MODULE_BYTES_MAX {
        return Err(Error::Kernel(format!("{} is larger than any module", path.display())));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_initramfs_holds_the_agent_and_the_list_of_modules() {
        let dir = tempfile::tempdir().unwrap();
        let modules = dir.path().join("lib/modules/6.1.0/kernel");
        fs::create_dir_all(&modules).unwrap();
        fs::write(modules.join("virtio_mmio.ko"), "mmio").unwrap();
        fs::write(modules.join("../modules.dep"), "kernel/virtio_mmio.ko:\n").unwrap();
        let builtin: String = MODULES[1..].iter().map(|m| format!("kernel/{m}.ko\n")).collect();
        fs::write(modules.join("../modules.builtin"), builtin).unwrap();
        let agent = dir.path().join("agent");
        fs::write(&agent, "the agent").unwrap();

        let to = dir.path().join("initrd");
        write_initramfs(&to, &agent, dir.path(), "6.1.0").unwrap();
        let bytes = fs::read(&to).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.contains("the agent"));
        assert!(text.contains("/modules/virtio_mmio.ko\n"));
        assert!(text.contains("TRAILER!!!"));
    }

    #[test]
    fn a_compressed_module_is_refused() {
        assert!(guest_path("kernel/fuse.ko.xz").is_err());
        assert_eq!(guest_path("kernel/fuse.ko").unwrap(), "modules/fuse.ko");
    }
}
