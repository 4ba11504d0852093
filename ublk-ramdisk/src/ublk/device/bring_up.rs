// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bringing a disk up: add, set up, start (F1, F3).

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;
use std::sync::mpsc;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{Device, NODE_POLL};
use crate::backend::{self, Mirror};
use crate::config::{DataPath, DeviceConfig};
use crate::error::Failure;
use crate::mq::TagSet;
use crate::ramdisk::store::Store;
use crate::stats::QueueCounters;
use crate::sys::file;
use crate::sys::memory::{self, Headroom};
use crate::sys::privilege::{on_confined_thread, Kind};
use crate::ublk::abi::{self, DeviceInfo};
use crate::ublk::ctrl::{block_path, char_path, Control};
use crate::ublk::features::Features;
use crate::ublk::front_end::UblkFrontEnd;
use crate::ublk::params;
use crate::ublk::queue::{DeviceShared, QueueShared};
use crate::ublk::thread::{Deaths, QueueThread, Served};

/// How long a driver may take to let go of a server that has died. Older ones notice a queue all of
/// whose tags are with the server by the timeout of its requests only, after 30 s.
const RELEASE_PATIENCE: Duration = Duration::from_secs(40);
/// The kernel's timeout of the requests of a disk on such a driver, in milliseconds.
const IO_TIMEOUT_MS: u32 = 3000;
/// Tells the workers of a disk from the kernel's (`kworker/`) in `ps -L` and `top -H`.
const THREAD_PREFIX: &str = "urd/";
/// How long a device node may take to appear.
const NODE_PATIENCE: Duration = Duration::from_secs(5);

impl Device {
    /// Brings a disk up: when this returns, /dev/ublkbN is there and takes I/O. `again`: with the
    /// contents of the stopped device of that id. `added` is called with the id once there is one.
    /// After a failure the device is the caller's to delete, from another process; nothing else is
    /// left behind.
    ///
    /// # Errors
    /// A feature that the data path needs is missing, the id is taken, memory is too little, or a
    /// step of the driver's fails.
    pub fn create(
        config: &DeviceConfig,
        again: bool,
        added: impl FnOnce(u32) -> Result<(), Failure>,
    ) -> Result<Self, Failure> {
        let mut control = Control::open()?;
        let offered = offered_features(&mut control)?;
        let path = params::choose_path(config.data_path, config.depth, offered)?;
        if config.swap && path.has_buffers() {
            return Err(Failure::environment(
                "--swap needs the data path batch or user-copy: see `ublk-ramdisk features`",
            ));
        }
        if !config.partition_scan && !offered.has(Features::NO_AUTO_PART_SCAN) {
            log::warn!(
                "this kernel always scans for partitions: --no-partition-scan has no effect"
            );
        }
        if config.backing().outlives_server() && !params::can_recover(config, offered) {
            log::warn!(
                "the disk ends with its server: recovery needs one queue on this kernel, or one with \
                 UBLK_F_QUIESCE (6.16)"
            );
        }
        // Before ADD_DEV: a store that cannot be opened leaves no device to delete.
        let store = match config.id.filter(|_| again) {
            None => locked(|| backend::open_store(config))?,
            Some(id) => store_of_stopped(&mut control, config, id)?,
        };
        let mut info = params::wanted_info(config, path, offered);
        control.add(&mut info)?;
        added(info.dev_id)?;
        if !again {
            let _none = rules_file(config, info.dev_id).map(std::fs::remove_file);
        }
        backend::keep_flushed(config, &store, info.dev_id, again)?;
        let mut device = Device::new(control, info, path, store, config)?;
        device.check_added(config)?;
        device.set_params(config)?;
        device.start_queues(config)?;
        device.start()?;
        if device.can_be_recovered() && !offered.has(Features::QUIESCE) {
            device.shorten_timeout();
        }
        Ok(device)
    }

    /// An older driver notices by the timeout of a request that its server has died, if every tag was
    /// with the server. For requests of a living server a timeout changes nothing.
    fn shorten_timeout(&self) {
        let attribute = format!("/sys/block/ublkb{}/queue/io_timeout", self.id());
        if let Err(error) = std::fs::write(&attribute, IO_TIMEOUT_MS.to_string()) {
            log::warn!("{attribute}: {error}; a new server may have to wait for 30 s");
        }
    }

