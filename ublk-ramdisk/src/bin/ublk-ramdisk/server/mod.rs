// SPDX-License-Identifier: MIT OR Apache-2.0
//! The serving process, from the checked config to its exit status, and its [`supervisor`].
//!
//! `commands/add.rs` hands in a config; the device itself lives in `ublk/device.rs`. The main
//! thread owns the device and does what the control socket asks of it; requests of the disk never
//! come through here.
//!
//! | thread | does |
//! |---|---|
//! | main | owns the device, carries out requests one after the other |
//! | `control` | reads the requests of all commands, passes on whole ones |
//! | `watch` | hears signals and the end of a queue thread |
//! | `log` | writes log lines; only a flush waits for it, for a second at most |
//! | `trace` | waits for the end of a recording, and sends it |
//!
//! Queue threads and workers belong to the device.

pub mod control_socket;
pub mod daemon;
mod observe;
pub mod process;
pub mod protocol;
pub mod run_dir;
pub mod signals;
pub mod supervisor;
mod watch;

pub use process::{page_size, survive_file_size_limit};

use std::fs;
use std::io;
use std::sync::mpsc::{self, Receiver};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use log::{error, info, warn};
use sd_notify::NotifyState;
use ublk_ramdisk::config::image::Image;
use ublk_ramdisk::config::set::{InForce, SetOptions};
use ublk_ramdisk::config::{fate_of_contents, DeviceConfig};
use ublk_ramdisk::error::{Exit, Failure};
use ublk_ramdisk::ramdisk::store::{Loss, PowerCut};
use ublk_ramdisk::stats::DeviceStats;
use ublk_ramdisk::sys::privilege::{self, Kind};
use ublk_ramdisk::sys::thread::set_io_flusher;
use ublk_ramdisk::ublk::abi::{DeviceInfo, DeviceState};
use ublk_ramdisk::ublk::ctrl::{block_path, char_path, Control};
use ublk_ramdisk::ublk::device::Device;
use ublk_ramdisk::ublk::device_ids;

use crate::commands::machine;
use crate::{logger, panics};
use control_socket::{ask_for_more, wait_for_end, Caller, Listener, REPLY_TIMEOUT};
use daemon::ReadyPipe;
use protocol::{LogTarget, Note, Reply, Request, Served, State, Word};
use run_dir::{DeviceLock, RunDir};
use signals::EndSignals;
use supervisor::ToSupervisor;
use watch::{Orders, Watched};

/// Descriptors that must be free when the disk is ready, for connections and their answers.
const SPARE_FILES: usize = 8;
/// How long a named id may still be held by a server that is just ending, or by a command that
/// looks at the lock.
const NAMED_ID_TIMEOUT: Duration = Duration::from_millis(500);
/// How long an id that the kernel has given out may still be locked: its former server is ending.
const FREE_ID_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a server that hands over its disk may take to end. Clients wait meanwhile.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(20);

/// What a server begins with.
pub enum Task {
    /// Makes a disk.
    Add(DeviceConfig),
    /// Takes up the disk that the state file is of, for which clients wait since then.
    Recover(State, Instant),
    /// The same, or makes it again with its contents if it was stopped.
    TakeUp(State),
    /// Asks the server of the disk to hand it over, then takes it up.
    TakeOver(State),
}

impl Task {
    /// The name of the disk.
    fn name(&self) -> Option<&str> {
        match self {
            Task::Add(config) => config.name.as_deref(),
            Task::Recover(state, _) | Task::TakeUp(state) | Task::TakeOver(state) => state.name(),
        }
    }
}

/// What every server begins with.
struct Start<'a> {
    signals: EndSignals,
    supervisor: ToSupervisor,
    run_dir: &'a RunDir,
    /// None in the foreground.
    log: Option<LogTarget>,
}

impl Start<'_> {
    fn tell(&self, note: Note) {
        let told = self.supervisor.tell(note);
        told.unwrap_or_else(|error| warn!("there is no supervisor: {error}"));
    }
}

