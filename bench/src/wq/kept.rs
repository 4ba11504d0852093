// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is kept of a run: the setting and every sample.

use crate::files::{read_json, write_json, FileError, Pair};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// The samples of a contender, in the order of the rounds.
type Series = BTreeMap<String, Vec<f64>>;

/// See the module.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Kept {
    /// What ran where: machine, kernel, commit, versions, command.
    pub setting: Vec<Pair>,
    /// By case, then by contender: one sample per round.
    pub samples: BTreeMap<String, Series>,
}

impl Kept {
    /// Adds a sample.
    pub fn add(&mut self, case: &str, contender: &str, sample: f64) {
        let series = self.samples.entry(case.to_owned()).or_default();
        // Not measured finer than that, and easier to read.
        let sample = (sample * 1000.0).round() / 1000.0;
        series.entry(contender.to_owned()).or_default().push(sample);
    }

    /// The samples of one contender.
    pub fn series(&self, case: &str, contender: &str) -> &[f64] {
        let series = self.samples.get(case);
        series
            .and_then(|series| series.get(contender))
            .map_or(&[], Vec::as_slice)
    }

    /// Reads `samples.json`. Fails if the folder has none.
    pub fn load(folder: &Path) -> Result<Self, FileError> {
        read_json(&folder.join("samples.json"))
    }

    /// Writes it, a line per series.
    pub fn keep(&self, folder: &Path) -> Result<(), FileError> {
        write_json(&folder.join("samples.json"), self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::Scratch;

    #[test]
    fn what_is_kept_can_be_read_again() {
        let mut kept = Kept {
            setting: vec![("kernel".into(), "6.18 \"x\"".into())],
            ..Kept::default()
        };
        for sample in [1.0, 2.5, 3.125] {
            kept.add("spawn", "ours", sample);
            kept.add("wake", "theirs", sample);
        }
        let folder = Scratch::new("bench-kept").unwrap();
        kept.keep(&folder.0).unwrap();
        let text = std::fs::read_to_string(folder.0.join("samples.json")).unwrap();
        assert_eq!(text.matches('\n').count(), 11, "a line per series: {text}");
        let again = Kept::load(&folder.0).unwrap();
        assert_eq!(again.samples, kept.samples);
        assert_eq!(again.setting, kept.setting);
        assert_eq!(again.series("spawn", "ours"), [1.0, 2.5, 3.125]);
        assert!(again.series("spawn", "nobody").is_empty());
    }
}
