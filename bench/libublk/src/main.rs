// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rival: a RAM disk as one writes it on the `libublk` crate's plain API.
//!
//! One queue thread, one buffer of `--io-buffer` bytes per tag, and a copy
//! between that buffer and the disk's memory: what the crate offers to a target
//! that does not want to know how ublk works.
//!
//! `main` hands a device size in; the crate takes over until a signal comes.
//! Prints `/dev/ublkbN` when the disk is ready. On SIGINT or SIGTERM the device
//! is stopped and deleted.

use std::process::ExitCode;

use clap::Parser;
use libublk::ctrl::{UblkCtrl, UblkCtrlBuilder};
use libublk::helpers::IoBuf;
use libublk::io::{BufDescList, UblkDev, UblkIOCtx, UblkQueue};
use libublk::{sys, BufDesc, UblkError, UblkFlags, UblkIORes};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// A RAM disk on the libublk crate, to measure ours against.
#[derive(Parser)]
struct Args {
    /// Size in MiB.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..))]
    size_mib: u64,
    /// Requests the queue holds at once.
    #[arg(long, default_value_t = 128)]
    depth: u16,
    /// Largest request in bytes.
    #[arg(long, default_value_t = 512 << 10)]
    io_buffer: u32,
}

/// Carries out the request of `tag` between its buffer and the disk. Returns
/// what ublk wants to hear: a byte count, or an errno as a negative number.
fn carry_out(queue: &UblkQueue, tag: u16, buffer: &mut [u8], disk: &mut [u8]) -> i32 {
    let request = queue.get_iod(tag);
    let length = (request.nr_sectors as usize) << 9;
    let start = (request.start_sector as usize) << 9;
    // The lower eight bits are the operation, the others flags such as FUA.
    let op = request.op_flags & 0xff;
    if op == sys::UBLK_IO_OP_FLUSH {
        return 0;
    }
    // Never with a kernel that splits as it was told, but a rival should not panic either.
    let (Some(part), Some(buffer)) = (
        start
            .checked_add(length)
            .and_then(|end| disk.get_mut(start..end)),
        buffer.get_mut(..length),
    ) else {
        return -libc::EIO;
    };
    match op {
        sys::UBLK_IO_OP_READ => buffer.copy_from_slice(part),
        sys::UBLK_IO_OP_WRITE => part.copy_from_slice(buffer),
        _ => return -libc::EOPNOTSUPP,
    }
    length as i32
}

/// Memory that is there before the first request.
/// A page fault at the first touch would be counted as a part of a request.
fn zeroed(size: usize) -> IoBuf<u8> {
    let mut memory = IoBuf::new(size);
    memory.zero_buf();
    memory
}

/// The queue loop, with a callback per request.
fn serve(queue_id: u16, device: &UblkDev, size: usize) -> Result<(), UblkError> {
    let mut disk = zeroed(size);
    let mut buffers = device.alloc_queue_io_bufs();
    let queue = UblkQueue::new(queue_id, device)?
        .submit_fetch_commands_unified(BufDescList::Slices(Some(&buffers)))?;
    queue.wait_and_handle_io(|queue: &UblkQueue, tag: u16, _: &UblkIOCtx| {
        let buffer = buffers[usize::from(tag)].as_mut_slice();
        let result = carry_out(queue, tag, buffer, disk.as_mut_slice());
        let done = queue.complete_io_cmd_unified(
            tag,
            BufDesc::Slice(buffer),
            Ok(UblkIORes::Result(result)),
        );
        if let Err(error) = done {
            eprintln!("libublk_ramdisk: tag {tag} could not be completed: {error}");
        }
    });
    Ok(())
}

/// Makes the disk, serves it until a signal comes, and takes it away.
fn run(args: &Args) -> Result<(), UblkError> {
    // Before libublk starts its threads.
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(UblkError::IOError)?;
    let size = (args.size_mib << 20) as usize;
    let control = UblkCtrlBuilder::default()
        .name("libublk_ramdisk")
        // One memory, one thread: more queues would need a lock, which the crate leaves to its user.
        .nr_queues(1)
        .depth(args.depth)
        .io_buf_bytes(args.io_buffer)
        .dev_flags(UblkFlags::UBLK_DEV_F_ADD_DEV)
        .build()?;
    control.run_target(
        |device: &mut UblkDev| {
            device.set_default_params(size as u64);
            // Like ours: without a volatile cache the block layer sends no flushes.
            device.tgt.params.basic.attrs &= !sys::UBLK_ATTR_VOLATILE_CACHE;
            Ok(())
        },
        move |queue_id, device: &UblkDev| {
            if let Err(error) = serve(queue_id, device, size) {
                eprintln!("libublk_ramdisk: queue {queue_id}: {error}");
            }
        },
        move |control: &UblkCtrl| {
            println!("{}", control.get_bdev_path());
            let _either = signals.forever().next();
            if let Err(error) = control.kill_dev() {
                eprintln!("libublk_ramdisk: the device could not be stopped: {error}");
            }
        },
    )?;
    // Dropping `control` deletes the device.
    Ok(())
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("libublk_ramdisk: {error}; is ublk_drv loaded, and are you root?");
            ExitCode::FAILURE
        }
    }
}
