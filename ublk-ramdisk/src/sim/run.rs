// SPDX-License-Identifier: MIT OR Apache-2.0
//! The run of a simulation: one thread goes from event to event, and the workqueue's threads have
//! their turns in between. The clock moves only when all of them wait.
//!
//! What is due at one time is done in this order: the workqueue's timers, requests whose service is
//! over, the script, the jobs, the time line.
//!
//! A round:
//!
//! ```text
//! settle       the workqueue's threads run until each of them waits
//! what is due  services end, the script acts, jobs hear of ends and make requests
//! again        as long as anything happened, at the same time
//! sample       a point of the time line, if it is due
//! move         the clock goes to the next event; without one the run is stuck
//! ```

use std::sync::Arc;
use std::time::Duration;

use workqueue::VirtualClock;

use super::config::SimConfig;
use super::device::Device;
use super::figures::Figures;
use super::job::Job;
use super::script::Step;
use crate::error::Failure;
use crate::mq::{Request, ViaFrontEnd};
use crate::trace::{Options, Trace};

/// How long a pool waits at most after it could not create a worker, and some more.
const CREATION_COOLDOWN: Duration = Duration::from_secs(2);

/// More rounds than this at one time are taken for an endless loop, if only time ends the load.
const MAX_ROUNDS: u32 = 1_000_000;

struct Run<'c> {
    config: &'c SimConfig,
    clock: Arc<VirtualClock>,
    device: Device,
    /// In the order of time.
    script: Vec<Step>,
    next_step: usize,
    next_sample: Option<u64>,
    /// When the last request of the load ended.
    load_end: u64,
    /// When a request was last inserted or ended, or the script did something.
    last_progress: u64,
    /// Do the jobs know that no discard of the script is in flight?
    jobs_know: bool,
    batch: Vec<Request>,
}

/// Runs a simulation to its end. With `records`, what happens is recorded; see
/// [`super::run_traced`].
pub(super) fn run(
    config: &SimConfig,
    records: Option<usize>,
) -> Result<(Figures, Option<Trace>), Failure> {
    let clock = VirtualClock::in_turns();
    let device = Device::new(config, &clock)?;
    let options = records.map(|records| Options {
        records,
        clock: Some(clock.clone()),
    });
    let recording = options.map(crate::trace::start).transpose()?;
    let label = device.queue().label();
    let mut script = config.script.clone();
    script.sort_by_key(|step| step.at);
    let mut run = Run {
        config,
        clock,
        device,
        script,
        next_step: 0,
        next_sample: config.sample.map(|every| every.as_nanos() as u64),
        load_end: 0,
        last_progress: 0,
        jobs_know: false,
        batch: Vec::new(),
    };
    let stuck = run.until_done();
    let figures = run.device.figures(config, run.load_end, stuck);
    let trace = recording.map(|recording| {
        let mut trace = recording.finish();
        trace.name_device(label, (0, 0), "sim");
        trace
    });
    run.wind_up();
    Ok((figures, trace))
}

