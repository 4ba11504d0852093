// SPDX-License-Identifier: MIT OR Apache-2.0
//! What happens around the queues: creation fails, CPUs go, everything freezes, queues end.

use crate::queues::{Slots, CPUS};
use crate::Random;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use workqueue::*;

const EAGAIN: i32 = 11;

/// How the creation of threads goes at present.
#[derive(Clone, Default)]
pub struct Disturbance {
    /// Of 100 creations so many fail.
    failing: Arc<AtomicU32>,
    slow: Arc<AtomicBool>,
    calls: Arc<AtomicU32>,
}

impl Disturbance {
    pub fn before_creation(&self) -> Result<(), i32> {
        if self.slow.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(15));
        }
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        if call.wrapping_mul(37) % 100 < self.failing.load(Ordering::Relaxed) {
            Err(EAGAIN)
        } else {
            Ok(())
        }
    }
}

/// Disturbs until told to stop, then puts everything right.
pub fn start(
    rt: &Arc<Runtime>,
    slots: &Arc<Slots>,
    disturbance: &Disturbance,
    stop: &Arc<AtomicBool>,
    mut random: Random,
) -> JoinHandle<()> {
    let (rt, slots, d, stop) = (rt.clone(), slots.clone(), disturbance.clone(), stop.clone());
    std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            disturb(&rt, &slots, &d, &mut random);
        }
        d.failing.store(0, Ordering::Relaxed);
        d.slow.store(false, Ordering::Relaxed);
        rt.set_online_cpus(None);
        rt.thaw();
    })
}

fn pause(random: &mut Random) {
    std::thread::sleep(Duration::from_millis(random.below(10)));
}

fn disturb(rt: &Runtime, slots: &Slots, d: &Disturbance, random: &mut Random) {
    match random.below(10) {
        0 | 1 => {
            rt.freeze_begin();
            let _busy = rt.freeze_busy();
            pause(random);
            rt.thaw();
        }
        2 | 3 => {
            let some: CpuSet = (0..CPUS).filter(|_| random.one_in(2)).collect();
            // Without any CPU left everything is served from the pools of CPUs that have gone.
            rt.set_online_cpus(Some(some));
            pause(random);
            rt.set_online_cpus(None);
        }
        4 | 5 => {
            d.failing
                .store(60 + random.below(41) as u32, Ordering::Relaxed);
            pause(random);
            pause(random);
            d.failing.store(0, Ordering::Relaxed);
        }
        6 => {
            d.slow.store(true, Ordering::Relaxed);
            pause(random);
            d.slow.store(false, Ordering::Relaxed);
        }
        7 => {
            let attrs = Attrs {
                nice: random.below(3) as i32,
                scope: Some(Scope::ALL[random.below(6) as usize]),
                strict: random.one_in(2),
                ..Attrs::new()
            };
            let _percpu_or_gone = slots.pick(random).handle.apply_attrs(attrs);
            let _fixed_or_gone = slots
                .pick(random)
                .handle
                .set_min_active(random.below(6) as usize);
        }
        8 => {
            let _text = rt.dump_all();
            let _stats = slots.pick(random).handle.stats();
        }
        _ => slots.replace(random),
    }
    pause(random);
}
