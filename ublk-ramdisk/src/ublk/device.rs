// SPDX-License-Identifier: MIT OR Apache-2.0
//! A device's life as its server sees it: add, set up, start, serve, resize,
//! stop, delete (F1). Whatever fails before the disk is there is undone (L2).
//!
//! All of it runs on a thread that is none of the queues' (F3, F21).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileTypeExt;
use std::sync::mpsc;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::abi::{self, DeviceInfo};
use super::ctrl::{block_path, char_path, Control, CtrlError};
use super::features::Features;
use super::openers::openers;
use super::params;
use super::queue::Shared;
use super::thread::{Deaths, QueueThread, Served};
use super::transport::{Port, Ports};
use crate::backend::{self, Driver, Mirror};
use crate::config::{DataPath, DeviceConfig};
use crate::error::Failure;
use crate::mq::{Queue, TagSet};
use crate::ramdisk::Patience;
use crate::stats::{DeviceStats, KblockdStats, QueueCounters, QueueStats};

mod set;

/// How long a device node may take to appear.
const NODE_PATIENCE: Duration = Duration::from_secs(5);
/// How often it is looked for.
const NODE_POLL: Duration = Duration::from_millis(5);
/// How long the id of a deleted device may take to be free.
const ID_PATIENCE: Duration = Duration::from_secs(2);
/// How often a shrink asks for memory that requests still use.
const SHRINK_TRIES: u32 = 200;

/// A disk that is being served by threads of this process.
pub struct Device {
    control: Control,
    info: DeviceInfo,
    path: DataPath,
    workers_commit: bool,
    driver: Arc<Driver>,
    /// As it was asked for; of `space`, as it is now.
    config: DeviceConfig,
    counters: Vec<Arc<QueueCounters>>,
    deaths: Arc<Deaths>,
    threads: Vec<JoinHandle<Option<Served>>>,
    /// From the start of the queues to their end.
    mirror: Option<Mirror>,
    ports: Box<[Arc<Port>]>,
    deleted: bool,
}

impl Device {
    /// Brings a disk up: when this returns, /dev/ublkbN is there and takes I/O.
    /// On failure nothing is left behind.
    pub fn create(config: &DeviceConfig) -> Result<Self, Failure> {
        let mut control = Control::open()?;
        let offered = offered_features(&mut control)?;
        let (path, workers_commit) = params::choose(config, offered)?;
        if !config.partition_scan && !offered.has(Features::NO_AUTO_PART_SCAN) {
            log::warn!(
                "this kernel always scans for partitions: --no-partition-scan has no effect"
            );
        }
        let deaths = Deaths::new().map_err(|e| Failure::environment(format!("eventfd: {e}")))?;
        let store = backend::open_store(config)?;
        let mut info = params::wanted_info(config, path, offered);
        control.add(&mut info)?;
        let driver = backend::driver(config, store, info.nr_hw_queues, info.queue_depth);
        // From here on dropping the device deletes it.
        let mut device = Device {
            control,
            info,
            path,
            workers_commit,
            driver,
            config: config.clone(),
            counters: Vec::new(),
            deaths: Arc::new(deaths),
            threads: Vec::new(),
            mirror: None,
            ports: Box::default(),
            deleted: false,
        };
        device.check_added(config)?;
        device.set_params(config)?;
        device.start_queues(config)?;
        device.start()?;
        Ok(device)
    }

    /// The driver's answer to ADD_DEV is what counts (A2, F8).
    fn check_added(&self, config: &DeviceConfig) -> Result<(), Failure> {
        let granted = Features(self.info.flags);
        if !granted.has(params::needed_features(self.path)) {
            return Err(params::path_missing(self.path, granted));
        }
        if self.info.nr_hw_queues != config.queues {
            log::warn!(
                "{} queues asked for, {} possible on this machine's CPUs",
                config.queues,
                self.info.nr_hw_queues
            );
        }
        Ok(())
    }

