// SPDX-License-Identifier: MIT OR Apache-2.0
//! The elements of a COMMIT of the `batch` data path (F14), in place until the driver has taken
//! them all.

use std::mem::size_of;

use super::abi::BatchElem;

/// The elements of one COMMIT, in place until it has completed.
#[derive(Debug)]
pub(super) struct Commit {
    /// Never moves or grows: the kernel has its address.
    elements: Box<[BatchElem]>,
    /// Elements in use, from the first on.
    len: usize,
    /// Those of them that the driver has taken.
    done: usize,
}

impl Commit {
    /// Room for `most` elements, none in use.
    pub(super) fn new(most: u16) -> Self {
        Self {
            elements: vec![BatchElem::default(); usize::from(most)].into(),
            len: 0,
            done: 0,
        }
    }

    /// True if nothing of it is under way.
    pub(super) fn is_free(&self) -> bool {
        self.len == 0
    }

    /// Puts results in, to be sent.
    ///
    /// # Panics
    /// There are more than there is room for: each tag has one result at most.
    pub(super) fn fill(&mut self, results: impl Iterator<Item = BatchElem>) {
        debug_assert!(self.is_free());
        for element in results {
            self.elements[self.len] = element;
            self.len += 1;
        }
    }

    /// The elements that the driver has not taken yet.
    pub(super) fn rest(&self) -> &[BatchElem] {
        &self.elements[self.done..self.len]
    }

    /// Takes the driver's result: it has taken the first elements, or returns an error. True if no
    /// rest is left; else the rest is to be sent again.
    ///
    /// A positive `result` counts bytes of elements. An error means that none was taken (F14); it is
    /// returned as a positive errno.
    pub(super) fn answered(&mut self, result: i32) -> Result<bool, i32> {
        match result {
            bytes if bytes > 0 => self.done += bytes as usize / size_of::<BatchElem>(),
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

    fn filled(tags: &[u16]) -> Commit {
        let mut commit = Commit::new(4);
        commit.fill(tags.iter().map(|&tag| element(tag, 4096)));
        commit
    }

    fn tags(commit: &Commit) -> Vec<u16> {
        commit.rest().iter().map(|element| element.tag).collect()
    }

    #[test]
    fn f14_what_the_driver_has_not_taken_is_sent_again() {
        let mut commit = filled(&[0, 1, 2, 3]);
        assert_eq!(commit.answered(8), Ok(false));
        assert_eq!(tags(&commit), [1, 2, 3]);
        assert_eq!(commit.answered(16), Ok(false));
        assert_eq!(tags(&commit), [3]);
        assert_eq!(commit.answered(8), Ok(true));
        assert!(commit.is_free());
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
