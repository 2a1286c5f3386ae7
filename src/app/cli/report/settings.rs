//! Settings and costs of the arms.

use super::{Arm, folded, paragraph};
use crate::Result;
use crate::app::cli::html::{escaped, table};
use crate::base::report::Table;
use crate::base::text::Shown;
use crate::config::{Config, Setting};
use crate::io::checkpoint;
use crate::model::{model_file, model_header};
use crate::train::{cost, curves};

/// Returns the settings in which the arms differ, and all settings of each.
pub(crate) fn settings(arms: &[Arm]) -> String {
    let mut differing = Table::new(std::iter::once("setting").chain(arms.iter().map(|arm| arm.name.as_str())));
    for setting in Config::settings() {
        let values: Vec<String> = arms.iter().map(|arm| shown(&arm.config, setting)).collect();
        if values.iter().any(|value| *value != values[0]) {
            differing.row(std::iter::once(setting.path.to_string()).chain(values));
        }
    }
    let mut html = match (arms.len(), differing.rows().is_empty()) {
        (1, _) => String::new(),
        (_, true) => paragraph("The first runs of all arms have the same settings."),
        (_, false) => table(&differing),
    };
    for arm in arms {
        let text = format!("<pre>{}</pre>\n", escaped(&arm.config.to_toml()));
        html += &folded(&format!("all settings of {}", arm.runs[0].root().shown()), &text);
    }
    html
}

fn shown(config: &Config, setting: &Setting) -> String {
    let value = config.shown(setting);
    if value.is_empty() { "-".into() } else { value }
}

/// Returns what the network and the training of each arm's first run take.
///
/// # Errors
/// The metrics cannot be read; the settings describe no network.
pub(crate) fn costs(arms: &[Arm]) -> Result<String> {
    let titles = ["arm", "parameters", "of the PTL branch", "GFLOP", "epochs", "steps", "images/s", "time in steps"];
    let mut rows = Table::new(titles);
    for arm in arms {
        let run = &arm.runs[0];
        let [rate, loss] = curves::per_epoch(run, ["images_per_second", "loss"])?;
        let steps = loss.last().map_or(0.0, |(step, _)| *step);
        let (mut seconds, mut before) = (0.0, 0.0);
        for (step, images_per_second) in &rate {
            // A step is an update, perhaps of several batches.
            let images = arm.config.batch() * arm.config.train.accumulate;
            seconds += (step - before) * images as f64 / images_per_second;
            before = *step;
        }
        let mut rates: Vec<f64> = rate.iter().map(|(_, rate)| *rate).collect();
        rates.sort_by(f64::total_cmp);
        let middle = rates.get(rates.len() / 2).map_or_else(|| "-".into(), |rate| format!("{rate:.1}"));
        // The weights may have been deleted.
        let of_network = match model_file(run.root()) {
            Err(_) => ["-"; 3].map(String::from),
            Ok(path) => {
                let header = model_header(&path, &checkpoint::File::open(&path)?)?;
                let cost = cost::cost(&arm.config, header.classes)?;
                let millions = |count: usize| format!("{:.2} M", count as f64 / 1e6);
                [millions(cost.parameters), millions(cost.ptl_parameters), format!("{:.2}", cost.flops as f64 / 1e9)]
            }
        };
        let of_training = [loss.len().to_string(), format!("{steps:.0}"), middle, duration(seconds)];
        rows.row(std::iter::once(arm.name.clone()).chain(of_network).chain(of_training));
    }
    let note = "First run of each arm. GFLOP: forward pass of one image. Images/s: median over epochs, without evaluations; other work on the \
                machine makes it smaller.";
    Ok(table(&rows) + &paragraph(note))
}

/// Formats seconds as hours, minutes and seconds.
fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{seconds:.1} s"),
        60..3600 => format!("{}:{:02} min", whole / 60, whole % 60),
        _ => format!("{}:{:02} h", whole / 3600, whole % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::duration;

    #[test]
    fn durations_are_short() {
        assert_eq!([4.25, 59.9, 61.0, 3720.0].map(duration), ["4.2 s", "1:00 min", "1:01 min", "1:02 h"]);
    }
}
