// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is said between a server and the commands: the ready word, the control socket's requests
//! and replies, and the state file.
//!
//! Every message is one line of JSON. Both ends are the same program, though perhaps not the same
//! build: a message that cannot be read is answered as a failure, never ignored.

use std::io;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use ublk_ramdisk::config::set::{InForce, SetOptions};
use ublk_ramdisk::config::{DataPath, DeviceConfig};
use ublk_ramdisk::error::Failure;
use ublk_ramdisk::mq::debugfs::DebugfsFile;
use ublk_ramdisk::ramdisk::store::{Loss, PowerCut};
use ublk_ramdisk::stats::DeviceStats;
use ublk_ramdisk::trace::Format;
use ublk_ramdisk::ublk::abi::{DeviceInfo, DeviceState};

/// A device as its server sees it; also the contents of the state file and what `add --json`
/// prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    /// The N of /dev/ublkbN.
    pub id: u32,
    /// The disk.
    pub path: String,
    /// The node the server holds.
    pub char_path: String,
    /// Size in bytes.
    pub size: u64,
    /// The data path in use, never "auto".
    pub data_path: DataPath,
    /// Hardware queues the kernel granted.
    pub queues: u16,
    /// Tags per queue.
    pub depth: u16,
    /// Where the contents live, as typed.
    pub backing: String,
    /// The contents are still there when the server has died.
    #[serde(default)]
    pub outlives_server: bool,
    /// The server.
    pub pid: u32,
}

impl Served {
    /// Is this, without a server, about the device that the driver describes, rather than about an
    /// earlier one of the same id? The driver forgets who has served a device that waits for a server:
    /// then its shape has to tell.
    pub fn is_remains_of(&self, info: &DeviceInfo) -> bool {
        info.device_state() != DeviceState::Live
            && (info.ublksrv_pid <= 0 || u32::try_from(info.ublksrv_pid) == Ok(self.pid))
            && (info.nr_hw_queues, info.queue_depth) == (self.queues, self.depth)
    }
}

/// `--log`: where a server in the background logs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogTarget {
    /// The datagram socket at /dev/log.
    Syslog,
    /// A file, appended to.
    File(PathBuf),
}

impl FromStr for LogTarget {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<LogTarget, &'static str> {
        match text {
            "" => Err("expected syslog or the path of a file"),
            "syslog" => Ok(LogTarget::Syslog),
            path => Ok(LogTarget::File(path.into())),
        }
    }
}

impl LogTarget {
    /// The same, wherever the working directory will be.
    pub fn absolute(self) -> io::Result<LogTarget> {
        match self {
            LogTarget::File(path) => std::path::absolute(&path).map(LogTarget::File),
            LogTarget::Syslog => Ok(LogTarget::Syslog),
        }
    }
}

/// The state file: the device, and what a new server needs to know that the driver does not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The device.
    #[serde(flatten)]
    pub served: Served,
    /// [`State::VERSION`] of the program that wrote it.
    #[serde(default)]
    pub version: u32,
    /// As it is in force.
    #[serde(default)]
    pub config: Option<DeviceConfig>,
    /// Servers that have taken it up after the death of another.
    #[serde(default)]
    pub restarts: u32,
    /// How the last of those that died ended.
    #[serde(default)]
    pub last_end: Option<String>,
    /// How long clients waited because of it, in milliseconds.
    #[serde(default)]
    pub waited_ms: Option<u64>,
    /// When the last server died, while clients wait for the next.
    #[serde(default)]
    pub waits_since: Option<String>,
    /// When the server took up the disk, if another one has served it before.
    #[serde(default)]
    pub since: Option<String>,
    /// The disk is without power (H16).
    #[serde(default)]
    pub off: bool,
    /// Where the server logs, if it is in the background.
    #[serde(default)]
    pub log: Option<LogTarget>,
    /// systemd is its supervisor.
    #[serde(default)]
    pub service: bool,
    /// Version of the program that serves.
    #[serde(default)]
    pub program: String,
}

impl State {
    /// The disk's name.
    pub fn name(&self) -> Option<&str> {
        self.config.as_ref()?.name.as_deref()
    }

    /// Raised when a config may say what an earlier program does not know.
    pub const VERSION: u32 = 6;
    /// The first of those that are read as this one is: the one of before had no rules.
    const FIRST: u32 = 3;