    /// Takes up a disk whose server has died: as [`Device::create`], but the device is there, with its
    /// parameters, its size and its requests. `config` is what was in force; what the driver says
    /// counts.
    ///
    /// # Errors
    /// The device or the file is not there, or does not fit the config; the driver does not let go of
    /// the former server; or there is too little memory.
    pub fn recover(id: u32, config: &DeviceConfig) -> Result<Self, Failure> {
        let mut control = Control::open()?;
        let info = control.device_info(id)?;
        let size = control.params(id)?.size().unwrap_or_default();
        let config = DeviceConfig {
            id: Some(id),
            size,
            queues: info.nr_hw_queues,
            depth: info.queue_depth,
            io_buffer: info.max_io_buf_bytes,
            ..config.clone()
        };
        let flags = Features(info.flags);
        if !flags.has(params::RECOVERY) {
            return Err(Failure::runtime(format!(
                "device {id} ends with its server, it cannot be recovered: delete it with \
                 `ublk-ramdisk del {id}`"
            )));
        }
        // The flags of a device are those that its path needs.
        let path = params::choose_path(None, config.depth, flags)?;
        // All that can be made before: on older drivers a server that dies between here and the last
        // fetch cannot be replaced any more.
        let begin = Instant::now();
        let store = locked(|| backend::reopen_store(&config, id))?;
        backend::keep_flushed(&config, &store, id, true)?;
        let mut device = Device::new(control, info, path, store, &config)?;
        let opened = begin.elapsed();
        device.start_recovery()?;
        let released = begin.elapsed();
        device.start_queues(&config)?;
        device.control.end_recovery(id, std::process::id())?;
        log::info!(
            "device {id}: store opened in {opened:?}, former server gone {:?} later, recovered in {:?}",
            released - opened,
            begin.elapsed() - released
        );
        device.info = device.control.device_info(id)?;
        Ok(device)
    }

    /// Waits until the driver has let go of the former server (I8).
    fn start_recovery(&mut self) -> Result<(), Failure> {
        let (id, deadline) = (self.info.dev_id, Instant::now() + RELEASE_PATIENCE);
        loop {
            match self.control.start_recovery(id) {
                Err(error) if error.errno() == Some(libc::EBUSY) => {
                    if Instant::now() >= deadline {
                        return Err(Failure::runtime(format!(
                            "{error}; `ublk-ramdisk stop --force {id}`, then `recover {id}` make the \
                             disk anew with its contents, but its clients get errors"
                        )));
                    }
                    std::thread::sleep(NODE_POLL);
                }
                other => return Ok(other?),
            }
        }
    }

