// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is accepted and what is refused, by the rows of L.

use super::*;
use crate::error::Exit;

const AROUND: Surroundings = Surroundings {
    page_size: 4096,
    backing_length: None,
};

fn sized(size: u64) -> DeviceConfig {
    DeviceConfig {
        size,
        ..DeviceConfig::default()
    }
}

fn judged(asked: DeviceConfig, around: Surroundings) -> Result<DeviceConfig, Failure> {
    asked.checked(
        &NewMemoryOptions::default(),
        &PressureOptions::default(),
        around,
    )
}

fn accepted(asked: DeviceConfig) -> DeviceConfig {
    match judged(asked, AROUND) {
        Ok(config) => config,
        Err(failure) => panic!("refused: {failure}"),
    }
}

/// The request is refused as bad usage, in one line that holds every given word.
fn refused(asked: DeviceConfig, words: &[&str]) {
    refused_near(asked, AROUND, words);
}

fn refused_near(asked: DeviceConfig, around: Surroundings, words: &[&str]) {
    let failure = judged(asked, around).expect_err("accepted");
    assert!(matches!(failure.exit, Exit::Usage), "{failure:?}");
    let line = failure.to_string();
    assert!(!line.contains('\n'), "{line:?}");
    for word in words {
        assert!(line.contains(word), "{line:?} lacks {word:?}");
    }
}

#[test]
fn l1_size_is_a_number_of_blocks() {
    refused(sized(0), &["--size"]);
    refused(sized(513), &["--size 513", "512"]);
    refused(sized(1 << 63), &["--size", "2^63"]);
    let blocks_of_4k = DeviceConfig {
        block_size: 4096,
        ..sized(512)
    };
    refused(blocks_of_4k, &["--size 512", "4096"]);
    assert_eq!(accepted(sized(512)).size, 512);
    assert_eq!(accepted(sized((1 << 63) - 512)).size, (1 << 63) - 512);
}

#[test]
fn l1_values_are_judged_where_they_are_read() {
    for bad in ["0", "256", "513", "3K", "8K"] {
        assert!(block_size(bad).is_err(), "{bad}");
    }
    for bad in ["0", "12K", "512M"] {
        assert!(physical_block_size(bad).is_err(), "{bad}");
    }
    for bad in ["0", "33M"] {
        assert!(io_buffer(bad).is_err(), "{bad}");
    }
    for (text, of) in [("0", 0), ("off", 0), ("1", 1), ("16", 16), ("65536", 65536)] {
        assert_eq!(latency_sample(text), Ok(of), "{text}");
    }
    for bad in ["", "-1", "3", "131072", "4294967296", "1/16", "on"] {
        let why = latency_sample(bad).expect_err(bad);
        assert!(why.contains("power of two up to 65536"), "{bad}: {why}");
    }
    for (bad, instead) in [
        ("plain", "buffer"),
        ("get-data", "user-copy"),
        ("x", "batch"),
    ] {
        let why = data_path(bad).expect_err(bad);
        assert!(why.contains(instead), "{why}");
    }
}

#[test]
fn l1_blocks_fit_into_each_other() {
    let physical = |bytes| DeviceConfig {
        block_size: 4096,
        physical_block_size: bytes,
        ..sized(1 << 30)
    };
    refused(
        physical(512),
        &["--physical-block-size 512", "--block-size 4096"],
    );
    assert_eq!(accepted(physical(256 << 20)).physical_block_size, 256 << 20);
    let buffer = |bytes| DeviceConfig {
        io_buffer: bytes,
        ..sized(1 << 30)
    };
    refused(buffer(4097), &["--io-buffer 4097", "4096"]);
    let wide = Surroundings {
        page_size: 65536,
        ..AROUND
    };
    refused_near(buffer(4096), wide, &["65536"]);
    assert_eq!(accepted(buffer(12288)).io_buffer, 12288);
}

#[test]
fn an_existing_file_gives_the_size() {
    let asked = |size| DeviceConfig {
        backing: Some(Backing::Tmpfs("/dev/shm/disk".into())),
        ..sized(size)
    };
    let found = |length| Surroundings {
        backing_length: Some(length),
        ..AROUND
    };
    let config = judged(asked(0), found(8 << 20)).expect("accepted");
    assert_eq!(config.size, 8 << 20);
    let words = ["--size 4194304", "8388608", "/dev/shm/disk"];
    refused_near(asked(4 << 20), found(8 << 20), &words);
    refused_near(asked(0), found(1000), &["/dev/shm/disk", "1000", "512"]);
}

#[test]
fn hugetlb_needs_whole_huge_pages() {
    let asked = |size, thp| DeviceConfig {
        backing: Some(Backing::Hugetlb),
        thp,
        ..sized(size)
    };
    refused(asked(3 << 20, None), &["2 MiB", "hugetlb"]);
    refused(asked(4 << 20, Some(true)), &["--thp", "hugetlb"]);
    assert!(!accepted(asked(4 << 20, None)).huge_pages());
    assert!(accepted(sized(4 << 20)).huge_pages());
}

#[test]
fn names_are_written_as_typed() {
    for path in [DataPath::Batch, DataPath::UserCopy, DataPath::Buffer] {
        let word = serde_json::to_string(&path).expect("a word");
        assert_eq!(word, format!("\"{path}\""));
        assert_eq!(data_path(&path.to_string()), Ok(Some(path)));
    }
}

#[test]
fn i21_a_name_is_short_plain_and_no_id() {
    let longest = "a".repeat(MAX_NAME);
    for name in ["db", "0a", "a.b_c-D", "a-part", "ublkb1x", longest.as_str()] {
        assert_eq!(disk_name(name).as_deref(), Ok(name));
    }
    let longer = "a".repeat(MAX_NAME + 1);
    for name in [
        "",
        "7",
        "0007",
        "ublkb7",
        "ublkb",
        "ublkc99999999",
        ".a",
        "-a",
        "a/b",
        "a b",
        "db-part1",
        "\u{e4}",
        longer.as_str(),
    ] {
        disk_name(name).expect_err(name);
    }
}
