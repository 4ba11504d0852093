// SPDX-License-Identifier: MIT OR Apache-2.0
//! The elements of a COMMIT of the `batch` data path (F14), in place until the driver has taken
//! them all.

use super::abi::BatchElem;

/// The elements of one batch command, in place until it has completed.
#[derive(Debug)]
pub(super) struct Commit {
    /// An element each, or with buffers two: the second is the address. Never moves or grows: the kernel
    /// has its address.
    words: Box<[u64]>,
    /// Words of an element.
    each: usize,
    /// Elements in use, from the first on.
    len: usize,
    /// Those of them that the driver has taken.
    done: usize,
}

impl Commit {
    /// Room for `most` elements, none in use. `has_addresses`: they name the buffers of their tags.
    pub(super) fn new(most: u16, has_addresses: bool) -> Self {
        let each = 1 + usize::from(has_addresses);
        Self {
            words: vec![0; usize::from(most) * each].into(),
            each,
            len: 0,
            done: 0,
        }
    }

    /// True if nothing of it is under way.
    pub(super) fn is_free(&self) -> bool {
        self.len == 0
    }

    /// Puts results in, to be sent. `address_of` says where the buffer of a tag is.
    ///
    /// # Panics
    /// There are more than there is room for: each tag has one result at most.
    pub(super) fn fill(
        &mut self,
        results: impl Iterator<Item = BatchElem>,
        address_of: impl Fn(u16) -> u64,
    ) {
        debug_assert!(self.is_free());
        for element in results {
            let words = &mut self.words[self.len * self.each..][..self.each];
            if let [_, address] = words {
                *address = address_of(element.tag);
            }
            // SAFETY: 8 bytes of plain data without padding.
            words[0] = unsafe { std::mem::transmute::<BatchElem, u64>(element) };
            self.len += 1;
        }
    }

    /// Bytes of an element.
    pub(super) fn element_bytes(&self) -> u8 {
        (self.each * size_of::<u64>()) as u8
    }

    /// The elements that the driver has not taken yet: the address of the first, and how many.
    pub(super) fn rest(&self) -> (u64, u16) {
        let first = &self.words[self.done * self.each..];
        (first.as_ptr() as u64, (self.len - self.done) as u16)
    }

    /// The tag of the first element that the driver has not taken yet.
    pub(super) fn next_tag(&self) -> u16 {
        // SAFETY: it was made of one.
        unsafe { std::mem::transmute::<u64, BatchElem>(self.words[self.done * self.each]) }.tag
    }

    /// Takes the driver's result: it has taken the first elements, or returns an error. True if no
    /// rest is left; else the rest is to be sent again.
    ///
    /// A positive `result` counts bytes of elements. An error means that none was taken (F14); it is
    /// returned as a positive errno.
    pub(super) fn answered(&mut self, result: i32) -> Result<bool, i32> {
        match result {
            bytes if bytes > 0 => self.done += bytes as usize / usize::from(self.element_bytes()),
            // The disk is gone, and with it the requests.
            gone if gone == -libc::ENODEV => self.done = self.len,
            refused => return Err(-refused),
        }
        let all = self.done >= self.len;
        if all {
            (self.len, self.done) = (0, 0);
        }
        Ok(all)
    }
}

/// The element that commits the result of a tag.
#[inline]
pub(super) fn element(tag: u16, result: i32) -> BatchElem {
    BatchElem {
        tag,
        buf_index: 0,
        result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled_with(tags: &[u16], has_addresses: bool) -> Commit {
        let mut commit = Commit::new(4, has_addresses);
        let results = tags.iter().map(|&tag| element(tag, 4096));
        commit.fill(results, |tag| 0xb000 + u64::from(tag));
        commit
    }

    fn filled(tags: &[u16]) -> Commit {
        filled_with(tags, false)
    }

    #[test]
    fn f14_what_the_driver_has_not_taken_is_sent_again() {
        for has_addresses in [false, true] {
            let mut commit = filled_with(&[3, 1, 2, 0], has_addresses);
            let (each, begin) = (commit.element_bytes(), commit.rest().0);
            let taken = |elements: i32| elements * i32::from(each);
            assert_eq!(commit.answered(taken(1)), Ok(false));
            assert_eq!((commit.next_tag(), commit.rest().1), (1, 3));
            assert_eq!(commit.rest().0, begin + u64::from(each));
            assert_eq!(commit.answered(taken(2)), Ok(false));
            assert_eq!((commit.next_tag(), commit.rest().1), (0, 1));
            assert_eq!(commit.answered(taken(1)), Ok(true));
            assert!(commit.is_free());
        }
    }

    #[test]
    fn g17_each_element_names_the_buffer_of_its_tag() {
        let commit = filled_with(&[3, 1], true);
        assert_eq!(
            commit.words[..4]
                .iter()
                .skip(1)
                .step_by(2)
                .collect::<Vec<_>>(),
            [&0xb003, &0xb001]
        );
        assert_eq!(
            (commit.element_bytes(), filled(&[3]).element_bytes()),
            (16, 8)
        );
    }

    #[test]
    fn f14_an_error_of_the_driver_is_returned() {
        let mut commit = filled(&[0, 1]);
        assert_eq!(commit.answered(-libc::EBUSY), Err(libc::EBUSY));
        assert_eq!(commit.answered(0), Err(0), "not sent again for ever");
    }

    #[test]
    fn f14_a_disk_that_is_gone_takes_all_results_with_it() {
        let mut commit = filled(&[0, 1]);
        assert_eq!(commit.answered(-libc::ENODEV), Ok(true));
        assert!(commit.is_free());
    }
}
