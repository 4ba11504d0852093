// SPDX-License-Identifier: MIT OR Apache-2.0
//! The options that put pressure on a disk: those of `add` and of `set` are the same.

use clap::Args;
use ublk_ramdisk::pressure::{Change, Changes, Injection, PsiTrigger, Settings};

use crate::parse::{count_or_off, injection_list, psi_or_off};

/// Sources of BUSY, and faults
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Pressure and faults")]
pub struct PressureArgs {
    /// Requests in flight at most, of all queues together; `off` for no limit
    ///
    /// A request that finds no slot waits on its hardware queue's dispatch list, and is run again
    /// when a slot comes back. Flushes need none.
    #[arg(long, value_name = "N|off", value_parser = count_or_off, allow_hyphen_values = true)]
    pub slots: Option<Change<u32>>,
    /// MiB per second read and written at most; `off` for no limit
    ///
    /// Fifty times a second a fiftieth may pass; a larger request passes too and is paid off by the
    /// next ticks. Meanwhile every queue is stopped.
    #[arg(long, value_name = "N|off", value_parser = count_or_off, allow_hyphen_values = true)]
    pub mbps: Option<Change<u32>>,
    /// Refuse writes that need memory while memory is short: [host:|cgroup:]some|full STALL WINDOW
    ///
    /// The kernel's pressure stall information, in its own form with times in microseconds, such as
    /// "some 150000 1000000": tasks stalled for 150 ms within a second. Of the whole machine, or of
    /// the server's control group. No request is refused for longer than a second. `off` ends it.
    #[arg(long, value_name = "TRIGGER|off", value_parser = psi_or_off)]
    pub psi: Option<Change<PsiTrigger>>,
    /// Faults on purpose, a list: KIND=VALUE[,KIND=VALUE]...
    ///
    /// null_blk has the same. KIND=off ends one. May be given more than once.
    ///
    /// requeue=INTERVAL,PROBABILITY,SPACE,TIMES: of the tries to serve a request, after the first
    /// SPACE ones, each INTERVAL-th is refused with PROBABILITY per cent, at most TIMES times (-1:
    /// without end). It is tried again: the disk becomes slower, no request fails.
    /// timeout=INTERVAL,PROBABILITY,SPACE,TIMES: such a request is accepted and lost; it fails with
    /// ETIMEDOUT after --timeout.
    /// init_hctx=INTERVAL,PROBABILITY,SPACE,TIMES: such a hardware queue cannot be set up, and no
    /// disk is made.
    /// delay=TIME: each request takes at least so long (nanoseconds, or with us, ms, s; up to 20s).
    /// badblocks=START-END[,START-END]...[:once][:partial]: sectors of 512 bytes that fail with
    /// EIO; `once`: a range is repaired by its first hit; `partial`: what lies before the first bad
    /// sector is transferred.
    #[arg(long, value_name = "FAULTS", value_parser = injection_list, allow_hyphen_values = true,
        verbatim_doc_comment)]
    pub inject: Vec<std::sync::Arc<[Injection]>>,
}

impl PressureArgs {
    /// What is to be changed.
    pub fn changes(&self) -> Changes {
        Changes {
            slots: self.slots.clone().unwrap_or_default(),
            mbps: self.mbps.clone().unwrap_or_default(),
            psi: self.psi.clone().unwrap_or_default(),
            inject: self.inject.iter().flat_map(|list| list.to_vec()).collect(),
        }
    }

    /// What a new disk begins with.
    pub fn settings(&self) -> Settings {
        self.changes().applied_to(&Settings::default())
    }
}
