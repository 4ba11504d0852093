// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rules as a user could type them: each can be typed again as it is printed, or its error names a
//! column within it.

use ublk_ramdisk::rules::Rule;

/// Reads a rule. Returns true if it is one.
pub fn read(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return false;
    };
    match text.parse::<Rule>() {
        Ok(rule) => {
            assert_eq!(rule.to_string().parse(), Ok(rule), "{text}");
            true
        }
        Err(why) => {
            let column = why
                .strip_prefix("column ")
                .and_then(|why| why.split_once(": "));
            let (column, why) = column.expect(text);
            let column: usize = column.parse().expect(text);
            assert!(
                (1..=text.chars().count() + 1).contains(&column),
                "{text}: {column}"
            );
            assert!(!why.is_empty(), "{text}");
            false
        }
    }
}
