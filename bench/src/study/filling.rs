// SPDX-License-Identifier: MIT OR Apache-2.0
//! Study g: a disk with less memory than it has blocks, filled, exhausted, and brought back; in the simulation and on the
//! real driver.
//!
//! Both give samples of the disk's state ([`Moment`]). From them come the times at which the state changed ([`Phases`]),
//! the measures, and a picture with one panel for each quantity ([`PANELS`]).

use super::device::act::{Fio, Guest};
use super::device::raw::Raw;
use super::device::DevicePart;
use super::draft::{Draft, Drawn};
use super::outcome::{show, Axis, Kind, Part, Plot, Series};
use super::settings::{Settings, StudyError};
use super::sim::{self, Said};
use super::table::{Block, StudyFile};
use crate::table::Table;
use serde_json::{json, Value};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes.
const MIB: f64 = 1024.0 * 1024.0;
/// Bytes that the disk may use: half of its size.
const LIMIT: f64 = 16.0 * MIB;
/// The load of the simulation. A fourth of the writes are zeros, which the store can give back.
/// 40 requests of 64 KiB are 2.5 MiB per second, and reach the limit after 6.4 s. The zeros that are then given
/// back put off its exhaustion to about 8.5 s.
const LOAD: &str =
    "--size 32M --memory-limit 16M --no-space-timeout 5 --rw write --bs 64K --rate 40 --zeros 25 \
                    --iodepth 16 --service-time 1ms --duration 30s --verify --sample 10ms";
/// The script of the simulation: seconds and event.
/// Seconds lie between two events, so that what follows from one has come to rest before the next.
const EVENTS: [(f64, &str); 4] = [
    (17.0, "discard 0,8388608"),
    (21.0, "psi on"),
    (21.6, "psi off"),
    (27.0, "set memory-limit=off"),
];
/// Samples that become one point of the picture.
/// A sample is 10 ms, so a point of a rate is the mean of a quarter of a second.
const POINT: usize = 25;

/// One sample of the time line.
#[derive(Clone, Copy, Debug)]
struct Moment {
    /// Seconds.
    at: f64,
    /// Requests ended since the one before, well or not.
    ended: f64,
    /// Of these, with NOSPC.
    no_space: f64,
    /// Requests that wait.
    parked: f64,
    /// Bytes used.
    used: f64,
    /// Bytes of zeros given back since the one before.
    zero: f64,
    /// What a write gets: 0 memory, 1 a wait, 2 NOSPC.
    mode: f64,
}

impl Moment {
    /// Requests that ended well since the one before.
    fn well(&self) -> f64 {
        self.ended - self.no_space
    }
}

/// A mode as a number that can be drawn.
fn mode(name: &str) -> f64 {
    match name {
        "enough" => 0.0,
        "exhausted" => 1.0,
        "error" => 2.0,
        _ => f64::NAN,
    }
}

/// The samples that the simulator has printed.
fn moments(said: &Said) -> Vec<Moment> {
    let samples = said.json["samples"].as_array();
    let samples = samples.map_or(&[][..], Vec::as_slice).iter();
    let number = |sample: &Value, name: &str| sample[name].as_f64().unwrap_or(f64::NAN);
    samples
        .map(|sample| Moment {
            at: number(sample, "t_ns") / 1e9,
            ended: number(sample, "ops"),
            no_space: number(sample, "no_space"),
            parked: number(sample, "parked"),
            used: number(sample, "used"),
            zero: number(sample, "zero"),
            mode: mode(sample["mode"].as_str().unwrap_or_default()),
        })
        .collect()
}

/// The time in seconds of the first sample from `from` on for which `is` is true; NaN if there is none.
fn first(moments: &[Moment], from: f64, is: impl Fn(&Moment) -> bool) -> f64 {
    let found = moments.iter().find(|m| m.at >= from && is(m));
    found.map_or(f64::NAN, |m| m.at)
}

