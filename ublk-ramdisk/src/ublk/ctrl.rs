// SPDX-License-Identifier: MIT OR Apache-2.0
//! Control commands: what is said to the driver about a device as a whole.
//!
//! A [`Control`] owns one small ring on `/dev/ublk-control` and sends one
//! command at a time. It is used by the command line and by a device's life
//! ([`super::device`]), never by a queue thread (F21).
//!
//! The commands are raw SQEs and not calls of libublk 0.4.8's `UblkCtrl`: that refuses feature
//! bits it has no name for, has no `TRY_STOP_DEV`, deletes the device when dropped, and needs
//! libclang to build. `bench/libublk/tests/libublk.rs` fails when a newer version changes this.

use std::fs::OpenOptions;
use std::io;
use std::mem::{size_of, size_of_val};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use io_uring::register::Restriction;
use io_uring::{cqueue, opcode, squeue, types, IoUring};

use super::abi::{self, CtrlCmd, DeviceInfo, Params};
use super::features::Features;
use crate::error::Failure;

/// The node through which devices are made.
pub const CONTROL_NODE: &str = "/dev/ublk-control";

/// How often it is looked whether a deleted device's id is free.
const DELETE_POLL: Duration = Duration::from_millis(2);

/// Why a control command was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum CtrlError {
    /// There is no driver.
    #[error(
        "{CONTROL_NODE} does not exist: load the driver with `modprobe ublk_drv` \
         (kernel option CONFIG_BLK_DEV_UBLK)"
    )]
    NoDriver,
    /// The node cannot be opened.
    #[error("cannot open {CONTROL_NODE}: {0}; run as root or let a udev rule give access to it")]
    Open(io::Error),
    /// The process may not use io_uring at all.
    #[error(
        "io_uring cannot be used: {0}; check `sysctl kernel.io_uring_disabled` (must be 0, or 1 \
         with privilege) and the seccomp filter of the container"
    )]
    NoRing(io::Error),
    /// The ring could not be made or entered for another reason.
    #[error("control ring: {0}")]
    Ring(io::Error),
    /// The driver refused the command.
    #[error("{command} for device {id}: {}", errno_text(*errno))]
    Refused {
        /// Kernel name of the command.
        command: &'static str,
        /// Device it was for.
        id: i64,
        /// Positive errno.
        errno: i32,
    },
}

impl CtrlError {
    /// The driver's errno, if it was the driver that refused.
    pub fn errno(&self) -> Option<i32> {
        match self {
            CtrlError::Refused { errno, .. } => Some(*errno),
            _ => None,
        }
    }
}

fn errno_text(errno: i32) -> String {
    io::Error::from_raw_os_error(errno).to_string()
}

impl From<CtrlError> for Failure {
    fn from(error: CtrlError) -> Self {
        let CtrlError::Refused { command, id, errno } = &error else {
            return match &error {
                // The other variants mean that the machine lacks something: status 3 (L1).
                CtrlError::Ring(_) => Failure::runtime(error.to_string()),
                _ => Failure::environment(error.to_string()),
            };
        };
        let device = match id {
            // ADD_DEV left the choice of the id to the driver.
            -1 => "a new device".to_owned(),
            id => format!("device {id}"),
        };
        match (*command, *errno) {
            ("ADD_DEV", libc::EEXIST) => Failure::in_use(format!(
                "device id {id} is in use: choose another --id, or leave it out"
            )),
            ("ADD_DEV", libc::EINVAL) => Failure::runtime(
                "the driver takes no device with these --queues, --depth and --io-buffer: leave \
                 them out",
            ),
            ("START_DEV", libc::EEXIST) => {
                Failure::in_use(format!("{device} is already started"))
            }
            // Stands before the general line on EACCES: of ADD_DEV it means the limit, not the
            // privilege.
            ("ADD_DEV", libc::EACCES) => Failure::environment(
                "the limit of unprivileged ublk devices is reached: raise \
                 /sys/module/ublk_drv/parameters/ublks_max or delete one",
            ),
            (_, libc::EPERM | libc::EACCES) => Failure::environment(format!(
                "{command} is not permitted: it needs CAP_SYS_ADMIN, run as root"
            )),
            (_, libc::EOPNOTSUPP) => Failure::environment(format!(
                "{command} is not supported by this kernel's ublk driver: see `ublk-ramdisk features`"
            )),
            ("TRY_STOP_DEV", libc::EBUSY) => Failure::in_use(format!(
                "{device} is in use: close /dev/ublkb{id} first, or use --force"
            )),
            (_, libc::ENODEV | libc::ENOENT) => Failure::runtime(format!(
                "there is no ublk device {id}: see `ublk-ramdisk list`"
            )),
            (_, libc::EINVAL) => Failure::runtime(format!(
                "the driver does not carry out {command} for {device} in its present state: see \
                 `ublk-ramdisk list {id}`"
            )),
            (_, libc::ENOMEM) => {
                Failure::environment(format!("{command} for {device}: the kernel is out of memory"))
            }
            _ => Failure::runtime(error.to_string()),
        }
    }
}

