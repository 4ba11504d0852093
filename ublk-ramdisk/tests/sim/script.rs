// SPDX-License-Identifier: MIT OR Apache-2.0
//! The words of `--at TIME:EVENT`.

use ublk_ramdisk::sim::script::Step;

#[test]
fn events_are_read_and_kept_as_they_were_typed() {
    for text in [
        "fail-worker-creation on",
        "fail-worker-creation off",
        "busy on",
        "busy dev",
        "busy off",
        "stop-load",
        "start-load",
        "rate 1000",
        "discard 4096,8192",
        "corrupt 77",
        "set slots=4",
        "set mbps=off",
        "set inject requeue=3,50,0,-1",
        "set rule slow: read: delay 5ms",
        "rules add write @ 1G-2G once: error EIO",
        "rules del slow",
        "rules clear",
        "rules release slow",
        "set memory-limit=32M",
        "set memory-limit=off",
        "set no-space-timeout=5",
        "set reclaim=zero",
        "psi on",
    ] {
        let step: Step = format!("3ms:{text}").parse().expect(text);
        assert_eq!((step.at.as_millis(), step.text.as_str()), (3, text));
    }
}

#[test]
fn l1_what_is_no_event_is_refused() {
    for bad in [
        "",
        "busy on",
        "3:busy on",
        "3ms",
        "3ms:",
        "3ms:dance",
        "3ms:busy",
        "3ms:busy maybe",
        "3ms:rate 0",
        "3ms:rate -1",
        "3ms:discard 1",
        "3ms:discard 1,x",
        "3ms:corrupt +1",
        "3ms:set",
        "3ms:set slots=+1",
        "3ms:set slots",
        "3ms:set inject dance=1",
        "3ms:set rule dance",
        "3ms:rules",
        "3ms:rules del",
        "3ms:rules add read: dance",
        "3ms:rules clear now",
        "3ms:set memory-limit=",
        "3ms:set memory-limit=-1",
        "3ms:set memory-limit=5X",
        "3ms:set no-space-timeout=+5",
        "3ms:set no-space-timeout=5ms",
        "3ms:set reclaim=on",
        "3ms:set reclaim=compress",
        "3ms:psi",
        "3ms:stop-load now",
    ] {
        assert!(bad.parse::<Step>().is_err(), "{bad}");
    }
    let step = |text: &str| text.parse::<Step>().expect(text).check(8192);
    assert!(step("0:discard 4096,4096").is_ok() && step("0:corrupt 8191").is_ok());
    assert!(step("0:discard 4096,8192").is_err() && step("0:discard 1,512").is_err());
    assert!(step("0:corrupt 8192").is_err());
}
