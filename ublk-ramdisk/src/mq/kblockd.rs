// SPDX-License-Identifier: MIT OR Apache-2.0
//! kblockd, the workqueue that re-runs hardware queues, and a device's work on it (D1 to D9).
//!
//! It carries only each hctx's run_work and each device's requeue_work and timeout_work. Its
//! callbacks never allocate, never wait for a request to end, and take no lock that is held across
//! an allocation. So a refused request is tried again as long as one thread of this queue can run,
//! and its rescuer always can. Kernel counterparts: `kblockd_workqueue`,
//! `kblockd_mod_delayed_work_on`.
//!
//! The models of `loom_tests` put their own work in the place of [`Works`].

use super::queue::{Inner, Queue};
use crate::sys::clock;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;
use workqueue::{
    impl_has_delayed_work, new_delayed_work, AllocError, CpuSet, DelayedWork, Flags, OwnedQueue,
    RunClock, Runtime, VirtualClock, WorkItem,
};

/// The workqueue and its clock. Cheap to clone; the queue ends with the last clone.
#[derive(Clone, Debug)]
pub struct Kblockd {
    queue: Arc<OwnedQueue>,
    clock: Option<Arc<VirtualClock>>,
    run_clock: RunClock,
    online: CpuSet,
}

impl Kblockd {
    /// The flags of the kernel's kblockd (D1).
    pub const FLAGS: Flags = Flags::MEM_RECLAIM
        .union(Flags::HIGHPRI)
        .union(Flags::PERCPU);

    /// A kblockd of its own in `runtime`: for tests, and for programs with several runtimes.
    pub fn new(runtime: &Runtime) -> Result<Self, AllocError> {
        Self::with_flags(runtime, Self::FLAGS)
    }

    /// As [`Kblockd::new`], with other flags than [`Kblockd::FLAGS`]: for studies of what those are
    /// for.
    pub fn with_flags(runtime: &Runtime, flags: Flags) -> Result<Self, AllocError> {
        Ok(Self {
            queue: Arc::new(runtime.queue("kblockd").flags(flags).build()?),
            clock: runtime.virtual_clock().cloned(),
            run_clock: runtime.run_clock().clone(),
            online: runtime.online_cpus(),
        })
    }

    /// The process's kblockd, made at the first call.
    ///
    /// # Panics
    /// If its threads cannot be created.
    pub fn global() -> &'static Self {
        static GLOBAL: OnceLock<Kblockd> = OnceLock::new();
        GLOBAL.get_or_init(|| match Self::new(Runtime::global()) {
            Ok(kblockd) => kblockd,
            Err(error) => panic!("kblockd cannot be made: {error}"),
        })
    }

    /// The workqueue: for its counters.
    pub fn queue(&self) -> &workqueue::Queue {
        &self.queue
    }

    pub(super) fn online_cpus(&self) -> CpuSet {
        self.online.clone()
    }
}

/// What an item is for.
#[derive(Clone, Copy, Debug)]
enum Duty {
    Run(u16),
    Requeue,
    Timeout,
}

/// What the kernel's jiffies are at HZ=1000.
const TICK: Duration = Duration::from_millis(1);

/// Returns the delay from `now`, in nanoseconds, of a run that is put off by `delay`. It ends at a
/// whole millisecond of the machine's clock, so one wake-up of the timer thread serves all queues, and
/// a queue that is refused again and again keeps its period however long a try takes. It is at most a
/// tenth or 0.3 ms shorter than `delay`, and less than 1 ms longer.
fn in_step(now: u64, delay: Duration) -> Duration {
    let sooner = delay / 10;
    let earliest = delay - sooner.min(TICK * 3 / 10);
    let Ok(earliest) = u64::try_from(earliest.as_nanos()) else {
        return delay;
    };
    let due = now.saturating_add(earliest);
    match due.checked_next_multiple_of(TICK.as_nanos() as u64) {
        Some(due) => Duration::from_nanos(due - now),
        None => delay,
    }
}

/// One work item of a device.
struct DeviceWork {
    work: DelayedWork<DeviceWork>,
    device: Weak<Inner>,
    duty: Duty,
}

impl_has_delayed_work! {
    impl HasDelayedWork<Self> for DeviceWork { self.work }
}

impl WorkItem for DeviceWork {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        let Some(inner) = this.device.upgrade() else {
            return;
        };
        let queue = Queue { inner };
        match this.duty {
            Duty::Run(index) => {
                queue.run_work(queue.hctx(index));
            }
            Duty::Requeue => queue.requeue_work(),
            Duty::Timeout => queue.timeout_work(),
        }
    }
}

/// A device's work items.
pub(super) struct Works {
    kblockd: Kblockd,
    run: Box<[Arc<DeviceWork>]>,
    requeue: Arc<DeviceWork>,
    timeout: Arc<DeviceWork>,
}