/// Access to `/dev/ublk-control`: each method sends one control command of the driver's, and returns
/// when the driver has carried it out or refused it.
pub struct Control {
    ring: CtrlRing,
    /// /dev/ublk-control.
    node: OwnedFd,
    /// The capabilities of the thread that has made the ring: a server gives its own away.
    personality: u16,
    /// A command that was not sent still stands in the ring.
    /// Its buffer may be gone by now, so the ring is not used any more.
    stale: bool,
}

/// Its SQEs have 128 bytes: one of 64 has room for 16 bytes of a command, and this driver's have 32.
type CtrlRing = IoUring<squeue::Entry128, cqueue::Entry>;

/// Makes the ring, which can do nothing but commands of drivers, and the number of this thread's
/// credentials in it.
fn new_ring() -> Result<(CtrlRing, u16), CtrlError> {
    let ring = CtrlRing::builder().setup_r_disabled().build(2);
    let ring = ring.map_err(|e| match e.raw_os_error() {
        Some(libc::EPERM | libc::EACCES | libc::ENOSYS) => CtrlError::NoRing(e),
        _ => CtrlError::Ring(e),
    })?;
    let submitter = ring.submitter();
    let mut commands = [Restriction::sqe_op(opcode::UringCmd80::CODE)];
    let personality = submitter.register_personality().and_then(|personality| {
        submitter.register_restrictions(&mut commands)?;
        submitter.register_enable_rings().map(|()| personality)
    });
    let personality = personality.map_err(CtrlError::Ring)?;
    Ok((ring, personality))
}

impl Control {
    /// Opens the control node and makes the ring (F6: 128-byte SQEs).
    ///
    /// # Errors
    /// There is no driver, the node may not be opened, or io_uring may not be used.
    pub fn open() -> Result<Self, CtrlError> {
        let node = OpenOptions::new()
            .read(true)
            .write(true)
            .open(CONTROL_NODE)
            .map_err(|e| match e.raw_os_error() {
                Some(libc::ENOENT | libc::ENXIO | libc::ENODEV) => CtrlError::NoDriver,
                _ => CtrlError::Open(e),
            })?;
        let (ring, personality) = new_ring()?;
        Ok(Self {
            ring,
            node: node.into(),
            personality,
            stale: false,
        })
    }

    /// What the running driver offers. A driver from before `GET_FEATURES`
    /// offers nothing that this server needs.
    ///
    /// # Errors
    /// EOPNOTSUPP from a driver of before 6.5 (F7).
    pub fn features(&mut self) -> Result<Features, CtrlError> {
        let mut word = 0u64;
        let command = CtrlCmd {
            addr: &raw mut word as u64,
            // Any other length than these 8 bytes is refused with EINVAL.
            len: size_of_val(&word) as u16,
            queue_id: u16::MAX,
            ..CtrlCmd::default()
        };
        self.send("GET_FEATURES", abi::CMD_GET_FEATURES, command)?;
        Ok(Features(word))
    }

