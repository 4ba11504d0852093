// SPDX-License-Identifier: MIT OR Apache-2.0
//! Args: what was typed.
//!
//! Owns the words of the command line and their help texts; `parse.rs` reads single values;
//! the options of a disk are read and judged by `config.rs`. `commands/` takes over from there. A
//! usage error of any kind is one line and exit status 2.

use std::error::Error as _;
use std::path::PathBuf;

use clap::builder::styling::Styles;
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand};
use ublk_ramdisk::error::{Exit, Failure};

mod add;
mod export;
mod image;
mod observe;
mod power;
mod rules;
mod sim;

pub use add::AddArgs;
use add::{ADD_EXAMPLES, ADD_LONG};
pub use export::{ExportArgs, UnexportArgs};
use export::{EXPORT_EXAMPLES, EXPORT_LONG};
pub use image::{ResetArgs, SaveArgs};
use image::{RESET_EXAMPLES, RESET_LONG, SAVE_LONG};
pub use observe::{DebugfsArgs, ExplainArgs, TopArgs, TraceArgs, WatchArgs};
use observe::{
    DEBUGFS_EXAMPLES, DEBUGFS_LONG, EXPLAIN_EXAMPLES, EXPLAIN_LONG, TOP_LONG, TRACE_EXAMPLES,
    TRACE_LONG,
};
pub use power::PowerCutArgs;
use power::{POWER_EXAMPLES, POWER_LONG};
pub use rules::{RulesArgs, RulesVerb};
use rules::{RULES_EXAMPLES, RULES_LONG};
pub use sim::SimArgs;

use crate::parse::device_id;
use crate::server::protocol::LogTarget;
use ublk_ramdisk::config::disk_name;
use ublk_ramdisk::config::set::SetOptions;
use ublk_ramdisk::units::size;

const ABOUT: &str = "RAM disks at /dev/ublkbN, served from user space over io_uring";

const LONG_ABOUT: &str = "\
RAM disks at /dev/ublkbN, served from user space over io_uring.

`add` makes a disk and leaves a server process behind it; `del` takes both away. The contents live
in memory only: they are gone with the disk or a reboot (a file given with --backing tmpfs:PATH
outlives the disk).";

const AFTER_HELP: &str = "\
Sizes: 512, 4K, 1.5G. K, M, G, T, P, E (or KiB, ...) are powers of 1024, KB, MB, ... of 1000.
Times: 5us, 10ms, 1.5s, 2m; where seconds are usual, a plain number counts seconds.
What can be switched off takes `off`.

Examples:
  ublk-ramdisk doctor                     can this machine do it, and what to change
  ublk-ramdisk add --size 1G              prints the path, such as /dev/ublkb0
  ublk-ramdisk list                       every ublk device of this machine
  ublk-ramdisk top                        what they do now; stats, trace and debugfs say more
  ublk-ramdisk resize 0 2G                grow the disk while it is in use
  ublk-ramdisk del 0                      stop the disk, free its memory and its id

Exit status:
  0  done
  1  failed while running
  2  bad usage
  3  this machine lacks something (module, permission, memory, kernel feature)
  4  in use: the id is taken, or the disk is opened or mounted

Environment:
  UBLK_RAMDISK_RUN_DIR   where servers keep lock, state and socket [default: /run/ublk-ramdisk]
  UBLK_RAMDISK_SECCOMP   what becomes of a system call that no server makes, by seccomp filter:
                         kill ends the server, log goes on, both name it in the kernel's log;
                         off: no filters [default: the call fails]";

const IN_USE_HELP: &str = "\
A disk that is opened, mounted, used as swap or held by another block driver is refused with
status 4, unless --force is given: then its users get I/O errors. Where the kernel has the
SAFE_STOP_DEV feature (7.0) the kernel itself decides. Before that the users are looked for in
/proc and /sys, and an exclusive open of the disk is tried. Nothing tells then of: who opens it in
that moment, another pid namespace, a descriptor in flight in a socket, and a file registered with
io_uring whose descriptor is closed. With --force an export of the disk ends, too.";

const STOP_LONG: &str = "\
Stop a disk but keep its id.

