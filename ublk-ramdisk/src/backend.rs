// SPDX-License-Identifier: MIT OR Apache-2.0
//! What lies below every front end: the store and the driver that a config asks for, and the mirror of
//! blk-mq with the workqueues that run it.
//!
//! [`crate::ublk`] makes it when ADD_DEV has returned the number of queues (A2). It does so in the
//! process that serves, as threads do not survive a fork. `sim` makes it in any process. A [`Mirror`]
//! is dropped when nobody uses its submitters any more. It drops the request queue first, and waits for
//! that queue's work (D9).

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use workqueue::{CpuSet, Flags, Runtime, RuntimeBuilder};

use crate::config::image::Image;
use crate::config::space::{MemoryOptions, SpaceConfig};
use crate::config::{check_over, Backing, DeviceConfig};
use crate::error::Failure;
use crate::mq::{
    FrontEnd, HctxCounters, Kblockd, Operations, Queue, RequestQueue, Submitter, TagSet, WeakQueue,
};
use crate::pressure::{Control, Pressured};
use crate::ramdisk::space::SpaceWorks;
use crate::ramdisk::store::{private, Store, StoreError};
use crate::ramdisk::Ramdisk;
use crate::sys::file;
use crate::sys::lock::Lock;
use crate::sys::memory::{self, Headroom};

/// Bytes of each thread's stack, as small as a queue thread's: callbacks only copy and make system calls.
const STACK: usize = 256 << 10;

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let text = error.to_string();
        match &error {
            StoreError::Locked { .. } => Failure::in_use(text),
            StoreError::NotInMemory { .. }
            | StoreError::SizeDiffers { .. }
            | StoreError::PartialPage { .. } => Failure::usage(text),
            StoreError::BeyondCapacity { .. } => Failure::runtime(text),
            StoreError::Open { .. } | StoreError::TooLittle { .. } | StoreError::System { .. } => {
                Failure::environment(text)
            }
        }
    }
}

/// Bytes of the buffers of a device's requests.
fn buffers(config: &DeviceConfig) -> u64 {
    u64::from(config.queues) * u64::from(config.depth) * u64::from(config.io_buffer)
}

/// Opens the memory of a disk, within its limit.
pub fn open_store(config: &DeviceConfig) -> Result<Store, Failure> {
    let space = &config.space;
    space.fits(
        config.size,
        config.backing(),
        buffers(config),
        memory::cgroup_max(),
    )?;
    config.base.as_ref().map_or(Ok(()), check_memory_of)?;
    let (size, huge_pages) = (config.size, config.huge_pages());
    let store = match config.backing() {
        Backing::Private(folder) => Store::private(folder, size, huge_pages)?,
        Backing::Memfd => Store::anonymous(size, huge_pages)?,
        Backing::Tmpfs(path) => Store::in_file(path, size, huge_pages)?,
        Backing::Hugetlb => Store::hugetlb(size)?,
    };
    prepare_opened(&store, config)?;
    Ok(store)
}

/// Opens the memory of device `id`, whose server is gone. `config` is that of the device, with the
/// size that the driver has.
///
/// # Errors
/// The contents went with the server, or cannot be opened.
pub fn reopen_store(config: &DeviceConfig, id: u32) -> Result<Store, Failure> {
    let backing = config.backing();
    let path = backing.file(id).ok_or_else(|| {
        Failure::environment(format!(
            "the contents of device {id} are gone with its server: --backing {backing}"
        ))
    })?;
    let is_named = matches!(backing, Backing::Tmpfs(_));
    let store = Store::reopen(&path, config.size, config.huge_pages(), is_named)?;
    prepare_opened(&store, config)?;
    Ok(store)
}

/// Gives a private store the name of its device, before the device takes I/O (I13).
pub fn name_store(config: &DeviceConfig, store: &Store, id: u32) -> Result<(), Failure> {
    let Backing::Private(folder) = config.backing() else {
        return Ok(());
    };
    let path = folder.join(id.to_string());
    store
        .name(&path)
        .map_err(|error| Failure::environment(format!("cannot make {}: {error}", path.display())))
}

/// Has a store keep what a power cut would take away, if the disk has a volatile cache (H13). `again`: a
/// former server may have kept something.
pub fn keep_flushed(
    config: &DeviceConfig,
    store: &Store,
    id: u32,
    again: bool,
) -> Result<(), Failure> {
    if config.volatile_cache {
        let folder = config.undo_dir.as_ref();
        let path = folder.map(|folder| private::undo_file(folder, id));
        store.keep_flushed(path.as_deref(), again)?;
    }
    Ok(())
}

