// SPDX-License-Identifier: MIT OR Apache-2.0
//! The words of a rule, and what `--inject` makes of its own (E29, L1). What rules do is tested in `sim`.

#[path = "device/rng.rs"]
#[allow(dead_code)] // The device tests use more of it.
mod rng;

use rng::Rng;
use ublk_ramdisk::pressure::{Injections, PressureOptions, Settings};
use ublk_ramdisk::rules::Rule;
use ublk_ramdisk::units::OrOff;

/// As it is typed, and as it is printed if that differs.
const RULES: [(&str, &str); 24] = [
    ("slow: write 4k..64k @ 1G-2G: delay lognormal(2ms, 0.5)", ""),
    ("read 10%: delay 5ms", ""),
    ("flush:delay 20ms", "flush: delay 20ms"),
    ("once write @ sector 2048-4095: error EIO", ""),
    ("write @sector 9-9:hang", "write @sector 9-9: hang"),
    (
        "next 3 write: error EIO  partial ",
        "next 3 write: error EIO partial",
    ),
    ("any every 1000: busy", ""),
    ("any every 2: busy dev", ""),
    ("x-1.b_: read write: requeue", ""),
    ("any after 4 times 7: busy or requeue", ""),
    ("any for 30s: hang", ""),
    ("write 0.01%: corrupt bit", ""),
    ("discard write-zeroes: ignore", ""),
    ("when inflight>16: busy", ""),
    ("any: timeout", ""),
    ("read 4K: error EREMOTEIO", ""),
    ("read ..4K: error ENOSPC", ""),
    ("read 4K..: error EBADE", ""),
    ("any 100%: error ETIMEDOUT", ""),
    ("any times 0: hang", ""),
    ("any: delay uniform( 1ms ,2ms )", ""),
    ("any: delay exponential(1500us)", ""),
    (
        "any: delay list(1ms,2us, 0)",
        "any: delay list(1ms, 2us, 0s)",
    ),
    ("  any  :  hang  ", "any : hang"),
];

#[test]
fn e29_a_rule_is_printed_as_it_can_be_typed() {
    for (typed, printed) in RULES {
        let rule: Rule = typed.parse().expect(typed);
        let printed = if printed.is_empty() { typed } else { printed };
        assert_eq!(rule.to_string(), printed);
        assert_eq!(printed.parse(), Ok(rule.clone()), "{printed}");
        let sent = serde_json::to_string(&rule).expect("a string");
        assert_eq!(serde_json::from_str::<Rule>(&sent).unwrap(), rule);
    }
}

/// Any rule that is made of the words of the grammar is read as it is printed.
#[test]
fn e29_what_is_printed_is_read_as_the_same_rule() {
    let mut rng = Rng::of_run(29);
    let mut pick = |words: &[&str]| words[rng.within(0..words.len() as u64) as usize].to_owned();
    for _ in 0..20_000 {
        let mut text = pick(&["", "a: ", "rule7: "]);
        let parts: [&[&str]; 10] = [
            &[
                "write",
                "write",
                "discard write",
                "flush write-zeroes write",
            ],
            &["", "4K", "1..7", "513..", "..1M"],
            &[
                "",
                "@ 0-1",
                "@ 1K-1.5G",
                "@ sector 1-1",
                "@ sector 0-4095",
                "@ 512-1536",
            ],
            &["", "0%", "0.000000001%", "99.9%", "33.333%"],
            &["", "after 1"],
            &["", "every 7"],
            &["", "next 2"],
            &["", "once", "times 3"],
            &["", "for 5us", "for 1.5s"],
            &["", "when inflight > 0"],
        ];
        for part in parts {
            text += &pick(part);
            text += " ";
        }
        text += ": ";
        text += &pick(&[
            "hang",
            "ignore",
            "error EIO partial",
            "delay lognormal(3us, 1.25)",
            "delay uniform(1ns, 20s)",
            "busy dev",
        ]);
        let rule: Rule = text.parse().unwrap_or_else(|why| panic!("{text}: {why}"));
        let printed = rule.to_string();
        assert_eq!(printed.parse(), Ok(rule), "{text} is printed as {printed}");
    }
}

