// SPDX-License-Identifier: MIT OR Apache-2.0
//! Making a store: in anonymous memory, in huge pages, or in a file that keeps its contents.

use std::fs::{File, TryLockError};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::OnceLock;

use super::{pages_of, Store};
use crate::ramdisk::budget::Budget;
use crate::ramdisk::page_state::PageStates;
use crate::ramdisk::sync::{lock, Mutex};
use crate::sys::mmap::Mapping;
use crate::sys::{file, remove};

/// Bytes of a mapping at least, where address space allows: room to grow.
const ROOM_TO_GROW: u64 = 1 << 40;

/// Why there is no store, or not of that size.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file could not be made or opened.
    #[error("cannot open the backing file {path}: {source}", path = path.display())]
    Open {
        /// As the user wrote it.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is on a disk.
    #[error(
        "backing file {path} is not on a tmpfs or hugetlbfs: a RAM disk keeps its data in memory",
        path = path.display()
    )]
    NotInMemory {
        /// As the user wrote it.
        path: PathBuf,
    },
    /// Another server has it.
    #[error("backing file {path} is in use by another server", path = path.display())]
    Locked {
        /// As the user wrote it.
        path: PathBuf,
    },
    /// The file exists and has another size.
    #[error(
        "backing file {path} has {actual} bytes, not {asked}: leave out --size to use it as it is",
        path = path.display()
    )]
    SizeDiffers {
        /// As the user wrote it.
        path: PathBuf,
        /// Bytes it has.
        actual: u64,
        /// Bytes asked for.
        asked: u64,
    },
    /// The size is not whole pages of the backing file system.
    #[error("size {size} is not a multiple of the backing's page of {page} bytes")]
    PartialPage {
        /// Bytes asked for.
        size: u64,
        /// Bytes of a page.
        page: u64,
    },
    /// There is too little memory of this kind.
    #[error("{what}: {needed} bytes needed, {available} available")]
    TooLittle {
        /// Of what.
        what: &'static str,
        /// Bytes needed.
        needed: u64,
        /// Bytes there are.
        available: u64,
    },
    /// The system refused.
    #[error("cannot {step} a store of {size} bytes: {source}")]
    System {
        /// Which step.
        step: &'static str,
        /// Bytes of the store.
        size: u64,
        /// What the system said.
        source: io::Error,
    },
    /// The mapping cannot hold that much.
    #[error(
        "the store cannot grow to {asked} bytes while it lives: its mapping ends at {capacity}"
    )]
    BeyondCapacity {
        /// Bytes asked for.
        asked: u64,
        /// Bytes mapped.
        capacity: u64,
    },
}

impl Store {
    /// A store in anonymous memory, gone with this process.
    pub fn anonymous(size: u64, huge_pages: bool) -> Result<Self, StoreError> {
        let file =
            file::memfd(c"ublk-ramdisk", false).map_err(StoreError::system("create", size))?;
        Self::with_new_file(file, size, huge_pages)
    }

    /// A store in huge pages of the system's default size. [`Store::reserve`] reserves them.
    pub fn hugetlb(size: u64) -> Result<Self, StoreError> {
        let file =
            file::memfd(c"ublk-ramdisk", true).map_err(StoreError::system("create", size))?;
        Self::with_new_file(file, size, false)
    }

    /// A store in a file on a tmpfs or hugetlbfs. An existing file keeps its
    /// contents; `size` 0 takes the size it has. A file that this call makes is
    /// removed when the store is dropped, or not made, until [`Store::keep_file`].
    pub fn in_file(path: &Path, size: u64, huge_pages: bool) -> Result<Self, StoreError> {
        let (file, new) = file::open_private(path).map_err(cannot_open(path))?;
        if !new {
            return Self::with_named_file(file, path, size, huge_pages, new);
        }
        let held = match file.try_clone() {
            Ok(held) => held,
            Err(source) => {
                // The first error is reported.
                let _ = remove::this_file(path, &file);
                return Err(cannot_open(path)(source));
            }
        };
        let store = Self::with_named_file(file, path, size, huge_pages, new);
        match &store {
            Ok(store) => *lock(&store.made) = Some(path.to_owned()),
            // The first error is reported.
            Err(_) => drop(remove::this_file(path, &held)),
        }
        store
    }

    /// A store in a file that has no name before [`Store::name`]. `folder` lies on a tmpfs that is this
    /// user's alone: no other user can cut the file.
    pub fn private(folder: &Path, size: u64, huge_pages: bool) -> Result<Self, StoreError> {
        let file = file::make_unnamed(folder).map_err(cannot_open(folder))?;
        claim(&file, folder)?;
        Self::with_new_file(file, size, huge_pages)
    }