    /// Adds a device. `info` is what is asked for, and afterwards what the driver granted (A2, F8).
    /// Id `u32::MAX` lets the driver choose.
    ///
    /// # Errors
    /// EEXIST: the id is taken. EINVAL: a count, an id or a set of flags that the driver does not
    /// take.
    pub fn add(&mut self, info: &mut DeviceInfo) -> Result<(), CtrlError> {
        let command = with_buffer(info.dev_id, &raw mut *info as u64, size_of::<DeviceInfo>());
        self.send("ADD_DEV", abi::CMD_ADD_DEV, command)
    }

    /// Sets all parameters; refused once the device is started.
    ///
    /// # Errors
    /// EACCES once the device is started. EINVAL: the driver forgets all parameters, also earlier
    /// ones.
    pub fn set_params(&mut self, id: u32, params: &mut Params) -> Result<(), CtrlError> {
        params.len = size_of::<Params>() as u32;
        let command = with_buffer(id, &raw mut *params as u64, size_of::<Params>());
        self.send("SET_PARAMS", abi::CMD_SET_PARAMS, command)
    }

    /// The parameters in force.
    pub fn params(&mut self, id: u32) -> Result<Params, CtrlError> {
        let mut params = Params {
            len: size_of::<Params>() as u32,
            ..Params::default()
        };
        let command = with_buffer(id, &raw mut params as u64, size_of::<Params>());
        self.send("GET_PARAMS", abi::CMD_GET_PARAMS, command)?;
        Ok(params)
    }

    /// What the driver knows of device `id`. Asks by node path first, which
    /// also works for a device of another user (F8, table).
    pub fn device_info(&mut self, id: u32) -> Result<DeviceInfo, CtrlError> {
        match self.device_info_by_path(id) {
            // ENOENT: /dev/ublkcN is not there, the device may be.
            Err(error) if matches!(error.errno(), Some(libc::EOPNOTSUPP | libc::ENOENT)) => {}
            other => return other,
        }
        let mut info = DeviceInfo::default();
        let command = with_buffer(id, &raw mut info as u64, size_of::<DeviceInfo>());
        self.send("GET_DEV_INFO", abi::CMD_GET_DEV_INFO, command)?;
        Ok(info)
    }

    /// GET_DEV_INFO2: the buffer holds the path of the node with its NUL, and behind it room for the
    /// answer, at any alignment.
    fn device_info_by_path(&mut self, id: u32) -> Result<DeviceInfo, CtrlError> {
        let path = format!("/dev/ublkc{id}\0");
        let mut buffer = vec![0u8; path.len() + size_of::<DeviceInfo>()];
        buffer[..path.len()].copy_from_slice(path.as_bytes());
        let mut command = with_buffer(id, buffer.as_mut_ptr() as u64, buffer.len());
        command.dev_path_len = path.len() as u16;
        self.send("GET_DEV_INFO2", abi::CMD_GET_DEV_INFO2, command)?;
        // SAFETY: the buffer holds a whole DeviceInfo behind the path, any bit
        // pattern is one, and the read does not ask for alignment.
        Ok(unsafe {
            buffer
                .as_ptr()
                .add(path.len())
                .cast::<DeviceInfo>()
                .read_unaligned()
        })
    }

    /// The CPUs whose requests arrive on `queue`.
    /// In ascending order.
    pub fn queue_affinity(&mut self, id: u32, queue: u16) -> Result<Vec<usize>, CtrlError> {
        // Room for 8192 CPUs: a buffer that is smaller than the kernel's CPU mask is refused with
        // EINVAL.
        let mut mask = [0u64; 128];
        let mut command = with_buffer(id, mask.as_mut_ptr() as u64, size_of_val(&mask));
        command.data = u64::from(queue);
        self.send("GET_QUEUE_AFFINITY", abi::CMD_GET_QUEUE_AFFINITY, command)?;
        let set = |cpu: &usize| mask[cpu / 64] >> (cpu % 64) & 1 == 1;
        Ok((0..mask.len() * 64).filter(set).collect())
    }

    /// Makes the disk appear. Returns when every tag of every queue has been fetched, so the queue
    /// threads must be running, and none of them may call this (F3). `pid` is the process that
    /// opened /dev/ublkcN.
    ///
    /// # Errors
    /// EINVAL: no basic parameters, or a wrong `pid` (7.2 checks it, 6.12 does not). EEXIST:
    /// started already.
    pub fn start(&mut self, id: u32, pid: u32) -> Result<(), CtrlError> {
        self.send(
            "START_DEV",
            abi::CMD_START_DEV,
            with_data(id, u64::from(pid)),
        )
    }