Data is flushed, /dev/ublkbN disappears and the server ends. The id stays in `list` as DEAD until
`del`, and so does the memory of a disk with --backing private; that of memfd and hugetlb is freed.";

const RECOVER_LONG: &str = "\
Serve disks again whose server and supervisor have died.

Their contents must outlive the server: see `add --backing`. Clients of a disk that waits go on, and
see no error. A disk that was stopped is made anew with its contents. Prints the paths of those that
are served now; one that has a server is left alone.";

const UPGRADE_LONG: &str = "\
Have this program serve disks that another version of it serves, while they are used.

Each server hands over its disk to a new one and ends; clients wait for a moment, and see no error. What
was set stays in force, counters begin anew. Prints the paths of the disks. Refused, with nothing
changed, for a disk whose contents go with its server (see `add --backing`), one that is served in the
foreground, and one whose state file only a newer program understands.";

const SERVE_LONG: &str = "\
Serve a disk for systemd, with the options of a file.

What a unit ublk-ramdisk@NAME.service starts. The file has options of `add` in TOML, as they are typed
but for the dashes: size = \"1G\", volatile-cache = true, rule = [\"read 10%: delay 5ms\"]. They are for a
new disk: one of this name that waits, or was stopped, is taken up as it was. SIGTERM stops the
disk, when nobody uses it any more or after 30 s, and its contents are kept until `del`.";

const RESIZE_LONG: &str = "\
Change the size of a running disk.

Growing is safe while the disk is in use; the file system on it has its own command to follow.
Shrinking cuts off the end, and is refused with status 4 while the disk is used, unless --force is
given. Users are looked for in /proc and /sys, and an exclusive open of the disk is tried: `del
--help` says what is not found so. Needs a kernel with UPDATE_SIZE (6.16).";

const SET_LONG: &str = "\
Change the pressure on a running disk, the rules for its memory and how many requests are timed, or
show them.

Takes effect at once, while the disk is used: requests that wait for what is no longer in force are
run. What is not named stays as it is. Prints what is in force then.";

const SET_EXAMPLES: &str = "\
Examples:
  ublk-ramdisk set 0 --slots 8                       no more than 8 requests in flight
  ublk-ramdisk set 0 --mbps 100 --inject delay=50us
  ublk-ramdisk set 0 --slots off --mbps off --inject delay=off
  ublk-ramdisk set 0 --memory-limit 2G               writes that wait for memory go on
  ublk-ramdisk set 0 --latency-sample 1              time every request
  ublk-ramdisk set 0                                 what is in force";

const LIST_EXAMPLE: &str = "\
Example:
  ublk-ramdisk list -o DISK,SIZE,PID";

const STATS_EXAMPLE: &str = "\
Example:
  ublk-ramdisk stats 0 -o BUSY,PARKED,P99     a row for each hardware queue";

