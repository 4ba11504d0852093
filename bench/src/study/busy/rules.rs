// SPDX-License-Identifier: MIT OR Apache-2.0
//! Study c: the rules of the seeds' kernel against those of 7.2.

use super::ended;
use crate::study::outcome::{show, Axis, Figure, Kind, Measure, Part, Plot, Samples, Table};
use crate::study::sim;
use crate::study::{Settings, StudyError};

const LOAD: &str = "--call-cost 10us --service-time 100us --rw randread";
const RULES: [&str; 2] = ["7.2", "3.x"];

/// Runs it.
pub fn run(settings: &Settings) -> Result<Vec<Part>, StudyError> {
    if !sim::knows("--blk-mq")? {
        return Err(StudyError::Lacking(
            "this ublk-ramdisk sim has no --blk-mq".into(),
        ));
    }
    let mut measures = Vec::new();
    let mut outage = Table::new(&[
        "rules",
        "refusals",
        "median, ms",
        "longest read, ms",
        "reads in 200 ms",
    ]);
    let mut everyday = Table::new(&[
        "rules",
        "reads/s",
        "tries per I/O",
        "99 %, ms",
        "slowest job, of the mean",
    ]);
    let (mut outage_sets, mut everyday_sets, mut rates) = (Vec::new(), Vec::new(), Vec::new());
    for rules in RULES {
        let said = ended(&format!(
            "{LOAD} --blk-mq {rules} --iodepth 32 --at '10ms:busy on' --at '110ms:busy off' --duration 200ms"
        ))?;
        let refusals = said.sum("refused_resource") + said.sum("refused_dev_resource");
        measures.push(Measure::new(
            format!("refusals in 100 ms, {rules}"),
            refusals,
            "",
        ));
        measures.push(Measure::new(
            format!("longest read, {rules}"),
            said.latency("max"),
            "ms",
        ));
        let cells = [
            refusals,
            said.latency("p50"),
            said.latency("max"),
            said.ops(),
        ]
        .map(show);
        outage.row([rules.to_owned()].into_iter().chain(cells));
        outage_sets.push(Samples {
            name: rules.into(),
            values: said.latencies(2000),
        });
        let said = ended(&format!(
            "{LOAD} --blk-mq {rules} --jobs 8 --iodepth 4 --ops {} --inject requeue=1,50,0,-1",
            settings.scaled(500, 100)
        ))?;
        let share = super::fairness::slowest(&said);
        measures.push(Measure::new(
            format!("slowest job's share, {rules}"),
            share,
            "",
        ));
        let cells = [
            said.at("total.iops"),
            said.tries() / said.ops(),
            said.latency("p99"),
            share,
        ]
        .map(show);
        everyday.row([rules.to_owned()].into_iter().chain(cells));
        rates.push(said.at("total.iops"));
        everyday_sets.push(Samples {
            name: rules.into(),
            values: said.latencies(2000),
        });
    }
    measures.push(Measure::new(
        "throughput, half refused, 7.2 over 3.x",
        rates[0] / rates[1],
        "",
    ));
    let value = |name: &str| {
        measures
            .iter()
            .find(|m| m.name == name)
            .map_or(f64::NAN, |m| m.value)
    };
    let finding = format!(
        "A driver that refuses everything for 100 ms is called {} times under the old rules and {} times under those of \
         7.2; with half of the tries refused the new rules give {} of the old throughput.",
        show(value("refusals in 100 ms, 3.x")),
        show(value("refusals in 100 ms, 7.2")),
        show(value("throughput, half refused, 7.2 over 3.x")),
    );
    let picture = |id: &str, title: &str, sets, table| {
        Figure {
        id: id.into(),
        title: title.into(),
        alt: format!("Latency of reads by percentile under the rules of 7.2 and of the 3.x kernels. {title}."),
        plot: Plot::Percentiles {
            value: Axis::log("latency, ms"),
            sets,
        },
        table,
    }
    };
    let figures = vec![
        picture(
            "outage",
            "Everything refused for 100 ms, 32 in flight",
            outage_sets,
            outage,
        ),
        picture(
            "everyday",
            "Half of the tries refused, eight jobs",
            everyday_sets,
            everyday,
        ),
    ];
    Ok(vec![Part {
        kind: Kind::Deterministic,
        finding,
        measures,
        figures,
    }])
}
