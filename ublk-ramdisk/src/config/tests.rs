// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is accepted and what is refused, by the rows of L.

use super::*;
use crate::error::Exit;

const AROUND: Surroundings = Surroundings {
    page_size: 4096,
    backing_length: None,
};

fn one_gib() -> DeviceRequest {
    DeviceRequest {
        size: Some(1 << 30),
        ..DeviceRequest::default()
    }
}

fn accepted(asked: DeviceRequest) -> DeviceConfig {
    match DeviceConfig::check(asked, AROUND) {
        Ok(config) => config,
        Err(failure) => panic!("refused: {failure}"),
    }
}

/// The request is refused as bad usage, in one line that holds every given word.
fn refused(asked: DeviceRequest, words: &[&str]) {
    refused_near(asked, AROUND, words);
}

fn refused_near(asked: DeviceRequest, around: Surroundings, words: &[&str]) {
    let failure = DeviceConfig::check(asked, around).expect_err("accepted");
    assert!(matches!(failure.exit, Exit::Usage), "{failure:?}");
    let line = failure.to_string();
    assert!(!line.contains('\n'), "{line:?}");
    for word in words {
        assert!(line.contains(word), "{line:?} lacks {word:?}");
    }
}

#[test]
fn h1_defaults() {
    let config = accepted(one_gib());
    assert_eq!(config.block_size, 512);
    assert_eq!(config.physical_block_size, 4096);
    assert_eq!((config.queues, config.depth), (1, 128));
    assert_eq!(config.io_buffer, 512 << 10);
    assert_eq!(config.data_path, None);
    assert!(config.huge_pages && config.partition_scan);
    assert!(!config.volatile_cache && !config.read_only && !config.rotational);
}

#[test]
fn l1_size_is_a_number_of_blocks() {
    let sized = |size| DeviceRequest {
        size: Some(size),
        ..one_gib()
    };
    refused(sized(0), &["--size 0"]);
    refused(sized(513), &["--size 513", "512"]);
    refused(sized((1 << 63) + 512), &["--size", "2^63"]);
    refused(
        DeviceRequest {
            size: Some(512),
            block_size: 4096,
            ..one_gib()
        },
        &["--size 512", "4096"],
    );
    assert_eq!(accepted(sized(512)).size, 512);
    assert_eq!(accepted(sized(1 << 63)).size, 1 << 63);
}

#[test]
fn l1_size_is_asked_for_when_no_file_has_one() {
    refused(DeviceRequest::default(), &["--size"]);
}

#[test]
fn l1_queues_and_depth_are_1_to_4096() {
    for bad in [0, 4097, u64::MAX] {
        refused(
            DeviceRequest {
                queues: bad,
                ..one_gib()
            },
            &["--queues", &bad.to_string(), "1..=4096"],
        );
        refused(
            DeviceRequest {
                depth: bad,
                ..one_gib()
            },
            &["--depth", &bad.to_string(), "1..=4096"],
        );
    }
    let most = accepted(DeviceRequest {
        queues: 4096,
        depth: 4096,
        ..one_gib()
    });
    assert_eq!((most.queues, most.depth), (4096, 4096));
}

#[test]
fn l1_io_buffer_is_pages_up_to_32_mib() {
    for bad in [0, 4095, 4097, (32 << 20) + 4096, u64::MAX] {
        refused(
            DeviceRequest {
                io_buffer: bad,
                ..one_gib()
            },
            &["--io-buffer", &bad.to_string()],
        );
    }
    for good in [4096, 12288, 32 << 20] {
        let config = accepted(DeviceRequest {
            io_buffer: good,
            ..one_gib()
        });
        assert_eq!(u64::from(config.io_buffer), good);
    }
    let wide = Surroundings {
        page_size: 65536,
        ..AROUND
    };
    refused_near(
        DeviceRequest {
            io_buffer: 4096,
            ..one_gib()
        },
        wide,
        &["65536"],
    );
}

#[test]
fn l1_block_sizes_are_powers_of_two_in_order() {
    for bad in [0, 1, 256, 513, 3072, 8192] {
        refused(
            DeviceRequest {
                block_size: bad,
                ..one_gib()
            },
            &["--block-size", "4096"],
        );
    }
    for (bad, word) in [
        (512, "--block-size 4096"),
        (12288, "power of two"),
        (512 << 20, "256 MiB"),
    ] {
        refused(
            DeviceRequest {
                block_size: 4096,
                physical_block_size: bad,
                ..one_gib()
            },
            &["--physical-block-size", word],
        );
    }
    let config = accepted(DeviceRequest {
        physical_block_size: 256 << 20,
        ..one_gib()
    });
    assert_eq!(config.physical_block_size, 256 << 20);
}

#[test]
fn l1_id_has_twenty_bits() {
    let named = |id| DeviceRequest {
        id: Some(id),
        ..one_gib()
    };
    refused(named(1 << 20), &["--id", "1048575"]);
    assert_eq!(accepted(named((1 << 20) - 1)).id, Some((1 << 20) - 1));
}

#[test]
fn an_existing_file_gives_the_size() {
    let asked = DeviceRequest {
        backing: Backing::Tmpfs("/dev/shm/disk".into()),
        ..DeviceRequest::default()
    };
    let found = Surroundings {
        backing_length: Some(8 << 20),
        ..AROUND
    };
    let config = DeviceConfig::check(asked.clone(), found).expect("accepted");
    assert_eq!(config.size, 8 << 20);
    refused_near(
        DeviceRequest {
            size: Some(4 << 20),
            ..asked.clone()
        },
        found,
        &["--size 4194304", "8388608", "/dev/shm/disk"],
    );
    let odd = Surroundings {
        backing_length: Some(1000),
        ..AROUND
    };
    refused_near(asked, odd, &["/dev/shm/disk", "1000", "512"]);
}

#[test]
fn hugetlb_needs_whole_huge_pages() {
    let asked = |size, huge_pages| DeviceRequest {
        size: Some(size),
        backing: Backing::Hugetlb,
        huge_pages,
        ..DeviceRequest::default()
    };
    refused(asked(3 << 20, None), &["2 MiB", "hugetlb"]);
    refused(asked(4 << 20, Some(true)), &["--thp", "hugetlb"]);
    assert!(!accepted(asked(4 << 20, None)).huge_pages);
}

#[test]
fn names_are_written_as_typed() {
    for path in [DataPath::Batch, DataPath::UserCopy, DataPath::Buffer] {
        let word = serde_json::to_string(&path).expect("a word");
        assert_eq!(word, format!("\"{path}\""));
    }
}
