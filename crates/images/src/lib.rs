//! Machine images on local disk: kernel, initramfs, root file system.