/// When the state of the disk changed, in seconds from the first write; not a number for what did not happen.
struct Phases {
    /// The limit is reached, and pages of zeros are given back.
    zeros: f64,
    /// There are none left: writes wait.
    exhausted: f64,
    /// They have waited for as long as they may, and fail.
    failed: f64,
    /// A part of the disk is discarded.
    discarded: f64,
    /// Writes are accepted again.
    back: f64,
    /// That memory is used up, too.
    again: f64,
    /// The limit is taken away.
    raised: f64,
    /// Writes are accepted without a limit.
    up: f64,
}

impl Phases {
    /// Finds them. A disk accepts writes again when one ends well in a mode that is `usable`.
    fn of(moments: &[Moment], discarded: f64, raised: f64, usable: fn(f64) -> bool) -> Self {
        // The mode alone says only what the next write would get.
        let back = first(moments, discarded, |m| m.well() > 0.0 && usable(m.mode));
        Self {
            zeros: first(moments, 0.0, |m| m.zero > 0.0),
            exhausted: first(moments, 0.0, |m| m.mode == 1.0),
            failed: first(moments, 0.0, |m| m.no_space > 0.0),
            discarded,
            back,
            again: first(moments, back, |m| m.mode == 1.0),
            raised,
            up: first(moments, raised, |m| m.well() > 0.0 && m.mode == 0.0),
        }
    }

    /// Draws what happened when, as marks and as a table. Each point of a panel is made of `point` samples.
    fn draw(
        &self,
        draft: &mut Draft,
        id: &str,
        moments: &[Moment],
        point: usize,
        more: &[(f64, &str)],
    ) -> Result<(), StudyError> {
        let own = [
            (self.zeros, "limit reached: zeros given back"),
            (self.exhausted, "exhausted: writes wait"),
            (self.failed, "patience over: NOSPC"),
            (self.discarded, "8 MiB discarded"),
            (self.again, "full again: writes wait"),
            (self.raised, "limit taken away"),
        ];
        // What did not happen is not a number, and has no mark.
        let marks = own.iter().chain(more).filter(|mark| mark.0.is_finite());
        let mut marks: Vec<(f64, String)> = marks.map(|&(at, what)| (at, what.into())).collect();
        marks.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut table = Table::default();
        for (at, what) in &marks {
            table.row(format!("{at:.2}"), [what.clone()]);
        }
        // A line from the first write to the moment at which the limit is taken away.
        let limit = Series {
            name: "limit, MiB".into(),
            points: vec![(0.0, LIMIT / MIB), (self.raised, LIMIT / MIB)],
        };
        let states = ["memory", "a wait", "NOSPC"].map(str::to_owned);
        let plot = Plot::Stack {
            x: Axis::linear("time, s"),
            panels: panels(moments, point),
            levels: vec![(0, limit)],
            bands: vec![(2, states.into())],
            marks,
        };
        draft.figure(id, Drawn::Plot(plot), table)
    }
}

/// The panels of the picture: the label of the axis, and the name of the course.
const PANELS: [[&str; 2]; 6] = [
    ["memory used and allowed, MiB", "memory used, MiB"],
    ["zeros given back, MiB in all", "zeros given back, MiB"],
    ["a write gets", "mode"],
    ["requests that wait", "requests that wait"],
    [
        "writes ended well per second",
        "writes ended well per second",
    ],
    ["writes ended with NOSPC, in all", "NOSPC"],
];
/// Those that show the sum of all points so far.
/// Zeros and failed writes come in bursts, which a rate would show as a comb.
const SUMS: [usize; 2] = [1, 5];

/// What each panel shows of the samples of one point, which took this many seconds.
fn shown(some: &[Moment], seconds: f64) -> [f64; 6] {
    // Of a state (used, mode, parked) the last sample, of a count the sum.
    let last = some[some.len() - 1];
    let sum = |of: fn(&Moment) -> f64| some.iter().map(of).sum::<f64>();
    [
        last.used / MIB,
        sum(|m| m.zero) / MIB,
        last.mode,
        last.parked,
        sum(Moment::well) / seconds,
        sum(|m| m.no_space),
    ]
}

