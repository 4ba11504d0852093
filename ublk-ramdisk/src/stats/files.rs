// SPDX-License-Identifier: MIT OR Apache-2.0
//! A disk's figures as files, beside those that the mirror has ([`crate::mq::debugfs`]): what the
//! transport, the store, the pressure and kblockd know (K2).
//!
//! Made of the same structs as the JSON, a line for each figure, so a figure cannot be in one and
//! not in the other.

use serde::Serialize;
use serde_json::Value;

use super::DeviceStats;
use crate::mq::debugfs::DebugfsFile;

/// The file that a hardware queue has beside the mirror's: how often its thread was woken for results
/// that workers left for it, and how often it need not be.
pub const HCTX_FILE: &str = "wakeups";
/// Each file of the device beside the mirror's:
///
/// * `space`: what memory is used, the limit, what was given back, what waits for it, and how long
///   until writes end with ENOSPC.
/// * `pressure`: what refuses requests now (slots, tokens and PSI), and the settings.
/// * `kblockd`: its runs, what its rescuer did, and its threads by pool.
pub const DEVICE_FILES: &[&str] = &["space", "pressure", "kblockd"];

impl DeviceStats {
    /// All of them as they are in these figures.
    pub fn files(&self) -> Vec<DebugfsFile> {
        let queues = self.queues.iter().map(|queue| DebugfsFile {
            path: format!("hctx{}/{}", queue.queue, HCTX_FILE),
            text: lines(&queue.wakeups),
        });
        let texts = [
            lines(&self.space),
            lines(&self.pressure),
            lines(&self.kblockd),
        ];
        let device = DEVICE_FILES.iter().zip(texts).map(|(name, text)| {
            let path = (*name).to_owned();
            DebugfsFile { path, text }
        });
        queues.chain(device).collect()
    }
}

/// `name=value` for each figure; those of a struct within have its name in front.
fn lines(figures: &impl Serialize) -> String {
    let mut text = String::new();
    // Structs of numbers and words always are JSON.
    let value = serde_json::to_value(figures).unwrap_or_default();
    write_lines("", &value, &mut text);
    text
}

fn write_lines(name: &str, value: &Value, text: &mut String) {
    let said = match value {
        Value::Object(members) => match seconds(value) {
            Some(seconds) => seconds,
            None => {
                let within = |member: &String| match name {
                    "" => member.clone(),
                    name => format!("{name}.{member}"),
                };
                let each = members.iter();
                return each.for_each(|(member, value)| write_lines(&within(member), value, text));
            }
        },
        Value::Null => "none".to_owned(),
        Value::String(word) => word.clone(),
        other => other.to_string(),
    };
    text.push_str(&format!("{name}={said}\n"));
}

/// A length of time, as serde writes one.
/// None for any other struct.
fn seconds(value: &Value) -> Option<String> {
    let (secs, nanos) = (value.get("secs")?.as_u64()?, value.get("nanos")?.as_u64()?);
    Some(format!("{secs}.{nanos:09}"))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::mq::debugfs::HCTX_FILES;
    use crate::stats::{PoolStats, QueueStats};
    use std::time::Duration;

    /// What K2 names of each hardware queue: its file, and where the same is in `queues[]` of the
    /// JSON. `tests/mq/debugfs.rs` looks at what the files say.
    const OF_QUEUE: &[(&str, &str)] = &[
        ("state", "now/stopped now/restart now/inactive"),
        ("flags", ""),
        ("dispatch", "now/dispatch"),
        ("busy", "now/busy"),
        ("ctx_map", "now/ctx_map"),
        ("tags", "now/busy"),
        ("tags_bitmap", "now/busy"),
        ("active", "now/usage"),
        ("dispatch_busy", "now/dispatch_busy"),
        ("type", ""),
        ("run", "hctx/run_sync hctx/run_async hctx/run_delayed"),
        ("queued", "hctx/queued"),
        ("accepted", "hctx/accepted"),
        (
            "refused",
            "hctx/refused_by/slots hctx/refused_by/memory hctx/refused_by/psi",
        ),
        (
            "refused",
            "hctx/refused_by/bandwidth hctx/refused_by/injection",
        ),
        ("requeued", "hctx/requeued"),
        ("restarted", "hctx/restarted"),
        ("dispatched", "hctx/dispatched"),
        ("parked", "hctx/parked now/parked"),
        ("budget", "hctx/no_budget now/slot_awaited now/slots_held"),
        ("timeouts", "hctx/timeouts"),
        ("lost_races", "hctx/lost_races"),
        ("wakeups", "wakeups/sent wakeups/saved"),
    ];

    /// The same of the whole disk: its file, and names of lines there and of members in the JSON.
    const OF_DEVICE: &[(&str, &str)] = &[
        (
            "space",
            "used zero limit available reserve mode no_space_in",
        ),
        (
            "pressure",
            "under_pressure slots_exhausted throttled slots_free",
        ),
    ];

    fn stats() -> DeviceStats {
        let mut queue = QueueStats {
            queue: 2,
            ..QueueStats::default()
        };
        queue.wakeups.sent = 5;
        queue.wakeups.saved = 6;
        let mut stats = DeviceStats {
            queues: vec![queue],
            ..DeviceStats::default()
        };
        stats.space.used = 4096;
        stats.space.no_space_in = Some(Duration::from_millis(1500));
        stats.pressure.slots_free = Some(3);
        stats.pressure.settings.mbps = Some(7);
        stats.kblockd.rescued = 9;
        stats.kblockd.pools = vec![PoolStats::default()];
        stats
    }

    #[test]
    fn k02_every_figure_has_its_place_in_the_json_and_its_file() {
        let stats = stats();
        let (json, files) = (serde_json::to_value(&stats).expect("JSON"), stats.files());
        let of_queue = |name: &str| {
            let ours = format!("hctx2/{name}");
            HCTX_FILES.contains(&name) || files.iter().any(|file| file.path == ours)
        };
        for (file, places) in OF_QUEUE {
            assert!(of_queue(file), "no {file}");
            for place in places.split_whitespace() {
                let found = json["queues"][0].pointer(&format!("/{place}"));
                assert!(found.is_some(), "{file}: no {place}");
            }
        }
        for (file, names) in OF_DEVICE {
            let text = files.iter().find(|found| found.path == *file);
            let text = &text.expect("made").text;
            for name in names.split(' ') {
                let line = format!("{name}=");
                assert!(json[file].get(name).is_some(), "{file}: no {name}");
                assert!(text.lines().any(|l| l.starts_with(&line)), "{name}: {text}");
            }
        }
    }

    #[test]
    fn k02_files_have_a_line_for_each_figure() {
        let files = stats().files();
        let text = |path: &str| {
            let file = files.iter().find(|file| file.path == path);
            file.expect("made").text.clone()
        };
        let has = |path, line: &str| assert!(text(path).lines().any(|l| l == line), "{line}");
        has("hctx2/wakeups", "saved=6");
        has("hctx2/wakeups", "sent=5");
        has("space", "used=4096");
        has("space", "no_space_in=1.500000000");
        has("pressure", "slots_free=3");
        has("pressure", "tokens=none");
        has("pressure", "settings.mbps=7");
        has("kblockd", "rescued=9");
    }
}
