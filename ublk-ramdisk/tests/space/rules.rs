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
    let options = PressureOptions {
        rule: rules.iter().map(|rule| rule.parse().expect(rule)).collect(),
        ..PressureOptions::default()
    };
    let settings = options.applied_to(&Settings::default());
    let pressure = (settings, file.map(Path::to_owned));
    let ramdisk = Bed::ramdisk(64, SpaceOptions::default());
    Bed::under(ramdisk, clock, (1, 8), 0, pressure)
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