    fn set_params(&mut self, config: &DeviceConfig) -> Result<(), Failure> {
        let store = self.driver.disk().store();
        let (id, page) = (self.info.dev_id, store.page_size());
        let mut wanted = params::params(config, store.size(), self.info.max_io_buf_bytes, page);
        self.control.set_params(id, &mut wanted)?;
        // Types that the driver has no name for are dropped without a word (F16).
        let held = self.control.params(id)?;
        let needed = abi::PARAM_BASIC | abi::PARAM_DISCARD;
        if held.types & needed != needed || held.size() != wanted.size() {
            return Err(Failure::runtime(format!(
                "the driver did not keep the parameters of device {id}: sent {wanted:?}, kept {held:?}"
            )));
        }
        Ok(())
    }

    /// Opens the character device, makes the mirror and starts a thread per queue;
    /// returns when each has fetched its tags.
    fn start_queues(&mut self, config: &DeviceConfig) -> Result<(), Failure> {
        let shared = Arc::new(Shared {
            disk: self.driver.clone(),
            char_device: Arc::new(open_char_device(self.info.dev_id)?),
            depth: self.info.queue_depth,
            block_size: config.block_size,
            io_buffer: self.info.max_io_buf_bytes,
            read_only: config.read_only,
            path: self.path,
            give_up: self.deaths.give_up(),
        });
        let ports = self.make_ports(&shared)?;
        self.ports = ports.clone();
        let cpus = self.queue_cpus()?;
        let set = TagSet {
            cpus: cpus.iter().map(|of| of.iter().copied().collect()).collect(),
            timeout: Duration::from_secs(config.timeout.into()),
            ..TagSet::new(self.info.nr_hw_queues, self.info.queue_depth)
        };
        let transport = Arc::new(Ports {
            disk: self.driver.clone(),
            path: self.path,
            ports: ports.clone(),
        });
        let (runtime, flags) = (backend::runtime(), config.kblockd_flags.flags());
        let (driver, operations) = (&self.driver, self.driver.clone());
        let mirror = Mirror::start_on(runtime, flags, set, operations, driver, transport)?;
        mirror.queue().time_one_of(config.latency_sample);
        let bound: Vec<_> = ports.iter().map(Arc::downgrade).collect();
        mirror.on_cpus_changed(Box::new(move |online| {
            let bound = bound.iter().filter_map(Weak::upgrade);
            bound.for_each(|port| port.binding.follow(online));
        }));
        self.mirror = Some(mirror);
        let (ready, answers) = mpsc::channel();
        let mut failure = None;
        for ((queue, port), cpus) in (0..).zip(ports).zip(cpus) {
            match self.start_queue(queue, port, cpus, &shared, ready.clone()) {
                Ok(thread) => self.threads.push(thread),
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
        }
        drop(ready);
        // Every thread answers once. All answers are awaited, also after a
        // failure: a queue that fetched after the STOP_DEV which undoes it all
        // would never be woken again.
        for _ in 0..self.threads.len() {
            let answer = answers.recv().unwrap_or_else(|_| {
                Err(Failure::runtime("a queue thread ended before it was ready"))
            });
            if let Err(error) = answer {
                failure.get_or_insert(error);
            }
        }
        failure.map_or(Ok(()), Err)
    }

    /// What the threads of a queue share with those of kblockd.
    fn make_ports(&self, shared: &Shared) -> Result<Box<[Arc<Port>]>, Failure> {
        let port = |queue| {
            let device = shared.char_device.clone();
            let (depth, io_buffer) = (shared.depth, shared.io_buffer);
            Port::new(device, queue, depth, io_buffer, self.workers_commit)
                .map(Arc::new)
                .map_err(|error| error.failure(queue))
        };
        (0..self.info.nr_hw_queues).map(port).collect()
    }

    /// By queue, the CPUs whose requests it gets.
    fn queue_cpus(&mut self) -> Result<Vec<Vec<usize>>, Failure> {
        let (id, queues) = (self.info.dev_id, 0..self.info.nr_hw_queues);
        let cpus = queues.map(|queue| self.control.queue_affinity(id, queue));
        Ok(cpus.collect::<Result<_, _>>()?)
    }

    fn start_queue(
        &mut self,
        queue: u16,
        port: Arc<Port>,
        cpus: Vec<usize>,
        shared: &Arc<Shared>,
        ready: mpsc::Sender<Result<(), Failure>>,
    ) -> Result<JoinHandle<Option<Served>>, Failure> {
        let counters = Arc::new(QueueCounters::default());
        self.counters.push(counters.clone());
        let mirror = self.mirror.as_ref();
        let lane = mirror.expect("made before the queues").lane(queue);
        let thread = QueueThread {
            queue,
            cpus,
            shared: shared.clone(),
            port,
            counters,
            deaths: self.deaths.clone(),
            ready,
        };
        thread.spawn(lane).map_err(|e| {
            Failure::environment(format!("cannot create the thread of queue {queue}: {e}"))
        })
    }

    fn start(&mut self) -> Result<(), Failure> {
        let id = self.info.dev_id;
        if let Err(error) = self.control.start(id, std::process::id()) {
            if error.errno() == Some(libc::EINVAL) {
                let held = self.control.params(id)?;
                return Err(Failure::runtime(format!(
                    "{error}; parameters as sent: {held:?}"
                )));
            }
            return Err(error.into());
        }
        self.info = self.control.device_info(id)?;
        wait_for_node(&block_path(id), is_block_device)
    }

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

    /// Do workers commit what they have ended?
    pub fn workers_commit(&self) -> bool {
        self.workers_commit
    }

    /// What the driver made of the device.
    pub fn info(&self) -> &DeviceInfo {
        &self.info
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
            size: self.size(),
            allocated: self.driver.disk().store().allocated().unwrap_or(0),
            data_path: self.path.to_string(),
            worker_commit: self.workers_commit,
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
        if let Some(port) = self.ports.get(usize::from(queue)) {
            stats.wakeups = port.wakeups();
            if let Some(committer) = &port.committer {
                stats.add(committer.counters());
            }
        }
        stats
    }

    /// Changes the size of the disk while it is used (H8). A smaller size is
    /// refused while somebody has the disk open, unless forced.
    pub fn resize(&mut self, size: u64, force: bool) -> Result<(), Failure> {
        let (id, old) = (self.id(), self.size());
        if !Features(self.info.flags).has(Features::UPDATE_SIZE) {
            return Err(Failure::environment(
                "resize needs UBLK_F_UPDATE_SIZE (bit 10), which this kernel's driver does not \
                 offer; the first kernel with it is 6.16",
            ));
        }
        if size == 0 || !size.is_multiple_of(u64::from(self.config.block_size)) {
            return Err(Failure::usage(format!(
                "size {size} is not a positive multiple of the block size {}",
                self.config.block_size
            )));
        }
        if size < old && !force {
            let users = openers(id);
            if !users.is_empty() {
                return Err(Failure::in_use(format!(
                    "{} is not shrunk, it is in use: {}; end that use first, or give --force",
                    block_path(id),
                    users.join(", ")
                )));
            }
        }
        // On a device that is not LIVE this command crashes older kernels.
        let state = self.control.device_info(id)?.device_state();
        if state != abi::DeviceState::Live {
            return Err(Failure::runtime(format!(
                "device {id} is {state}, not LIVE"
            )));
        }
        let store = self.driver.disk().store();
        if size > old {
            store.grow(size)?;
            if let Err(error) = self.control.update_size(id, size >> 9) {
                store.shrink(old);
                return Err(error.into());
            }
        } else if size < old {
            self.control.update_size(id, size >> 9)?;
            store.shrink(size);
            if !(0..SHRINK_TRIES).any(|_| store.free_tail(old) || pause()) {
                log::warn!("requests beyond the new end keep some of the old memory");
            }
        }
        Ok(())
    }

    /// Takes the disk away: its dirty data is written first, and the queue
    /// threads end. Without `force` this is refused while somebody has it open.
    pub fn stop(&mut self, force: bool) -> Result<(), Failure> {
        let id = self.id();
        if force {
            self.let_go();
            self.control.stop(id)?;
        } else if Features(self.info.flags).has(Features::SAFE_STOP_DEV) {
            match self.control.try_stop(id) {
                // There is no disk any more: what is left is to end the fetches.
                Err(error) if error.errno() == Some(libc::ENODEV) => {
                    self.let_go();
                    self.control.stop(id)?;
                }
                other => other?,
            }
        } else {
            let users = openers(id);
            if !users.is_empty() {
                return Err(Failure::in_use(format!(
                    "{} is not stopped, it is in use: {}; end that use first, or give --force",
                    block_path(id),
                    users.join(", ")
                )));
            }
            self.let_go();
            self.control.stop(id)?;
        }
        self.join();
        Ok(())
    }

    /// The disk is going to be stopped, which waits for every request: from now on none waits for
    /// memory.
    fn let_go(&self) {
        self.driver
            .disk()
            .set_patience(Patience::For(Duration::ZERO));
    }

    fn join(&mut self) {
        let threads = self.threads.drain(..);
        // Panics have been caught and reported inside.
        let served: Vec<_> = threads.map(JoinHandle::join).collect();
        // The rings are closed when no thread is left; then nobody inserts any more,
        // and what kblockd still has to do is waited for. With it goes the last that
        // holds /dev/ublkcN.
        drop(served);
        self.mirror = None;
        self.ports = Box::default();
    }

    /// Ends the serving but leaves the device's id taken, in state DEAD.
    pub fn leave_stopped(mut self) -> Result<(), Failure> {
        self.stop(true)?;
        self.deleted = true;
        Ok(())
    }

    /// Stops the disk if it still is there, and frees its id.
    pub fn delete(mut self) -> Result<(), Failure> {
        self.remove().map_err(Failure::from)
    }

    fn remove(&mut self) -> Result<(), CtrlError> {
        let id = self.id();
        self.deleted = true;
        if self.deaths.error().is_some() {
            // The failed queue's requests end when /dev/ublkcN is closed, not by STOP_DEV.
            self.join();
        }
        self.let_go();
        let stopped = self.control.stop(id);
        if stopped.is_ok() || self.threads.is_empty() {
            self.join();
        }
        // Threads that could not be made to stop hold /dev/ublkcN, and a user of
        // a disk that was stopped by force may hold that: neither is waited for.
        match self.control.delete_within(id, ID_PATIENCE) {
            Ok(true) => Ok(()),
            Ok(false) => {
                log::warn!("device id {id} is freed when its last user closes it");
                Ok(())
            }
            // Somebody else was quicker, or deletion goes on by itself.
            Err(e) if matches!(e.errno(), Some(libc::ENODEV | libc::EINTR)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if !self.deleted {
            if let Err(error) = self.remove() {
                log::error!("device {} could not be removed: {error}", self.id());
            }
        }
    }
}

fn offered_features(control: &mut Control) -> Result<Features, Failure> {
    match control.features() {
        Err(error) if error.errno() == Some(libc::EOPNOTSUPP) => Err(Failure::environment(
            "this kernel's ublk driver does not know GET_FEATURES: a kernel of 6.5 or newer is needed",
        )),
        other => Ok(other?),
    }
}

fn open_char_device(id: u32) -> Result<File, Failure> {
    let path = char_path(id);
    wait_for_node(&path, |_| true)?;
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .map_err(|e| match e.raw_os_error() {
            Some(libc::EBUSY) => {
                Failure::in_use(format!("{path} is already served by another process"))
            }
            _ => Failure::runtime(format!("cannot open {path}: {e}")),
        })
}

fn is_block_device(meta: &std::fs::Metadata) -> bool {
    meta.file_type().is_block_device()
}

/// Nodes are made by the kernel or by udev, in their own time.
fn wait_for_node(path: &str, right: fn(&std::fs::Metadata) -> bool) -> Result<(), Failure> {
    let deadline = Instant::now() + NODE_PATIENCE;
    loop {
        match std::fs::metadata(path) {
            Ok(meta) if right(&meta) => return Ok(()),
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(Failure::runtime(format!("cannot look at {path}: {e}")))
            }
            _ if Instant::now() > deadline => {
                return Err(Failure::runtime(format!(
                    "{path} did not appear within {} s: is udev or devtmpfs at work?",
                    NODE_PATIENCE.as_secs()
                )))
            }
            _ => std::thread::sleep(NODE_POLL),
        }
    }
}

/// Lets requests in flight come to their end; always false, for use in a search.
fn pause() -> bool {
    std::thread::sleep(NODE_POLL);
    false
}
