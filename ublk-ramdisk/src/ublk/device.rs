// SPDX-License-Identifier: MIT OR Apache-2.0
//! A device's life as its server sees it: add, set up, start, serve, resize, close (F1).
//!
//! 1. [`Device::create`] opens the store, sends ADD_DEV and SET_PARAMS, opens /dev/ublkcN, starts a
//!    thread for each queue and sends START_DEV. The disk is LIVE.
//! 2. [`Device::set`], [`Device::resize`] and [`Device::stats`] work beside the I/O.
//! 3. [`Device::let_go`] lets go of what is held back, before somebody sends STOP_DEV. The queue
//!    threads see -ENODEV and end.
//! 4. Dropping the device closes it: queue threads, rings, mirror, the last hold on /dev/ublkcN.
//!
//! STOP_DEV and DEL_DEV are not sent here but by a process that does not have /dev/ublkcN open (F23):
//! [`super::openers::stop_unused`] and the commands. All of this runs on a thread that is none of the
//! queues' (F3, F21).

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use super::abi::{self, DeviceInfo};
use super::ctrl::Control;
use super::features::Features;
use super::queue::QueueShared;
use super::thread::{Deaths, Served};
use crate::backend::{self, Driver, Mirror};
use crate::config::{check_over, DataPath, DeviceConfig};
use crate::error::Failure;
use crate::mq::Queue;
use crate::ramdisk::store::{Loss, PowerCut};
use crate::ramdisk::NoSpaceTimeout;
use crate::stats::{DeviceStats, KblockdStats, QueueCounters, QueueStats};
use crate::trace;

mod bring_up;
mod set;

/// How often a device node, or requests that come to their end, are looked for.
const NODE_POLL: Duration = Duration::from_millis(5);
/// How often a shrink asks for memory that requests still use.
const SHRINK_TRIES: u32 = 200;
/// How often a power cut looks for requests that use what is to be lost.
const CUT_TRIES: u32 = 6000;

/// A disk that is being served by threads of this process.
pub struct Device {
    /// For the thread that owns the device: queue threads send no control commands (F21).
    control: Control,
    /// As the driver reported it after START_DEV; before that, its answer to ADD_DEV.
    info: DeviceInfo,
    path: DataPath,
    /// The RAM disk behind the sources of pressure. The queues and kblockd hold it, too.
    driver: Arc<Driver>,
    /// As it was asked for when the device was made. Only `space` is kept up to date.
    config: DeviceConfig,
    /// By queue; written by the queue thread, read for `stats`.
    counters: Vec<Arc<QueueCounters>>,
    /// Where the queue threads report their ends.
    deaths: Arc<Deaths>,
    /// By queue. Each returns its ring, which is closed once all have ended: see `close`.
    threads: Vec<JoinHandle<Option<Served>>>,
    /// From the start of the queues to their end.
    mirror: Option<Mirror>,
    /// What queue threads share with workers. Emptied by `close`: it holds /dev/ublkcN open.
    queues: Box<[Arc<QueueShared>]>,
}

impl Device {
    /// N of /dev/ublkbN.
    pub fn id(&self) -> u32 {
        self.info.dev_id
    }

    /// Size of the disk in bytes.
    pub fn size(&self) -> u64 {
        self.driver.disk().store().size()
    }

    /// The data path in use.
    pub fn data_path(&self) -> DataPath {
        self.path
    }

    /// What the driver made of the device.
    pub fn info(&self) -> &DeviceInfo {
        &self.info
    }

    /// Can a new server take up the disk?
    pub fn can_be_recovered(&self) -> bool {
        Features(self.info.flags).has(Features::USER_RECOVERY)
    }