/// The courses of all panels. A point is made of this many samples.
fn panels(moments: &[Moment], point: usize) -> Vec<(Axis, Series)> {
    let empty = |[label, name]: [&str; 2]| {
        let name = name.to_owned();
        let points = Vec::new();
        (Axis::linear(label), Series { name, points })
    };
    let mut panels = PANELS.map(empty);
    let (mut before, mut sums) = (0.0, [0.0; 6]);
    for some in moments.chunks(point.max(1)) {
        let at = some[some.len() - 1].at;
        for (n, value) in shown(some, at - before).into_iter().enumerate() {
            sums[n] += value;
            let value = if SUMS.contains(&n) { sums[n] } else { value };
            panels[n].1.points.push((at, value));
        }
        before = at;
    }
    panels.into()
}

/// Runs the part in process: one run of the simulator, which a script of events disturbs. Fails if
/// the simulator does.
pub fn run(_settings: &Settings, file: &StudyFile) -> Result<Vec<Part>, StudyError> {
    let event = |(at, event): &(f64, &str)| format!(" --at '{}ms:{event}'", at * 1000.0);
    let script: String = EVENTS.iter().map(event).collect();
    let said = sim::run(&format!("{LOAD} --psi 'some 150000 1000000'{script}"))?;
    if let Some(error) = said.error {
        return Err(StudyError::Refused(format!("ublk-ramdisk sim: {error}")));
    }
    Ok(vec![part(file, &said, &moments(&said))?])
}

/// The longest stretch of samples from a time on, in which requests wait.
fn longest_wait(moments: &[Moment], from: f64, to: f64) -> f64 {
    let within = moments.iter().filter(|m| (from..to).contains(&m.at));
    let within: Vec<&Moment> = within.collect();
    // Stretches in which requests wait and stretches in which none does, in turn.
    let waits = within.chunk_by(|a, b| (a.parked > 0.0) == (b.parked > 0.0));
    let waits = waits.filter(|chunk| chunk[0].parked > 0.0);
    waits
        .map(|chunk| chunk[chunk.len() - 1].at - chunk[0].at)
        .fold(0.0, f64::max)
}

/// The part in virtual time.
fn part(file: &StudyFile, said: &Said, moments: &[Moment]) -> Result<Part, StudyError> {
    let mut draft = Draft::new(file, "virtual-time", Kind::Deterministic)?;
    let [discarded, psi, _, raised] = EVENTS.map(|e| e.0);
    let phases = Phases::of(moments, discarded, raised, |mode| mode != 2.0);
    let exhausted = phases.exhausted;
    let until = |to: f64, of: fn(&Moment) -> f64| moments.iter().filter(move |m| m.at < to).map(of);
    let most = |to: f64, of: fn(&Moment) -> f64| until(to, of).fold(0.0, f64::max);
    let sum = |to: f64, of: fn(&Moment) -> f64| until(to, of).fold(0.0, |sum, value| sum + value);
    let errors = said.json["errors"].as_object().into_iter().flatten();
    // NOSPC is what the study is about. Any other error would be a fault.
    let others = errors.filter(|(name, _)| *name != "NOSPC");
    let others = others.filter_map(|(_, n)| n.as_f64());
    let others = others.fold(0.0, |sum, n| sum + n);
    let most_used = most(raised, |m| m.used) / LIMIT;
    // The sample at which it is exhausted counts, hence the microsecond.
    let given = sum(exhausted + 1e-6, |m| m.zero) / MIB;
    // Waiting is allowed for 5 s (`--no-space-timeout 5`), less a margin for the age of the first write.
    let too_early = sum(exhausted + 4.9, |m| m.no_space);
    let used = moments.last().map_or(f64::NAN, |m| m.used) / LIMIT;
    for (name, value, unit) in [
        ("most memory used, of the limit", most_used, ""),
        ("first zeros given back", phases.zeros, "s"),
        ("zeros given back before it is exhausted", given, "MiB"),
        ("exhausted for the first time", exhausted, "s"),
        (
            "writes wait, from exhausted to the first NOSPC",
            phases.failed - exhausted,
            "s",
        ),
        ("most requests that wait", most(31.0, |m| m.parked), ""),
        (
            "writes ended with NOSPC while waiting was allowed",
            too_early,
            "",
        ),
        (
            "from NOSPC to accepted writes after the discard",
            phases.back - discarded,
            "s",
        ),
        ("requests that failed, but not with NOSPC", others, ""),
        (
            "PSI: longest wait",
            longest_wait(moments, psi, psi + 2.0),
            "s",
        ),
        ("refused by PSI", said.at("refused_by.psi"), ""),
        (
            "from the raised limit to accepted writes",
            phases.up - raised,
            "s",
        ),
        ("blocks that read back wrong", said.at("verify.failed"), ""),
        ("memory used at the end, of the limit", used, ""),
    ] {
        draft.measure(name, value, unit);
    }
    let psi = [(psi, "PSI: memory is short")];
    phases.draw(&mut draft, "filling", moments, POINT, &psi)?;
    Ok(draft.part())
}