const COMPLETIONS_EXAMPLE: &str = "\
Example:
  ublk-ramdisk completions bash > /etc/bash_completion.d/ublk-ramdisk";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(name = "ublk-ramdisk", version, about = ABOUT, long_about = LONG_ABOUT,
    after_help = AFTER_HELP, styles = Styles::plain(), max_term_width = 100,
    subcommand_required = true, infer_long_args = false)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// One verb of the command line.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a RAM disk and leave a server behind it
    #[command(long_about = ADD_LONG, after_help = ADD_EXAMPLES)]
    Add(Box<AddArgs>),
    /// Delete disks: stop them if they run, then free their ids
    #[command(after_help = IN_USE_HELP)]
    Del(DelArgs),
    /// List every ublk device of this machine
    #[command(after_help = LIST_EXAMPLE)]
    List(ListArgs),
    /// Stop a disk but keep its id
    #[command(long_about = STOP_LONG, after_help = IN_USE_HELP)]
    Stop(StopArgs),
    /// Serve disks again whose server and supervisor have died
    #[command(long_about = RECOVER_LONG)]
    Recover(NewServerArgs),
    /// Have this program serve disks that another version of it serves, while they are used
    #[command(long_about = UPGRADE_LONG)]
    Upgrade(NewServerArgs),
    /// Serve a disk for systemd, with the options of a file
    #[command(long_about = SERVE_LONG)]
    Serve(ServeArgs),
    /// Change the size of a running disk
    #[command(long_about = RESIZE_LONG)]
    Resize(ResizeArgs),
    /// Change the pressure on a running disk and its memory limit, or show them
    #[command(long_about = SET_LONG, after_help = SET_EXAMPLES)]
    Set(Box<SetArgs>),
    /// Show, add or take away the rules of a running disk, or let go of what one holds
    #[command(long_about = RULES_LONG, after_help = RULES_EXAMPLES)]
    Rules(RulesArgs),
    /// Take the contents of a running disk back to what it was made with
    #[command(long_about = RESET_LONG, after_help = RESET_EXAMPLES)]
    Reset(ResetArgs),
    /// Write the contents of a disk to a file, with holes where it holds zeros
    #[command(long_about = SAVE_LONG)]
    Save(SaveArgs),
    /// Let other hosts use a disk, over NVMe/TCP
    #[command(long_about = EXPORT_LONG, after_help = EXPORT_EXAMPLES)]
    Export(ExportArgs),
    /// End what `export` has begun; other hosts lose the disk
    Unexport(UnexportArgs),
    /// Take the power of a running disk away, and with it what was not flushed
    #[command(long_about = POWER_LONG, after_help = POWER_EXAMPLES)]
    PowerCut(PowerCutArgs),
    /// Show the counters of running disks
    #[command(after_help = STATS_EXAMPLE)]
    Stats(StatsArgs),
    /// Show running disks on the terminal, as they are now
    #[command(long_about = TOP_LONG)]
    Top(TopArgs),
    /// Record what happens to each request, as a file for Perfetto or as lines
    #[command(long_about = TRACE_LONG, after_help = TRACE_EXAMPLES)]
    Trace(TraceArgs),
    /// Show the state of the hardware queues under the names of the kernel's debugfs
    #[command(long_about = DEBUGFS_LONG, after_help = DEBUGFS_EXAMPLES)]
    Debugfs(DebugfsArgs),
    /// Explain the words that this program uses
    #[command(long_about = EXPLAIN_LONG, after_help = EXPLAIN_EXAMPLES)]
    Explain(ExplainArgs),
    /// Show which ublk features this kernel offers and what they are good for
    Features(FormatArgs),
    /// Check if this machine can serve RAM disks, and say what to change if not
    Doctor(FormatArgs),
    /// Run the disk in this process under a load made here, without root and without ublk
    #[command(
        long_about = sim::SIM_LONG,
        after_help = sim::SIM_EXAMPLES,
        allow_negative_numbers = true,
        mut_args(sim::of_sim)
    )]
    Sim(Box<SimArgs>),
    /// Write a manual page for each command
    #[command(hide = true)]
    Man(ManArgs),
    /// Print what udev is to know of a disk, for its rule
    #[command(hide = true)]
    Udev(UdevArgs),
    /// Print a completion script for a shell
    #[command(after_help = COMPLETIONS_EXAMPLE)]
    Completions(CompletionsArgs),
}

/// `del`
#[derive(Debug, Args)]
pub struct DelArgs {
    /// Disks to delete: names, N, ublkbN or /dev/ublkbN
    #[arg(value_name = "ID", value_parser = device_id, required_unless_present = "all")]
    pub ids: Vec<u32>,
    /// Every disk that ublk-ramdisk made on this machine (and no other ublk device)
    #[arg(long, conflicts_with = "ids")]
    pub all: bool,
    /// Even if the disk is in use
    #[arg(long)]
    pub force: bool,
}

/// `list`
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only these: names, N, ublkbN or /dev/ublkbN [default: all]
    #[arg(value_name = "ID", value_parser = device_id)]
    pub ids: Vec<u32>,
    #[command(flatten)]
    pub table: TableArgs,
}

/// What of a table is printed, and how: `list` and `stats`.
#[derive(Debug, Args)]
pub struct TableArgs {
    /// Print an array of objects, always complete
    #[arg(long)]
    pub json: bool,
    /// Show everything
    #[arg(long, conflicts_with_all = ["json", "columns"])]
    pub all: bool,
    /// Show these columns alone
    #[arg(
        short = 'o',
        long,
        value_name = "COLS",
        value_delimiter = ',',
        conflicts_with = "json"
    )]
    pub columns: Vec<String>,
}

