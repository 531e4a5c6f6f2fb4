//! Hands every call of [`vfs::FileSystem`] on to another one.

/// Implements [`vfs::FileSystem`] for a type by its method `tree`, which returns something that
/// implements it.
macro_rules! forward_file_system {
    ($type:ty) => {
        impl vfs::FileSystem for $type {
            forward_file_system! { @calls
                lookup(parent: vfs::Ino, name: &[u8]) -> vfs::Result<vfs::Attr>;
                getattr(ino: vfs::Ino) -> vfs::Result<vfs::Attr>;
                setattr(ino: vfs::Ino, set: &vfs::SetAttr) -> vfs::Result<vfs::Attr>;
                pin(ino: vfs::Ino) -> ();
                unpin(ino: vfs::Ino) -> ();
                mknod(parent: vfs::Ino, name: &[u8], kind: vfs::Kind, perm: u32,
                    owner: vfs::Owner, rdev: u32) -> vfs::Result<vfs::Attr>;
                symlink(parent: vfs::Ino, name: &[u8], target: &[u8], owner: vfs::Owner)
                    -> vfs::Result<vfs::Attr>;
                readlink(ino: vfs::Ino) -> vfs::Result<Vec<u8>>;
                link(ino: vfs::Ino, parent: vfs::Ino, name: &[u8]) -> vfs::Result<vfs::Attr>;
                unlink(parent: vfs::Ino, name: &[u8]) -> vfs::Result<()>;
                rmdir(parent: vfs::Ino, name: &[u8]) -> vfs::Result<()>;
                rename(parent: vfs::Ino, name: &[u8], new_parent: vfs::Ino, new_name: &[u8],
                    flags: vfs::RenameFlags) -> vfs::Result<()>;
                readdir(ino: vfs::Ino, cookie: u64, max: usize)
                    -> vfs::Result<Vec<vfs::DirEntry>>;
                read(ino: vfs::Ino, offset: u64, len: u32) -> vfs::Result<bytes::Bytes>;
                write(ino: vfs::Ino, offset: u64, data: &[u8]) -> vfs::Result<()>;
                fallocate(ino: vfs::Ino, mode: u32, offset: u64, len: u64) -> vfs::Result<()>;
                seek(ino: vfs::Ino, from: vfs::SeekFrom) -> vfs::Result<u64>;
                getxattr(ino: vfs::Ino, name: &[u8]) -> vfs::Result<Vec<u8>>;
                setxattr(ino: vfs::Ino, name: &[u8], value: &[u8], mode: vfs::XattrMode)
                    -> vfs::Result<()>;
                listxattr(ino: vfs::Ino) -> vfs::Result<Vec<Vec<u8>>>;
                removexattr(ino: vfs::Ino, name: &[u8]) -> vfs::Result<()>;
                statfs() -> vfs::Result<vfs::StatFs>;
                sync_local() -> vfs::Result<()>;
                sync(ino: Option<vfs::Ino>) -> vfs::Result<()>;
                create_detached(kind: vfs::Kind, perm: u32, owner: vfs::Owner)
                    -> vfs::Result<vfs::Attr>;
                place(ino: vfs::Ino, base: vfs::Ino, path: &[&[u8]], expect: vfs::Expect)
                    -> vfs::Result<vfs::Placed>;
                put_file(base: vfs::Ino, path: &[&[u8]], file: &vfs::NewFile<'_>,
                    expect: vfs::Expect) -> vfs::Result<vfs::Placed>;
                graft(graft: &vfs::Graft<'_>) -> vfs::Result<vfs::Touched>;
            }
        }
    };
    (@calls $($name:ident($($arg:ident: $type:ty),*) -> $result:ty;)*) => {
        $(fn $name(&self, $($arg: $type),*) -> $result { self.tree().$name($($arg),*) })*
    };
}

pub(crate) use forward_file_system;
