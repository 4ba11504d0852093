// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is kept of a run: the setting and every sample.

use crate::run::{Pair, RunError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
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

    /// Reads `samples.json`.
    pub fn load(folder: &Path) -> Result<Self, RunError> {
        let path = folder.join("samples.json");
        let text = fs::read_to_string(&path).map_err(|source| RunError::Io {
            path: path.clone(),
            source,
        })?;
        serde_json::from_str(&text).map_err(|source| RunError::Json { path, source })
    }

    /// Writes it, a line per series.
    pub fn keep(&self, folder: &Path) -> Result<(), RunError> {
        let path = folder.join("samples.json");
        let json = |source| RunError::Json {
            path: path.clone(),
            source,
        };
        let mut cases = Vec::new();
        for (case, series) in &self.samples {
            let mut lines = Vec::new();
            for (contender, samples) in series {
                let samples = serde_json::to_string(samples).map_err(json)?;
                lines.push(format!("  {contender:?}: {samples}"));
            }
            cases.push(format!("{case:?}: {{\n{}\n}}", lines.join(",\n")));
        }
        let setting = serde_json::to_string(&self.setting).map_err(json)?;
        let cases = cases.join(",\n");
        let text = format!("{{\n\"setting\": {setting},\n\"samples\": {{\n{cases}\n}}}}\n");
        fs::write(&path, text).map_err(|source| RunError::Io { path, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let folder = std::env::temp_dir().join(format!("bench-kept-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        kept.keep(&folder).unwrap();
        let again = Kept::load(&folder);
        fs::remove_dir_all(&folder).unwrap();
        let again = again.unwrap();
        assert_eq!(again.samples, kept.samples);
        assert_eq!(again.setting, kept.setting);
        assert_eq!(again.series("spawn", "ours"), [1.0, 2.5, 3.125]);
        assert!(again.series("spawn", "nobody").is_empty());
    }
}