/// The server's whole life, in a process of its own. Says through `ready`, if that is there, what became
/// of its task. `left` is what came of leaving the terminal.
pub fn run(
    left: io::Result<()>,
    log: Option<LogTarget>,
    task: Task,
    run_dir: &RunDir,
    supervisor: ToSupervisor,
    ready: Option<&ReadyPipe>,
) -> Exit {
    let (foreground, mut taken_over) = (log.is_none(), false);
    let service = supervisor.is_systemd();
    let prepared = left.and_then(|()| EndSignals::catch(foreground));
    let prepared = prepared
        .and_then(|signals| prepare().map(|()| signals))
        .map_err(daemon::not_started);
    let started = prepared.map(|signals| Start {
        signals,
        supervisor,
        run_dir,
        log,
    });
    let made = started.and_then(|start| match task {
        Task::Add(config) => Server::create(start, &config, false),
        Task::Recover(state, since) => Server::recover(start, state, since),
        Task::TakeUp(state) => Server::take_up(start, state),
        Task::TakeOver(state) => {
            let (state, since) = take_over(&start, state)?;
            taken_over = true;
            Server::recover(start, state, since)
        }
    });
    let say = |word: Word| match (ready, &word) {
        (Some(ready), word) => ready.say(word),
        (None, Word::Ready(_)) if service => {
            let told = sd_notify::notify(&[NotifyState::Ready]);
            told.unwrap_or_else(|error| warn!("systemd is not told: {error}"));
            Ok(())
        }
        (None, _) => Ok(()),
    };
    if made.is_ok() {
        privilege::confine(Kind::Main);
    }
    match made {
        Ok(server) => match say(Word::Ready(server.front.state.served.clone())) {
            Ok(()) => server.serve(),
            Err(error) => {
                error!("nobody waits for the disk any more: {error}");
                server.close();
                Exit::Failure
            }
        },
        Err(failure) => {
            // In the foreground the command says it.
            if !foreground || ready.is_none() {
                error!("{failure}");
            }
            let exit = failure.exit;
            let _ = say(match taken_over {
                false => Word::Failed(failure),
                true => Word::TriesAgain(failure),
            });
            exit
        }
    }
}

/// Makes the process one that can do block I/O for others: what must be done before any thread but that
/// of the log exists.
fn prepare() -> io::Result<()> {
    // Before the thread of the log and before any ring is made (J1). Failures are reported
    // further down, once there is a log.
    let flusher = set_io_flusher();
    let spared = process::spare_from_oom();
    // After that: the files of such a process in /proc are root's.
    let no_core = process::forbid_core_dumps();
    logger::start_thread()?;
    panics::end_the_process();
    if let Err(error) = flusher {
        warn!("PR_SET_IO_FLUSHER: {error}; the disk may hang when memory runs out");
    }
    if let Err(error) = spared {
        warn!("oom_score_adj: {error}; the server may be killed when memory runs out");
    }
    if let Err(error) = no_core {
        warn!("PR_SET_DUMPABLE: {error}; a core file would hold the disk's contents");
    }
    Ok(())
}

/// What wakes the main thread.
enum Event {
    /// A command asks for something.
    Asked(Caller, Request),
    /// The device has died.
    Died,
    /// A signal asks for another server.
    HandsOver,
}

/// What a server shows of itself: lock, socket, state file, and who watches for its end.
struct Front {
    /// Held until the disk is gone.
    lock: DeviceLock,
    /// From the `control` and `watch` threads.
    events: Receiver<Event>,
    orders: Arc<Orders>,
    /// As in the state file.
    state: State,
}

