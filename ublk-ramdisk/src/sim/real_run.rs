// SPDX-License-Identifier: MIT OR Apache-2.0
//! A run on the machine's clock: a thread per job, as a device has a thread per queue; the calling
//! thread follows the script and takes the time line.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{getrusage, Usage, UsageWho};

use super::bed::Bed;
use super::config::SimConfig;
use super::figures::{CpuFigures, Figures};
use super::job::Job;
use super::ports::{At, Port, Ports, Time};
use super::script::Event;
use crate::error::Failure;
use crate::mq::{Lane, Queue};
use crate::trace::Trace;

/// What all threads see.
struct Shared<'s> {
    ports: &'s Ports,
    queue: Queue,
    ended: AtomicU64,
    in_flight: AtomicU64,
    /// When the last request of the load ended.
    load_end: AtomicU64,
    running: AtomicU64,
    give_up: AtomicBool,
}

/// What a job is told.
enum Word {
    /// The sender goes when the job has heard it, or is done and never will.
    Happens(Event, Sender<()>),
    /// What the script has asked for has ended.
    Calm,
}

pub(super) fn run(
    config: &SimConfig,
    records: Option<usize>,
) -> Result<(Figures, Option<Trace>), Failure> {
    let mut bed = Bed::new(config, Time::Real(Instant::now()))?;
    let recording = super::start_recording(records, bed.ports.time())?;
    let ports = bed.ports.clone();
    let shared = Shared {
        ports: &ports,
        queue: bed.queue().clone(),
        ended: AtomicU64::new(0),
        in_flight: AtomicU64::new(0),
        load_end: AtomicU64::new(0),
        running: AtomicU64::new(u64::from(config.jobs)),
        give_up: AtomicBool::new(false),
    };
    // What happens at the beginning happens before the first request, as on the virtual clock.
    for step in config.script.iter().filter(|step| step.at.is_zero()) {
        bed.jobs.iter_mut().for_each(|job| job.hear(&step.event, 0));
        bed.happen(&step.event);
    }
    let before = cpu_time()?;
    let jobs = std::mem::take(&mut bed.jobs);
    let lanes = std::mem::take(&mut bed.lanes);
    let (stuck, done) = thread::scope(|scope| {
        let shared = &shared;
        let mut threads = Vec::new();
        let mut told = Vec::new();
        for (job, lane) in jobs.into_iter().zip(lanes) {
            let (tell, hear) = mpsc::channel();
            told.push((job.number, tell));
            threads.push(scope.spawn(move || live(shared, job, lane, &hear)));
        }
        let stuck = conduct(config, shared, &mut bed, &told);
        let done = threads.into_iter().map(|thread| thread.join());
        (stuck, done.collect::<Vec<_>>())
    });
    for job in done {
        let job = job.map_err(|_| Failure::runtime("a job's thread panicked"))?;
        bed.jobs.push(job);
    }
    let after = cpu_time()?;
    bed.quiet_down();
    // A run that is still queued would be counted later.
    if stuck.is_none() {
        bed.flush();
    }
    let mut figures = bed.figures(config, shared.load_end.load(Relaxed), stuck);
    let (user_ns, system_ns) = (after.0 - before.0, after.1 - before.1);
    figures.cpu = Some(CpuFigures {
        user_ns,
        system_ns,
        per_io_ns: (user_ns + system_ns) as f64 / (shared.ended.load(Relaxed).max(1)) as f64,
    });
    let trace = super::finish_recording(recording, bed.queue().label());
    Ok((figures, trace))
}

/// CPU time of the process so far, in nanoseconds: user, system.
fn cpu_time() -> Result<(u64, u64), Failure> {
    let used: Usage = getrusage(UsageWho::RUSAGE_SELF)
        .map_err(|e| Failure::runtime(format!("the CPU time cannot be read: {e}")))?;
    let ns = |time: nix::sys::time::TimeVal| {
        time.tv_sec() as u64 * 1_000_000_000 + time.tv_usec() as u64 * 1_000
    };
    Ok((ns(used.user_time()), ns(used.system_time())))
}