#[test]
fn l1_a_bad_rule_is_told_with_its_column_and_what_is_expected() {
    for (bad, column, expected) in [
        ("", 1, "a selector"),
        ("x", 1, "a selector"),
        ("read", 5, "a selector"),
        (": busy", 1, "a selector"),
        ("slow: delay 5ms", 7, "a selector"),
        ("read: dance", 7, "an action"),
        ("read:", 6, "an action"),
        ("read: write: hang", 7, "an action"),
        ("any: ignore", 6, "no read"),
        ("read: corrupt bit", 7, "write alone"),
        ("write: corrupt", 8, "an action"),
        ("read 5 5: hang", 8, "each selector once"),
        ("read once times 2: hang", 11, "each selector once"),
        ("read every 0: busy", 12, "a whole number from 1"),
        ("read next -1: busy", 11, "a whole number"),
        ("read 110%: busy", 6, "a share"),
        ("read 5X: busy", 6, "a size"),
        ("read 8K..4K: busy", 6, "a range of sizes"),
        ("write @ 2G-1G: hang", 9, "START before END"),
        ("write @ sector 1: hang", 16, "START-END"),
        ("any for 5: hang", 9, "a time"),
        ("when inflight 3: busy", 15, "inflight > N"),
        ("read: error EAGAIN", 13, "an errno"),
        ("read: error ENOSPC partial", 27, "EIO alone"),
        ("read: busy soon", 12, "the end of the rule"),
        ("r: read: delay", 15, "a delay"),
        ("read: delay 21s", 13, "up to 20s"),
        ("read: delay uniform(2ms, 1ms)", 13, "the shorter first"),
        ("read: delay uniform(2ms 3ms)", 13, "a delay"),
        ("read: delay lognormal(2ms, 11)", 13, "0 to 10"),
        ("read: delay list()", 13, "no time"),
        ("read: delay list FILE", 18, "list(TIME, ...)"),
        ("lösch: any: hang", 2, "a selector"),
    ] {
        let why = bad.parse::<Rule>().expect_err(bad);
        assert!(why.contains(expected), "{bad}: {why}");
        if !bad.starts_with("lö") {
            assert!(
                why.starts_with(&format!("column {column}: ")),
                "{bad}: {why}"
            );
        }
    }
}

#[test]
fn e29_a_list_of_delays_is_read_from_its_file_once() {
    let path = std::env::temp_dir().join(format!("ublk-delays-{}", std::process::id()));
    std::fs::write(&path, "1ms 2ms\n30us\n").expect("written");
    let text = format!("any: delay list {}", path.display());
    let rule = Rule::typed(&text).expect("a rule");
    assert_eq!(rule.to_string(), "any: delay list(1ms, 2ms, 30us)");
    for (contents, why) in [("", "0 delays"), ("1ms x", "'x'")] {
        std::fs::write(&path, contents).expect("written");
        let refused = Rule::typed(&text).expect_err(contents);
        assert!(refused.contains(why), "{refused}");
    }
    std::fs::remove_file(&path).expect("ours");
    assert!(Rule::typed(&text)
        .expect_err("gone")
        .contains("No such file"));
}

#[test]
fn e29_a_file_of_rules_comes_before_those_of_the_command_line() {
    let name = format!("rules-of-file-{}", std::process::id());
    let file = std::env::temp_dir().join(name);
    let path = file.to_str().expect("text");
    let text = "# for the test\n\nslow: read: delay 1ms\n  write once: error EIO\n";
    std::fs::write(&file, text).expect("written");
    let options = PressureOptions {
        rule_files: vec![Rule::of_file(path).expect("rules")],
        ..options(&["last: flush: hang"])
    };
    let all = shown(&options.applied_to(&Settings::default()));
    assert_eq!(
        all,
        [
            "slow: read: delay 1ms",
            "rule1: write once: error EIO",
            "last: flush: hang"
        ]
    );
    std::fs::write(&file, "read: hang\nreed: hang\n").expect("written");
    let why = Rule::of_file(path).expect_err("a selector");
    assert!(
        why.starts_with("line 2, column 7: expected a selector"),
        "{why}"
    );
    std::fs::remove_file(&file).expect("removed");
    assert!(Rule::of_file(path).is_err());
}

fn options(rules: &[&str]) -> PressureOptions {
    PressureOptions {
        rule: rules.iter().map(|rule| rule.parse().expect(rule)).collect(),
        ..PressureOptions::default()
    }
}

fn shown(settings: &Settings) -> Vec<String> {
    settings.rules.iter().map(ToString::to_string).collect()
}