/// Makes a store ready that nobody uses yet.
fn prepare_opened(store: &Store, config: &DeviceConfig) -> Result<(), Failure> {
    prepare(store, config)?;
    if let Some(base) = &config.base {
        let set = base.open().map(|image| store.set_base(image))?;
        set.map_err(|error| {
            Failure::environment(format!("--base {}: {error}", base.path.display()))
        })?;
    }
    if !config.space.preallocate {
        store
            .release_unwritten()
            .map_err(|error| Failure::runtime(format!("cannot examine the store: {error}")))?;
    }
    Ok(())
}

/// Checks that the machine has memory for the data of an image, before a disk is made on it. Not for the
/// next server of a disk: the data is there, and its clients wait.
fn check_memory_of(base: &Image) -> Result<(), Failure> {
    let image = base.open()?;
    let named =
        |what: String| Failure::environment(format!("--base {}: {what}", base.path.display()));
    let data = file::data_ranges(&image).map_err(|error| named(error.to_string()))?;
    let needed: u64 = data.iter().map(|range| range.end - range.start).sum();
    let available = Headroom::open().and_then(|machine| machine.available());
    let available = available.unwrap_or(u64::MAX);
    if needed > available {
        return Err(named(format!(
            "{needed} bytes of data are to be kept in memory, {available} available"
        )));
    }
    Ok(())
}

/// Judges a new size of a disk as `add` would. Nothing is changed.
pub fn check_resize(config: &DeviceConfig, store: &Store, size: u64) -> Result<(), Failure> {
    let (space, backing) = (&config.space, config.backing());
    if let Some(base) = &config.base {
        check_over(base, size)?;
    }
    space.check_size(size, backing)?;
    space.fits(size, backing, buffers(config), memory::cgroup_max())?;
    match space.preallocate && !store.is_hugetlb() {
        true => has_memory_for(store, size).map(drop),
        false => Ok(()),
    }
}

/// Reserves and allocates what a new or larger disk needs before clients may use it.
pub fn prepare(store: &Store, config: &DeviceConfig) -> Result<(), Failure> {
    let space = &config.space;
    store.set_memory_limit(space.memory_limit);
    if config.thp == Some(true) && matches!(config.backing(), Backing::Private(_)) {
        store.make_in_units();
    }
    store.reserve()?;
    if space.preallocate {
        preallocate(store)?;
    }
    Ok(())
}

/// Allocates all memory of a disk.
fn preallocate(store: &Store) -> Result<(), Failure> {
    let held = store.allocated().unwrap_or(0);
    let needed = store.size().saturating_sub(held);
    if store.is_hugetlb() {
        // Huge pages are reserved by now, and are no part of the available memory.
        return store.preallocate().map_err(|error| {
            Failure::environment(format!(
                "--preallocate: {needed} bytes of huge pages needed: {error}"
            ))
        });
    }
    let available = has_memory_for(store, store.size())?;
    store.preallocate().map_err(|error| {
        Failure::environment(format!(
            "--preallocate: {needed} bytes needed, {available} available: {error}"
        ))
    })
}

/// Checks that the machine has memory for all of a disk of this size, and keeps its reserve, before any
/// is asked for: the kernel calls the OOM killer, or waits, before it refuses. Returns the available
/// bytes.
fn has_memory_for(store: &Store, size: u64) -> Result<u64, Failure> {
    let needed = size.saturating_sub(store.allocated().unwrap_or(0));
    let available = Headroom::open().and_then(|machine| machine.available());
    let available = available.unwrap_or(u64::MAX);
    if needed > available {
        return Err(Failure::environment(format!(
            "--preallocate: {needed} bytes needed, {available} available"
        )));
    }
    Ok(available)
}

/// Returns the memory rules of a disk after `options`, checked like those of `config`. They apply once
/// [`set_memory`] is called.
pub fn changed_memory(
    config: &DeviceConfig,
    disk: &Ramdisk,
    options: &MemoryOptions,
) -> Result<SpaceConfig, Failure> {
    let size = disk.store().size();
    let new = options.applied_to(&config.space, size, config.backing())?;
    if new.memory_limit != config.space.memory_limit {
        new.fits(
            size,
            config.backing(),
            buffers(config),
            memory::cgroup_max(),
        )?;
    }
    Ok(new)
}