impl Run<'_> {
    fn now(&self) -> u64 {
        self.clock.now().as_nanos() as u64
    }

    /// Runs until all jobs are done. Returns what is stuck, if they never will be.
    ///
    /// One round does what is due, lets the workqueue's threads come to rest, and does what is due
    /// then. Only if nothing is due, the clock moves to the next event.
    fn until_done(&mut self) -> Option<String> {
        let mut rounds = 0;
        loop {
            self.clock.settle();
            if self.do_what_is_due() {
                // Counts rounds without a move of the clock.
                rounds = MAX_ROUNDS.min(rounds) + 1;
                let load = &self.config.load;
                if rounds > MAX_ROUNDS && load.ops.is_none() && load.duration.is_some() {
                    return Some(format!(
                        "the simulation goes round without end at {} ns: give requests or calls a \
                         time (--service-time, --call-cost)",
                        self.now()
                    ));
                }
                continue;
            }
            rounds = 0;
            if self.next_sample.is_some_and(|at| at <= self.now()) {
                self.sample();
            }
            // After the sample: the last point of the time line shows the end.
            if self.is_over() {
                return None;
            }
            let patience = self.config.patience.as_nanos() as u64;
            let give_up = self.last_progress.saturating_add(patience);
            match self.next_time() {
                Some(next) if next <= give_up || !self.waits_for_ends() => self.move_to(next),
                _ => return Some(self.what_is_stuck()),
            }
        }
    }

    /// The jobs are done, and no discard of the script is in flight. Steps of the script that are
    /// still to come do not count.
    fn is_over(&mut self) -> bool {
        self.device.jobs.iter().all(Job::is_done) && !self.device.script_is_busy()
    }

    fn waits_for_ends(&mut self) -> bool {
        self.device.script_is_busy() || self.device.in_flight() > 0
    }

    /// The fault that the figures carry if nothing has happened for `patience`.
    fn what_is_stuck(&self) -> String {
        let in_flight = self.device.in_flight();
        let waits = |hctx: &u16| self.device.queue().snapshot(*hctx).usage > 0;
        let hctxs = (0..self.config.device.queues).filter(waits).count();
        format!(
            "stuck: {in_flight} requests of {hctxs} hardware queues have not ended; nothing has \
             for {:?}",
            self.config.patience
        )
    }

    /// When something is due next.
    fn next_time(&self) -> Option<u64> {
        let timers = self.clock.next_due().map(|due| due.as_nanos() as u64);
        let script = self.script.get(self.next_step);
        let script = script.map(|step| step.at.as_nanos() as u64);
        let now = self.now();
        let jobs = self.device.jobs.iter().filter_map(Job::next_time);
        jobs.filter(|&time| time > now)
            .chain(timers)
            .chain(self.device.front_end.next_due())
            .chain(script)
            .chain(self.next_sample)
            .min()
    }

    fn move_to(&mut self, time: u64) {
        let step = time.saturating_sub(self.now());
        self.clock.advance(Duration::from_nanos(step));
    }

    /// Does what the script says for now. True if it says anything.
    fn follow_script(&mut self) -> bool {
        let first = self.next_step;
        while let Some(step) = self.script.get(self.next_step) {
            if step.at > self.clock.now() {
                break;
            }
            self.next_step += 1;
            let now = self.now();
            for job in &mut self.device.jobs {
                job.script_event(&step.event, now);
            }
            self.device.script_event(step);
            self.jobs_know = false;
            self.last_progress = now;
        }
        self.next_step > first
    }

    /// Takes a point of the time line and sets the time of the next.
    fn sample(&mut self) {
        let every = self.config.sample.map(|every| every.as_nanos() as u64);
        self.next_sample = every.map(|every| self.now() + every);
        self.device.sample();
    }

    /// Tells the jobs which requests have ended. True if any have.
    fn tell_ends(&mut self) -> bool {
        let mut any = false;
        for job in &mut self.device.jobs {
            for end in self.device.front_end.take_ends(job.number) {
                any = true;
                if job.is_loading() {
                    // The check at the end is not part of the load.
                    self.load_end = end.at;
                }
                job.request_ended(end.tag, end.result, end.at);
            }
        }
        if any {
            self.last_progress = self.now();
        }
        any
    }

    /// Inserts the requests that the jobs make now. True if there are any.
    fn insert(&mut self) -> bool {
        let now = self.now();
        let device = &mut self.device;
        let mut any = false;
        for (job, lane) in device.jobs.iter_mut().zip(&mut device.lanes) {
            loop {
                job.next_batch(now, &mut self.batch);
                let mut home = ViaFrontEnd::new(&*device.front_end, job.hctx);
                match &self.batch[..] {
                    [] => break,
                    [alone] => lane.insert(alone, &mut home),
                    together => lane.insert_batch(together, &mut home),
                }
                any = true;
                self.last_progress = now;
            }
        }
        any
    }

    /// Does what is due now, the time line apart. True if anything happened.
    fn do_what_is_due(&mut self) -> bool {
        let mut any = self.device.front_end.complete_due(self.device.queue());
        if any {
            self.clock.settle();
        }
        if self.follow_script() {
            self.clock.settle();
            any = true;
        }
        if !self.jobs_know && !self.device.script_is_busy() {
            self.jobs_know = true;
            let jobs = &mut self.device.jobs;
            jobs.iter_mut().for_each(Job::script_discards_ended);
        }
        any |= self.tell_ends();
        any | self.insert()
    }

    /// Moves the clock on until no worker sleeps on it: one that did when the clock is dropped would
    /// never wake, and its thread could not be joined.
    ///
    /// `end` is a bound, not a time that is waited for: it stops when no sleep is left.
    fn wind_up(&mut self) {
        self.device.quiet_down();
        let model = &self.config.model;
        let hogs = model.hogs.map_or(Duration::ZERO, |(_, time)| time);
        let end = self.clock.now() + hogs + model.call_cost * 1000 + CREATION_COOLDOWN;
        loop {
            self.clock.settle();
            let Some(due) = self.clock.next_due().filter(|&due| due <= end) else {
                return;
            };
            self.clock.advance(due.saturating_sub(self.clock.now()));
        }
    }
}
