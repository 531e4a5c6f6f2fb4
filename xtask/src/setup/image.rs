//! Builds the base image.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use anyhow::Context;
use images::build::{self, Apt, Parts, RootRecipe};
use images::{BASE_IMAGE, Image, Images};

use super::agent::Agent;
use super::stamp::Stamp;
use crate::paths;
use crate::progress::step;

/// The unpacked kernel package.
#[derive(Debug)]
struct Kernel {
    release: String,
    vmlinux: PathBuf,
    tree: PathBuf,
}

/// The base image out of `agent` and what lies in `cache`; builds what is not there.
pub(crate) fn build(cache: &Path, agent: &Agent, rebuild: bool) -> anyhow::Result<Image> {
    let kernel = kernel(cache, rebuild)?;
    let root = root(cache, rebuild)?;
    let initrd = cache.join("initrd.cpio");
    let images = Images::open(paths::images());

    let input = [&agent.path, &kernel.vmlinux, &root].map(|path| identity(path));
    let input = format!("{}\n{}\n{}", input.join("\n"), agent.version, build::MODULES.join(" "));
    let stamp = Stamp::new(&images.dir().join(BASE_IMAGE), input);
    if stamp.holds()
        && let Ok(image) = images.get(BASE_IMAGE)
    {
        return Ok(image);
    }
    step("assemble the base image", || {
        build::write_initramfs(&initrd, &agent.path, &kernel.tree, &kernel.release)?;
        let parts = Parts {
            kernel: &kernel.vmlinux,
            initrd: &initrd,
            root: &root,
            kernel_release: &kernel.release,
            agent_version: &agent.version,
        };
        let image = build::publish(&images, BASE_IMAGE, &parts)?;
        stamp.set()?;
        Ok(image)
    })
}

/// Debian's cloud kernel: the one unpacked before, or the newest.
fn kernel(cache: &Path, rebuild: bool) -> anyhow::Result<Kernel> {
    let tree = cache.join("kernel");
    let vmlinux = cache.join("vmlinux");
    let current = cache.join("kernel.release");
    let stamp = Stamp::new(&vmlinux, format!("1 {}", build::SUITE));
    if !rebuild
        && stamp.holds()
        && vmlinux.exists()
        && let Ok(release) = fs::read_to_string(&current)
    {
        return Ok(Kernel { release, vmlinux, tree });
    }
    let apt = Apt::open(cache.join("apt"))?;
    step("fetch the package lists", || Ok(apt.update()?))?;
    let package = apt.newest_kernel()?;
    let release = package.trim_start_matches("linux-image-").to_owned();
    let deb = step(&format!("download {package}"), || Ok(apt.download(&package)?))?;
    step("unpack the kernel", || {
        if tree.exists() {
            fs::remove_dir_all(&tree).context("remove the previous kernel")?;
        }
        build::unpack(&deb, &tree)?;
        build::depmod(&tree, &release)?;
        build::write_vmlinux(&tree.join(format!("boot/vmlinuz-{release}")), &vmlinux)?;
        fs::write(&current, &release).context("note the kernel's release")?;
        stamp.set()
    })?;
    Ok(Kernel { release, vmlinux, tree })
}

/// The root file system: the one built before, or a new one where the recipe is another.
fn root(cache: &Path, rebuild: bool) -> anyhow::Result<PathBuf> {
    let recipe = RootRecipe::default();
    let root = cache.join("root.erofs");
    let stamp = Stamp::new(&root, recipe.fingerprint());
    if rebuild || !stamp.holds() || !root.exists() {
        step("build the root file system", || {
            let partial = cache.join("root.partial");
            recipe.build(&partial)?;
            fs::rename(&partial, &root).context("name the root file system")?;
            stamp.set()
        })?;
    }
    Ok(root)
}

/// A text that changes when the file does.
fn identity(path: &Path) -> String {
    let Ok(found) = fs::metadata(path) else { return "absent".to_owned() };
    let modified = found.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    format!("{} {} {:?}", path.display(), found.len(), modified)
}