    /// The store of a device whose server is gone. `size` is that of the device: the file is cut or
    /// lengthened to it, and what lay behind the disk is gone. What the file holds of the disk is
    /// there, by its holes (I2). `is_named`: others may be able to cut the file.
    pub fn reopen(
        path: &Path,
        size: u64,
        huge_pages: bool,
        is_named: bool,
    ) -> Result<Self, StoreError> {
        let file = file::open_existing_private(path).map_err(cannot_open(path))?;
        claim(&file, path)?;
        // Cuts what lies behind the disk also where the file has the right length: pages, and what the
        // last page holds there.
        let mut store = Self::with_new_file(file, size, huge_pages)?;
        store.is_named = is_named;
        Ok(store)
    }

    fn with_named_file(
        file: File,
        path: &Path,
        size: u64,
        huge_pages: bool,
        new: bool,
    ) -> Result<Self, StoreError> {
        claim(&file, path)?;
        let named = |mut store: Self| {
            store.is_named = true;
            store
        };
        if new {
            return Self::with_new_file(file, size, huge_pages).map(named);
        }
        let actual = file.metadata().map_err(cannot_open(path))?.len();
        if size != 0 && size != actual {
            return Err(StoreError::SizeDiffers {
                path: path.to_owned(),
                actual,
                asked: size,
            });
        }
        Self::with_file(file, actual, huge_pages).map(named)
    }

    pub(super) fn with_new_file(
        file: File,
        size: u64,
        huge_pages: bool,
    ) -> Result<Self, StoreError> {
        file::set_len(&file, size).map_err(StoreError::system("size", size))?;
        Self::with_file(file, size, huge_pages)
    }

    fn with_file(file: File, size: u64, huge_pages: bool) -> Result<Self, StoreError> {
        let system = |step| StoreError::system(step, size);
        let (magic, block) = file::file_system(&file).map_err(system("examine"))?;
        let page = if magic == file::HUGETLBFS_MAGIC {
            block
        } else {
            4096
        };
        if size == 0 || !size.is_multiple_of(page) && page != 4096 {
            return Err(StoreError::PartialPage { size, page });
        }
        let whole = size.next_multiple_of(page);
        let (mapping, capacity) = Self::map(&file, whole).map_err(system("map"))?;
        if huge_pages {
            mapping.advise_huge_pages();
        }
        let page_shift = page.trailing_zeros();
        let pages = (capacity >> page_shift) as usize;
        let states = PageStates::new(pages).map_err(system("map"))?;
        let store = Self {
            file,
            mapping,
            states,
            page_shift,
            size: AtomicU64::new(size),
            // A word takes memory when its page is first used. The budget counts all of them.
            budget: Budget::new((whole >> page_shift) * 4),
            freed: OnceLock::new(),
            base: OnceLock::new(),
            undo: OnceLock::new(),
            is_named: false,
            told_cut: AtomicBool::new(false),
            in_units: AtomicBool::new(false),
            making: Mutex::new(()),
            made: Mutex::new(None),
        };
        if store.is_hugetlb() {
            store.adopt_huge_pages()?;
            return Ok(store);
        }
        for range in store.data().map_err(system("examine"))? {
            let found = store.states.mark_present(pages_of(&range, page_shift));
            store.budget.charge((found as u64) << page_shift);
        }
        Ok(store)
    }

    fn data(&self) -> io::Result<Vec<Range<u64>>> {
        file::data_ranges(&self.file)
    }

    /// Gives back what the file holds where it has no data: pages that were made for writes which
    /// never came, because the server died. A store in huge pages has none, it does not tell them.
    ///
    /// # Context
    /// Nobody uses the store yet.
    pub fn release_unwritten(&self) -> io::Result<()> {
        if self.is_hugetlb() || self.allocated()? <= self.used() - self.table_bytes() {
            return Ok(());
        }
        let mut hole = 0;
        let end = self.size().next_multiple_of(self.page_size());
        for data in self.data()?.into_iter().chain(std::iter::once(end..end)) {
            if hole < data.start {
                file::punch_hole(&self.file, hole..data.start)?;
            }
            hole = data.end.next_multiple_of(self.page_size());
        }
        Ok(())
    }

    /// Maps with room to grow, or without it where address space is limited. Returns the mapping and
    /// its length in bytes.
    fn map(file: &File, size: u64) -> io::Result<(Mapping, u64)> {
        if cfg!(loom) {
            // A model has a word for each page from the beginning.
            return Ok((Mapping::shared(file, size as usize)?, size));
        }
        let roomy = size
            .saturating_mul(16)
            .clamp(ROOM_TO_GROW, ROOM_TO_GROW << 4)
            .max(size);
        match Mapping::shared(file, roomy as usize) {
            Ok(mapping) => Ok((mapping, roomy)),
            Err(_) => Ok((Mapping::shared(file, size as usize)?, size)),
        }
    }
}

