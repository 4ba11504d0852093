// SPDX-License-Identifier: MIT OR Apache-2.0
//! What stands in a block: a function of its place and of how often it has been written, so that a
//! block that is old, misplaced or torn is known when it is read. Every other line of 64 bytes is
//! the same word again and again, so that blocks can be compressed as clients' data mostly can.

use super::random::scatter;

/// Fills a block. Generation 0 is a block that was never written, or discarded: zeros (H3).
pub(super) fn fill(block: &mut [u8], offset: u64, generation: u32) {
    if generation == 0 {
        return block.fill(0);
    }
    for (n, word) in block.chunks_mut(8).enumerate() {
        let bytes = word_at(offset, generation, n).to_le_bytes();
        word.copy_from_slice(&bytes[..word.len()]);
    }
}

fn word_at(offset: u64, generation: u32, n: usize) -> u64 {
    // One multiplication per word; the base differs for each place and generation.
    let base = scatter(offset ^ (u64::from(generation) << 40));
    let place = if (n / 8).is_multiple_of(2) {
        n as u64 + 1
    } else {
        0
    };
    base ^ place.wrapping_mul(0xd6e8_feb8_6659_fd93)
}

/// What is wrong with a block that was read, if anything.
pub(super) fn fault(block: &[u8], offset: u64, generation: u32) -> Option<String> {
    let right = |n: usize| match generation {
        0 => 0,
        _ => word_at(offset, generation, n),
    };
    let wrong = block.chunks(8).enumerate().find(|(n, word)| {
        let bytes = right(*n).to_le_bytes();
        **word != bytes[..word.len()]
    });
    wrong.map(|(n, word)| {
        format!(
            "byte {}: found {word:02x?}, expected {:02x?} (generation {generation} of the block at \
             {offset})",
            offset + n as u64 * 8,
            &right(n).to_le_bytes()[..word.len()]
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_right_only_in_its_place_and_generation() {
        let mut block = [0; 512];
        fill(&mut block, 4096, 3);
        assert_eq!(fault(&block, 4096, 3), None);
        assert!(fault(&block, 4096, 2).is_some());
        assert!(fault(&block, 8192, 3).is_some());
        assert!(fault(&block, 4096, 0).is_some());
        block[100] ^= 1;
        let why = fault(&block, 4096, 3).expect("torn");
        assert!(why.contains("byte 4192"), "{why}");
        fill(&mut block, 4096, 0);
        assert_eq!(fault(&block, 0, 0), None);
    }
}
