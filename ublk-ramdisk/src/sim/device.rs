// SPDX-License-Identifier: MIT OR Apache-2.0
//! A device without a kernel: the disk behind its mirror and the front end, with its jobs. Does what
//! the script says, and takes the figures.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::Arc;
use std::time::Duration;

use workqueue::{RuntimeBuilder, Topology, VirtualClock};

use super::buffers::Buffers;
use super::config::SimConfig;
use super::driver::SimDriver;
use super::figures::{
    refused_by, Figures, Happened, HctxFigures, JobLoad, KblockdFigures, Sample, Tally, Verified,
};
use super::front_end::SimFrontEnd;
use super::job::Job;
use super::script::{Event, Refusal, Step};
use super::worker_load::{CallCost, Hogs};
use crate::backend::{self, Driver, Mirror};
use crate::config::set::SetOptions;
use crate::config::DeviceConfig;
use crate::error::Failure;
use crate::mq::{Limits, Op, Queue, Request, Submitter, TagSet, ViaFrontEnd};

/// See the module. Fields are dropped in this order.
pub(super) struct Device {
    /// By job.
    /// Like a queue thread's: the way of each job's requests into the mirror.
    pub(super) lanes: Vec<Submitter>,
    /// For the discards of the script, with a software queue of its own on hardware queue 0.
    script_lane: Option<Submitter>,
    /// Load on the workers of CPU 0, beside kblockd.
    hogs: Option<Hogs>,
    mirror: Mirror,
    pub(super) front_end: Arc<SimFrontEnd>,
    pub(super) jobs: Vec<Job>,
    /// `ramdisk`, in front of which the script can refuse requests.
    driver: Arc<SimDriver>,
    /// The same driver as the server's.
    ramdisk: Arc<Driver>,
    call_cost: Option<Arc<CallCost>>,
    /// While true, no worker can be created, so the rescuer must go on (D7).
    creation_fails: Arc<AtomicBool>,
    /// Is the script's last discard in flight?
    script_busy: bool,
    /// For the discards of the script. Jobs have a copy of their own.
    limits: Limits,
    /// Its `space` is changed by the script.
    config: DeviceConfig,
    happened: Vec<Happened>,
    samples: Vec<Sample>,
    last: Totals,
}

/// Counters of the whole device at one moment, for the differences on the time line.
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

impl Device {
    pub(super) fn new(config: &SimConfig, clock: &Arc<VirtualClock>) -> Result<Self, Failure> {
        let (device, model) = (&config.device, &config.model);
        let store = backend::open_store(device)?;
        let ramdisk = backend::driver(device, store, device.queues, device.depth, None);
        let creation_fails = Arc::new(AtomicBool::new(false));
        let call_cost =
            (!model.call_cost.is_zero()).then(|| CallCost::new(model.call_cost, clock.clone()));
        let driver = Arc::new(SimDriver::new(ramdisk.clone(), call_cost.clone()));
        let buffers = Buffers::new(device.queues, device.depth, device.io_buffer)
            .map_err(|e| Failure::environment(format!("no memory for the jobs' buffers: {e}")))?;
        let buffers = Arc::new(buffers);
        let front_end = SimFrontEnd::new(config, clock.clone(), driver.clone(), buffers.clone());
        let front_end = Arc::new(front_end);
        let set = TagSet {
            // A software queue for each submitter: the disk has one per hardware queue, where only
            // the queue thread inserts (A4).
            nr_ctxs: config.jobs_per_queue() + u16::from(config.has_script_requests()),
            timeout: Duration::from_secs(device.timeout.into()),
            rerun_delay: model.rerun_delay,
            rules: model.blk_mq,
            catch_panics: true,
            ..TagSet::new(device.queues, device.depth)
        };
        let mirror = Mirror::start_on(
            runtime(config, clock, &creation_fails),
            device.kblockd_flags.flags(),
            set,
            driver.clone(),
            &ramdisk,
            front_end.clone(),
        )?;
        if let Some(cost) = &call_cost {
            cost.charge_to(Some(mirror.kblockd().clone()));
        }
        let hogs = model
            .hogs
            .map(|hogs| Hogs::start(mirror.runtime(), clock, hogs))
            .transpose()?;
        let lane = |hctx, ctx| {
            mirror
                .queue()
                .submitter(hctx, ctx)
                .expect("each is taken once")
        };
        let jobs = 0..config.load.jobs;
        Ok(Self {
            lanes: jobs
                .clone()
                .map(|job| lane(job % device.queues, job / device.queues))
                .collect(),
            script_lane: config
                .has_script_requests()
                .then(|| lane(0, config.jobs_per_queue())),
            hogs,
            jobs: jobs
                .map(|number| Job::new(config, number, buffers.clone()))
                .collect(),
            mirror,
            front_end,
            driver,
            ramdisk,
            call_cost,
            creation_fails,
            script_busy: false,
            limits: config.limits(),
            config: device.clone(),
            happened: Vec::new(),
            samples: Vec::new(),
            last: Totals::default(),
        })
    }

    pub(super) fn queue(&self) -> &Queue {
        self.mirror.queue()
    }

