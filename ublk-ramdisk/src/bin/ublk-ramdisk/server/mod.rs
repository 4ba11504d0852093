// SPDX-License-Identifier: MIT OR Apache-2.0
//! The serving process, from the checked config to its exit status.
//!
//! `commands/add.rs` hands in a config; the device itself lives in `ublk/device.rs`. The main
//! thread owns the device and does what the control socket and the [`watch`] thread ask of it;
//! requests of the disk never come through here.
//!
//! | thread | does |
//! |---|---|
//! | main | owns the device, carries out requests and orders one after the other |
//! | `control` | reads the requests of all commands, passes on whole ones |
//! | `watch` | turns signals and the end of a queue thread into orders |
//! | `log` | writes log lines; only a flush waits for it, for a second at most |
//! | `trace` | waits for the end of a recording, and sends it |
//!
//! Queue threads and workers belong to the device.

pub mod control_socket;
pub mod daemon;
mod observe;
mod process;
pub mod protocol;
pub mod run_dir;
pub mod signals;
mod watch;

pub use process::{page_size, survive_file_size_limit};

use std::io;
use std::sync::mpsc::{self, Receiver};
use std::sync::Arc;
use std::time::Duration;

use log::{error, info, warn};
use ublk_ramdisk::config::set::{InForce, SetOptions};
use ublk_ramdisk::config::{fate_of_contents, DeviceConfig};
use ublk_ramdisk::error::{Exit, Failure};
use ublk_ramdisk::sys::thread::set_io_flusher;
use ublk_ramdisk::ublk::ctrl::{block_path, char_path};
use ublk_ramdisk::ublk::device::Device;
use ublk_ramdisk::ublk::openers::past_brief_use;

use crate::logger::{self, Sink};
use crate::panics;
use control_socket::{Caller, Listener};
use protocol::{Reply, Request, Served};
use run_dir::{DeviceLock, RunDir};
use signals::EndSignals;
use watch::Orders;

/// How long a named id may still be held by a server that is just ending, or by a command that
/// looks at the lock.
const NAMED_ID_TIMEOUT: Duration = Duration::from_millis(500);
/// How long an id that the kernel has given out may still be locked: its former server is ending.
const FREE_ID_TIMEOUT: Duration = Duration::from_secs(5);
/// After a signal, how often the users of the disk are looked for.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// A process that is ready to serve: signals caught, log open, safe to do block I/O for others.
pub struct Prepared {
    signals: EndSignals,
}

impl Prepared {
    /// Does what must be done before any thread exists, then opens the log.
    pub fn new(sink: Sink) -> io::Result<Prepared> {
        // Before the thread of the log and before any ring is made (J1). Failures are reported
        // further down, once there is a log.
        let flusher = set_io_flusher();
        let spared = process::spare_from_oom();
        // After that: the files of such a process in /proc are root's.
        let no_core = process::forbid_core_dumps();
        // A log on standard error means a server in the foreground: SIGHUP ends it.
        let signals = EndSignals::catch(matches!(sink, Sink::Stderr))?;
        logger::start(sink)?;
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
        Ok(Prepared { signals })
    }

    /// Makes the device. A failure leaves nothing behind.
    pub fn create(self, config: &DeviceConfig, run_dir: &RunDir) -> Result<Server, Failure> {
        // An id that was asked for is locked before ADD_DEV. One that the driver chooses is known
        // only afterwards: `Front::open` locks it.
        let named = match config.id {
            Some(id) => Some(run_dir.lock(id, NAMED_ID_TIMEOUT)?),
            None => None,
        };
        let device = Device::create(config)?;
        match Front::open(self, &device, named, config, run_dir) {
            Ok(front) => {
                // Not sooner: until here a failure removes a backing file that this server has made.
                device.keep_backing();
                Ok(Server { device, front })
            }
            Err(failure) => {
                if let Err(second) = device.delete() {
                    error!("cleaning up: {second}");
                }
                Err(failure)
            }
        }
    }
}