    /// A device with nothing running.
    fn new(
        control: Control,
        info: DeviceInfo,
        path: DataPath,
        store: Store,
        config: &DeviceConfig,
    ) -> Result<Self, Failure> {
        let deaths = Deaths::new().map_err(|e| Failure::environment(format!("eventfd: {e}")))?;
        // By the counts that came back: the driver clamps queues and rounds the buffer (A2).
        let rules = rules_file(config, info.dev_id);
        let driver = backend::driver(config, store, info.nr_hw_queues, info.queue_depth, rules);
        let node = CString::new(block_path(info.dev_id)).expect("no NUL");
        driver
            .disk()
            // Another process may delete the device. That waits for parked requests, so they must
            // notice it (E22).
            .on_removal(move || !file::has_block_device(&node));
        match Headroom::open() {
            Ok(machine) => driver.disk().watch_memory(machine),
            Err(error) => log::warn!("the machine's memory is not looked at: {error}"),
        }
        Ok(Device {
            control,
            info,
            path,
            driver,
            config: config.clone(),
            counters: Vec::new(),
            deaths: Arc::new(deaths),
            threads: Vec::new(),
            mirror: None,
            queues: Box::default(),
        })
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

    /// Sends the parameters and reads them back. Before the start: later they cannot change (F1).
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
        let shared = Arc::new(DeviceShared {
            disk: self.driver.clone(),
            char_device: Arc::new(open_char_device(self.info.dev_id)?),
            depth: self.info.queue_depth,
            block_size: config.block_size,
            io_buffer: self.info.max_io_buf_bytes,
            read_only: config.read_only,
            path: self.path,
            give_up: self.deaths.give_up(),
        });
        let queues = self.make_queues(&shared)?;
        self.queues = queues.clone();
        // The mirror's hardware queues run on the CPUs that the kernel mapped to them.
        let cpus = self.queue_cpus()?;
        let set = TagSet {
            cpus: cpus.iter().map(|of| of.iter().copied().collect()).collect(),
            timeout: Duration::from_secs(config.timeout.into()),
            ..TagSet::new(self.info.nr_hw_queues, self.info.queue_depth)
        };
        let front_end = Arc::new(UblkFrontEnd {
            disk: self.driver.clone(),
            path: self.path,
            queues: queues.clone(),
        });
        let runtime = backend::runtime().thread_name_prefix(THREAD_PREFIX);
        let flags = config.kblockd_flags.flags();
        let (driver, operations) = (&self.driver, self.driver.clone());
        let start = || Mirror::start_on(runtime, flags, set, operations, driver, front_end);
        let mirror = on_confined_thread(Kind::Worker, start)
            .map_err(|e| Failure::environment(format!("the workqueue cannot start: {e}")))??;
        mirror.queue().time_one_of(config.latency_sample);
        // Weak: what the runtime calls must not keep /dev/ublkcN open after the stop.
        let bound: Vec<_> = queues.iter().map(Arc::downgrade).collect();
        mirror.on_cpus_changed(Box::new(move |online| {
            let bound = bound.iter().filter_map(Weak::upgrade);
            bound.for_each(|queue_shared| queue_shared.binding.follow(online));
        }));
        self.mirror = Some(mirror);
        let (ready, answers) = mpsc::channel();
        let mut failure = None;
        for ((queue, queue_shared), cpus) in (0..).zip(queues).zip(cpus) {
            match self.start_queue(queue, queue_shared, cpus, &shared, ready.clone()) {
                Ok(thread) => self.threads.push(thread),
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
        }
        // Otherwise `recv` below could not tell that all threads have ended.
        drop(ready);
        // Every thread answers once. All answers are awaited: the first failure is told.
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
    fn make_queues(&self, shared: &DeviceShared) -> Result<Box<[Arc<QueueShared>]>, Failure> {
        let queue_shared = |queue| {
            let device = shared.char_device.clone();
            let (depth, io_buffer) = (shared.depth, shared.io_buffer);
            QueueShared::new(device, queue, depth, io_buffer)
                .map(Arc::new)
                .map_err(|error| error.failure(queue))
        };
        (0..self.info.nr_hw_queues).map(queue_shared).collect()
    }

    /// By queue, the CPUs whose requests it gets.
    fn queue_cpus(&mut self) -> Result<Vec<Vec<usize>>, Failure> {
        let (id, queues) = (self.info.dev_id, 0..self.info.nr_hw_queues);
        let cpus = queues.map(|queue| self.control.queue_affinity(id, queue));
        Ok(cpus.collect::<Result<_, _>>()?)
    }

    /// Starts the thread of one queue. It answers through `ready`, once.
    fn start_queue(
        &mut self,
        queue: u16,
        queue_shared: Arc<QueueShared>,
        cpus: Vec<usize>,
        shared: &Arc<DeviceShared>,
        ready: mpsc::Sender<Result<(), Failure>>,
    ) -> Result<JoinHandle<Option<Served>>, Failure> {
        let counters = Arc::new(QueueCounters::default());
        self.counters.push(counters.clone());
        let mirror = self.mirror.as_ref();
        let submitter = mirror.expect("made before the queues").submitter(queue);
        let thread = QueueThread {
            queue,
            cpus,
            shared: shared.clone(),
            queue_shared,
            counters,
            deaths: self.deaths.clone(),
            ready,
        };
        thread.spawn(submitter).map_err(|e| {
            Failure::environment(format!("cannot create the thread of queue {queue}: {e}"))
        })
    }

    /// START_DEV: returns once the disk takes I/O and its node is there. The queue threads run by now
    /// and serve what the kernel reads at once, such as partition tables (F3, H7).
    fn start(&mut self) -> Result<(), Failure> {
        let id = self.info.dev_id;
        backend::name_store(&self.config, self.driver.disk().store(), id)?;
        if let Err(error) = self.control.start(id, std::process::id()) {
            // The parameters are the usual cause: show what the driver has of them.
            if error.errno() == Some(libc::EINVAL) {
                let held = self.control.params(id)?;
                return Err(Failure::runtime(format!(
                    "{error}; parameters as sent: {held:?}"
                )));
            }
            return Err(error.into());
        }
        // Asked again: the state has changed, and the process that serves is known.
        self.info = self.control.device_info(id)?;
        wait_for_node(&block_path(id), is_block_device)
    }
}

/// Where what the rules of device `id` have done outlives its server.
fn rules_file(config: &DeviceConfig, id: u32) -> Option<PathBuf> {
    let dir = config.rules_dir.as_ref();
    dir.map(|dir| dir.join(format!("{id}.rules")))
}

/// Opens a store, and locks the memory of the process.
fn locked(open: impl FnOnce() -> Result<Store, Failure>) -> Result<Store, Failure> {
    // Explicit huge pages are all made when their mapping is locked, and are never swapped: what is
    // there before is locked then, and nothing later (J2).
    let mut locked = memory::lock_present();
    let store = open()?;
    if !store.is_hugetlb() {
        locked = locked.and_then(|()| memory::lock_touched());
    }
    if let Err(error) = locked {
        log::warn!("mlockall: {error}; the disk's own memory may be swapped, even to itself");
    }
    Ok(store)
}

/// The store of a device that was stopped. Frees the id, with the file open: nobody takes it for one
/// without a device.
fn store_of_stopped(
    control: &mut Control,
    config: &DeviceConfig,
    id: u32,
) -> Result<Store, Failure> {
    let store = locked(|| backend::reopen_store(config, id))?;
    match control.delete_within(id, NODE_PATIENCE) {
        Ok(true) => Ok(store),
        Err(error) if error.errno() == Some(libc::ENODEV) => Ok(store),
        Ok(false) => Err(Failure::in_use(format!(
            "{} was stopped and is still open: end that use, and try again",
            block_path(id)
        ))),
        Err(error) => Err(error.into()),
    }
}

/// What GET_FEATURES answers. Nothing is concluded from the version of the kernel.
fn offered_features(control: &mut Control) -> Result<Features, Failure> {
    match control.features() {
        Err(error) if error.errno() == Some(libc::EOPNOTSUPP) => Err(Failure::environment(
            "this kernel's ublk driver does not know GET_FEATURES: a kernel of 6.5 or newer is needed",
        )),
        other => Ok(other?),
    }
}

/// Opens /dev/ublkcN, which appears some time after ADD_DEV. A second opener gets EBUSY (F1).
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

/// Anything else under that name is waited past.
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