    /// Has the driver get ready for a new server (I8).
    ///
    /// # Errors
    /// EBUSY: the former server has not let go of /dev/ublkcN, or the device is not QUIESCED yet.
    pub fn start_recovery(&mut self, id: u32) -> Result<(), CtrlError> {
        let (name, op) = ("START_USER_RECOVERY", abi::CMD_START_USER_RECOVERY);
        self.send(name, op, with_data(id, 0))
    }

    /// Gives the disk to the new server, process `pid`. Returns when every tag of every queue has been
    /// fetched, as [`Control::start`].
    pub fn end_recovery(&mut self, id: u32, pid: u32) -> Result<(), CtrlError> {
        let (name, op) = ("END_USER_RECOVERY", abi::CMD_END_USER_RECOVERY);
        self.send(name, op, with_data(id, u64::from(pid)))
    }

    /// Takes the disk away (STOP_DEV): returns when its dirty data has gone through the server, and all
    /// requests have ended (F4).
    pub fn stop(&mut self, id: u32) -> Result<(), CtrlError> {
        self.send("STOP_DEV", abi::CMD_STOP_DEV, with_data(id, 0))
    }

    /// As [`Control::stop`], but EBUSY while somebody has the disk open.
    /// Needs [`Features::SAFE_STOP_DEV`].
    /// ENODEV if there is no disk.
    pub fn try_stop(&mut self, id: u32) -> Result<(), CtrlError> {
        self.send("TRY_STOP_DEV", abi::CMD_TRY_STOP_DEV, with_data(id, 0))
    }

    /// Frees the id (DEL_DEV); waits until nobody has /dev/ublkcN open, and so the id is free.
    ///
    /// # Errors
    /// EINTR: the deletion goes on by itself.
    pub fn delete(&mut self, id: u32) -> Result<(), CtrlError> {
        self.send("DEL_DEV", abi::CMD_DEL_DEV, with_data(id, 0))
    }

    /// Frees the id without waiting for the last user of /dev/ublkcN (F5).
    pub fn delete_async(&mut self, id: u32) -> Result<(), CtrlError> {
        self.send("DEL_DEV_ASYNC", abi::CMD_DEL_DEV_ASYNC, with_data(id, 0))
    }

    /// Frees the id, and waits for `patience` at most until it is free: a user
    /// that keeps a stopped disk open keeps the id too. True means it is free.
    pub fn delete_within(&mut self, id: u32, patience: Duration) -> Result<bool, CtrlError> {
        match self.delete_async(id) {
            // An older driver: only the command that waits without a limit is left.
            Err(error) if error.errno() == Some(libc::EOPNOTSUPP) => {
                return self.delete(id).map(|()| true)
            }
            other => other?,
        }
        // The driver tells nobody that an id is free. An unknown id is the sign.
        let deadline = Instant::now() + patience;
        loop {
            match self.device_info(id) {
                Err(error) if error.errno() == Some(libc::ENODEV) => return Ok(true),
                _ if Instant::now() >= deadline => return Ok(false),
                _ => std::thread::sleep(DELETE_POLL),
            }
        }
    }

    /// Tells the driver the new size, in sectors of 512 bytes. The driver
    /// checks nothing: the device must be LIVE (H8).
    /// On another state it crashes kernels of before 7.0-rc4.
    pub fn update_size(&mut self, id: u32, sectors: u64) -> Result<(), CtrlError> {
        self.send("UPDATE_SIZE", abi::CMD_UPDATE_SIZE, with_data(id, sectors))
    }

