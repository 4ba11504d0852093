// SPDX-License-Identifier: MIT OR Apache-2.0
//! What comes from outside, at random and as the fuzzers of `fuzz/` once chose it.
//!
//! The fuzzers run by hand (`scripts/fuzz`). What they found worth keeping lies in `fuzz/corpus` and
//! is served again here. Needs no driver.

#[path = "../device/rng.rs"]
mod rng;

mod control;
mod descriptor;
mod rules;

use std::path::PathBuf;

use descriptor::{Bench, Descriptor};
use rng::Rng;

/// Random descriptors; `FUZZ_INPUTS` sets another number, `UBLK_TEST_SEED` other descriptors.
const INPUTS: u64 = 200_000;
/// Number of inputs after which the whole file is compared.
const EPOCH: u64 = 20_000;

#[test]
fn h11_no_descriptor_touches_what_is_not_its_own() {
    let inputs = match std::env::var("FUZZ_INPUTS") {
        Ok(text) => text.parse().expect("FUZZ_INPUTS is a whole number"),
        Err(_) => INPUTS,
    };
    println!("{inputs} inputs, seed {}", Rng::seed_of_run());
    let mut bench = Bench::new();
    let mut rng = Rng::of_run(11);
    let mut accepted = 0;
    for number in 1..=inputs {
        let descriptor = Descriptor::random(&mut rng);
        accepted += u64::from(bench.serve(&descriptor, &mut rng, number));
        if number % EPOCH == 0 {
            bench.compare_file(number);
        }
    }
    bench.compare_file(inputs);
    bench.rest();
    // Both kinds have been met, or the descriptors were not worth much.
    assert!(accepted > inputs / 10 && accepted < inputs * 9 / 10);
}

#[test]
fn h11_what_the_fuzzer_chose_touches_only_its_own() {
    let mut bench = Bench::new();
    let accepted = corpus("descriptor").map(|bytes| descriptor::serve_all(&mut bench, &bytes));
    assert!(accepted.sum::<usize>() > 0, "no descriptor was accepted");
    bench.rest();
}

#[test]
fn k03_what_the_fuzzer_chose_is_a_request_or_an_error() {
    let requests = corpus("protocol").filter(|bytes| control::read(bytes));
    assert!(requests.count() > 0, "no line was a request");
}

#[test]
fn e29_what_the_fuzzer_chose_is_a_rule_that_can_be_typed_again_or_an_error() {
    let rules = corpus("rules").filter(|bytes| rules::read(bytes));
    assert!(rules.count() > 0, "no input was a rule");
    let mut rng = Rng::of_run(29);
    let known: Vec<Vec<u8>> = corpus("rules").collect();
    for _ in 0..100_000 {
        let mut bytes = known[rng.within(0..known.len() as u64) as usize].clone();
        let place = rng.within(0..bytes.len().max(1) as u64) as usize;
        match rng.within(0..3) {
            0 => bytes.truncate(place),
            1 => bytes.insert(place.min(bytes.len()), rng.within(0..256) as u8),
            _ => bytes
                .iter_mut()
                .skip(place)
                .take(1)
                .for_each(|byte| *byte ^= 1 << (place % 8)),
        }
        rules::read(&bytes);
    }
}

/// The contents of the files that are kept for a fuzzer.
fn corpus(fuzzer: &str) -> impl Iterator<Item = Vec<u8>> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(fuzzer);
    let files = std::fs::read_dir(dir).expect("a corpus");
    files.map(|file| std::fs::read(file.expect("a file").path()).expect("its bytes"))
}