impl Front {
    /// Takes what is shown of the device, in this order: lock, socket, threads, state file. So who
    /// reads the state file finds a server that listens.
    ///
    /// # Errors
    /// Status 4 if another server has the id, 3 if the run directory cannot be used.
    fn open(
        start: Start<'_>,
        device: &Device,
        lock: DeviceLock,
        config: &DeviceConfig,
        former: Option<State>,
    ) -> Result<Front, Failure> {
        let (id, is_known) = (device.id(), former.is_some());
        let service = start.supervisor.is_systemd();
        let failed = |error: io::Error| Failure::runtime(format!("server of device {id}: {error}"));
        let socket = lock.fresh_socket();
        let listener = Listener::bind(&socket).map_err(|error| {
            Failure::environment(format!("cannot listen at {}: {error}", socket.display()))
        })?;
        let (sender, events) = mpsc::channel();
        let watched = Watched {
            id,
            signals: start.signals,
            death: device.death_fd().try_clone_to_owned().map_err(failed)?,
            supervisor: start.supervisor,
            hands_over: start.log.is_some() && device.can_be_recovered(),
        };
        let orders = Orders::follow(watched, device.progress(), {
            let sender = sender.clone();
            // The main loop may have ended.
            move |event| drop(sender.send(event))
        });
        let orders = orders.map_err(failed)?;
        let asked = move |caller, request| sender.send(Event::Asked(caller, request)).is_ok();
        listener.start(asked).map_err(failed)?;
        // Who stops the disk opens two connections, others may have some: without descriptors for them
        // the disk could not be stopped (F23).
        let spare = (0..SPARE_FILES).map(|_| device.death_fd().try_clone_to_owned());
        drop(spare.collect::<io::Result<Vec<_>>>().map_err(failed)?);
        let served = Served {
            id,
            path: block_path(id),
            char_path: char_path(id),
            size: device.size(),
            data_path: device.data_path(),
            queues: device.info().nr_hw_queues,
            depth: device.info().queue_depth,
            backing: config.backing().to_string(),
            outlives_server: config.backing().outlives_server(),
            pid: std::process::id(),
        };
        let state = State {
            served,
            version: State::VERSION,
            config: Some(config.clone()),
            restarts: former.as_ref().map_or(0, |former| former.restarts),
            last_end: former.as_ref().and_then(|former| former.last_end.clone()),
            waited_ms: former.and_then(|former| former.waited_ms),
            waits_since: None,
            since: is_known.then(now),
            off: device.is_off(),
            log: start.log,
            service,
            program: env!("CARGO_PKG_VERSION").to_owned(),
        };
        match lock.write_state(&state) {
            // The former server's says what a new one needs.
            Err(failure) if is_known => warn!("{failure}"),
            other => other?,
        }
        let served = &state.served;
        info!(
            "serving {}: {} bytes, {} queues of depth {}, data path {}, backing {}, which {}",
            served.path,
            served.size,
            served.queues,
            served.depth,
            served.data_path,
            served.backing,
            fate_of_contents(served.outlives_server)
        );
        Ok(Front {
            lock,
            events,
            orders,
            state,
        })
    }
}

/// The time, as it is shown.
pub fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

/// A live disk and everything that speaks for it.
struct Server {
    device: Device,
    front: Front,
    /// Another server takes up the disk.
    handed_over: bool,
}

impl Server {
    /// Makes the device, perhaps again. After a failure the supervisor deletes what was added.
    fn create(start: Start<'_>, config: &DeviceConfig, again: bool) -> Result<Server, Failure> {
        let run_dir = start.run_dir;
        let config = &config_beside_kept(config, &run_dir.kept(), again)?;
        let config = &run_dir.with_rules(config);
        // An id that was asked for is locked before ADD_DEV. One that the driver chooses is known
        // only afterwards: `Front::open` locks it.
        let named = match config.id {
            Some(id) => Some(run_dir.lock(id, NAMED_ID_TIMEOUT)?),
            None => None,
        };
        let name = config.name.as_deref();
        let device = Device::create(config, again, |id| {
            start.tell(Note::Added(id));
            process::set_title("ublk-ramdisk", id, name);
            // Before udev hears of the disk.
            run_dir.begin(id, name)
        })?;
        let lock = match named {
            Some(lock) => lock,
            None => run_dir.lock(device.id(), FREE_ID_TIMEOUT)?,
        };
        let recoverable = device.can_be_recovered();
        // The supervisor hears of it before any signal, and can take its own lock: a command that clears
        // that away needs the server's first.
        start.tell(Note::Serving { recoverable });
        let front = Front::open(start, &device, lock, config, None)?;
        // Not sooner: until here a failure removes a backing file that this server has made.
        device.keep_backing();
        Ok(Server::new(device, front))
    }

    /// Takes up a disk, or makes it again.
    fn take_up(start: Start<'_>, state: State) -> Result<Server, Failure> {
        let (id, config) = (state.served.id, state.usable_config()?);
        let Some(size) = size_of_stopped(&state, config)? else {
            return Server::recover(start, state, Instant::now());
        };
        let config = DeviceConfig {
            id: Some(id),
            size,
            ..config.clone()
        };
        Server::create(start, &config, true)
    }

    /// Takes up the disk of a server that has died.
    fn recover(start: Start<'_>, state: State, since: Instant) -> Result<Server, Failure> {
        let id = state.served.id;
        let lock = start.run_dir.lock(id, FREE_ID_TIMEOUT)?;
        let config = start.run_dir.with_rules(state.usable_config()?);
        process::set_title("ublk-ramdisk", id, state.name());
        let device = Device::recover(id, &config)?;
        let waited = since.elapsed();
        info!("clients of {} waited for {waited:?}", state.served.path);
        let state = State {
            waited_ms: Some(waited.as_millis() as u64),
            ..state
        };
        let recoverable = true;
        start.tell(Note::Serving { recoverable });
        let front = Front::open(start, &device, lock, &config, Some(state))?;
        Ok(Server::new(device, front))
    }

