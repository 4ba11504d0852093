// SPDX-License-Identifier: MIT OR Apache-2.0
//! `features`: what this kernel's ublk driver offers, and what a RAM disk gets from it.

use serde::Serialize;
use ublk_ramdisk::error::{Exit, Failure};
use ublk_ramdisk::ublk::ctrl::Control;
use ublk_ramdisk::ublk::features::{features, Features};

use super::output;
use crate::cli::FormatArgs;

/// One feature, as `--json` shows it.
#[derive(Debug, Serialize)]
struct Row {
    bit: u8,
    name: &'static str,
    offered: bool,
    since: &'static str,
    gives: &'static str,
}

/// Shows the features.
pub fn run(args: &FormatArgs) -> Result<Exit, Failure> {
    let offered = Control::open()?.features()?;
    output::show(args.json, &rows(offered), |rows| as_text(rows))
}

/// All features with a name, then the bits that are offered and have none here.
fn rows(offered: Features) -> Vec<Row> {
    let known = features().map(|feature| Row {
        bit: feature.bit,
        name: feature.name,
        offered: offered.has(1 << feature.bit),
        since: feature.since,
        gives: feature.gives,
    });
    let named: u64 = features().map(|feature| 1 << feature.bit).sum();
    let unknown = (0..64).filter(|bit| (offered.0 & !named) >> bit & 1 == 1);
    known
        .chain(unknown.map(|bit| Row {
            bit,
            name: "unknown",
            offered: true,
            since: "-",
            gives: "newer than this program; not used",
        }))
        .collect()
}

fn as_text(rows: &[Row]) -> String {
    let titles = ["BIT", "FEATURE", "HERE", "SINCE", "WHAT A RAM DISK GETS"];
    let mut cells = vec![titles.map(str::to_owned).to_vec()];
    cells.extend(rows.iter().map(|row| {
        vec![
            row.bit.to_string(),
            row.name.to_owned(),
            if row.offered { "yes" } else { "no" }.to_owned(),
            row.since.to_owned(),
            row.gives.to_owned(),
        ]
    }));
    output::table(&cells)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_of_the_kernel_is_shown() {
        let rows = rows(Features(1 << 7 | 1 << 63));
        assert_eq!(rows.len(), features().count() + 1);
        let offered: Vec<_> = rows
            .iter()
            .filter(|row| row.offered)
            .map(|row| (row.bit, row.name))
            .collect();
        assert_eq!(offered, [(7, "USER_COPY"), (63, "unknown")]);
    }

    #[test]
    fn the_text_has_a_line_per_feature() {
        let text = as_text(&rows(Features(0)));
        assert_eq!(text.lines().count(), features().count() + 1);
        assert!(text.contains("BATCH_IO"));
    }
}