#[test]
fn e29_rules_have_an_order_and_names_of_their_own() {
    let first = options(&[
        "any: hang",
        "b: read: busy",
        "rule2: any: hang",
        "flush: hang",
    ]);
    let settings = first.applied_to(&Settings::default());
    let all = [
        "rule1: any: hang",
        "b: read: busy",
        "rule2: any: hang",
        "rule3: flush: hang",
    ];
    assert_eq!(shown(&settings), all);
    settings.check().expect("good");
    let beside = options(&["any: hang", "rule1: any: busy"]).applied_to(&Settings::default());
    assert_eq!(
        shown(&beside)[0],
        "rule2: any: hang",
        "another has the name"
    );
    let changed = options(&["b: write: busy", "any: requeue"]).applied_to(&settings);
    assert_eq!(shown(&changed)[1], "b: write: busy", "in its place");
    assert_eq!(shown(&changed)[4], "rule4: any: requeue");
    let twice = options(&["b: read: busy", "b: read: busy"]).applied_to(&Settings::default());
    let why = twice.check().expect_err("twice").message;
    assert!(why.contains("two rules are called b"), "{why}");
    let many = options(&["any: hang"; 65]).applied_to(&Settings::default());
    assert!(many.check().expect_err("65").message.contains("64"));
    let dropped = PressureOptions {
        drop_rules: vec!["b".to_owned()],
        ..PressureOptions::default()
    };
    assert_eq!(shown(&dropped.applied_to(&settings)).len(), 3);
    dropped.check_for(&settings).expect("it is there");
    let why = dropped
        .check_for(&Settings::default())
        .expect_err("it is not");
    assert!(why.message.contains("no rule is called b"), "{why}");
    let cleared = PressureOptions {
        clear_rules: true,
        ..options(&["z: any: hang"])
    };
    assert_eq!(shown(&cleared.applied_to(&settings)), ["z: any: hang"]);
}

#[test]
fn l1_injections_are_lists_with_commas_within_and_become_rules() {
    let inject = |list: &str| PressureOptions {
        inject: vec![list.parse().expect(list)],
        ..PressureOptions::default()
    };
    let list = "requeue=10,50,2,-1,delay=5us,badblocks=9-9,0-7:once,timeout=3,100,0,4";
    let settings = inject(list).applied_to(&Settings::default());
    let all = [
        "requeue: 50% after 2 every 10: busy or requeue",
        "badblocks: read write @ sector 0-7 once: error EIO",
        "badblocks2: read write @ sector 9-9 once: error EIO",
        "timeout: 100% after 0 every 3 times 4: timeout",
        "delay: any: delay 5us",
    ];
    assert_eq!(shown(&settings), all, "in the order of null_blk");
    let off = inject("badblocks=off,delay=0").applied_to(&settings);
    assert_eq!(shown(&off), [all[0], all[3]]);
    let partial = inject("badblocks=1-2+100-200:partial").applied_to(&Settings::default());
    assert_eq!(
        shown(&partial)[1],
        "badblocks2: read write @ sector 100-200: error EIO partial"
    );
    for bad in [
        "",
        "requeue",
        "requeue=1,2",
        "requeue=1,100,0,-1",
        "requeue=0,50,0,-1",
        "requeue=1,101,0,-1",
        "requeue=1,50,0,-2",
        "requeue=1, 50,0,-1",
        "timeout=+1,50,0,-1",
        "timeout=a,b,c,d",
        "delay=",
        "delay=5",
        "delay=21s",
        "delay=1m",
        "explode=1,2,3,4",
        "delay=1us,,",
        "badblocks=",
        "badblocks=5",
        "badblocks=9-8",
        "badblocks=-1-2",
        "badblocks=1-2,",
        "badblocks=1-2:twice",
        "badblocks=a-b",
        "badblocks=1-",
        "badblocks=0-18014398509481984",
    ] {
        assert!(bad.parse::<Injections>().is_err(), "{bad}");
    }
}

#[test]
fn e6_options_keep_what_they_do_not_name() {
    let first = Settings {
        slots: Some(4),
        mbps: Some(10),
        ..Settings::default()
    };
    let options = PressureOptions {
        slots: Some(OrOff::Off),
        ..PressureOptions::default()
    };
    let then = options.applied_to(&first);
    assert_eq!((then.slots, then.mbps), (None, Some(10)));
}
