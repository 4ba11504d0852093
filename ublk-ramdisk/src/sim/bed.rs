// SPDX-License-Identifier: MIT OR Apache-2.0
//! A device without a kernel, with its jobs' ports, and the figures that are taken from it.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::Arc;
use std::time::Duration;

use workqueue::{CpuPlace, RuntimeBuilder, Topology, VirtualClock};

use super::buffers::{self, Buffers};
use super::config::SimConfig;
use super::driver::{Costs, SimDriver};
use super::figures::{
    refused_by, Figures, Happened, HctxFigures, JobLoad, KblockdFigures, Sample, Tally, Verified,
};
use super::hogs::Hogs;
use super::job::Job;
use super::ports::{At, Ports};
use super::script::{BusyFor, Event};
use crate::backend::{self, Driver, Mirror};
use crate::config::space_changes::SpaceChanges;
use crate::config::DeviceConfig;
use crate::error::Failure;
use crate::mq::{Lane, Limits, Op, Queue, Request, TagSet};
use crate::pressure::Changes;

/// See the module. Fields are dropped in this order.
pub(super) struct Bed {
    pub(super) lanes: Vec<Lane>,
    script_lane: Option<Lane>,
    hogs: Option<Hogs>,
    mirror: Mirror,
    pub(super) ports: Arc<Ports>,
    pub(super) jobs: Vec<Job>,
    driver: Arc<SimDriver>,
    ramdisk: Arc<Driver>,
    costs: Option<Arc<Costs>>,
    creation_fails: Arc<AtomicBool>,
    script_tag: u16,
    script_busy: bool,
    limits: Limits,
    /// Of `space`, as it is now.
    config: DeviceConfig,
    happened: Vec<Happened>,
    samples: Vec<Sample>,
    last: Totals,
}

/// Numbers of the whole device at one moment.
#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    at: u64,
    ended: u64,
    refused: u64,
    runs: u64,
    rescued: u64,
    zero: u64,
    no_space: u64,
}

/// A made-up machine: nobody is bound to its CPUs.
fn machine(cpus: u16) -> Topology {
    let place = |cpu| CpuPlace {
        cpu,
        core: cpu,
        cache: 0,
        node: 0,
    };
    Topology::simulated((0..usize::from(cpus)).map(place).collect())
}

impl Bed {
    pub(super) fn new(config: &SimConfig, clock: &Arc<VirtualClock>) -> Result<Self, Failure> {
        let device = &config.device;
        let store = backend::open_store(device)?;
        let ramdisk = backend::driver(device, store, device.queues, device.depth);
        let creation_fails = Arc::new(AtomicBool::new(false));
        let runtime = runtime(config, clock, &creation_fails);
        let costs =
            (!config.call_cost.is_zero()).then(|| Costs::new(config.call_cost, clock.clone()));
        let driver = Arc::new(SimDriver::new(ramdisk.clone(), costs.clone()));
        let buffers = Buffers::new(device.queues, device.depth, device.io_buffer)
            .map_err(|e| Failure::environment(format!("no memory for the jobs' buffers: {e}")))?;
        let buffers = Arc::new(buffers);
        let ports = Arc::new(Ports::new(
            config,
            clock.clone(),
            driver.clone(),
            buffers.clone(),
        ));
        let set = TagSet {
            nr_ctxs: config.jobs_per_queue() + u16::from(config.has_script_requests()),
            timeout: Duration::from_secs(device.timeout.into()),
            rerun_delay: config.rerun_delay,
            rules: config.rules,
            ..TagSet::new(device.queues, device.depth)
        };
        let flags = config.kblockd_flags;
        let mirror =
            Mirror::start_on(runtime, flags, set, driver.clone(), &ramdisk, ports.clone())?;
        if let Some(costs) = &costs {
            costs.charge_to(Some(mirror.kblockd().clone()));
        }
        let hogs = match config.hogs {
            Some(hogs) => Some(Hogs::start(mirror.runtime(), clock, hogs)?),
            None => None,
        };
        let jobs: Vec<Job> = (0..config.jobs)
            .map(|number| Job::new(config, number, buffers.clone()))
            .collect();
        let lane = |hctx, ctx| mirror.queue().lane(hctx, ctx).expect("each is taken once");
        Ok(Self {
            lanes: (0..config.jobs)
                .map(|job| lane(job % device.queues, job / device.queues))
                .collect(),
            script_lane: config
                .has_script_requests()
                .then(|| lane(0, config.jobs_per_queue())),
            hogs,
            mirror,
            ports,
            jobs,
            driver,
            ramdisk,
            costs,
            creation_fails,
            script_tag: device.depth - 1,
            script_busy: false,
            limits: Limits {
                size: device.size,
                block_size: device.block_size,
                max_data: device.io_buffer,
                read_only: device.read_only,
            },
            config: device.clone(),
            happened: Vec::new(),
            samples: Vec::new(),
            last: Totals::default(),
        })
    }

