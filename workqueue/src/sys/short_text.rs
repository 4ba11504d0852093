// SPDX-License-Identifier: MIT OR Apache-2.0
//! A text of at most 31 bytes that is copied instead of allocated: queue names, descriptions.
//!
//! Kernel counterparts: `WQ_NAME_LEN`, `WORKER_DESC_LEN`, which count the final NUL.

use std::fmt;

/// How many bytes are kept.
pub(crate) const SHORT_TEXT_LEN: usize = 31;

/// A text of at most 31 bytes.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct ShortText {
    len: u8,
    bytes: [u8; SHORT_TEXT_LEN],
}

/// The beginning of a text that is short enough, ending with a whole character.
pub(crate) fn cut(text: &str) -> &str {
    let mut end = text.len().min(SHORT_TEXT_LEN);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

impl ShortText {
    /// The text, cut to what is kept.
    pub(crate) fn new(text: &str) -> Self {
        let kept = cut(text).as_bytes();
        let mut bytes = [0; SHORT_TEXT_LEN];
        bytes[..kept.len()].copy_from_slice(kept);
        Self {
            len: u8::try_from(kept.len()).unwrap_or(0),
            bytes,
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or("")
    }
}

impl fmt::Display for ShortText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for ShortText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s02_22_a_text_is_cut_at_a_whole_character() {
        assert_eq!(ShortText::new("").as_str(), "");
        assert_eq!(ShortText::new("events").to_string(), "events");
        assert_eq!(ShortText::new(&"x".repeat(40)).as_str(), "x".repeat(31));
        // 30 bytes, then one character of two.
        assert_eq!(
            ShortText::new(&("x".repeat(30) + "é")).as_str(),
            "x".repeat(30)
        );
    }
}
