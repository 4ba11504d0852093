// SPDX-License-Identifier: MIT OR Apache-2.0
//! E31 and E32 without a kernel: what a rule holds, and what the next server finds.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::common::*;
use ublk_ramdisk::mq::Op;
use ublk_ramdisk::pressure::{PressureOptions, Settings};
use ublk_ramdisk::ramdisk::space::SpaceOptions;
use workqueue::VirtualClock;

const EIO: i32 = -libc::EIO;

fn served(clock: Arc<VirtualClock>, rules: &[&str], file: Option<&Path>) -> Bed {
    let settings = adding(rules).applied_to(&Settings::default());
    let pressure = (settings, file.map(Path::to_owned));
    let ramdisk = Bed::ramdisk(64, SpaceOptions::default());
    Bed::under(ramdisk, clock, (1, 8), 0, pressure)
}

fn adding(rules: &[&str]) -> PressureOptions {
    PressureOptions {
        rule: rules.iter().map(|rule| rule.parse().expect(rule)).collect(),
        ..PressureOptions::default()
    }
}

/// Hits, what is left, and requests held, of each rule.
fn counts(bed: &Bed) -> Vec<(u64, Option<u64>, u64)> {
    let rules = bed.driver.stats().rules.into_iter();
    rules
        .map(|rule| (rule.hits, rule.left, rule.held))
        .collect()
}

/// A file for the rules, removed at the end.
struct File(PathBuf);

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn file(name: &str) -> File {
    let file = File(std::env::temp_dir().join(format!("ublk-{name}-{}.rules", std::process::id())));
    let _ = std::fs::remove_file(&file.0);
    file
}

#[test]
fn e32_the_next_server_goes_on_where_the_former_has_ended() {
    let kept = file("kept");
    let rules = [
        "gone: read @ 4K-8K once: error EIO",
        "half: read @ 8K-12K times 2: error EIO",
        "stall: write @ 20K-24K next 1: hang",
        "brief: flush for 10s: error EIO",
    ];
    let serve = || served(VirtualClock::in_turns(), &rules, Some(&kept.0));
    let mut bed = serve();
    assert_eq!(bed.ended(0, Op::Read, 1, 1), EIO);
    assert_eq!(bed.ended(0, Op::Read, 2, 1), EIO);
    bed.advance(6 * S);
    assert_eq!(bed.ended(0, Op::Flush, 0, 0), EIO);
    bed.insert(0, 3, Op::Write, 5, 1);
    bed.until("it is held", || counts(&bed)[2] == (1, Some(0), 1));
    drop(bed);
    // The kernel sends it again, perhaps with another tag.
    let mut bed = serve();
    let left = [
        (1, Some(0), 0),
        (1, Some(1), 0),
        (1, Some(0), 0),
        (1, None, 0),
    ];
    assert_eq!(counts(&bed), left);
    bed.insert(0, 6, Op::Write, 5, 1);
    bed.until("it is held again", || counts(&bed)[2] == (1, Some(0), 1));
    assert_eq!(bed.ended(0, Op::Write, 5, 1), PAGE as i32, "one was held");
    assert_eq!(bed.ended(0, Op::Read, 1, 1), PAGE as i32, "used up");
    assert_eq!(bed.ended(0, Op::Read, 2, 1), EIO);
    assert_eq!(bed.ended(0, Op::Read, 2, 1), PAGE as i32);
    assert_eq!(bed.ended(0, Op::Flush, 0, 0), EIO);
    bed.advance(5 * S);
    assert_eq!(bed.ended(0, Op::Flush, 0, 0), 0, "in force for 10 s in all");
    bed.driver.release("stall").expect("it is there");
    assert_eq!(bed.end_of(0, 6), PAGE as i32);
    bed.finish();
    // What has been let go is not held by the next.
    let mut bed = serve();
    assert_eq!(bed.ended(0, Op::Write, 5, 1), PAGE as i32);
    bed.finish();
    // Another rule of the same name begins anew.
    let mut bed = served(
        VirtualClock::in_turns(),
        &["gone: read @ 4K-9K once: error EIO"],
        Some(&kept.0),
    );
    assert_eq!(bed.ended(0, Op::Read, 1, 1), EIO);
    bed.finish();
}