    /// What a new server begins with.
    ///
    /// # Errors
    /// A newer program wrote it.
    pub fn usable_config(&self) -> Result<&DeviceConfig, Failure> {
        match &self.config {
            Some(config) if (State::FIRST..=State::VERSION).contains(&self.version) => Ok(config),
            _ => Err(Failure::runtime(format!(
                "the state file of device {} is of version {}, and this program knows {} to {}: use \
                 the one that made it",
                self.served.id,
                self.version,
                State::FIRST,
                State::VERSION
            ))),
        }
    }
}

/// What a new server tells the `add` that waits for it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Word {
    /// The disk can be used.
    Ready(Served),
    /// There is no disk, and nothing was left behind.
    Failed(Failure),
    /// The disk waits. Its supervisor starts another server.
    TriesAgain(Failure),
}

impl Request {
    /// False if it does more when it is carried out twice: a rule without a name would be there twice, and
    /// a disk that is off refuses another power cut.
    pub fn may_be_repeated(&self) -> bool {
        match self {
            Request::Set(options) => !options.pressure.adds_unnamed(),
            request => !matches!(request, Request::PowerCut(_)),
        }
    }
}

/// What a command wants from a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum Request {
    /// The counters.
    Stats,
    /// Changes what the options name, if any. The reply says what is in force then.
    Set(Box<SetOptions>),
    /// The requests go on that a rule holds.
    Release {
        /// Name of the rule.
        name: String,
    },
    /// Records what happens to requests, for `millis`. `Done` comes when the recording begins. The
    /// trace follows when it ends, and the connection ends with it. A client that goes away before
    /// ends the recording, and nothing is kept.
    Trace {
        /// How long, in milliseconds.
        millis: u32,
        /// Events that each thread keeps.
        records: u32,
        /// As what it comes.
        format: Format,
    },
    /// The state of the queues.
    Debugfs {
        /// Into files in the run directory, not into the answer.
        files: bool,
    },
    /// Does by hand what the block layer does by itself.
    WriteState {
        /// What is done.
        verb: StateVerb,
    },
    /// Changes the size of the disk while it is used (H8).
    Resize {
        /// New size in bytes.
        bytes: u64,
    },
    /// Takes the contents back to the image, or to zeros (H19).
    Reset,
    /// Takes the power of the disk away (H15).
    PowerCut(PowerCut),
    /// Gives it back. Nobody has the disk open.
    PowerOn,
    /// The caller is going to stop the disk (STOP_DEV). For as long as the connection is open it has
    /// the id and the state file, too. The connection ends when the server does.
    Stop,
    /// The caller is a new server of the disk: this one ends, and with it the connection. Clients of the
    /// disk wait meanwhile.
    HandOver,
    /// Lets go of all requests that are held back. The disk is going to be stopped in any case: the
    /// server ends if it does not get rid of its requests.
    LetGo,
}

/// What a server tells its supervisor, as one packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Note {
    /// The driver has the device of this id.
    Added(u32),
    /// The disk can be used.
    Serving {
        /// Can another server take it up if this one dies?
        recoverable: bool,
    },
    /// The former server has handed over the disk.
    TakenOver,
    /// The server was sent a signal to end, and ends: another server is wanted.
    HandsOver,
    /// The server was sent a signal to end: the disk is not wanted any more.
    Terminate,
}

/// What can be done to a disk's queues by hand, as the kernel's file `state` takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StateVerb {
    /// Run all hardware queues.
    Run,
    /// Start those that were stopped.
    Start,
    /// Work off the requeue list.
    Kick,
}

/// A reply of the server.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// It was done.
    Done,
    /// The counters.
    Stats(Box<DeviceStats>),
    /// What `Set` changes, as it is in force.
    InForce(Box<InForce>),
    /// What a power cut took away.
    Lost(Loss),
    /// The state of the queues.
    Debugfs(Vec<DebugfsFile>),
    /// The directory with what was asked for.
    Written(String),
    /// It was not done.
    Failed(Failure),
}

#[cfg(test)]
mod tests {
    use super::*;
    use ublk_ramdisk::config::space::{MemoryOptions, Reclaim};
    use ublk_ramdisk::pressure::PressureOptions;
    use ublk_ramdisk::ramdisk::store::Keep;
    use ublk_ramdisk::units::OrOff;

