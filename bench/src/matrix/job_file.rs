// SPDX-License-Identifier: MIT OR Apache-2.0
//! What fio reads, and how much of it makes a sample.
//!
//! A sample is an amount of bytes and not of seconds, so that a guest that counts
//! instructions does the same work every time. Only the search for a depth goes by the
//! clock.

use std::fmt::Write;

use super::{Job, Rw};

/// The disk as the jobs see it, and how much they do.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// Size of the disks.
    pub mib: u64,
    /// How many times the usual amount a sample is.
    pub scale: u64,
}

/// Bytes that a sample moves, over all of its jobs. In the instruction-counting guest one
/// millisecond of fio's clock is then a fifth of a per cent of the sample.
pub fn amount(job: &Job, extent: Extent) -> u64 {
    let alone = job.iodepth * job.numjobs == 1 && job.direct;
    // One request at a time is slower by far; a third of the requests takes about as long.
    let requests: u64 = if alone { 8192 } else { 24576 };
    // 192 MiB of large blocks are enough: the bytes, not the requests, take the time there.
    let bytes = (requests * job.bs).min(192 << 20) * extent.scale;
    if job.verify {
        // Every byte once, or the second write of a block would hide the first.
        bytes.min(extent.mib << 20)
    } else {
        bytes
    }
}

/// The job file. fio is to have `DISK` in its environment; it never makes a file where there is no
/// disk. Every job has a part of the disk of its own, so that two of them never write the same
/// block.
pub fn job_file(job: &Job, extent: Extent) -> String {
    let mut text = format!("; {}. Made by scripts/bench-device.\n", job.title());
    let mut line = |line: &str| {
        let _ = writeln!(text, "{line}");
    };
    line("[global]");
    line("filename=${DISK}");
    line("allow_file_create=0");
    line("group_reporting");
    // A queue depth has a meaning only past the page cache.
    line(if job.direct {
        "ioengine=libaio\ndirect=1"
    } else {
        "ioengine=psync\ndirect=0"
    });
    let numjobs = u64::from(job.numjobs);
    let part = (extent.mib << 20) / numjobs / MOST_ALIGN * MOST_ALIGN;
    // `io_size` and `size` are of each job, the amount of all together.
    let each = (amount(job, extent) / numjobs / job.bs).max(1) * job.bs;
    line("");
    line(&format!("[{job}]"));
    let rw = match job.rw {
        Rw::TrimMix => Rw::RandMixed,
        rw => rw,
    };
    line(&format!("rw={}", rw.name()));
    if matches!(rw, Rw::Mixed | Rw::RandMixed) {
        line("rwmixread=70");
    }
    line(&format!("bs={}", job.bs));
    line(&format!("iodepth={}", job.iodepth));
    if job.numjobs > 1 {
        line(&format!("numjobs={numjobs}\noffset_increment={part}"));
    }
    if job.verify {
        // Without `io_size`: fio then writes every block once, and reads back each.
        line(&format!("size={}", each.min(part)));
        line("verify=crc32c\nverify_fatal=1\nverify_state_save=0");
    } else {
        line(&format!("size={part}"));
    }
    match job.latency_us {
        Some(us) => {
            // It ends when it has found the depth; the amount only bounds it.
            line(&format!("io_size={}", each * 8));
            line(&format!("latency_target={us}us"));
            // Each depth is tried for this long before fio judges it.
            line("latency_window=50ms\nlatency_percentile=99");
        }
        None if !job.verify => line(&format!("io_size={each}")),
        None => {}
    }
    if !job.is_direct() && job.rw.writes() {
        // Else the sample would end with the data in the page cache.
        line("end_fsync=1");
    }
    if job.rw == Rw::TrimMix {
        line("");
        // Of the whole disk, not of a part, and about a quarter of the bytes of the other job.
        line("[discards]");
        line("rw=randtrim\nbs=64k\niodepth=1");
        line(&format!("size={}m", extent.mib));
        line(&format!("io_size={}", (each / 4).max(64 << 10)));
    }
    text
}

/// Parts of a disk begin at multiples of the largest block.
const MOST_ALIGN: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: Extent = Extent { mib: 256, scale: 1 };

    #[test]
    fn the_amounts_of_the_default_jobs_are_those_of_the_kept_runs() {
        for (name, mib) in [
            ("randread-4k-qd32", 96),
            ("randwrite-4k-qd1", 32),
            ("read-128k-qd8", 192),
        ] {
            assert_eq!(amount(&name.parse().unwrap(), USUAL), mib << 20);
            let more = Extent { scale: 4, ..USUAL };
            assert_eq!(amount(&name.parse().unwrap(), more), mib << 22);
        }
    }

    /// Lines that a job's file has, and words that it does not have.
    #[test]
    fn a_job_becomes_the_lines_that_fio_reads() {
        for (name, mib, lines, not) in [
            (
                "randread-4k-qd32",
                256,
                "filename=${DISK} allow_file_create=0 ioengine=libaio direct=1 rw=randread bs=4096 \
                 iodepth=32 size=268435456 io_size=100663296",
                "verify numjobs",
            ),
            // Jobs side by side share the amount, and have a part each.
            (
                "randwrite-4k-qd8-j3-verify",
                256,
                "numjobs=3 offset_increment=89128960 size=33554432 verify=crc32c",
                "io_size",
            ),
            // A buffered write reaches the disk before it ends.
            (
                "write-4k-qd1-buffered",
                256,
                "ioengine=psync direct=0 end_fsync=1",
                "verify",
            ),
            ("read-4k-qd1-buffered", 256, "ioengine=psync", "fsync"),
            // A depth is sought by the clock.
            (
                "randread-4k-qd128-lat200us",
                256,
                "latency_target=200us latency_percentile=99 iodepth=128",
                "verify",
            ),
            // Discards run beside reads and writes.
            (
                "trimmix-4k-qd16",
                256,
                "rw=randrw rwmixread=70 [discards] rw=randtrim",
                "verify",
            ),
            ("randtrim-64k-qd16", 256, "rw=randtrim bs=65536", "discards]"),
            // A small disk still has whole blocks.
            (
                "write-1m-qd1-j64",
                64,
                "offset_increment=1048576 size=1048576",
                "verify",
            ),
        ] {
            let text = job_file(&name.parse().unwrap(), Extent { mib, scale: 1 });
            for line in lines.split(' ') {
                assert!(text.lines().any(|found| found == line), "{line}: {text}");
            }
            for word in not.split(' ') {
                assert!(!text.contains(word), "{word}: {text}");
            }
        }
    }
}