/// Applies `new` to a disk. Writes that wait go on, or end, as it says.
pub fn set_memory(config: &mut DeviceConfig, disk: &Ramdisk, new: SpaceConfig) {
    let old = std::mem::replace(&mut config.space, new);
    let new = &config.space;
    if new.memory_limit != old.memory_limit {
        disk.store().set_memory_limit(new.memory_limit);
    }
    if new.no_space_timeout != old.no_space_timeout {
        disk.set_no_space_timeout(new.options().no_space_timeout);
    }
    if new.reclaim != old.reclaim {
        disk.set_reclaim(new.options().reclaim);
    }
}

/// The driver of a disk: the store's driver behind its pressure.
pub type Driver = Pressured<Ramdisk>;

/// Makes the driver of a disk with `nr_hw_queues` hardware queues of `queue_depth` tags. What its rules
/// have done is kept in `rules_file`.
pub fn driver(
    config: &DeviceConfig,
    store: Store,
    nr_hw_queues: u16,
    queue_depth: u16,
    rules_file: Option<PathBuf>,
) -> Arc<Driver> {
    let disk = Ramdisk::new(store).with_space(config.space.options());
    let disk = Arc::new(disk);
    let pressure = config.pressure.clone();
    Arc::new(Pressured::with_rules_file(
        disk,
        pressure,
        nr_hw_queues,
        queue_depth,
        rules_file,
    ))
}

/// The settings of a device's workqueue runtime.
pub fn runtime() -> RuntimeBuilder {
    Runtime::builder().stack_size(STACK)
}

/// Called with the CPUs in use.
pub type CpusHook = Box<dyn Fn(&CpuSet) + Send + Sync>;

/// Passes the CPUs in use from the runtime, which watches them, to the queue and the front end.
#[derive(Default)]
struct Cpus {
    queue: OnceLock<WeakQueue>,
    front: OnceLock<CpusHook>,
    /// One at a time, or an older set could have the last word.
    turn: Lock<()>,
}

impl fmt::Debug for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cpus")
    }
}

impl Cpus {
    /// Calls `online` with the lock held.
    fn follow(&self, online: impl FnOnce() -> CpuSet) {
        let _turn = self.turn.lock();
        let online = online();
        if let Some(queue) = self.queue.get().and_then(WeakQueue::upgrade) {
            queue.set_online_cpus(online.clone());
        }
        if let Some(front) = self.front.get() {
            front(&online);
        }
    }
}

/// A device's mirror of blk-mq with what runs it: a workqueue runtime of its own, kblockd on it,
/// and the request queue between the front end and the driver. Fields are dropped in this order.
#[derive(Debug)]
pub struct Mirror {
    pressure: Control,
    _space: SpaceWorks,
    queue: RequestQueue,
    kblockd: Kblockd,
    runtime: Runtime,
    cpus: Arc<Cpus>,
}

impl Mirror {
    /// Starts everything. A failure leaves nothing behind.
    pub fn start(
        set: TagSet,
        driver: Arc<Driver>,
        transport: Arc<dyn FrontEnd>,
    ) -> Result<Self, Failure> {
        let operations = driver.clone();
        Self::start_on(
            runtime(),
            Kblockd::FLAGS,
            set,
            operations,
            &driver,
            transport,
        )
    }

    /// Starts like [`Mirror::start`], with the caller's runtime settings and kblockd flags, for studies.
    /// `operations` may stand in front of the driver.
    pub fn start_on(
        runtime: RuntimeBuilder,
        flags: Flags,
        set: TagSet,
        operations: Arc<dyn Operations>,
        driver: &Arc<Driver>,
        transport: Arc<dyn FrontEnd>,
    ) -> Result<Self, Failure> {
        let cpus = Arc::new(Cpus::default());
        let told = cpus.clone();
        let runtime = runtime
            .on_cpus_changed(move |online| told.follow(|| online.clone()))
            .start()
            .map_err(|e| Failure::environment(format!("the workqueue cannot start: {e}")))?;
        let kblockd = Kblockd::with_flags(&runtime, flags)
            .map_err(|e| Failure::environment(format!("kblockd cannot be made: {e}")))?;
        let queue = RequestQueue::new(set, operations, transport, &kblockd)
            .map_err(|e| Failure::runtime(format!("the request queue cannot be made: {e}")))?;
        let _the_first = cpus.queue.set(queue.downgrade());
        // For changes before there was a queue.
        cpus.follow(|| runtime.online_cpus());
        let pressure = Control::start(driver, &runtime, &queue)
            .map_err(|e| Failure::environment(format!("the workqueue of pressure: {e}")))?;
        let space = driver
            .disk()
            .start(&runtime, &queue)
            .map_err(|e| Failure::environment(format!("the store's work cannot start: {e}")))?;
        Ok(Self {
            pressure,
            _space: space,
            queue,
            kblockd,
            runtime,
            cpus,
        })
    }