    /// Does what the script says, apart from what the jobs do. A failure is noted, and ends nothing.
    pub(super) fn script_event(&mut self, step: &Step) {
        let done = match &step.event {
            Event::FailWorkerCreation(fails) => {
                self.creation_fails.store(*fails, Relaxed);
                Ok(())
            }
            Event::Busy(refusal) => {
                self.driver.refuse(*refusal);
                if *refusal == Refusal::Off {
                    // The promise that came with DEV_RESOURCE.
                    self.queue().run_hw_queues(true);
                }
                Ok(())
            }
            Event::Discard { offset, len } => {
                self.discard(*offset, *len);
                Ok(())
            }
            Event::Corrupt(offset) => {
                let store = self.ramdisk.disk().store();
                let byte = *offset..*offset + 1;
                let made = store.populate(byte.clone());
                made.map_err(|error| error.to_string()).map(|_| {
                    store.flip_bit(*offset, 0);
                    store.unpin(byte);
                })
            }
            Event::Set(options) => self.set(options).map_err(|failure| failure.to_string()),
            Event::Release(name) => {
                let released = self.ramdisk.release(name);
                released.map_err(|failure| failure.to_string())
            }
            Event::Psi(short) => {
                self.ramdisk.tell_pressure(*short, self.mirror.queue());
                Ok(())
            }
            Event::Load(_) | Event::Rate(_) => Ok(()),
        };
        self.note(match done {
            Ok(()) => step.text.clone(),
            Err(why) => format!("{}: {why}", step.text),
        });
    }

    /// As `set` does on a device of the server.
    fn set(&mut self, options: &SetOptions) -> Result<(), Failure> {
        let disk = self.ramdisk.disk();
        let space = backend::changed_memory(&self.config, disk, &options.memory)?;
        options.pressure.check_for(&self.ramdisk.settings())?;
        let applied = self
            .mirror
            .pressure()
            .apply(&self.ramdisk, &options.pressure);
        applied.map_err(|error| Failure::environment(error.to_string()))?;
        backend::set_memory(&mut self.config, disk, space);
        if let Some(of) = options.latency_sample {
            self.mirror.queue().time_one_of(of);
        }
        Ok(())
    }

    fn note(&mut self, what: String) {
        let t_ns = self.front_end.now();
        self.happened.push(Happened { t_ns, what });
    }

    /// Discards with the tag behind those of the jobs, one range at a time.
    fn discard(&mut self, offset: u64, len: u64) {
        if self.script_is_busy() {
            return self.note("a discard is left out: the one before has not ended".to_owned());
        }
        let sectors = u32::try_from(len / 512).unwrap_or(u32::MAX);
        let tag = self.config.depth - 1;
        match Request::check(tag, Op::Discard, offset / 512, sectors, &self.limits) {
            Ok(request) => {
                self.script_busy = true;
                let lane = self.script_lane.as_mut().expect("the script discards");
                lane.insert(&request, &mut ViaFrontEnd::new(&*self.front_end, 0));
            }
            Err(status) => self.note(format!("discard {offset},{len}: {status}")),
        }
    }

    /// Is a request of the script in flight?
    pub(super) fn script_is_busy(&mut self) -> bool {
        self.script_busy &= self.front_end.take_script_ends().is_empty();
        self.script_busy
    }

    /// Reads the counters, for the difference to the sample before.
    fn totals(&self) -> Totals {
        let hctxs = 0..self.queue().tag_set().nr_hw_queues;
        let stats = self.mirror.kblockd().queue().stats();
        let space = self.ramdisk.disk().space_stats();
        Totals {
            at: self.front_end.now(),
            ended: self.jobs.iter().map(|job| job.tally.ended()).sum(),
            refused: hctxs
                .map(|hctx| self.queue().counters(hctx).refused())
                .sum(),
            runs: stats.completed,
            rescued: stats.rescued,
            zero: space.zero,
            no_space: space.no_space + space.above_cap,
        }
    }

    /// Requests that the jobs have in flight.
    pub(super) fn in_flight(&self) -> u64 {
        self.jobs.iter().map(Job::in_flight).sum()
    }

    /// Takes a sample of the time line.
    pub(super) fn sample(&mut self) {
        let now = self.totals();
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
            in_flight: self.in_flight(),
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

    /// Stops what keeps workers busy or away.
    pub(super) fn quiet_down(&mut self) {
        self.creation_fails.store(false, Relaxed);
        if let Some(hogs) = &self.hogs {
            hogs.stop();
        }
        if let Some(cost) = &self.call_cost {
            cost.charge_to(None);
        }
    }

    /// The figures of a run that is over.
    pub(super) fn figures(
        &mut self,
        config: &SimConfig,
        elapsed_ns: u64,
        stuck: Option<String>,
    ) -> Figures {
        let mut total = Tally::default();
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
            // A run that was given up has requests in flight: rest cannot be expected of it.
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
            seed: config.load.seed,
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
            verify: config.load.verify.then_some(Verified {
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

/// The runtime's settings. While `fails` is true, workers cannot be created.
fn runtime(
    config: &SimConfig,
    clock: &Arc<VirtualClock>,
    fails: &Arc<AtomicBool>,
) -> RuntimeBuilder {
    let fails = fails.clone();
    backend::runtime()
        .threads_by(move |_| match fails.load(Relaxed) {
            true => Err(libc::EAGAIN),
            false => Ok(()),
        })
        .topology(Topology::simulated_nodes(config.model.cpus.into(), 1))
        // Time moves only when every thread waits, so what it costs cannot depend on the machine.
        .virtual_clock(clock.clone())
        // Nothing looks at real CPU time: two runs would differ by it.
        .sample_period(Duration::ZERO)
        .cpu_accounting(false)
}