    pub(super) fn queue(&self) -> &Queue {
        self.mirror.queue()
    }

    /// What a script says happens now. What concerns the jobs is left to the caller.
    pub(super) fn happen(&mut self, event: &Event) {
        match *event {
            Event::FailWorkerCreation(fails) => self.creation_fails.store(fails, Relaxed),
            Event::Busy(busy) => {
                self.driver.set_busy(busy);
                if busy == BusyFor::Nobody {
                    // The promise that came with DEV_RESOURCE.
                    self.queue().run_hw_queues(true);
                }
            }
            Event::Discard { offset, len } => self.discard(offset, len),
            Event::Corrupt(offset) => {
                if let Err(error) = buffers::corrupt(self.ramdisk.disk().store(), offset) {
                    self.note(format!("corrupt {offset}: {error}"));
                    return;
                }
            }
            Event::Set {
                ref changes,
                ref memory,
                ..
            } => {
                if let Err(error) = self.set(changes, memory) {
                    return self.note(format!("{event}: {error}"));
                }
            }
            Event::Psi(short) => {
                self.ramdisk.set_pressure(short);
                if !short {
                    self.queue().run_hw_queues(true);
                }
            }
            Event::Load(_) | Event::Rate(_) => {}
        }
        self.note(event.to_string());
    }

    fn set(&mut self, changes: &Changes, memory: &SpaceChanges) -> Result<(), Failure> {
        let disk = self.ramdisk.disk();
        let space = backend::changed_memory(&self.config, disk, memory)?;
        let applied = self.mirror.pressure().apply(&self.ramdisk, changes);
        applied.map_err(|error| Failure::environment(error.to_string()))?;
        backend::set_memory(&mut self.config, disk, space);
        Ok(())
    }

    fn note(&mut self, what: String) {
        let t_ns = self.ports.now();
        self.happened.push(Happened { t_ns, what });
    }

    fn discard(&mut self, offset: u64, len: u64) {
        self.reap_script();
        let Some(lane) = self.script_lane.as_mut().filter(|_| !self.script_busy) else {
            return self.note("a discard is left out: the one before has not ended".to_owned());
        };
        let sectors = u32::try_from(len / 512).unwrap_or(u32::MAX);
        let tag = self.script_tag;
        match Request::check(tag, Op::Discard, offset / 512, sectors, &self.limits) {
            Ok(request) => {
                self.script_busy = true;
                lane.insert(&request, &mut At(&self.ports, 0));
            }
            Err(status) => self.note(format!("discard {offset},{len}: {status}")),
        }
    }

    fn reap_script(&mut self) {
        let ends = std::mem::take(&mut self.ports.of_script().lock().ends);
        self.script_busy &= ends.is_empty();
    }

    /// Are there requests of the script under way?
    pub(super) fn script_is_busy(&mut self) -> bool {
        self.reap_script();
        self.script_busy
    }

    fn totals(&self, at: u64, ended: u64) -> Totals {
        let hctxs = 0..self.queue().tag_set().nr_hw_queues;
        let stats = self.mirror.kblockd().queue().stats();
        let space = self.ramdisk.disk().space_stats();
        Totals {
            at,
            ended,
            refused: hctxs
                .map(|hctx| self.queue().counters(hctx).refused())
                .sum(),
            runs: stats.completed,
            rescued: stats.rescued,
            zero: space.zero,
            no_space: space.no_space + space.above_cap,
        }
    }

