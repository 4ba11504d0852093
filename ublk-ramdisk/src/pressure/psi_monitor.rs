// SPDX-License-Identifier: MIT OR Apache-2.0
//! E3, E12: listens to the kernel's pressure stall information with a trigger of its own.
//!
//! A trigger is a line written to a pressure file. The descriptor then becomes ready (POLLPRI) each
//! time that tasks have stalled for the given time within a window, at most once a window. Pressure
//! is on from the first event until a whole window and a little more has passed without another. One
//! thread listens, which is none of the disk's I/O threads. Kernel counterpart:
//! Documentation/accounting/psi.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::str::FromStr;
use std::thread::JoinHandle;
use std::time::Duration;

use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use serde::{Deserialize, Serialize};

use crate::sys::{event, memory};
use crate::units;

/// The windows that the kernel takes, in microseconds.
const WINDOW: std::ops::RangeInclusive<u64> = 500_000..=10_000_000;

/// Whose memory pressure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PsiScope {
    /// The whole machine's: /proc/pressure/memory.
    Host,
    /// Of the control group (v2) that the server is in: its memory.pressure.
    Cgroup,
}

/// When memory counts as short. Written `[host:|cgroup:]some|full STALL WINDOW`, times in
/// microseconds, the kernel's own form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PsiTrigger {
    /// Whose pressure.
    pub scope: PsiScope,
    /// True: all tasks stalled at once. False: some did.
    pub full: bool,
    /// Time stalled within a window, in microseconds.
    pub stall_us: u64,
    /// The window, in microseconds.
    pub window_us: u64,
}

const FORM: &str = "expected [host:|cgroup:]some|full STALL WINDOW, microseconds, WINDOW from \
                    500000 to 10000000 and STALL from 1 to WINDOW, such as \"some 150000 1000000\"";

impl FromStr for PsiTrigger {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (scope, line) = match text.split_once(':') {
            None => (PsiScope::Host, text),
            Some(("host", line)) => (PsiScope::Host, line),
            Some(("cgroup", line)) => (PsiScope::Cgroup, line),
            Some(_) => return Err(FORM.to_owned()),
        };
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let &[kind, stall, window] = &words[..] else {
            return Err(FORM.to_owned());
        };
        let number = |text| units::number(0, u64::MAX)(text).map_err(|_| FORM);
        let trigger = Self {
            scope,
            full: match kind {
                "some" => false,
                "full" => true,
                _ => return Err(FORM.to_owned()),
            },
            stall_us: number(stall)?,
            window_us: number(window)?,
        };
        if !WINDOW.contains(&trigger.window_us)
            || !(1..=trigger.window_us).contains(&trigger.stall_us)
        {
            return Err(FORM.to_owned());
        }
        Ok(trigger)
    }
}

impl fmt::Display for PsiTrigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scope = match self.scope {
            PsiScope::Host => "",
            PsiScope::Cgroup => "cgroup:",
        };
        write!(f, "{scope}{}", self.line())
    }
}

impl PsiTrigger {
    /// The line for the kernel.
    fn line(&self) -> String {
        let kind = if self.full { "full" } else { "some" };
        format!("{kind} {} {}", self.stall_us, self.window_us)
    }

    /// The pressure file. Fails if the server is in no control group of version 2.
    fn path(&self) -> io::Result<PathBuf> {
        match self.scope {
            PsiScope::Host => Ok("/proc/pressure/memory".into()),
            PsiScope::Cgroup => memory::cgroup_pressure(),
        }
    }
}

/// Why PSI cannot be listened to.
#[derive(Debug, thiserror::Error)]
#[error("pressure of {scope} cannot be listened to: {source}{hint}")]
pub struct PsiError {
    scope: &'static str,
    source: io::Error,
    hint: &'static str,
}

impl PsiError {
    fn new(trigger: &PsiTrigger, source: io::Error) -> Self {
        let hint = match source.raw_os_error() {
            Some(libc::ENOENT) => " (this kernel has no PSI: CONFIG_PSI)",
            Some(libc::EOPNOTSUPP) => " (PSI is switched off: boot with psi=1)",
            Some(libc::EINVAL | libc::EPERM) => {
                " (without CAP_SYS_RESOURCE the window has to be a multiple of 2000000)"
            }
            _ => "",
        };
        Self {
            scope: match trigger.scope {
                PsiScope::Host => "the machine",
                PsiScope::Cgroup => "the control group",
            },
            source,
            hint,
        }
    }
}