/// `stop`
#[derive(Debug, Args)]
pub struct StopArgs {
    /// Disk to stop: its name, N, ublkbN or /dev/ublkbN
    #[arg(value_name = "ID", value_parser = device_id)]
    pub id: u32,
    /// Even if the disk is in use
    #[arg(long)]
    pub force: bool,
}

/// `recover` and `upgrade`
#[derive(Debug, Args)]
pub struct NewServerArgs {
    /// Disks that get a new server: names, N, ublkbN or /dev/ublkbN
    #[arg(value_name = "ID", value_parser = device_id, required_unless_present = "all")]
    pub ids: Vec<u32>,
    /// Every disk that ublk-ramdisk made on this machine
    #[arg(long, conflicts_with = "ids")]
    pub all: bool,
    /// Where the servers log: `syslog`, or the path of a file to append to; else where they did before
    #[arg(long, value_name = "syslog|FILE")]
    pub log: Option<LogTarget>,
}

/// `resize`
#[derive(Debug, Args)]
pub struct ResizeArgs {
    /// Disk to resize: its name, N, ublkbN or /dev/ublkbN
    #[arg(value_name = "ID", value_parser = device_id)]
    pub id: u32,
    /// New size, a multiple of the block size, such as 512M or 4G
    #[arg(value_name = "SIZE", value_parser = size, allow_hyphen_values = true)]
    pub size: u64,
    /// Shrink even if the disk is in use
    #[arg(long)]
    pub force: bool,
}

/// `set`
#[derive(Debug, Args)]
pub struct SetArgs {
    /// Disk to change: its name, N, ublkbN or /dev/ublkbN
    #[arg(value_name = "ID", value_parser = device_id)]
    pub id: u32,
    /// Print an object with what is in force
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub options: SetOptions,
}

/// `stats`
#[derive(Debug, Args)]
pub struct StatsArgs {
    /// Only this disk: its name, N, ublkbN or /dev/ublkbN [default: every disk served by ublk-ramdisk]
    #[arg(value_name = "ID", value_parser = device_id)]
    pub id: Option<u32>,
    #[command(flatten)]
    pub table: TableArgs,
    /// Again and again
    #[command(flatten)]
    pub watch: WatchArgs,
}

/// `features`, `doctor`
#[derive(Debug, Args)]
pub struct FormatArgs {
    /// Print JSON instead of text
    #[arg(long)]
    pub json: bool,
}

/// `serve`
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Name of the disk
    #[arg(value_name = "NAME", value_parser = disk_name)]
    pub name: String,
    /// The file with its options [default: /etc/ublk-ramdisk/NAME.conf]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// `man`
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Where to; it exists
    #[arg(value_name = "FOLDER")]
    pub folder: PathBuf,
}

/// `udev`
#[derive(Debug, Args)]
pub struct UdevArgs {
    /// The disk: its name, N, ublkbN or /dev/ublkbN
    #[arg(value_name = "ID", value_parser = device_id)]
    pub id: u32,
}

/// `completions`
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell to complete for
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// Reads the command line. Help and version texts come back as [`Unparsed::Text`].
pub fn parse(words: impl IntoIterator<Item = std::ffi::OsString>) -> Result<Cli, Unparsed> {
    Cli::try_parse_from(words).map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Unparsed::Text(error.to_string()),
        // A disk that is not there is no bad usage.
        _ => Unparsed::Bad(
            match error.source().and_then(|of| of.downcast_ref::<Failure>()) {
                Some(failure) if failure.exit != Exit::Usage => failure.clone(),
                _ => Failure::usage(one_line(&error)),
            },
        ),
    })
}

/// Why there is no command to run.
#[derive(Debug)]
pub enum Unparsed {
    /// A help or version text was asked for.
    Text(String),
    /// The words make no command.
    Bad(Failure),
}