    /// Sends one command and waits until the driver has carried it out or refused it.
    ///
    /// Never returns while the driver may still use the buffer: a command that was sent is waited for,
    /// also past signals and errors of the ring.
    fn send(&mut self, name: &'static str, op: u32, command: CtrlCmd) -> Result<(), CtrlError> {
        if self.stale {
            return Err(CtrlError::Ring(io::Error::other("it has failed before")));
        }
        let mut bytes = [0u8; 80];
        // SAFETY: CtrlCmd is plain data of 32 bytes without padding.
        let raw: [u8; size_of::<CtrlCmd>()] = unsafe { std::mem::transmute(command) };
        bytes[..raw.len()].copy_from_slice(&raw);
        let entry = opcode::UringCmd80::new(types::Fd(self.node.as_raw_fd()), op)
            .cmd(bytes)
            .build()
            .personality(self.personality);
        // SAFETY: the buffer that `command.addr` names outlives this call, and
        // this call does not return before the command has completed, or it was
        // not sent, and then the ring is not used again.
        unsafe { self.ring.submission().push(&entry) }
            .expect("the ring is empty between two commands");
        let look_again = types::Timespec::new().sec(1);
        let wait = types::SubmitArgs::new().timespec(&look_again);
        loop {
            match self.ring.submitter().submit_with_args(1, &wait) {
                Ok(_) => {}
                // A signal, or nothing for a second: a wake-up that is missed costs no more. The command
                // may be under way, and its buffer in use: wait on.
                Err(e) if matches!(e.raw_os_error(), Some(libc::EINTR | libc::ETIME)) => {}
                Err(e) if !self.ring.submission().is_empty() => {
                    self.stale = true;
                    return Err(CtrlError::Ring(e));
                }
                // The driver has the command and may still write to its buffer.
                Err(_) => {}
            }
            if let Some(answer) = self.ring.completion().next() {
                let id = match command.dev_id {
                    u32::MAX => -1,
                    id => i64::from(id),
                };
                return match answer.result() {
                    0.. => Ok(()),
                    result => Err(CtrlError::Refused {
                        command: name,
                        id,
                        errno: -result,
                    }),
                };
            }
        }
    }
}

/// A command about the whole device `id`, with a buffer that the driver reads or fills.
fn with_buffer(id: u32, addr: u64, len: usize) -> CtrlCmd {
    CtrlCmd {
        dev_id: id,
        queue_id: u16::MAX,
        addr,
        len: len as u16,
        ..CtrlCmd::default()
    }
}

/// A command about the whole device `id`, with one number.
fn with_data(id: u32, data: u64) -> CtrlCmd {
    CtrlCmd {
        dev_id: id,
        queue_id: u16::MAX,
        data,
        ..CtrlCmd::default()
    }
}

/// The character device of `id`.
pub fn char_path(id: u32) -> String {
    format!("/dev/ublkc{id}")
}

/// The disk of `id`.
pub fn block_path(id: u32) -> String {
    format!("/dev/ublkb{id}")
}

/// True if there is a driver.
pub fn driver_present() -> bool {
    Path::new(CONTROL_NODE).exists()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Exit;

    #[test]
    fn l1_what_the_driver_refuses_is_a_line_that_says_what_to_do() {
        for (command, id, errno, exit, part) in [
            (
                "GET_DEV_INFO2",
                3,
                libc::ENOENT,
                Exit::Failure,
                "there is no ublk device 3",
            ),
            (
                "DEL_DEV",
                3,
                libc::ENODEV,
                Exit::Failure,
                "there is no ublk device 3",
            ),
            (
                "UPDATE_SIZE",
                3,
                libc::EINVAL,
                Exit::Failure,
                "`ublk-ramdisk list 3`",
            ),
            (
                "ADD_DEV",
                -1,
                libc::EINVAL,
                Exit::Failure,
                "--queues, --depth",
            ),
            (
                "ADD_DEV",
                -1,
                libc::ENOMEM,
                Exit::Environment,
                "a new device",
            ),
            (
                "ADD_DEV",
                3,
                libc::EEXIST,
                Exit::InUse,
                "device id 3 is in use",
            ),
            (
                "STOP_DEV",
                3,
                libc::EPERM,
                Exit::Environment,
                "CAP_SYS_ADMIN",
            ),
        ] {
            let failure = Failure::from(CtrlError::Refused { command, id, errno });
            assert_eq!(failure.exit, exit, "{failure}");
            assert!(failure.message.contains(part), "{failure}");
            assert!(!failure.message.contains("os error"), "{failure}");
        }
    }
}