    /// Takes a point of the time line. `ended` and `in_flight` are those of the jobs.
    pub(super) fn sample(&mut self, ended: u64, in_flight: u64) {
        let now = self.totals(self.ports.now(), ended);
        let (mut parked, mut dispatch_busy) = (0, 0);
        for hctx in 0..self.queue().tag_set().nr_hw_queues {
            let seen = self.queue().snapshot(hctx);
            parked += seen.dispatch.len() as u64;
            parked += seen.ctx_lens.iter().map(|&len| u64::from(len)).sum::<u64>();
            dispatch_busy = dispatch_busy.max(seen.dispatch_busy);
        }
        let last = std::mem::replace(&mut self.last, now);
        let space = self.ramdisk.disk().space_stats();
        let (ops, time) = (now.ended - last.ended, now.at - last.at);
        self.samples.push(Sample {
            t_ns: now.at,
            ops,
            iops: if time == 0 {
                0.0
            } else {
                ops as f64 * 1e9 / time as f64
            },
            in_flight,
            parked,
            dispatch_busy,
            refused: now.refused - last.refused,
            kblockd_runs: now.runs - last.runs,
            rescued: now.rescued - last.rescued,
            used: space.used,
            limit: space.limit,
            zero: now.zero - last.zero,
            no_space: now.no_space - last.no_space,
            mode: space.mode,
        });
    }

    /// Ends what would keep workers busy.
    pub(super) fn quiet_down(&mut self) {
        self.creation_fails.store(false, Relaxed);
        if let Some(hogs) = &self.hogs {
            hogs.stop();
        }
        if let Some(costs) = &self.costs {
            costs.charge_to(None);
        }
    }

    /// The figures of a run that is over.
    pub(super) fn figures(
        &mut self,
        config: &SimConfig,
        elapsed_ns: u64,
        stuck: Option<String>,
    ) -> Figures {
        let mut total = Tally::new();
        self.jobs.iter().for_each(|job| total.add(&job.tally));
        let hctxs: Vec<_> = (0..config.device.queues)
            .map(|hctx| HctxFigures {
                hctx,
                counters: self.queue().counters(hctx),
            })
            .collect();
        let stats = self.mirror.kblockd().queue().stats();
        let mut faults = Vec::new();
        match stuck {
            Some(why) => faults.push(why),
            None => faults.extend(self.queue().fault_at_rest()),
        }
        if total.failed > 0 {
            let first = total.first_failure.clone().unwrap_or_default();
            faults.push(format!(
                "verify: {} blocks are wrong; {first}",
                total.failed
            ));
        }
        Figures {
            version: 1,
            seed: config.seed,
            elapsed_ns,
            jobs: self
                .jobs
                .iter()
                .map(|job| JobLoad {
                    job: job.number,
                    hctx: job.hctx,
                    load: job.tally.load(elapsed_ns),
                })
                .collect(),
            total: total.load(elapsed_ns),
            errors: total.errors,
            verify: config.verify.then_some(Verified {
                checked: total.checked,
                failed: total.failed,
                first: total.first_failure,
            }),
            refused_by: refused_by(&hctxs),
            hctxs,
            kblockd: KblockdFigures {
                started: stats.started,
                completed: stats.completed,
                rescued: stats.rescued,
                maydays: stats.mayday,
            },
            space: self.ramdisk.disk().space_stats(),
            samples: std::mem::take(&mut self.samples),
            events: std::mem::take(&mut self.happened),
            faults,
        }
    }
}

/// A runtime for this simulation, whose creation of workers can be made to fail.
fn runtime(
    config: &SimConfig,
    clock: &Arc<VirtualClock>,
    fails: &Arc<AtomicBool>,
) -> RuntimeBuilder {
    let fails = fails.clone();
    backend::runtime()
        .on_create_worker(move |_| match fails.load(Relaxed) {
            true => Err(libc::EAGAIN),
            false => Ok(()),
        })
        .topology(machine(config.cpus))
        .virtual_clock(clock.clone())
        .sample_period(Duration::ZERO)
        .cpu_accounting(false)
}
