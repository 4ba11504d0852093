// SPDX-License-Identifier: MIT OR Apache-2.0
//! `stats`: the counters of running disks, asked of their servers.

use serde::Serialize;
use serde_json::Value;
use ublk_ramdisk::error::{Exit, Failure};
use ublk_ramdisk::stats::DeviceStats;
use ublk_ramdisk::ublk::ctrl::{block_path, Control};

use super::{machine, output};
use crate::cli::StatsArgs;
use crate::server::protocol::{Reply, Request};
use crate::server::run_dir::RunDir;

/// One device, as `--json` shows it.
#[derive(Debug, Serialize)]
struct Row {
    id: u32,
    path: String,
    #[serde(flatten)]
    stats: DeviceStats,
}

/// Shows the counters of one disk, or of all that are served by this program.
pub fn run(args: &StatsArgs) -> Result<Exit, Failure> {
    let run_dir = RunDir::of_this_machine();
    let mut rows = Vec::new();
    match args.id {
        Some(id) => match machine::ask_server(&run_dir, id, Request::Stats) {
            Some(answer) => rows.push(row(id, answer?)?),
            None => return Err(machine::not_served(&mut Control::open()?, id)),
        },
        None => {
            for id in run_dir.ids() {
                if let Some(answer) = machine::ask_server(&run_dir, id, Request::Stats) {
                    rows.push(row(id, answer?)?);
                }
            }
        }
    }
    if args.json {
        output::print_json(&rows)?;
    } else {
        let text: Vec<String> = rows.iter().map(as_text).collect::<Result<_, _>>()?;
        output::print(&text.join("\n"))?;
    }
    Ok(Exit::Done)
}

fn row(id: u32, reply: Reply) -> Result<Row, Failure> {
    match reply {
        Reply::Stats(stats) => Ok(Row {
            id,
            path: block_path(id),
            stats: *stats,
        }),
        other => machine::done(other).and_then(|()| {
            Err(Failure::runtime(
                "the server answered without counters; is it of another version?",
            ))
        }),
    }
}

fn as_text(row: &Row) -> Result<String, Failure> {
    let value = serde_json::to_value(&row.stats)
        .map_err(|error| Failure::runtime(format!("counters of device {}: {error}", row.id)))?;
    Ok(format!("{}\n{}", row.path, lay_out(&value)))
}

/// Lays counters out by their own names: plain ones in two columns, a list of objects (the
/// queues) as a table with a line for each.
fn lay_out(value: &Value) -> String {
    let mut plain = Vec::new();
    let mut tables = String::new();
    flatten("", value, &mut plain, &mut tables);
    let rows: Vec<Vec<String>> = plain
        .into_iter()
        .map(|(name, figure)| vec![format!("  {name}"), figure])
        .collect();
    format!("{}{tables}", output::table(&rows))
}

fn flatten(name: &str, value: &Value, plain: &mut Vec<(String, String)>, tables: &mut String) {
    match value {
        Value::Object(fields) => {
            for (field, value) in fields {
                let field = field.replace('_', "-");
                let name = if name.is_empty() {
                    field
                } else {
                    format!("{name}-{field}")
                };
                flatten(&name, value, plain, tables);
            }
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            tables.push_str(&output::table(&list_rows(name, items)));
        }
        Value::String(text) => plain.push((name.to_owned(), text.clone())),
        other => plain.push((name.to_owned(), other.to_string())),
    }
}

fn list_rows(name: &str, items: &[Value]) -> Vec<Vec<String>> {
    let mut rows: Vec<Vec<String>> = Vec::new();
    for (number, item) in items.iter().enumerate() {
        let mut cells = Vec::new();
        flatten("", item, &mut cells, &mut String::new());
        let (titles, figures): (Vec<String>, Vec<String>) = cells.into_iter().unzip();
        if rows.is_empty() {
            rows.push([vec![format!("  {name}")], titles].concat());
        }
        rows.push([vec![format!("  {number}")], figures].concat());
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn queues_get_a_table() {
        let value = json!({
            "store_bytes": 4096,
            "queues": [{"reads": 1, "writes": 20}, {"reads": 300, "writes": 4}],
        });
        assert_eq!(
            lay_out(&value),
            "  store-bytes  4096\n  queues  reads  writes\n  0       1      20\n  \
             1       300    4\n"
        );
    }
}