/// Presses clap's paragraph into one line, and keeps its hint.
fn one_line(error: &clap::Error) -> String {
    if matches!(
        error.kind(),
        ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    ) {
        let verbs: Vec<String> = Cli::command()
            .get_subcommands()
            .filter(|verb| !verb.is_hide_set())
            .map(|verb| verb.get_name().to_owned())
            .collect();
        return format!(
            "no command given; give one of {} (see ublk-ramdisk --help)",
            verbs.join(", ")
        );
    }
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let mut parts = text
        .split("\n\n")
        .map(|part| part.split_whitespace().collect::<Vec<_>>().join(" "));
    let mut line = parts.next().unwrap_or_default();
    // clap's other tip, to pass a wrong option as a value, does not help here.
    if let Some(tip) = parts.find(|part| part.starts_with("tip: ") && part.contains("similar")) {
        let tip = tip.trim_start_matches("tip: ");
        line = format!("{line}; {tip}");
    }
    format!("{line} (see --help)")
}

#[cfg(test)]
mod tests {
    use super::*;
    use ublk_ramdisk::config::{Backing, DataPath, DeviceConfig};
    use ublk_ramdisk::trace::Format;

    fn parsed(line: &str) -> Result<Cli, Unparsed> {
        parse(line.split(' ').map(Into::into))
    }

    fn added(line: &str) -> DeviceConfig {
        match parsed(line) {
            Ok(Cli {
                command: Command::Add(args),
            }) => args.device,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn clap_finds_no_fault_with_the_definition() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_word_has_a_help_text() {
        for verb in Cli::command().get_subcommands() {
            assert!(verb.get_about().is_some(), "{}", verb.get_name());
            for argument in verb.get_arguments() {
                let named = (verb.get_name(), argument.get_id());
                assert!(argument.get_help().is_some(), "{named:?}");
            }
        }
    }

    #[test]
    fn options_arrive() {
        let asked = added(
            "ublk-ramdisk add --size 64M --id 7 --queues 2 --depth 32 --block-size 4K \
             --physical-block-size 8K --io-buffer 1M --read-only --rotational --volatile-cache \
             --data-path buffer --backing tmpfs:/dev/shm/a:b --thp off \
             --no-partition-scan",
        );
        assert_eq!((asked.id, asked.queues, asked.depth), (Some(7), 2, 32));
        assert_eq!((asked.block_size, asked.physical_block_size), (4096, 8192));
        assert_eq!(asked.io_buffer, 1 << 20);
        assert!(asked.read_only && asked.rotational && asked.volatile_cache);
        assert_eq!(asked.data_path, Some(DataPath::Buffer));
        assert_eq!(*asked.backing(), Backing::Tmpfs("/dev/shm/a:b".into()));
        assert_eq!(asked.thp, Some(false));
        assert!(!asked.partition_scan);
    }

    #[test]
    fn short_options_are_those_of_rublk() {
        let asked = added("ublk-ramdisk add -n 7 -q 2 -d 32 -s 64M");
        let long = added("ublk-ramdisk add --id 7 --queues 2 --depth 32 --size 64M");
        assert_eq!(asked, long);
    }

    #[test]
    fn k03_a_trace_is_a_page_unless_something_else_is_asked_for() {
        let traced = |line: &str| match parsed(line) {
            Ok(Cli {
                command: Command::Trace(args),
            }) => (args.file(), args.format()),
            other => panic!("{line}: {other:?}"),
        };
        let page = (Some("ublkb7.html".into()), Format::Html);
        assert_eq!(traced("ublk-ramdisk trace 7"), page);
        assert_eq!(traced("ublk-ramdisk trace 7 --text"), (None, Format::Text));
        let perfetto = (Some("x.json".into()), Format::Chrome);
        assert_eq!(traced("ublk-ramdisk trace 7 -o x.json"), perfetto);
    }

    #[test]
    fn help_and_version_are_no_errors() {
        for line in [
            "ublk-ramdisk --help",
            "ublk-ramdisk -h",
            "ublk-ramdisk --version",
            "ublk-ramdisk add --help",
            "ublk-ramdisk help del",
        ] {
            assert!(matches!(parsed(line), Err(Unparsed::Text(_))), "{line}");
        }
    }
}