/// Called with true when pressure begins, and with false when it ends.
pub(super) type Tell = Box<dyn FnMut(bool) + Send>;

/// The thread that listens. Dropped, it ends without another call of [`Tell`].
pub(super) struct Monitor {
    end: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

impl Monitor {
    /// Sets the trigger and starts the thread. The kernel keeps the trigger as long as the file is open.
    pub(super) fn start(trigger: &PsiTrigger, tell: Tell) -> Result<Self, PsiError> {
        let failed = |error| PsiError::new(trigger, error);
        let path = trigger.path().map_err(failed)?;
        let mut file = File::options()
            .read(true)
            .write(true)
            .open(path)
            .map_err(failed)?;
        // The kernel wants the whole line in one write, with its terminating NUL.
        file.write_all(format!("{}\0", trigger.line()).as_bytes())
            .map_err(failed)?;
        let end = event::eventfd().map_err(failed)?;
        let ended = end.try_clone().map_err(failed)?;
        // The kernel looks ten times in each window, without privilege every two seconds, and tells at
        // most once a window. Under steady pressure the next event comes a little after a window.
        let window = Duration::from_micros(trigger.window_us);
        let window = match trigger.window_us % 2_000_000 {
            0 => window + Duration::from_secs(2),
            _ => window + window / 5,
        };
        let thread = std::thread::Builder::new()
            .name("psi".to_owned())
            .spawn(move || listen(&file, &ended, window, tell))
            .map_err(failed)?;
        Ok(Self {
            end,
            thread: Some(thread),
        })
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        event::signal(self.end.as_fd());
        if let Some(thread) = self.thread.take() {
            // A panic has been reported by its hook.
            let _ = thread.join();
        }
    }
}

/// The thread: polls the file until `end` is signaled. Pressure counts as over when no event has come
/// for as long as `window`.
fn listen(file: &File, end: &OwnedFd, window: Duration, mut tell: Tell) {
    let quiet = PollTimeout::try_from(window).unwrap_or(PollTimeout::MAX);
    let mut pressed = false;
    loop {
        let mut fds = [
            PollFd::new(file.as_fd(), PollFlags::POLLPRI),
            PollFd::new(end.as_fd(), PollFlags::POLLIN),
        ];
        let timeout = if pressed { quiet } else { PollTimeout::NONE };
        let ready = match poll(&mut fds, timeout) {
            Err(nix::errno::Errno::EINTR) => continue,
            Err(error) => {
                log::warn!("--psi: poll: {error}; this source of BUSY is off");
                return tell(false);
            }
            Ok(ready) => ready,
        };
        let happened = |n: usize| fds[n].revents().unwrap_or(PollFlags::empty());
        if !happened(1).is_empty() {
            return;
        }
        if happened(0).contains(PollFlags::POLLERR) {
            log::warn!("--psi: its control group is gone; this source of BUSY is off");
            return tell(false);
        }
        let on = ready > 0 && happened(0).contains(PollFlags::POLLPRI);
        if on != pressed {
            pressed = on;
            tell(on);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn l1_triggers_are_read_as_the_kernel_writes_them() {
        for (text, shown) in [
            ("some 150000 1000000", "some 150000 1000000"),
            ("host:full 1 500000", "full 1 500000"),
            (
                "cgroup:some 10000000 10000000",
                "cgroup:some 10000000 10000000",
            ),
        ] {
            let trigger: PsiTrigger = text.parse().expect(text);
            assert_eq!(trigger.to_string(), shown);
        }
        for text in [
            "",
            "some",
            "some 1",
            "some 1 499999",
            "some 0 1000000",
            "some 2000000 1000000",
            "some 1 10000001",
            "any 1 1000000",
            "some -1 1000000",
            "guest:some 1 1000000",
            "some 1 1000000 5",
        ] {
            let why = text.parse::<PsiTrigger>().expect_err(text);
            assert!(why.contains("STALL WINDOW"), "{text}: {why}");
        }
    }
}