impl Works {
    pub(super) fn new(kblockd: &Kblockd, device: &Weak<Inner>, nr_hw_queues: u16) -> Self {
        let item = |work, duty| {
            let device = device.clone();
            Arc::new(DeviceWork { work, device, duty })
        };
        Self {
            kblockd: kblockd.clone(),
            run: (0..nr_hw_queues)
                .map(|n| item(new_delayed_work!("run_work"), Duty::Run(n)))
                .collect(),
            requeue: item(new_delayed_work!("requeue_work"), Duty::Requeue),
            timeout: item(new_delayed_work!("timeout_work"), Duty::Timeout),
        }
    }

    /// Gives an item a new delay, and a new CPU if it asks for one the runtime has.
    fn modify(&self, item: &Arc<DeviceWork>, cpu: Option<usize>, delay: Duration) {
        let queue = self.kblockd.queue();
        if let Some(cpu) = cpu {
            if queue.mod_delayed_on(cpu, delay, item.clone()).is_ok() {
                return;
            }
        }
        // Refused only for a device that is being taken down.
        // guard: w09_mod
        let _refused = queue.mod_delayed(delay, item.clone());
    }

    pub(super) fn mod_run(&self, hctx: u16, cpu: Option<usize>, delay: Duration) {
        let delay = match self.kblockd.clock {
            None if delay >= TICK => in_step(self.now_exactly(), delay),
            _ => delay,
        };
        self.modify(&self.run[usize::from(hctx)], cpu, delay);
    }

    pub(super) fn cancel_run(&self, hctx: u16) {
        let _pending = self.run[usize::from(hctx)].work.cancel();
    }

    pub(super) fn run_is_pending(&self, hctx: u16) -> bool {
        self.run[usize::from(hctx)].work.is_pending()
    }

    pub(super) fn mod_requeue(&self, delay: Duration) {
        self.modify(&self.requeue, None, delay);
    }

    /// Queues timeout_work at once.
    pub(super) fn timeout_now(&self) {
        self.modify(&self.timeout, None, Duration::ZERO);
    }

    /// Arms the timer, unless it is armed or timeout_work is queued: that one looks at everything.
    pub(super) fn arm_timeout(&self, delay: Duration) {
        let queue = self.kblockd.queue();
        let _armed_already = queue.enqueue_delayed(delay, self.timeout.clone());
    }

    /// Cancels all items, waits for those that run, and refuses them from now on (D9).
    pub(super) fn disable(&self) {
        let items = self.run.iter().chain([&self.requeue, &self.timeout]);
        for item in items {
            if let Err(error) = item.work.disable_sync() {
                log::error!("kblockd: {:?} cannot be waited for: {error:?}", item.duty);
            }
        }
    }

    /// Seconds, and nanoseconds on top, that the process has run. It may be a tick behind
    /// [`Works::run_time`], and for a moment ahead by a gap that has just ended.
    #[inline]
    pub(super) fn now(&self) -> (u64, u32) {
        let (seconds, nanos) = match &self.kblockd.clock {
            Some(clock) => {
                let now = clock.now();
                (now.as_secs(), now.subsec_nanos())
            }
            None => clock::monotonic_coarse(),
        };
        match self.kblockd.run_clock.behind() {
            Duration::ZERO => (seconds, nanos),
            behind => {
                let now = Duration::new(seconds, nanos).saturating_sub(behind);
                (now.as_secs(), now.subsec_nanos())
            }
        }
    }

    /// How long the process has run: what timeouts count.
    pub(super) fn run_time(&self) -> Duration {
        self.kblockd.run_clock.now()
    }

    /// Nanoseconds of a clock that is exact.
    pub(super) fn now_exactly(&self) -> u64 {
        match &self.kblockd.clock {
            Some(clock) => clock.now().as_nanos() as u64,
            None => {
                let id = nix::time::ClockId::CLOCK_MONOTONIC;
                let now = id.now().expect("every Linux has this clock");
                now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
            }
        }
    }

    /// The CPU the caller is on; one that does not exist if the system does not say.
    pub(super) fn current_cpu(&self) -> usize {
        nix::sched::sched_getcpu().unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c17_runs_that_are_put_off_come_due_in_step_and_no_sooner_than_a_tenth() {
        let (ms, us) = (Duration::from_millis, Duration::from_micros);
        for (at, delay, wanted) in [
            (us(0), ms(3), ms(3)),
            // A try that takes a while does not make the period longer.
            (us(200), ms(3), us(2800)),
            (us(300), ms(3), us(2700)),
            (us(301), ms(3), us(3699)),
            (us(999), ms(1), us(1001)),
            (us(50), ms(1), us(950)),
            (us(700), ms(10), us(10300)),
        ] {
            assert_eq!(in_step(at.as_nanos() as u64, delay), wanted, "{at:?}");
        }
        assert_eq!(in_step(u64::MAX, ms(3)), ms(3));
        assert_eq!(in_step(7, Duration::MAX), Duration::MAX);
    }
}