/// What wakes the main thread.
enum Event {
    /// A command asks for something.
    Asked(Caller, Request),
    /// There is a new order.
    Ordered,
}

/// What a server shows of itself: lock, socket, state file, and who watches for its end.
struct Front {
    /// Held until the disk is gone; goes before the caller of `del` gets its reply.
    lock: DeviceLock,
    /// From the `control` and `watch` threads.
    events: Receiver<Event>,
    orders: Arc<Orders>,
    /// As in the state file. Only a resize changes it.
    served: Served,
    /// The users of the disk have been named once after the first signal.
    told_waiting: bool,
}

impl Front {
    /// Takes what is shown of the device, in this order: lock, socket, threads, state file. So who
    /// reads the state file finds a server that listens.
    ///
    /// # Errors
    /// Status 4 if another server has the id, 3 if the run directory cannot be used.
    fn open(
        prepared: Prepared,
        device: &Device,
        named: Option<DeviceLock>,
        config: &DeviceConfig,
        run_dir: &RunDir,
    ) -> Result<Front, Failure> {
        let id = device.id();
        let mut lock = match named {
            Some(lock) => lock,
            None => run_dir.lock(id, FREE_ID_TIMEOUT)?,
        };
        let failed = |error: io::Error| Failure::runtime(format!("server of device {id}: {error}"));
        let socket = lock.fresh_socket();
        let listener = Listener::bind(&socket).map_err(|error| {
            Failure::environment(format!("cannot listen at {}: {error}", socket.display()))
        })?;
        let (sender, events) = mpsc::channel();
        let death = device.death_fd().try_clone_to_owned().map_err(failed)?;
        let orders = Orders::follow(prepared.signals, death, {
            let sender = sender.clone();
            move || sender.send(Event::Ordered).is_ok()
        });
        let orders = orders.map_err(failed)?;
        let asked = move |caller, request| sender.send(Event::Asked(caller, request)).is_ok();
        listener.start(asked).map_err(failed)?;
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
        lock.write_state(&served)?;
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
            served,
            told_waiting: false,
        })
    }
}

/// A live disk and everything that speaks for it.
pub struct Server {
    device: Device,
    front: Front,
}

/// What one round of the main loop came to.
enum Step {
    Serve,
    End(Ending),
}

/// How the server ends, once the disk is stopped or given up.
struct Ending {
    /// Free the id, or else leave the device in state DEAD.
    delete: bool,
    exit: Exit,
    /// The command that asked for the end, if one did.
    caller: Option<Caller>,
}

impl Ending {
    fn delete(exit: Exit) -> Step {
        Step::End(Ending {
            delete: true,
            exit,
            caller: None,
        })
    }
}

impl Server {
    /// The device as shown to users.
    pub fn served(&self) -> &Served {
        &self.front.served
    }

    /// Deletes the disk again, because the command that asked for it is gone.
    pub fn abandon(self) -> Exit {
        self.end(Ending {
            delete: true,
            exit: Exit::Failure,
            caller: None,
        })
    }

    /// Serves until a signal, a command or a fault ends it; the answer is the exit status.
    pub fn serve(mut self) -> Exit {
        loop {
            if let Step::End(ending) = self.step() {
                return self.end(ending);
            }
        }
    }

    /// Waits for one event and handles it. The orders of the `watch` thread come before it: a command
    /// that has asked when the device dies sees its connection end.
    fn step(&mut self) -> Step {
        // After the first signal the disk is tried again, so the wait has a limit.
        let event = match self.front.orders.terminate() {
            true => self.front.events.recv_timeout(LOOK_AGAIN).ok(),
            // Fails if both senders are gone: what they have left is an order.
            false => self.front.events.recv().ok(),
        };
        let orders = &self.front.orders;
        if orders.died() {
            let why = self.device.death_error();
            error!(
                "{} is no longer served: {}; the disk is taken away",
                self.front.served.path,
                why.as_deref().unwrap_or("it was stopped from outside")
            );
            return Ending::delete(Exit::Failure);
        }
        if orders.force() {
            warn!(
                "second signal: stopping {} by force",
                self.front.served.path
            );
            return Ending::delete(Exit::Failure);
        }
        if orders.terminate() {
            if let Some(step) = self.stop_when_unused() {
                return step;
            }
        }
        match event {
            Some(Event::Asked(caller, request)) => self.handle(caller, request),
            Some(Event::Ordered) | None => Step::Serve,
        }
    }

