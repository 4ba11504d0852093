// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a size is written: the same on the command line and in a script of `sim`.

use super::MAX_SIZE;

const SIZE_FORM: &str = "expected bytes, or a whole number with K, M, G, T, P or E, such as 512M";

/// Reads a size: digits, then an optional binary suffix.
pub fn size(text: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, suffix) = text.split_at(digits);
    if number.is_empty() {
        return Err(SIZE_FORM.to_owned());
    }
    let shift = match suffix.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        "p" | "pib" => 50,
        "e" | "eib" => 60,
        _ => return Err(SIZE_FORM.to_owned()),
    };
    let too_large = || "larger than 2^63 bytes (8E)".to_owned();
    let number: u64 = number.parse().map_err(|_| too_large())?;
    number
        .checked_mul(1 << shift)
        .filter(|bytes| *bytes <= MAX_SIZE)
        .ok_or_else(too_large)
}
