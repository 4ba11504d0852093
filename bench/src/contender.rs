// SPDX-License-Identifier: MIT OR Apache-2.0
//! The contenders, by name: our data paths, the rivals, and disks that are there already.
//!
//! A name says how its disk is made: `batch`, `null_blk`, `NAME:/dev/sdx`.
//! It is the name of the column in the tables and of the folder of samples.
//! [`crate::runner::disks`] makes the disk that belongs to a name; dropping the disk takes it away.

use std::fmt;
use std::str::FromStr;

use crate::matrix::{bad, BadMatrix};

/// Our data paths.
/// `buffer`: the driver copies to a buffer of the tag, and the server copies on: two copies per byte.
/// `user-copy`: the server moves the data with pread and pwrite on `/dev/ublkcN`: one copy.
/// `batch`: the same copy, and one io_uring command fetches or commits many requests (BATCH_IO).
/// `batch-buffer`: such commands, and the copies of `buffer`.
pub const OURS: [&str; 4] = ["buffer", "user-copy", "batch", "batch-buffer"];

/// The rivals, in the order of the columns.
/// The first five are ublk servers too, the others block drivers of the kernel.
/// `null-batch` is a server on BATCH_IO that does nothing at all with a request.
/// `rublk-loop` and `loop` keep their data in a file of a tmpfs.
pub const RIVALS: [&str; 10] = [
    "libublk-example",
    "libublk",
    "null-batch",
    "rublk-null",
    "rublk-loop",
    "loop",
    "nbd",
    "zram",
    "null_blk",
    "brd",
];

/// One contender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contender {
    /// One of [`OURS`], one of [`RIVALS`], or the name of a disk that is there: the name of the
    /// column, and of the folder.
    pub name: String,
    /// The node of a disk that is there already.
    /// Its own data is overwritten: the fill comes before the first sample on this disk, too.
    pub node: Option<String>,
}

impl Contender {
    /// Is it our RAM disk, whose own counters can be asked?
    pub fn is_ours(&self) -> bool {
        self.node.is_none() && OURS.contains(&self.name.as_str())
    }
}

/// `batch`, `fast:/dev/sdx`.
impl FromStr for Contender {
    type Err = BadMatrix;

    fn from_str(word: &str) -> Result<Self, BadMatrix> {
        if let Some((name, node)) = word.split_once(':') {
            // The name becomes a folder below `raw`: no slash, and nothing that leads out of it.
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            if name.is_empty() || !name.chars().all(plain) || name.starts_with('.') {
                return bad(format!("contender '{word}': not like NAME:/dev/sdx"));
            }
            if OURS.contains(&name) || RIVALS.contains(&name) {
                return bad(format!("contender '{word}': the name {name} is taken"));
            }
            if node.contains(char::is_whitespace) {
                return bad(format!("contender '{word}': no spaces in the path"));
            }
            return Ok(Self {
                name: name.to_owned(),
                node: Some(node.to_owned()),
            });
        }
        if !OURS.contains(&word) && !RIVALS.contains(&word) {
            return bad(format!(
                "contender '{word}': none of {} {}, or NAME:/dev/NODE",
                OURS.join(" "),
                RIVALS.join(" "),
            ));
        }
        Ok(Self {
            name: word.to_owned(),
            node: None,
        })
    }
}

/// As it is typed.
impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.node {
            Some(node) => write!(f, "{}:{node}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// Reads a list of contenders, separated by commas or spaces, into the order that the columns will
/// have. A name that is there twice is taken once.
///
/// Fails with one line on a name that is none, and on an empty list.
pub fn list(words: &str) -> Result<Vec<Contender>, BadMatrix> {
    let mut once: Vec<Contender> = Vec::new();
    for word in words.split([',', ' ']).filter(|word| !word.is_empty()) {
        let contender: Contender = word.parse()?;
        if !once.iter().any(|other| other.name == contender.name) {
            once.push(contender);
        }
    }
    if once.is_empty() {
        return bad("contenders: an empty list");
    }
    once.sort_by_key(|contender| column(&contender.name));
    Ok(once)
}

/// Where the column stands: ours, rivals, then the others.
fn column(name: &str) -> (usize, String) {
    // Compared from left to right: place, name.
    let mut known = OURS.iter().chain(&RIVALS);
    match known.position(|known| *known == name) {
        Some(place) => (place, String::new()),
        None => (usize::MAX, name.to_owned()),
    }
}

/// All contenders: what a run measures if no list is given. A program that is lacking makes its
/// contender absent.
pub fn everybody() -> Vec<Contender> {
    let names = OURS.iter().chain(&RIVALS);
    let contender = |name: &&str| Contender {
        name: (*name).to_owned(),
        node: None,
    };
    names.map(contender).collect()
}

/// Sorts the names of columns as [`list`] does; a name of an older run that is
/// not known any more comes last.
pub fn sort_names(names: &mut [String]) {
    names.sort_by_key(|name| column(name));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(words: &str) -> Vec<String> {
        list(words).unwrap().into_iter().map(|c| c.name).collect()
    }

    #[test]
    fn the_columns_have_one_order_whatever_was_asked_first() {
        assert_eq!(
            names("brd,x:/dev/sdx,libublk,batch,buffer,batch"),
            ["buffer", "batch", "libublk", "brd", "x"]
        );
        let mut columns = ["mine", "brd", "batch+slots", "buffer"].map(str::to_owned);
        sort_names(&mut columns);
        assert_eq!(columns, ["buffer", "brd", "batch+slots", "mine"]);
    }

    #[test]
    fn what_is_written_is_read_again() {
        let all = everybody();
        let text: Vec<String> = all.iter().map(Contender::to_string).collect();
        assert_eq!(list(&text.join(" ")).unwrap(), all);
        assert_eq!(all.len(), OURS.len() + RIVALS.len());
        let node = "fast:/dev/disk/by-id/x";
        assert_eq!(list(node).unwrap()[0].to_string(), node);
        assert!(!list(node).unwrap()[0].is_ours());
    }

    #[test]
    fn a_name_that_is_none_is_refused_in_one_line() {
        for words in [
            "",
            ",",
            "bach",
            "batch+slots",
            "batch:/dev/x",
            ":/dev/x",
            "../x:/dev/x",
            "a/b:/dev/x",
        ] {
            let complaint = list(words).unwrap_err().to_string();
            assert!(
                !complaint.contains('\n') && !complaint.is_empty(),
                "{words}"
            );
        }
    }
}