    fn new(device: Device, front: Front) -> Server {
        Server {
            device,
            front,
            handed_over: false,
        }
    }

    /// Serves until a command or a fault ends it; the answer is the exit status.
    fn serve(mut self) -> Exit {
        while !self.handed_over {
            // Ends if both threads are gone.
            let event = self.front.events.recv().unwrap_or(Event::Died);
            match event {
                // Before the request: a command that has asked when the device dies sees its
                // connection end.
                _ if self.front.orders.died() => break,
                Event::Died => break,
                Event::HandsOver => self.handed_over = true,
                Event::Asked(caller, request) => self.handle(caller, request),
            }
        }
        let path = self.front.state.served.path.clone();
        let why = self.device.death_error();
        let exit = match &why {
            // So that systemd starts the next.
            None if self.handed_over && self.front.state.service => Exit::Failure,
            None => self.front.orders.end_of_stopped(),
            Some(_) => Exit::Failure,
        };
        if exit != Exit::Done && !self.handed_over {
            error!(
                "{path} is no longer served: {}; the disk is taken away",
                why.as_deref().unwrap_or("it was stopped from outside")
            );
        }
        let fate = if self.handed_over {
            "handed over"
        } else {
            "gone"
        };
        self.close();
        info!("{path} is {fate}, the server ends");
        exit
    }

    /// Lets go of everything. The connections of those that have stopped the disk end with the
    /// process.
    fn close(self) {
        let Server { device, front, .. } = self;
        drop(device);
        drop(front.lock);
    }

    /// Carries out one request on the main thread; only traces go on elsewhere.
    fn handle(&mut self, caller: Caller, request: Request) {
        let result = match request {
            Request::Stats => Ok(Reply::Stats(Box::new(DeviceStats {
                restarts: self.front.state.restarts,
                since: self.front.state.since.clone(),
                ..self.device.stats()
            }))),
            Request::Set(options) => self.set(&options).map(|set| Reply::InForce(Box::new(set))),
            Request::Release { name } => self.device.release(&name).map(|()| Reply::Done),
            Request::Resize { bytes } => self.resize(bytes).map(|()| Reply::Done),
            Request::Reset => self.reset().map(|()| Reply::Done),
            Request::PowerCut(cut) => self.power_cut(&cut).map(Reply::Lost),
            Request::PowerOn => self.power_on().map(|()| Reply::Done),
            Request::Stop => {
                caller.answer(&Reply::Done);
                return self.front.orders.add_stopper(caller);
            }
            Request::HandOver if self.front.state.log.is_none() && !self.front.state.service => {
                Err(Failure::in_use(format!(
                    "device {} is served in the foreground: its terminal decides how long",
                    self.device.id()
                )))
            }
            Request::HandOver if !self.device.can_be_recovered() => Err(Failure::runtime(format!(
                "device {} goes with its server, which cannot hand it over: see `ublk-ramdisk add \
                 --help`, --backing",
                self.device.id()
            ))),
            Request::HandOver => {
                caller.answer(&Reply::Done);
                self.front.orders.add_stopper(caller);
                // Ends the loop. The caller waits for the end of the process.
                self.handed_over = true;
                return;
            }
            Request::LetGo => {
                self.device.let_go();
                self.front.orders.let_go();
                Ok(Reply::Done)
            }
            Request::Trace { .. } | Request::Debugfs { .. } | Request::WriteState { .. } => {
                let (served, lock) = (&self.front.state.served, &self.front.lock);
                return observe::answer(caller, request, served, lock, &self.device);
            }
        };
        caller.answer(&result.unwrap_or_else(Reply::Failed));
    }

    /// Without options it only says what is in force, and logs nothing. What is to be in force is written
    /// first: a server that takes up the disk has it, too.
    fn set(&mut self, options: &SetOptions) -> Result<InForce, Failure> {
        let front = &mut self.front;
        let changes = *options != SetOptions::default();
        let before = front.state.config.clone();
        if changes {
            front.state.config = Some(self.device.config_after(options)?);
            front.lock.write_state(&front.state)?;
        }
        let in_force = self.device.set(options).inspect_err(|_| {
            front.state.config = before;
            let _ = front.lock.write_state(&front.state);
        })?;
        if changes {
            info!("{}: in force: {in_force}", front.state.served.path);
        }
        Ok(in_force)
    }