    /// Calls `hook` with the CPUs in use: now, and at most a second after each change, on a thread of
    /// the runtime. A front end has one hook.
    pub fn on_cpus_changed(&self, hook: CpusHook) {
        let _only_one = self.cpus.front.set(hook);
        self.cpus.follow(|| self.runtime.online_cpus());
    }

    /// The submitter of a queue's thread. Each queue has only one.
    pub fn submitter(&self, queue: u16) -> Submitter {
        let submitter = self.queue.submitter(queue, 0);
        submitter.expect("each queue's thread is made once")
    }

    /// Counters of a hardware queue.
    pub fn counters(&self, queue: u16) -> HctxCounters {
        self.queue.counters(queue)
    }

    /// The request queue.
    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    /// The workqueue that re-runs hardware queues.
    pub fn kblockd(&self) -> &Kblockd {
        &self.kblockd
    }

    /// The work items of the driver's pressure, which change it.
    pub fn pressure(&self) -> &Control {
        &self.pressure
    }

    /// The runtime of kblockd, for other workqueues (D2).
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::mq::NoFrontEnd;
    use crate::pressure::PressureOptions;
    use crate::ramdisk::space::SpaceOptions;
    use crate::units::OrOff;
    use std::sync::Mutex;

    fn mirror(runtime: RuntimeBuilder, set: TagSet) -> (Mirror, Arc<Driver>) {
        let store = Store::anonymous(1 << 20, false).expect("a memfd");
        let disk = Ramdisk::new(store).with_space(SpaceOptions::default());
        let (queues, depth) = (set.nr_hw_queues, set.queue_depth);
        let driver = Pressured::new(Arc::new(disk), Default::default(), queues, depth);
        let driver = Arc::new(driver);
        let operations = driver.clone();
        let mirror = Mirror::start_on(
            runtime,
            Kblockd::FLAGS,
            set,
            operations,
            &driver,
            Arc::new(NoFrontEnd),
        );
        (mirror.expect("threads"), driver)
    }

    #[test]
    fn e29_when_the_last_rule_is_gone_a_request_costs_no_more_than_before() {
        let (mirror, driver) = mirror(runtime(), TagSet::new(1, 4));
        let apply = |options: PressureOptions| {
            let applied = mirror.pressure().apply(&driver, &options);
            applied.expect("no PSI is asked for");
        };
        assert!(driver.is_at_rest());
        let rule = "write: delay 1ms".parse().expect("a rule");
        apply(PressureOptions {
            rule: vec![rule],
            slots: Some(OrOff::To(2)),
            ..PressureOptions::default()
        });
        assert!(!driver.is_at_rest());
        apply(PressureOptions {
            clear_rules: true,
            slots: Some(OrOff::Off),
            ..PressureOptions::default()
        });
        assert!(driver.is_at_rest());
    }

    /// The queue and the front end hear of the CPUs of a live device, and at once of what they
    /// missed while it was made.
    #[test]
    fn c23_c27_the_cpus_in_use_are_followed() {
        let set = TagSet {
            cpus: vec![CpuSet::single(0), CpuSet::single(1)],
            ..TagSet::new(2, 4)
        };
        let allowed = Arc::new(Mutex::new(CpuSet::first(2)));
        let asked = allowed.clone();
        let runtime = runtime()
            .topology(workqueue::Topology::simulated_nodes(2, 1))
            .allowed_by(move || asked.lock().expect("nobody panics").clone());
        let (mirror, _driver) = mirror(runtime, set);
        let become_of = |cpus: CpuSet| {
            *allowed.lock().expect("nobody panics") = cpus;
            mirror.runtime().refresh_cpus();
        };
        let inactive = || [0, 1].map(|hctx| mirror.queue().snapshot(hctx).inactive);
        become_of(CpuSet::single(0));
        assert_eq!(inactive(), [false, true]);
        let heard = Arc::new(Mutex::new(Vec::new()));
        let hook = heard.clone();
        mirror.on_cpus_changed(Box::new(move |online| {
            hook.lock().expect("nobody panics").push(online.to_list());
        }));
        become_of(CpuSet::first(2));
        assert_eq!(inactive(), [false, false]);
        become_of(CpuSet::single(1));
        assert_eq!(inactive(), [true, false]);
        assert_eq!(*heard.lock().expect("nobody panics"), ["0", "0-1", "1"]);
    }
}
