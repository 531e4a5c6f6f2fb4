//! A call, with its arguments as small numbers that fit any tree.

use crate::chance::Chance;

/// A call. Inodes are places in the list of those that are known; names are few, so that they meet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Call {
    Lookup(u8, u8),
    Getattr(u8),
    Chmod(u8, u32),
    Chown(u8, u32, u32),
    Truncate(u8, u64),
    Utimes(u8, i64),
    Pin(u8),
    Unpin(u8),
    Mknod(u8, u8, u8),
    Symlink(u8, u8, u16),
    Readlink(u8),
    Link(u8, u8, u8),
    Unlink(u8, u8),
    Rmdir(u8, u8),
    Rename(u8, u8, u8, u8, u8),
    Readdir(u8),
    WalkBegin(u8),
    WalkOn(u8),
    Read(u8, u64, u32),
    Write(u8, u64, u32, u64),
    Append(u8, u32, u64),
    Fallocate(u8, u32, u64, u64),
    Seek(u8, u64, bool),
    SetXattr(u8, u8, u16, u8),
    GetXattr(u8, u8),
    ListXattr(u8),
    RemoveXattr(u8, u8),
    Statfs,
    SyncLocal,
    Sync,
    SyncOne(u8),
    Detached(u8),
    Place(u8, u8, u8, u8),
    Put(u8, u8, u32, u64, u8),
    PlaceBelow(u8, u8, u8),
    Graft(u8, u8, u8, bool),
    Compare,
    Kill,
    LoseDisk,
    SleepOrWake,
}

/// Offsets that meet the borders of tiers and slots.
fn offset(chance: &mut Chance) -> u64 {
    match chance.below(12) {
        0..=5 => chance.below(40_000),
        6..=8 => 16_000 + chance.below(1_000),
        9 => 4_190_000 + chance.below(10_000),
        10 => 4096 * chance.below(20),
        _ => chance.below(9_000_000),
    }
}

fn length(chance: &mut Chance) -> u32 {
    (match chance.below(40) {
        0 => 200_000 + chance.below(4_500_000),
        1..=10 => 1 + chance.below(20_000),
        _ => chance.below(6_000),
    }) as u32
}

impl Call {
    /// Any call.
    pub(super) fn draw(chance: &mut Chance) -> Self {
        let id = chance.below(24) as u8;
        let other = chance.below(24) as u8;
        let name = chance.below(8) as u8;
        let name_two = chance.below(8) as u8;
        let few = chance.below(6) as u8;
        let seed = chance.any() % 1_000_000;
        match chance.below(100) {
            0..=2 => Self::Lookup(id, name),
            3..=4 => Self::Getattr(id),
            5 => Self::Chmod(id, (chance.below(0o10000)) as u32),
            6 => Self::Chown(id, chance.below(3) as u32, chance.below(3) as u32),
            7..=9 => Self::Truncate(id, offset(chance)),
            10 => Self::Utimes(id, chance.any() as i64 / 4),
            11..=12 => Self::Pin(id),
            13..=15 => Self::Unpin(id),
            16..=24 => Self::Mknod(id, name, few),
            25 => Self::Symlink(id, name, (seed % 300) as u16),
            26 => Self::Put(id, name, length(chance), seed, other),
            27 => Self::Readlink(id),
            28..=30 => Self::Link(id, other, name),
            31..=34 => Self::Unlink(id, name),
            35..=36 => Self::Rmdir(id, name),
            37..=42 => Self::Rename(id, name, other, name_two, few % 3),
            43 => Self::Readdir(id),
            44 => Self::WalkBegin(id),
            45..=46 => Self::WalkOn(few),
            47..=50 => Self::Read(id, offset(chance), length(chance)),
            51..=63 => Self::Write(id, offset(chance), length(chance), seed),
            64..=68 => Self::Append(id, length(chance), seed),
            69..=72 => {
                let mode = *chance.of(&[0, 1, 2, 3, 0x10, 0x11, 8, 0x40]).unwrap_or(&0);
                Self::Fallocate(id, mode, offset(chance), u64::from(length(chance)))
            }
            73..=74 => Self::Seek(id, offset(chance), chance.percent(50)),
            75..=76 => Self::SetXattr(id, name % 3, (seed % 3_000) as u16, few % 3),
            77 => Self::GetXattr(id, name % 3),
            78 => Self::ListXattr(id),
            79 => Self::RemoveXattr(id, name % 3),
            80 => Self::Statfs,
            81..=83 => Self::SyncLocal,
            84 => Self::Sync,
            85 => Self::SyncOne(id),
            86..=87 => Self::Put(id, name, length(chance), seed, other),
            88..=90 => Self::Detached(few),
            91..=92 => Self::Place(id, other, name, few % 4),
            93 => Self::PlaceBelow(id, name, name_two),
            94..=95 => Self::Graft(id, other, name, chance.percent(50)),
            96 => Self::Compare,
            97 => Self::Kill,
            98 if few == 0 => Self::LoseDisk,
            98 => Self::Kill,
            _ if few < 3 => Self::SleepOrWake,
            _ => Self::LoseDisk,
        }
    }
}