#[test]
fn e32_a_file_of_nonsense_is_begun_anew() {
    let kept = file("nonsense");
    std::fs::write(&kept.0, [0xa5; 5000]).expect("written");
    let rules = ["read once: error EIO"];
    let mut bed = served(VirtualClock::in_turns(), &rules, Some(&kept.0));
    assert_eq!(counts(&bed), [(0, Some(1), 0)]);
    assert_eq!(bed.ended(0, Op::Read, 1, 1), EIO);
    bed.finish();
    // Without the file the disk is served all the same.
    let nowhere = Path::new("/nonexistent/0.rules");
    let mut bed = served(VirtualClock::in_turns(), &rules, Some(nowhere));
    assert_eq!(bed.ended(0, Op::Read, 1, 1), EIO);
    bed.finish();
}

/// The disk is about to be stopped, which waits for every request (F4).
#[test]
fn e31_f04_what_is_held_is_served_when_the_disk_is_let_go() {
    let rules = ["stall: any times 3: hang"];
    let mut bed = served(VirtualClock::new(), &rules, None);
    bed.insert(0, 1, Op::Write, 1, 1);
    bed.insert(0, 2, Op::Discard, 4, 4);
    bed.insert(0, 3, Op::Flush, 0, 0);
    bed.until("all are held", || counts(&bed)[0].2 == 3);
    bed.mirror.pressure().let_all_pass(&bed.driver);
    for (tag, result) in [(1, PAGE as i32), (2, 0), (3, 0)] {
        assert_eq!(bed.end_of(0, tag), result);
    }
    bed.finish();
}

/// Rules come and go while workers serve what others hold back: every request ends once, and the
/// counters add up.
#[test]
fn e29_rules_are_changed_while_requests_run() {
    const TAGS: usize = 8;
    let mut bed = served(VirtualClock::new(), &[], None);
    let without = |names: &[&str]| PressureOptions {
        drop_rules: names.iter().map(|name| (*name).to_owned()).collect(),
        ..PressureOptions::default()
    };
    let clear = PressureOptions {
        clear_rules: true,
        ..PressureOptions::default()
    };
    let changes = [
        adding(&["h: every 3: hang"]),
        adding(&["d: any: delay 1ms", "w: write 50%: corrupt bit"]),
        adding(&["r: every 4: busy or requeue", "b: every 5: busy dev"]),
        without(&["h"]),
        adding(&[
            "e: read every 6: error EIO",
            "d: any: delay uniform(0, 3ms)",
        ]),
        without(&["r", "e"]),
        adding(&["h: write times 2: hang", "p: write once: error EIO partial"]),
        clear.clone(),
    ];
    let ops = [Op::Read, Op::Write, Op::Discard, Op::Flush];
    let (mut random, mut is_out) = (1_u64, [false; TAGS]);
    let mut below = |end: usize| {
        random = random
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (random >> 33) as usize % end
    };
    let mut ended = 0;
    while ended < 20_000 {
        for (tag, is_out) in is_out.iter_mut().enumerate() {
            if *is_out && bed.result(0, tag as u16).is_some() {
                (*is_out, ended) = (false, ended + 1);
            }
            if !*is_out {
                let (op, page) = (ops[below(4)], below(60) as u64);
                let pages = if op == Op::Flush {
                    0
                } else {
                    1 + below(4) as u64
                };
                *is_out = true;
                bed.insert(0, tag as u16, op, if pages == 0 { 0 } else { page }, pages);
            }
        }
        match below(8) {
            0 => {
                let change = &changes[below(changes.len())];
                let applied = bed.mirror.pressure().apply(&bed.driver, change);
                applied.expect("no trigger is made");
            }
            1 => _ = bed.driver.release("h"),
            2 => bed.mirror.queue().run_hw_queues(true),
            _ => bed.clock.advance(S / 1000),
        }
    }
    let applied = bed.mirror.pressure().apply(&bed.driver, &clear);
    applied.expect("no trigger is made");
    for tag in (0..TAGS).filter(|tag| is_out[*tag]) {
        bed.until("a request ends", || {
            bed.clock.advance(S / 1000);
            bed.mirror.queue().run_hw_queues(true);
            bed.result(0, tag as u16).is_some()
        });
    }
    assert_eq!(bed.driver.stats().delayed, 0);
    bed.finish();
}