/// When the script on the device discards, takes the limit away, and ends: seconds from the first write.
const DISCARD: u64 = 17;
const RAISED: u64 = 24;
const END: u64 = 28;
/// The time from one sample to the next on the device.
/// Each sample starts `ublk-ramdisk stats`, which takes CPU time from fio in a small guest.
const EVERY: Duration = Duration::from_millis(250);
/// Three parts of data and one of zeros, each on a part of the disk of its own, so that no write takes the place of
/// another. After ENOSPC fio goes on only if it is named: by itself it takes EIO and EILSEQ alone as not fatal.
const JOBS: &str =
    "--rw=write --bs=64k --iodepth=16 --continue_on_error=write --ignore_error=,ENOSPC --time_based --runtime=28 \
                    --name=data --size=24m --rate_iops=30 --refill_buffers \
                    --name=zeros --offset=24m --size=8m --rate_iops=10 --zero_buffers";

/// The part on the device.
pub const DEVICE: DevicePart = DevicePart {
    act: Some(act),
    read: Some(read),
};

/// Fills the disk with fio, and samples it by `stats`, in the guest.
fn act(guest: &Guest, _blocks: &[Block]) -> Result<(), StudyError> {
    guest.experiment("filling", || {
        let disk = guest.disk("--size 32M --memory-limit 16M --no-space-timeout 5")?;
        // Loading a program in a guest takes long enough to shift the discard.
        disk.ready_to_discard()?;
        let mut fio = Fio::start(&disk.path, JOBS)?;
        // Time counts from the first write: while fio is loaded, the guest's clock may leap by seconds.
        fio.until("its first write", || Ok(disk.writes_begun()? > 0))?;
        let began = Instant::now();
        let mut samples = Vec::new();
        let mut steps = Vec::new();
        let mut script = vec![(DISCARD, "discard"), (RAISED, "raise")]
            .into_iter()
            .peekable();
        while began.elapsed().as_secs() < END {
            if let Some((_, step)) =
                script.next_if(|step| began.elapsed() >= Duration::from_secs(step.0))
            {
                match step {
                    "discard" => disk.discard(0, 8 << 20)?,
                    _ => disk.set("--memory-limit off")?,
                }
                // The time at which it is done, because the phases count from there.
                steps.push(json!({ "t_ns": began.elapsed().as_nanos() as u64, "step": step }));
            }
            let at = began.elapsed();
            // The counters are sums; `steps` makes differences of them outside.
            samples.push(json!({ "t_ns": at.as_nanos() as u64, "stats": disk.stats()? }));
            thread::sleep(EVERY.saturating_sub(began.elapsed() - at));
        }
        let fio = fio.end()?;
        Ok(json!({ "fio": fio, "samples": samples, "steps": steps, "after": disk.stats()? }))
    })
}