    fn reset(&self) -> Result<(), Failure> {
        self.device.reset()?;
        self.device.trace_memory();
        info!("{}: reset", self.front.state.served.path);
        Ok(())
    }

    fn power_cut(&mut self, cut: &PowerCut) -> Result<Loss, Failure> {
        let lost = self.device.power_cut(cut);
        self.show_power();
        let lost = lost?;
        let path = &self.front.state.served.path;
        info!(
            "{path}: power cut, {} of {} unflushed pages lost",
            lost.lost, lost.unflushed
        );
        Ok(lost)
    }

    fn power_on(&mut self) -> Result<(), Failure> {
        self.device.power_on()?;
        info!("{}: power on", self.front.state.served.path);
        self.show_power();
        Ok(())
    }

    /// For `list`. What a new server does with the disk is in its undo area.
    fn show_power(&mut self) {
        self.front.state.off = self.device.is_off();
        if let Err(failure) = self.front.lock.write_state(&self.front.state) {
            warn!("{failure}");
        }
    }

    fn resize(&mut self, bytes: u64) -> Result<(), Failure> {
        self.device.resize(bytes)?;
        self.device.trace_memory();
        let served = &mut self.front.state.served;
        info!("{}: {} bytes, before {}", served.path, bytes, served.size);
        served.size = self.device.size();
        self.front.lock.write_state(&self.front.state)
    }
}

/// Has the server of a disk hand it over. Returns what is in force then, and since when clients wait. A
/// failure changes nothing.
fn take_over(start: &Start<'_>, state: State) -> Result<(State, Instant), Failure> {
    let (id, run_dir) = (state.served.id, start.run_dir);
    // Without its image, the driver, or io_uring, the disk stays where it is.
    let base = state.usable_config()?.base.as_ref();
    base.map(Image::open).transpose()?;
    drop(Control::open()?);
    let answer = ask_for_more(&run_dir.socket(id), Request::HandOver, REPLY_TIMEOUT);
    let (_, end) =
        answer.unwrap_or_else(|| Err(Failure::runtime(format!("device {id} has no server"))))?;
    let since = Instant::now();
    start.tell(Note::TakenOver);
    wait_for_end(end, HAND_OVER_TIMEOUT);
    if run_dir.has_server(id) {
        warn!("the former server of device {id} does not end, it is killed");
        machine::kill_server(run_dir, id);
    }
    Ok((run_dir.state(id).unwrap_or(state), since))
}

/// The config of a new device whose id is none of those whose contents are kept.
fn config_beside_kept(
    config: &DeviceConfig,
    kept: &[u32],
    again: bool,
) -> Result<DeviceConfig, Failure> {
    let id = match config.id {
        Some(id) if !again && kept.contains(&id) => {
            return Err(Failure::in_use(format!(
                "the contents of an earlier device {id} are kept: `ublk-ramdisk recover {id}` makes it \
                 again, `ublk-ramdisk del {id}` removes them"
            )))
        }
        // The driver would choose the first that is free.
        None if !kept.is_empty() => {
            let taken = [device_ids(), kept.to_vec()].concat();
            (0..).find(|id| !taken.contains(id))
        }
        id => id,
    };
    Ok(DeviceConfig {
        id,
        ..config.clone()
    })
}

/// None for a device that waits for a server. One that was stopped has the size that the driver knows;
/// one that is gone, that of its file.
fn size_of_stopped(state: &State, config: &DeviceConfig) -> Result<Option<u64>, Failure> {
    let (id, mut control) = (state.served.id, Control::open()?);
    let found = control.device_info(id);
    let is_other = |info: &DeviceInfo| !state.served.is_remains_of(info);
    if found.as_ref().is_ok_and(is_other) {
        return Err(Failure::runtime(format!(
            "device {id} is another program's by now, or is served: it is not taken up"
        )));
    }
    match found.map(|info| info.device_state()) {
        Ok(DeviceState::Quiesced) => Ok(None),
        Ok(DeviceState::Dead) => Ok(Some(control.params(id)?.size().unwrap_or(config.size))),
        Ok(state) => Err(Failure::runtime(format!(
            "device {id} is {state}: it cannot be taken up"
        ))),
        Err(error) if error.errno() == Some(libc::ENODEV) => {
            let file = config.backing().file(id).map(fs::metadata);
            let file = file.and_then(Result::ok);
            Ok(Some(file.map_or(config.size, |found| found.len())))
        }
        Err(error) => Err(error.into()),
    }
}