    #[test]
    fn a_failure_crosses_the_ready_pipe() {
        let word = Word::Failed(Failure::in_use("device id 3 is in use"));
        let line = serde_json::to_string(&word).expect("a line");
        assert!(!line.contains('\n'));
        match serde_json::from_str(&line) {
            Ok(Word::Failed(failure)) => assert_eq!(failure.message, "device id 3 is in use"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn i16_a_state_file_of_an_earlier_program_is_read_and_one_of_a_later_is_not() {
        let text = |version| {
            format!(
                r#"{{"id":3,"path":"","char_path":"","size":4096,"data_path":"batch","queues":1,"depth":9,
                "backing":"private","pid":7,"version":{version},"config":{{"size":4096,"depth":9,
                "backing":{{"private":"/x"}},"pressure":{{"slots":4}}}}}}"#
            )
        };
        let state = |version| serde_json::from_str::<State>(&text(version)).expect("a state");
        let first = state(State::FIRST);
        let config = first.usable_config().expect("known");
        assert_eq!((config.depth, config.pressure.slots), (9, Some(4)));
        assert_eq!(
            config.recovery_timeout,
            DeviceConfig::default().recovery_timeout
        );
        for version in [0, State::FIRST - 1, State::VERSION + 1] {
            let refused = state(version)
                .usable_config()
                .expect_err("not known")
                .message;
            assert!(
                refused.contains(&format!("version {version},")),
                "{refused}"
            );
        }
    }

    #[test]
    fn a_state_file_of_an_earlier_device_is_told_from_that_of_this_one() {
        let of = |pid, queues| Served {
            id: 0,
            path: String::new(),
            char_path: String::new(),
            size: 4096,
            data_path: DataPath::Batch,
            queues,
            depth: 128,
            backing: String::new(),
            outlives_server: true,
            pid,
        };
        let mut info = DeviceInfo::default();
        (info.ublksrv_pid, info.nr_hw_queues, info.queue_depth) = (7, 1, 128);
        assert!(of(7, 1).is_remains_of(&info));
        assert!(!of(8, 1).is_remains_of(&info));
        info.ublksrv_pid = -1;
        assert!(of(8, 1).is_remains_of(&info));
        assert!(!of(8, 2).is_remains_of(&info), "of another shape");
        info.state = 1;
        assert!(!of(8, 1).is_remains_of(&info), "it is served");
    }

    #[test]
    fn requests_read_back() {
        for request in [
            Request::Stats,
            Request::Set(Box::new(SetOptions {
                pressure: PressureOptions {
                    slots: Some(OrOff::To(4)),
                    mbps: Some(OrOff::Off),
                    inject: vec!["delay=5us".parse().expect("a fault")],
                    rule: vec!["slow: read 10%: delay 5ms".parse().expect("a rule")],
                    drop_rules: vec!["stall".to_owned()],
                    ..PressureOptions::default()
                },
                memory: MemoryOptions {
                    memory_limit: Some(OrOff::To(1 << 30)),
                    no_space_timeout: Some(OrOff::Off),
                    reclaim: Some(Reclaim::Off),
                    ..MemoryOptions::default()
                },
                latency_sample: Some(64),
            })),
            Request::Release {
                name: "stall".to_owned(),
            },
            Request::Trace {
                millis: 2000,
                records: 64,
                format: Format::Text,
            },
            Request::Debugfs { files: false },
            Request::WriteState {
                verb: StateVerb::Kick,
            },
            Request::Resize { bytes: 1 << 40 },
            Request::Reset,
            Request::PowerCut(PowerCut {
                keep: Keep::Random,
                seed: 7,
                piece: 512,
            }),
            Request::PowerOn,
            Request::Stop,
            Request::HandOver,
            Request::LetGo,
        ] {
            let line = serde_json::to_string(&request).expect("a line");
            assert_eq!(serde_json::from_str::<Request>(&line).ok(), Some(request));
        }
    }

    #[test]
    fn e29_a_rule_without_a_name_is_not_sent_to_a_second_server() {
        let set = |rule: &str| {
            let mut options = SetOptions::default();
            options.pressure.rule = vec![rule.parse().expect("a rule")];
            Request::Set(Box::new(options))
        };
        assert!(!set("read: hang").may_be_repeated());
        assert!(set("stall: read: hang").may_be_repeated());
        assert!(Request::Stats.may_be_repeated());
    }
}
