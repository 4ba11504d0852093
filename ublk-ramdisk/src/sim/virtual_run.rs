// SPDX-License-Identifier: MIT OR Apache-2.0
//! A run on the virtual clock: one thread goes from event to event, and the workqueue's threads have
//! their turns in between. The clock moves only when all of them wait.
//!
//! What is due at one moment is done in this order: the workqueue's timers, requests whose service
//! is over, the script, the jobs, the time line.

use std::sync::Arc;
use std::time::Duration;

use workqueue::VirtualClock;

use super::bed::Bed;
use super::config::SimConfig;
use super::figures::Figures;
use super::job::Job;
use super::ports::At;
use super::script::{Event, Step};
use crate::error::Failure;
use crate::mq::Request;
use crate::trace::Trace;

/// How long a pool waits at most after it could not create a worker, and some more.
const CREATION_COOLDOWN: Duration = Duration::from_secs(2);

/// More turns than this without the clock moving are a spin, if nothing but time ends the load.
const SPIN: u32 = 1_000_000;

struct Run<'c> {
    config: &'c SimConfig,
    clock: Arc<VirtualClock>,
    bed: Bed,
    script: Vec<Step>,
    next_step: usize,
    next_sample: Option<u64>,
    /// When the last request of the load ended.
    load_end: u64,
    /// When anything last ended or was made.
    last_move: u64,
    /// The jobs know that nothing of the script's is under way.
    calm: bool,
    taken: Vec<Request>,
}

pub(super) fn run(
    config: &SimConfig,
    records: Option<usize>,
) -> Result<(Figures, Option<Trace>), Failure> {
    let clock = VirtualClock::in_turns();
    let bed = Bed::new(config, &clock)?;
    let recording = super::start_recording(records, &clock)?;
    let label = bed.queue().label();
    let mut script = config.script.clone();
    script.sort_by_key(|step| step.at);
    let mut run = Run {
        config,
        clock,
        bed,
        script,
        next_step: 0,
        next_sample: config.sample.map(|every| every.as_nanos() as u64),
        load_end: 0,
        last_move: 0,
        calm: false,
        taken: Vec::new(),
    };
    let stuck = run.go();
    let figures = run.bed.figures(config, run.load_end, stuck);
    let trace = super::finish_recording(recording, label);
    run.wind_up();
    Ok((figures, trace))
}