/// The samples as steps from one to the next.
fn steps(samples: &[Value]) -> Vec<Moment> {
    let ended = |stats: &Value| -> f64 {
        let queues = stats["queues"].as_array().into_iter().flatten();
        queues
            .map(|q| q["write"]["requests"].as_f64().unwrap_or(0.0))
            .sum()
    };
    let space = |stats: &Value, name: &str| stats["space"][name].as_f64().unwrap_or(f64::NAN);
    // Writes that end for lack of memory: their time is over, or too many wait already.
    let no_space = |stats: &Value| space(stats, "no_space") + space(stats, "above_cap");
    let moments = samples.windows(2).map(|two| {
        let [old, new] = [&two[0]["stats"], &two[1]["stats"]];
        let failed = no_space(new) - no_space(old);
        Moment {
            at: two[1]["t_ns"].as_f64().unwrap_or(f64::NAN) / 1e9,
            // The server counts a request only when it ends well.
            ended: ended(new) - ended(old) + failed,
            no_space: failed,
            parked: space(new, "parked"),
            used: space(new, "used"),
            zero: space(new, "zero") - space(old, "zero"),
            mode: mode(new["space"]["mode"].as_str().unwrap_or_default()),
        }
    });
    moments.collect()
}

/// A time no shorter than what the samples can tell.
fn soon(seconds: f64) -> String {
    match seconds < EVERY.as_secs_f64() {
        true => format!("within a sample of {} s", show(EVERY.as_secs_f64())),
        false => format!("after {} s", show(seconds)),
    }
}

/// The part on the device, from what the guest has left.
fn read(raw: &Raw, file: &StudyFile, kind: Kind) -> Result<Part, StudyError> {
    let mut draft = Draft::new(file, "device", kind)?;
    let found = raw.get("filling")?;
    let samples = found.0["samples"].as_array();
    let moments = steps(samples.map_or(&[][..], Vec::as_slice));
    let step = |name: &str| {
        let steps = found.0["steps"].as_array().into_iter().flatten();
        let mut of_it = steps.filter(|step| step["step"] == name);
        let at = of_it.next().and_then(|step| step["t_ns"].as_f64());
        at.map_or(f64::NAN, |ns| ns / 1e9)
    };
    let [discarded, raised] = ["discard", "raise"].map(step);
    let phases = Phases::of(&moments, discarded, raised, |mode| mode == 0.0);
    let limited = moments.iter().filter(|m| m.at < raised);
    let most = limited.map(|m| m.used).fold(0.0, f64::max);
    let errors: f64 = found.jobs().iter().map(|job| job.errors()).sum();
    let given: f64 = moments.iter().map(|m| m.zero).sum::<f64>() / MIB;
    let no_space: f64 = moments.iter().map(|m| m.no_space).sum();
    let patience = phases.failed - phases.exhausted;
    let (freed, up) = (phases.back - discarded, phases.up - raised);
    for (name, value, unit) in [
        ("most memory used, of the limit", most / LIMIT, ""),
        ("first zeros given back", phases.zeros, "s"),
        ("exhausted for the first time", phases.exhausted, "s"),
        (
            "writes wait, from exhausted to the first NOSPC",
            patience,
            "s",
        ),
        ("from the discard to accepted writes", freed, "s"),
        ("from the raised limit to accepted writes", up, "s"),
        (
            "failed writes, fio's count over ours",
            errors / no_space,
            "",
        ),
        ("zeros given back", given, "MiB"),
    ] {
        draft.measure(format!("device: {name}"), value, unit);
    }
    phases.draw(&mut draft, "device-filling", &moments, 1, &[])?;
    draft.word("freed", &soon(freed));
    draft.word("up", &soon(up));
    Ok(draft.part())
}
