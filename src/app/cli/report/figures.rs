//! The figures of the arms: means, intervals, comparisons.

use super::{charts, paragraph};
use crate::app::cli::html::table;
use crate::app::cli::plot::{self, Captions};
use crate::base::report::{MeanStd, Table};
use crate::study::runs::RunComparison;

/// Returns tables of the arms and of their differences, and a chart if there are several arms.
pub(crate) fn figures(found: &RunComparison) -> String {
    let arms = found.arms_table();
    let header = arms.header().iter().cloned().chain([format!("95 % interval of {}", found.main_title())]);
    let mut wider = Table::new(header);
    for (row, arm) in arms.rows().iter().zip(&found.arms) {
        let [low, high] = arm.interval.map(|share| format!("{:.2}", 100.0 * share));
        wider.row(row.iter().cloned().chain([format!("[{low}, {high}]")]));
    }
    let mut html = table(&wider);
    if !found.comparisons.is_empty() {
        html += &paragraph(&found.caption());
        html += &table(&found.comparisons_table());
        html += &charts(&[bars(found)]);
        html += &paragraph(&format!("Differences: {}.", found.procedure()));
    }
    html + &paragraph(&found.intervals())
}

/// Returns a chart of the shares of each arm, with standard deviations over seeds.
fn bars(found: &RunComparison) -> String {
    let shares = found.shares();
    let arms: Vec<plot::Arm> = found
        .arms
        .iter()
        .map(|arm| {
            let value = |(key, _): &(&str, &str)| MeanStd {
                mean: 100.0 * arm.mean[key],
                std: arm.std.get(key).map(|std| 100.0 * std),
            };
            plot::Arm { name: arm.name.clone(), values: shares.iter().map(value).collect() }
        })
        .collect();
    let titles: Vec<&str> = shares.iter().map(|(_, title)| *title).collect();
    plot::bars(Captions { title: "Means of the arms", x: "", y: "%" }, &titles, &arms)
}
