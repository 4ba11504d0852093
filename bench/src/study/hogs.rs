// SPDX-License-Identifier: MIT OR Apache-2.0
//! Threads that do nothing but use a CPU.

use crate::study::settings::StudyError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use workqueue::{CpuSet, Flags, OwnedQueue, Runtime, Topology};

/// CPU-bound threads on each of the machine's CPUs, until dropped. They are the workers of a runtime of their
/// own, as that binds threads to CPUs, at the process's nice value.
pub struct Hogs {
    stop: Arc<AtomicBool>,
    held: Option<(OwnedQueue, Runtime)>,
}

impl Hogs {
    /// Starts this many on each CPU, and returns when all of them run. Fails if no thread can be
    /// made.
    pub fn start(cpus: &CpuSet, each: usize) -> Result<Self, StudyError> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut hogs = Self {
            stop: stop.clone(),
            held: None,
        };
        if each == 0 {
            return Ok(hogs);
        }
        let runtime = Runtime::builder()
            .topology(Topology::detect(cpus))
            .start()?;
        // CPU_INTENSIVE: the items of a CPU do not hold each other back.
        let flags = Flags::PERCPU | Flags::CPU_INTENSIVE;
        let queue = runtime.queue("hogs").flags(flags).build()?;
        let (began, running) = std::sync::mpsc::channel();
        for cpu in cpus.iter() {
            for _ in 0..each {
                let (stop, began) = (stop.clone(), began.clone());
                let item = super::job::Job::new("hog", move || {
                    // The receiver waits for all of them.
                    let _received = began.send(());
                    while !stop.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                });
                queue.enqueue_on(cpu, item)?;
            }
        }
        running.iter().take(each * cpus.len()).for_each(drop);
        hogs.held = Some((queue, runtime));
        Ok(hogs)
    }
}

impl Drop for Hogs {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some((queue, runtime)) = self.held.take() {
            // They end by themselves now.
            let _drained = queue.destroy();
            let _ended = runtime.shutdown();
        }
    }
}

/// The CPUs that this process may use.
pub fn allowed() -> Topology {
    let runtime = Runtime::builder().build_early();
    let topology = runtime.topology();
    Topology::clone(&topology)
}