/// A job's thread.
fn live(shared: &Shared<'_>, mut job: Job, mut lane: Lane, hear: &Receiver<Word>) -> Job {
    let port = shared.ports.of_job(job.number);
    let mut taken = Vec::new();
    let mut in_flight = 0;
    while !shared.give_up.load(Relaxed) {
        let now = shared.ports.time().now();
        for word in hear.try_iter() {
            match word {
                Word::Happens(event, _heard) => job.hear(&event, now),
                Word::Calm => job.calm(),
            }
        }
        let mut moved = finish_due(shared, port, now);
        moved |= reap(shared, &mut job, port);
        loop {
            let begun = shared.ports.time().now();
            job.take(begun, &mut taken);
            let mut home = At(shared.ports, job.hctx);
            match &taken[..] {
                [] => break,
                [alone] => lane.insert(alone, &mut home),
                together => lane.insert_batch(together, &mut home),
            }
            moved = true;
            // With requests that take no time a job would never look up otherwise.
            reap(shared, &mut job, port);
            if begun > now + 1_000_000 {
                break;
            }
        }
        let flying = job.in_flight();
        shared
            .in_flight
            .fetch_add(flying.wrapping_sub(in_flight), Relaxed);
        in_flight = flying;
        if job.is_done() {
            break;
        }
        if !moved {
            let now = shared.ports.time().now();
            let due = port.lock().serving.next_due();
            let next = [due, job.next_time()].into_iter().flatten().min();
            let most = next.map_or(100_000_000, |next| next.saturating_sub(now));
            port.wait(Duration::from_nanos(most.clamp(1, 100_000_000)));
        }
    }
    shared.running.fetch_sub(1, Relaxed);
    job
}

fn finish_due(shared: &Shared<'_>, port: &Port, now: u64) -> bool {
    let mut moved = false;
    loop {
        let kept = port.lock().serving.take_due(now);
        match kept {
            Some(kept) => shared.ports.finish(kept, &shared.queue),
            None => return moved,
        }
        moved = true;
    }
}

fn reap(shared: &Shared<'_>, job: &mut Job, port: &Port) -> bool {
    let ends = std::mem::take(&mut port.lock().ends);
    for end in &ends {
        if job.is_loading() {
            shared.load_end.fetch_max(end.at, Relaxed);
            shared.ended.fetch_add(1, Relaxed);
        }
        job.ended(end.tag, end.result, end.at);
    }
    !ends.is_empty()
}

/// Tells all jobs what is about to happen. What they take for granted does not change before they
/// know.
fn tell_all(shared: &Shared<'_>, told: &[(u16, Sender<Word>)], event: &Event) {
    let (heard, all_have) = mpsc::channel();
    for (job, tell) in told {
        // A job that is done hears nothing any more.
        let _done = tell.send(Word::Happens(event.clone(), heard.clone()));
        shared.ports.of_job(*job).ring();
    }
    drop(heard);
    let _nobody_is_left = all_have.recv();
}

/// Follows the script until all jobs are done. Answers what is stuck, if they never will be.
fn conduct(
    config: &SimConfig,
    shared: &Shared<'_>,
    bed: &mut Bed,
    told: &[(u16, Sender<Word>)],
) -> Option<String> {
    let mut script = config.script.clone();
    script.retain(|step| !step.at.is_zero());
    script.sort_by_key(|step| step.at);
    let mut script = script.into_iter().peekable();
    let every = config.sample.map(|every| every.as_nanos() as u64);
    let mut next_sample = every;
    let (mut seen, mut seen_at) = (0, 0);
    let mut calm = false;
    let mut served = Vec::new();
    while shared.running.load(Relaxed) > 0 || bed.script_is_busy() {
        let now = shared.ports.time().now();
        while let Some(step) = script.next_if(|step| step.at.as_nanos() as u64 <= now) {
            tell_all(shared, told, &step.event);
            bed.happen(&step.event);
            (seen_at, calm) = (now, false);
        }
        if !calm && !bed.script_is_busy() {
            calm = true;
            told.iter()
                .for_each(|(_, tell)| drop(tell.send(Word::Calm)));
        }
        if next_sample.is_some_and(|at| at <= now) {
            bed.sample(shared.ended.load(Relaxed), shared.in_flight.load(Relaxed));
            next_sample = every.map(|every| now + every);
        }
        let script_port = shared.ports.of_script();
        served.extend(script_port.lock().serving.take_due(now));
        for kept in served.drain(..) {
            shared.ports.finish(kept, &shared.queue);
        }
        let ended = shared.ended.load(Relaxed);
        if ended != seen || shared.in_flight.load(Relaxed) == 0 {
            (seen, seen_at) = (ended, now);
        } else if now - seen_at > config.patience.as_nanos() as u64 {
            shared.give_up.store(true, Relaxed);
            told.iter()
                .for_each(|(job, _)| shared.ports.of_job(*job).ring());
            let in_flight = shared.in_flight.load(Relaxed);
            return Some(format!(
                "stuck: {in_flight} requests have not ended; nothing has for {:?}",
                config.patience
            ));
        }
        let step = script.peek().map(|step| step.at.as_nanos() as u64);
        let next = [step, next_sample].into_iter().flatten().min();
        let most = next.map_or(10_000_000, |next| next.saturating_sub(now));
        thread::sleep(Duration::from_nanos(most.clamp(10_000, 10_000_000)));
    }
    None
}
