// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rival: a RAM disk as one writes it on the `libublk` crate's plain API.
//!
//! One queue thread, one buffer of `--io-buffer` bytes per tag, and a copy
//! between that buffer and the disk's memory: what the crate offers to a target
//! that does not want to know how ublk works. The crate has two styles of queue
//! loop; both are here, and `--handler` picks one.
//!
//! `main` hands a device size in; the crate takes over until a signal comes.
//! Prints `/dev/ublkbN` when the disk is ready. On SIGINT or SIGTERM the device
//! is stopped and deleted.

use std::cell::RefCell;
use std::process::ExitCode;
use std::rc::Rc;

use clap::{Parser, ValueEnum};
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
    /// Style of the queue loop: a callback per request, or a task per tag.
    #[arg(long, value_enum, default_value_t = Handler::Sync)]
    handler: Handler,
}

/// The two styles.
#[derive(Clone, Copy, ValueEnum)]
enum Handler {
    Sync,
    Async,
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

/// The queue loop with a callback per request.
fn serve_sync(queue_id: u16, device: &UblkDev, size: usize) -> Result<(), UblkError> {
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

/// What the task of one tag does for as long as the queue lives.
async fn serve_tag(
    queue: &UblkQueue<'_>,
    tag: u16,
    disk: &RefCell<IoBuf<u8>>,
) -> Result<(), UblkError> {
    let mut buffer = IoBuf::<u8>::new(queue.dev.dev_info.max_io_buf_bytes as usize);
    queue
        .submit_io_prep_cmd(tag, BufDesc::Slice(buffer.as_slice()), 0, Some(&buffer))
        .await?;
    loop {
        let result = carry_out(
            queue,
            tag,
            buffer.as_mut_slice(),
            // All tasks are of one thread, and none holds the disk while it waits.
            disk.borrow_mut().as_mut_slice(),
        );
        queue
            .submit_io_commit_cmd(tag, BufDesc::Slice(buffer.as_slice()), result)
            .await?;
    }
}

/// The queue loop with a task per tag.
fn serve_async(queue_id: u16, device: &UblkDev, size: usize) -> Result<(), UblkError> {
    let disk = Rc::new(RefCell::new(zeroed(size)));
    let queue = Rc::new(UblkQueue::new(queue_id, device)?);
    let executor = smol::LocalExecutor::new();
    let tasks: Vec<_> = (0..device.dev_info.queue_depth)
        .map(|tag| {
            let (queue, disk) = (queue.clone(), disk.clone());
            executor.spawn(async move {
                match serve_tag(&queue, tag, &disk).await {
                    Ok(()) | Err(UblkError::QueueIsDown) => {}
                    Err(error) => eprintln!("libublk_ramdisk: tag {tag}: {error}"),
                }
            })
        })
        .collect();
    smol::block_on(executor.run(libublk::wait_and_handle_io_events(
        &queue,
        Some(20),
        || while executor.try_tick() {},
        || tasks.iter().all(smol::Task::is_finished),
    )))
}

/// Makes the disk, serves it until a signal comes, and takes it away.
fn run(args: &Args) -> Result<(), UblkError> {
    // Before libublk starts its threads.
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(UblkError::IOError)?;
    let (size, handler) = ((args.size_mib << 20) as usize, args.handler);
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
            let served = match handler {
                Handler::Sync => serve_sync(queue_id, device, size),
                Handler::Async => serve_async(queue_id, device, size),
            };
            if let Err(error) = served {
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
