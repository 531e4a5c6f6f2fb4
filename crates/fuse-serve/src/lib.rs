//! FUSE requests in, vfs calls out: for a guest over a byte channel, for a host over /dev/fuse.