    /// Readable once a queue thread has ended, because it failed or because the
    /// driver took its tags back.
    pub fn death_fd(&self) -> BorrowedFd<'_> {
        self.deaths.fd()
    }

    /// Why a queue thread failed; none if they ended as they should.
    pub fn death_error(&self) -> Option<String> {
        self.deaths.error()
    }

    /// The mirror of blk-mq behind the disk; none once the disk has been stopped.
    pub fn queue(&self) -> Option<&Queue> {
        self.mirror.as_ref().map(Mirror::queue)
    }

    /// The figures as they are now.
    pub fn stats(&self) -> DeviceStats {
        let queues = self.counters.iter().zip(0..);
        DeviceStats {
            id: self.id(),
            name: self.config.name.clone(),
            size: self.size(),
            allocated: self.driver.disk().store().allocated().unwrap_or(0),
            data_path: self.path.to_string(),
            backing: self.config.backing().to_string(),
            outlives_server: self.config.backing().outlives_server(),
            restarts: 0,
            since: None,
            pressure: self.driver.stats(),
            space: self.driver.disk().space_stats(),
            latency_sample: self.queue().map_or(0, Queue::timed_of),
            queues: queues
                .map(|(counters, queue)| self.queue_stats(queue, counters))
                .collect(),
            kblockd: self
                .mirror
                .as_ref()
                .map_or_else(Default::default, |mirror| {
                    KblockdStats::of(mirror.kblockd(), mirror.runtime())
                }),
        }
    }

    fn queue_stats(&self, queue: u16, counters: &QueueCounters) -> QueueStats {
        let mut stats = counters.snapshot(queue);
        if let Some(mirror) = self.queue() {
            stats.hctx = mirror.counters(queue);
            stats.now = mirror.snapshot(queue);
            stats.latency = mirror.latency(queue);
        }
        if let Some(queue_shared) = self.queues.get(usize::from(queue)) {
            stats.wakeups = queue_shared.wakeups();
        }
        stats
    }

    /// Changes the size of the disk while it is used (H8). Who asks for a smaller size has looked for
    /// its users ([`super::openers::refuse_users`]).
    ///
    /// The order is that of H8: a store that grows does so before the driver is told, one that
    /// shrinks after it. So no request reaches beyond the store.
    ///
    /// # Errors
    /// The driver lacks UPDATE_SIZE (6.16), the size is no multiple of the block size, the disk is
    /// not LIVE, or there is too little memory.
    pub fn resize(&mut self, size: u64) -> Result<(), Failure> {
        let (id, old) = (self.id(), self.size());
        if !Features(self.info.flags).has(Features::UPDATE_SIZE) {
            return Err(Failure::environment(
                "resize needs UBLK_F_UPDATE_SIZE (bit 10), which this kernel's driver does not \
                 offer; the first kernel with it is 6.16",
            ));
        }
        if self.is_off() {
            return Err(self.says_off());
        }
        if size == 0 || !size.is_multiple_of(u64::from(self.config.block_size)) {
            return Err(Failure::usage(format!(
                "size {size} is not a positive multiple of the block size {}",
                self.config.block_size
            )));
        }
        if size > old {
            backend::check_resize(&self.config, self.driver.disk().store(), size)?;
        }
        // On a device that is not LIVE, UPDATE_SIZE crashes kernels of before 7.0-rc4 (H8).
        let state = self.control.device_info(id)?.device_state();
        if state != abi::DeviceState::Live {
            return Err(Failure::runtime(format!(
                "device {id} is {state}, not LIVE"
            )));
        }
        if size > old {
            return self.grow(size, old);
        }
        if size < old {
            if let Some(base) = &self.config.base {
                check_over(base, size)?;
            }
            self.driver.disk().store().check_shrink(size)?;
            self.control.update_size(id, size >> 9)?;
            self.cut_to(size, old);
        }
        Ok(())
    }

    /// Records how much memory the disk uses, to begin a trace or after it changed as a whole.
    pub fn trace_memory(&self) {
        if let Some(queue) = self.queue() {
            trace::memory(queue.label(), self.driver.disk().store().used());
        }
    }

    /// Makes the store larger, with all its memory if the disk is preallocated, and then the disk. A
    /// failure changes nothing.
    fn grow(&mut self, size: u64, old: u64) -> Result<(), Failure> {
        let disk = self.driver.disk();
        disk.grow(size)?;
        let grown = backend::prepare(disk.store(), &self.config).and_then(|()| {
            let told = self.control.update_size(self.info.dev_id, size >> 9);
            told.map_err(Failure::from)
        });
        grown.inspect_err(|_| self.cut_to(old, size))
    }

    /// Makes the store `size` bytes long and gives back what it has up to `old`.
    /// Requests that were checked before may still use that part: its memory is asked for again for a
    /// second (`SHRINK_TRIES` x `NODE_POLL`), and what is still in use then is kept.
    fn cut_to(&self, size: u64, old: u64) {
        let disk = self.driver.disk();
        disk.shrink(size);
        if !(0..SHRINK_TRIES).any(|_| disk.store().free_tail(old) || pause()) {
            log::warn!("requests beyond the new end keep some of the old memory");
        }
    }

    /// Takes the contents back to the image, or to zeros (H19). The caller has seen to it that nobody uses
    /// the disk, or wants it all the same: then each page goes back when no request uses it.
    ///
    /// # Errors
    /// The disk is off, or requests keep their pages: the next call goes on.
    pub fn reset(&self) -> Result<(), Failure> {
        if self.is_off() {
            return Err(self.says_off());
        }
        let mut tries = 0..CUT_TRIES;
        let mut wait = || tries.next().is_some_and(|_| !pause());
        let disk = self.driver.disk();
        match disk.reset(&mut wait) {
            // What is taken in advance is taken again.
            Some(_) => backend::prepare(disk.store(), &self.config),
            None => Err(Failure::runtime(format!(
                "device {} is reset in part: requests still use the rest, try again",
                self.id()
            ))),
        }
    }

    /// Takes the power away: every request ends with EIO from now on, and what is not flushed is lost
    /// (H15).
    ///
    /// # Errors
    /// The disk has no volatile cache, or is off; or requests are still at what would be lost. Then the
    /// disk is off, and the next call goes on.
    pub fn power_cut(&self, cut: &PowerCut) -> Result<Loss, Failure> {
        let (id, store) = (self.id(), self.driver.disk().store());
        if !store.keeps_flushed() {
            return Err(Failure::usage(format!(
                "device {id} has nothing to lose in a power cut: it was not added with \
                 --volatile-cache"
            )));
        }
        if !(u64::from(self.config.block_size)..=4096).contains(&cut.piece.into()) {
            return Err(Failure::usage(format!(
                "--torn {}: must be {} to 4096, as the block size of device {id} is",
                cut.piece, self.config.block_size
            )));
        }
        if !store.switch_off(cut) {
            return Err(self.says_off());
        }
        // A request that is being issued has not seen it.
        if let Some(queue) = self.queue() {
            queue.quiesce();
            self.driver.release_all();
            queue.unquiesce();
        }
        let lost = (0..CUT_TRIES).find_map(|_| {
            let lost = self.driver.disk().lose_unflushed();
            lost.or_else(|| {
                pause();
                None
            })
        });
        lost.ok_or_else(|| {
            Failure::runtime(format!(
                "device {id} is off, but requests still use what it is to lose, as with a rule that \
                 delays them: try again"
            ))
        })
    }

    /// True if the disk is without power.
    pub fn is_off(&self) -> bool {
        self.driver.disk().store().is_off()
    }

    fn says_off(&self) -> Failure {
        let id = self.id();
        Failure::runtime(format!(
            "device {id} is off: `ublk-ramdisk power-cut {id} --on` switches it on"
        ))
    }

    /// Gives the disk its power back.
    ///
    /// # Errors
    /// Its last power cut is not over.
    pub fn power_on(&self) -> Result<(), Failure> {
        match self.driver.disk().store().switch_on() {
            true => Ok(()),
            false => Err(Failure::runtime(format!(
                "the power cut of device {} is not over: give it again",
                self.id()
            ))),
        }
    }

    /// Keeps the backing file when this server has ended. Until then a file that it has made is
    /// removed with the store.
    pub fn keep_backing(&self) {
        self.driver.disk().store().keep_file();
    }

    /// Lets go of every request that the disk holds back, because STOP_DEV waits for them all (F4). All
    /// pressure and injection ends. Requests that wait for memory end with NOSPC, as every later one
    /// that needs memory and finds none (E22).
    pub fn let_go(&self) {
        if let Some(mirror) = &self.mirror {
            mirror.pressure().let_all_pass(&self.driver);
        }
        self.driver
            .disk()
            .set_no_space_timeout(NoSpaceTimeout::After(Duration::ZERO));
    }

    /// Returns a function that counts the requests that are with the server, and those that have ended.
    pub fn progress(&self) -> impl Fn() -> (u64, u64) + Send + 'static {
        let counters = self.counters.clone();
        move || {
            let all = counters.iter().zip(0..);
            let all = all.map(|(counters, queue)| counters.snapshot(queue));
            let (inserted, ended) = all.fold((0, 0), |(inserted, ended), queue| {
                (
                    inserted + queue.inserted,
                    ended + queue.ended + queue.errors,
                )
            });
            (inserted.saturating_sub(ended), ended)
        }
    }

    /// Ends the queue threads, where the driver has not, then frees what holds /dev/ublkcN open, in the
    /// order of use: rings, mirror with kblockd, buffers.
    fn close(&mut self) {
        self.deaths.end_all();
        let threads = self.threads.drain(..);
        // Panics have been caught and reported inside.
        let served: Vec<_> = threads.map(JoinHandle::join).collect();
        // The rings are closed when no thread is left; then nobody inserts any more,
        // and what kblockd still has to do is waited for. With it goes the last that
        // holds /dev/ublkcN.
        drop(served);
        self.mirror = None;
        self.queues = Box::default();
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.close();
    }
}

/// Lets requests in flight come to their end; always false, for use in a search.
fn pause() -> bool {
    std::thread::sleep(NODE_POLL);
    false
}
