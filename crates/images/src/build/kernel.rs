//! Takes the uncompressed kernel out of a `bzImage`.
//!
//! A bzImage is a boot sector, setup code, and a payload: the compressed ELF file (`vmlinux`), then
//! its length as 4 bytes. Where the payload lies stands in the setup header (Documentation/arch/x86/boot.rst
//! in the kernel: `setup_sects` at 0x1f1, `payload_offset` at 0x248, `payload_length` at 0x24c). Debian
//! packs 6.1 with lz4 (legacy framing) and 6.12 with zstd.

use std::fs;
use std::io::Read;
use std::path::Path;

use crate::Error;
use crate::limits::KERNEL_BYTES_MAX;

const SETUP_MAGIC_AT: usize = 0x202;
const SECTOR: usize = 512;
const LZ4_LEGACY: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// A legacy lz4 block unpacks to at most this.
const LZ4_BLOCK_BYTES: usize = 8 << 20;

/// The ELF kernel inside `bz_image`.
///
/// # Errors
/// [`Error::Kernel`] where it is no bzImage, or packed in a way that Debian does not use.
pub fn extract_vmlinux(bz_image: &[u8]) -> Result<Vec<u8>, Error> {
    let wrong = |what: &str| Error::Kernel(what.to_owned());
    if bz_image.get(SETUP_MAGIC_AT..SETUP_MAGIC_AT + 4) != Some(b"HdrS") {
        return Err(wrong("not a bzImage"));
    }
    // 0 means 4, says the boot protocol.
    let setup_sectors = match bz_image[0x1f1] {
        0 => 4,
        n => usize::from(n),
    };
    let offset = word(bz_image, 0x248).ok_or_else(|| wrong("its header is cut off"))?;
    let length = word(bz_image, 0x24c).ok_or_else(|| wrong("its header is cut off"))?;
    let start = (setup_sectors + 1) * SECTOR + offset;
    // The last 4 bytes are the unpacked length, which the decompressors would take for a block.
    let payload = length
        .checked_sub(4)
        .and_then(|length| bz_image.get(start..start.checked_add(length)?))
        .ok_or_else(|| wrong("its payload is cut off"))?;
    let vmlinux = match payload.first_chunk::<4>() {
        Some(&LZ4_LEGACY) => unpack_lz4(&payload[4..])?,
        Some(&ZSTD) => unpack_zstd(payload)?,
        _ => return Err(wrong("its payload is neither lz4 nor zstd")),
    };
    if vmlinux.starts_with(b"\x7fELF") { Ok(vmlinux) } else { Err(wrong("it holds no ELF file")) }
}

/// Reads the bzImage at `from` and writes its kernel to `to`.
///
/// # Errors
/// As [`extract_vmlinux`], and [`Error::Io`].
pub fn write_vmlinux(from: &Path, to: &Path) -> Result<(), Error> {
    let mut bz_image = Vec::new();
    fs::File::open(from)
        .and_then(|file| file.take(KERNEL_BYTES_MAX).read_to_end(&mut bz_image))
        .map_err(Error::io("read", from))?;
    fs::write(to, extract_vmlinux(&bz_image)?).map_err(Error::io("write", to))
}

fn word(bytes: &[u8], at: usize) -> Option<usize> {
    let word = bytes.get(at..)?.first_chunk()?;
    usize::try_from(u32::from_le_bytes(*word)).ok()
}

/// Blocks of `u32` packed length and data, each unpacking to at most 8 MiB.
fn unpack_lz4(mut packed: &[u8]) -> Result<Vec<u8>, Error> {
    let wrong = |what: &str| Error::Kernel(format!("lz4: {what}"));
    let mut out = Vec::new();
    let mut block = vec![0; LZ4_BLOCK_BYTES];
    while !packed.is_empty() {
        let length = word(packed, 0).ok_or_else(|| wrong("cut off"))?;
        let end = length.checked_add(4).ok_or_else(|| wrong("a block without end"))?;
        let data = packed.get(4..end).ok_or_else(|| wrong("a block is cut off"))?;
        let n = lz4_flex::block::decompress_into(data, &mut block)
            .map_err(|error| wrong(&error.to_string()))?;
        out.extend_from_slice(&block[..n]);
        if out.len() as u64 > KERNEL_BYTES_MAX {
            return Err(wrong("larger than any kernel"));
        }
        packed = &packed[end..];
    }
    Ok(out)
}

fn unpack_zstd(packed: &[u8]) -> Result<Vec<u8>, Error> {
    let wrong = |error: std::io::Error| Error::Kernel(format!("zstd: {error}"));
    let mut out = Vec::new();
    let decoder = zstd::stream::read::Decoder::with_buffer(packed).map_err(wrong)?;
    let n = decoder.take(KERNEL_BYTES_MAX + 1).read_to_end(&mut out).map_err(wrong)?;
    if n as u64 > KERNEL_BYTES_MAX {
        return Err(Error::Kernel("zstd: larger than any kernel".to_owned()));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bzImage with one setup sector and `payload`.
    fn bz_image(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 2 * SECTOR + 16];
        image[0x1f1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x248..0x24c].copy_from_slice(&16u32.to_le_bytes());
        let length = u32::try_from(payload.len() + 4).unwrap();
        image[0x24c..0x250].copy_from_slice(&length.to_le_bytes());
        image.extend_from_slice(payload);
        image.extend_from_slice(&[0xff; 4]);
        image
    }

    fn lz4_legacy(blocks: &[&[u8]]) -> Vec<u8> {
        let mut payload = LZ4_LEGACY.to_vec();
        for block in blocks {
            let packed = lz4_flex::block::compress(block);
            payload.extend_from_slice(&u32::try_from(packed.len()).unwrap().to_le_bytes());
            payload.extend_from_slice(&packed);
        }
        payload
    }

    #[test]
    fn an_lz4_kernel_is_unpacked_block_by_block() {
        let first = [b"\x7fELF".as_slice(), &[7; 5000]].concat();
        let image = bz_image(&lz4_legacy(&[&first, b"second"]));
        assert_eq!(extract_vmlinux(&image).unwrap(), [&first, b"second".as_slice()].concat());
    }

    #[test]
    fn a_zstd_kernel_is_unpacked() {
        let kernel = [b"\x7fELF".as_slice(), &[7; 5000]].concat();
        let image = bz_image(&zstd::bulk::compress(&kernel, 3).unwrap());
        assert_eq!(extract_vmlinux(&image).unwrap(), kernel);
    }

    #[test]
    fn no_cut_off_image_is_accepted_and_none_panics() {
        let image = bz_image(&lz4_legacy(&[b"\x7fELF and the rest of a kernel"]));
        for end in 0..image.len() - 4 {
            assert!(extract_vmlinux(&image[..end]).is_err(), "{end}");
        }
    }

    #[test]
    fn what_is_inside_must_be_a_kernel() {
        assert!(extract_vmlinux(&bz_image(&lz4_legacy(&[b"not ELF"]))).is_err());
        assert!(extract_vmlinux(&bz_image(b"\x1f\x8b gzip")).is_err());
        assert!(extract_vmlinux(b"MZ").is_err());
    }
}