    /// After the first signal: stops the disk once it is not in use. None means that it still is.
    ///
    /// A failure to stop ends the server, too: its end takes the disk away.
    fn stop_when_unused(&mut self) -> Option<Step> {
        match self.device.stop(false) {
            Ok(()) => Some(Ending::delete(Exit::Done)),
            Err(failure) if failure.exit == Exit::InUse => {
                if !self.front.told_waiting {
                    warn!("{failure} (or a second signal); waiting");
                    self.front.told_waiting = true;
                }
                None
            }
            Err(failure) => {
                error!("{failure}");
                Some(Ending::delete(Exit::Failure))
            }
        }
    }

    /// Carries out one request on the main thread; only traces go on elsewhere.
    fn handle(&mut self, caller: Caller, request: Request) -> Step {
        let result = match request {
            Request::Stats => Ok(Reply::Stats(Box::new(self.device.stats()))),
            Request::Set(options) => self.set(&options).map(|set| Reply::InForce(Box::new(set))),
            Request::Resize { bytes, force } => self.resize(bytes, force).map(|()| Reply::Done),
            Request::Stop { force } | Request::Delete { force } => {
                match past_brief_use(|| self.device.stop(force)) {
                    Ok(()) => {
                        return Step::End(Ending {
                            delete: matches!(request, Request::Delete { .. }),
                            exit: Exit::Done,
                            caller: Some(caller),
                        })
                    }
                    Err(failure) => Err(failure),
                }
            }
            Request::Trace { .. } | Request::Debugfs { .. } | Request::WriteState { .. } => {
                let (served, lock) = (&self.front.served, &self.front.lock);
                observe::answer(caller, request, served, lock, &self.device);
                return Step::Serve;
            }
        };
        caller.answer(&result.unwrap_or_else(Reply::Failed));
        Step::Serve
    }

    /// Without options it only says what is in force, and logs nothing.
    fn set(&mut self, options: &SetOptions) -> Result<InForce, Failure> {
        let in_force = self.device.set(options)?;
        if *options != SetOptions::default() {
            info!("{}: in force: {in_force}", self.front.served.path);
        }
        Ok(in_force)
    }

    fn resize(&mut self, bytes: u64, force: bool) -> Result<(), Failure> {
        past_brief_use(|| self.device.resize(bytes, force))?;
        let served = &mut self.front.served;
        info!("{}: {} bytes, before {}", served.path, bytes, served.size);
        served.size = self.device.size();
        self.front.lock.write_state(&self.front.served)
    }

    /// Ends everything in this order: disk, id, files, answer.
    fn end(self, ending: Ending) -> Exit {
        let Server { device, front } = self;
        let Front {
            mut lock, served, ..
        } = front;
        let result = if ending.delete {
            device.delete()
        } else {
            lock.keep_state();
            device.leave_stopped()
        };
        // Before the reply: the caller may add the same id at once.
        drop(lock);
        let (reply, exit) = match result {
            Ok(()) => (Reply::Done, ending.exit),
            Err(failure) => {
                error!("{failure}");
                (Reply::Failed(failure), Exit::Failure)
            }
        };
        info!("{} is gone, the server ends", served.path);
        // Before the reply, too: the process may be gone as soon as the caller has it.
        logger::flush();
        if let Some(caller) = ending.caller {
            caller.answer(&reply);
            // Left open: the caller takes the end of the connection as the end of this process.
            std::mem::forget(caller);
        }
        exit
    }
}