impl StoreError {
    /// Makes the error of a step that the system refuses.
    pub(super) fn system(step: &'static str, size: u64) -> impl Fn(io::Error) -> Self {
        move |source| Self::System { step, size, source }
    }
}

fn cannot_open(path: &Path) -> impl Fn(io::Error) -> StoreError + Copy + '_ {
    move |source| StoreError::Open {
        path: path.to_owned(),
        source,
    }
}

/// Takes the lock of a backing file, which must lie in memory.
fn claim(file: &File, path: &Path) -> Result<(), StoreError> {
    let open = cannot_open(path);
    let (magic, _) = file::file_system(file).map_err(open)?;
    if ![file::TMPFS_MAGIC, file::HUGETLBFS_MAGIC].contains(&magic) {
        return Err(StoreError::NotInMemory {
            path: path.to_owned(),
        });
    }
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(StoreError::Locked {
                path: path.to_owned(),
            })
        }
        Err(TryLockError::Error(e)) => return Err(open(e)),
    }
    Ok(())
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::ramdisk::store::testing::{byte_at, fill};

    /// VmFlags of the mapping that an address lies in.
    fn flags(at: *const u8) -> String {
        let maps = std::fs::read_to_string("/proc/self/smaps").expect("Linux");
        let mut inside = false;
        for line in maps.lines() {
            let first = line.split_whitespace().next().unwrap_or_default();
            let end = |text| usize::from_str_radix(text, 16).ok();
            if let Some((Some(start), Some(end))) =
                first.split_once('-').map(|(a, b)| (end(a), end(b)))
            {
                inside = (start..end).contains(&(at as usize));
            } else if let (true, Some(flags)) = (inside, line.strip_prefix("VmFlags:")) {
                return flags.to_owned();
            }
        }
        panic!("{at:?} is mapped");
    }

    #[test]
    fn i02_what_is_there_is_known_by_the_holes_of_the_file() {
        const PAGE: u64 = 4096;
        let store = Store::anonymous(64 * PAGE, false).expect("a memfd");
        for range in [PAGE..2 * PAGE, 9 * PAGE..20 * PAGE] {
            fill(&store, range, 1);
        }
        store.discard(12 * PAGE..15 * PAGE);
        let file = store.file.try_clone().expect("a descriptor");
        drop(store);
        let store = Store::with_file(file, 64 * PAGE, false).expect("the same file");
        let found: Vec<_> = (0..64)
            .filter(|&page| store.states.is_present(page))
            .collect();
        assert_eq!(found, [1, 9, 10, 11, 15, 16, 17, 18, 19]);
        assert_eq!(store.used(), store.table_bytes() + 9 * PAGE);
    }

    /// What is left of a file that was cut short can be used, and nothing touches the rest.
    #[test]
    fn g16_a_file_that_is_cut_short_does_not_end_the_server() {
        const PAGE: u64 = 4096;
        let path = PathBuf::from(format!("/dev/shm/ublk-cut-{}", std::process::id()));
        let store = Store::in_file(&path, 64 * PAGE, false).expect("a tmpfs");
        store.preallocate().expect("memory");
        let other = File::options().write(true).open(&path).expect("a name");
        other.set_len(32 * PAGE).expect("cut");
        assert!(store.zero_pinned(0..32 * PAGE).is_ok());
        assert!(store.zero_pinned(30 * PAGE..40 * PAGE).is_err());
        fill(&store, 3 * PAGE..4 * PAGE, 1);
        assert_eq!(store.reclaim_zeros(0..u64::MAX), 31 * PAGE, "what is left");
        store.discard(40 * PAGE + 512..41 * PAGE);
        assert_eq!(byte_at(&store, 3 * PAGE), 1);
        drop(store);
        assert!(!path.exists(), "there was no disk in it");
    }

    #[test]
    fn the_contents_and_the_page_states_are_not_in_a_core_dump() {
        let store = Store::anonymous(1 << 30, false).expect("a memfd");
        let last = store.mapping.len() - 1;
        // SAFETY: within the mapping.
        let ends = unsafe { [store.mapping.start(), store.mapping.start().add(last)] };
        for at in ends
            .map(|at| at.as_ptr().cast_const())
            .into_iter()
            .chain(store.states.ends())
        {
            let flags = flags(at);
            assert!(flags.split_whitespace().any(|flag| flag == "dd"), "{flags}");
        }
    }
}