impl Run<'_> {
    fn now(&self) -> u64 {
        self.clock.now().as_nanos() as u64
    }

    /// Runs until all jobs are done. Answers what is stuck, if they never will be.
    fn go(&mut self) -> Option<String> {
        let mut turns = 0;
        loop {
            self.clock.settle();
            let moved = self.do_what_is_due();
            if moved {
                turns = SPIN.min(turns) + 1;
                if turns > SPIN && self.config.ops.is_none() && self.config.duration.is_some() {
                    return Some(format!(
                        "the simulation goes round without end at {} ns: give requests or calls a \
                         time (--service-time, --call-cost)",
                        self.now()
                    ));
                }
                continue;
            }
            turns = 0;
            if self.next_sample.is_some_and(|at| at <= self.now()) {
                self.sample();
            }
            if self.is_over() {
                return None;
            }
            let patience = self.config.patience.as_nanos() as u64;
            let next = self.next_time();
            let given_up = self.last_move.saturating_add(patience);
            match next {
                Some(next) if next <= given_up || !self.waits_for_ends() => self.move_to(next),
                _ => return Some(self.what_is_stuck()),
            }
        }
    }

    fn is_over(&mut self) -> bool {
        self.bed.jobs.iter().all(|job| job.is_done()) && !self.bed.script_is_busy()
    }

    /// Is there a request that is not being served?
    fn waits_for_ends(&mut self) -> bool {
        self.bed.script_is_busy() || self.bed.jobs.iter().any(|job| job.in_flight() > 0)
    }

    fn what_is_stuck(&self) -> String {
        let in_flight: u64 = self.bed.jobs.iter().map(|job| job.in_flight()).sum();
        let waits = |hctx: &u16| self.bed.queue().snapshot(*hctx).usage > 0;
        let hctxs = (0..self.config.device.queues).filter(waits).count();
        format!(
            "stuck: {in_flight} requests of {hctxs} hardware queues have not ended; nothing has \
             for {:?}",
            self.config.patience
        )
    }

    /// The next moment at which something is due.
    fn next_time(&self) -> Option<u64> {
        let timers = self.clock.next_due().map(|due| due.as_nanos() as u64);
        let ports = self.bed.ports.all().iter();
        let served = ports.filter_map(|port| port.lock().serving.next_due());
        let script = self.script.get(self.next_step);
        let script = script.map(|step| step.at.as_nanos() as u64);
        let jobs = self.bed.jobs.iter().filter_map(|job| job.next_time());
        let now = self.now();
        timers
            .into_iter()
            .chain(served)
            .chain(script)
            .chain(jobs.filter(|&time| time > now))
            .chain(self.next_sample)
            .min()
    }

    fn move_to(&mut self, time: u64) {
        let step = time.saturating_sub(self.now());
        self.clock.advance(Duration::from_nanos(step));
    }

    /// Completes the requests whose service is over. True if there were any.
    fn serve(&mut self) -> bool {
        let now = self.now();
        let mut moved = false;
        for port in self.bed.ports.all() {
            loop {
                let kept = port.lock().serving.take_due(now);
                match kept {
                    Some(kept) => self.bed.ports.finish(kept, self.bed.queue()),
                    None => break,
                }
                moved = true;
            }
        }
        moved
    }

    /// Does what the script says for now. True if it says anything.
    fn follow_script(&mut self) -> bool {
        let now = self.clock.now();
        let mut moved = false;
        while let Some(step) = self
            .script
            .get(self.next_step)
            .filter(|step| step.at <= now)
        {
            let event = step.event.clone();
            self.next_step += 1;
            self.happen(&event);
            moved = true;
        }
        moved
    }

    fn happen(&mut self, event: &Event) {
        let now = self.now();
        for job in &mut self.bed.jobs {
            job.hear(event, now);
        }
        self.bed.happen(event);
        self.calm = false;
        self.last_move = now;
    }

    fn sample(&mut self) {
        let every = self.config.sample.map(|every| every.as_nanos() as u64);
        self.next_sample = every.map(|every| self.now() + every);
        let ended = self.bed.jobs.iter().map(|job| job.tally.ended()).sum();
        let in_flight = self.bed.jobs.iter().map(|job| job.in_flight()).sum();
        self.bed.sample(ended, in_flight);
    }

    /// Tells the jobs what has ended. True if anything has.
    fn reap(&mut self) -> bool {
        let mut moved = false;
        for job in &mut self.bed.jobs {
            let ends = std::mem::take(&mut self.bed.ports.of_job(job.number).lock().ends);
            for end in ends {
                moved = true;
                if job.is_loading() {
                    self.load_end = end.at;
                }
                job.ended(end.tag, end.result, end.at);
            }
        }
        if moved {
            self.last_move = self.now();
        }
        moved
    }

    /// Does what is due now, the time line apart. True if anything happened.
    fn do_what_is_due(&mut self) -> bool {
        let mut moved = self.serve();
        if moved {
            self.clock.settle();
        }
        if self.follow_script() {
            self.clock.settle();
            moved = true;
        }
        if !self.calm && !self.bed.script_is_busy() {
            self.calm = true;
            self.bed.jobs.iter_mut().for_each(Job::calm);
        }
        moved |= self.reap();
        let now = self.now();
        for number in 0..self.bed.jobs.len() {
            loop {
                let job = &mut self.bed.jobs[number];
                job.take(now, &mut self.taken);
                let mut home = At(&self.bed.ports, job.hctx);
                match &self.taken[..] {
                    [] => break,
                    [alone] => self.bed.lanes[number].insert(alone, &mut home),
                    together => self.bed.lanes[number].insert_batch(together, &mut home),
                }
                moved = true;
                self.last_move = now;
            }
        }
        moved
    }

    /// Lets what still runs come to its end, so that the threads can be ended: whoever sleeps on
    /// this clock would never wake once it stands still for good.
    fn wind_up(&mut self) {
        self.bed.quiet_down();
        let hogs = self.config.hogs.map_or(Duration::ZERO, |(_, time)| time);
        let end = self.clock.now() + hogs + self.config.call_cost * 1000 + CREATION_COOLDOWN;
        loop {
            self.clock.settle();
            let Some(due) = self.clock.next_due().filter(|&due| due <= end) else {
                return;
            };
            self.clock.advance(due.saturating_sub(self.clock.now()));
        }
    }
}
