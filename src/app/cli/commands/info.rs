//! `ptl-train info`: information about the machine, or the cost of a network.

use crate::app::cli::ExitCode;
use crate::app::cli::args::InfoArgs;
use crate::app::cli::info;
use crate::app::cli::output::{print, with_flags};
use crate::base::report::Table;
use crate::base::text::plural;
use crate::config::{Config, Overrides};
use crate::train::cost::cost;
use crate::{Error, Result};

/// Runs `ptl-train info`.
pub(crate) fn info(args: &InfoArgs) -> Result<ExitCode> {
    let flags = &args.settings.0;
    match &args.model {
        None if !flags.is_empty() => {
            return Err(Error::Setting {
                setting: "--model".into(),
                value: "(none)".into(),
                reason: "the other flags describe a network: name it".into(),
            });
        }
        None => print(&with_flags(&info::text()))?,
        Some(model) => print(&network(model, args.classes, flags)?)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the table for `model`, plain and with PTL.
fn network(model: &str, classes: usize, flags: &Overrides) -> Result<String> {
    let plain = model.strip_suffix("-ptl").unwrap_or(model);
    let mut table =
        Table::new(["", "parameters", "PTL branch", "GFLOP", "weights MiB", "one image MiB", "training MiB"]);
    let mut sizes = String::new();
    let mut without = None;
    for name in [plain.to_string(), format!("{plain}-ptl")] {
        let mut flags = flags.clone();
        flags.push(Config::setting("model.arch").expect("a setting"), name.clone().into());
        let config = Config::load_recipe(&name, None, &flags)?;
        // Checks the second row: the first network has no cells.
        if without.is_some() {
            flags.refuse_without_effect(&config, false)?;
        }
        let cost = cost(&config, classes)?;
        let mib = |bytes: u64| format!("{:.1}", bytes as f64 / f64::from(1 << 20));
        let parameters = *without.get_or_insert(cost.parameters);
        // Includes the longer classifier.
        let added = 100.0 * (cost.parameters - parameters) as f64 / parameters as f64;
        let branch = match cost.ptl_parameters {
            0 => "-".into(),
            branch => format!("{:.2} M (+{added:.1} %)", branch as f64 / 1e6),
        };
        let total = format!("{:.2} M", cost.parameters as f64 / 1e6);
        let gflop = format!("{:.2}", cost.flops as f64 / 1e9);
        table.row([name, total, branch, gflop, mib(cost.weights), mib(cost.evaluation), mib(cost.training.bytes())]);
        let (height, width) = (config.model.height, config.model.image_width);
        sizes = format!(
            "{}, images of {height}x{width}, training batches of {}, {:?}, f32. GFLOP: forward pass of one image, \
             with two operations for a multiplication and an addition. The share of the branch includes the longer \
             classifier.\n\"one image\": activations and packed weights in evaluation. \"training\": memory of a run \
             without its data: weights, gradients, moments, moving average, latent states, activations, an evaluation of \
             {} at a time, prefetched batches.\n",
            plural(classes, "class", "classes"),
            config.batch(),
            config.optim.kind,
            plural(config.eval.batch, "image", "images")
        );
    }
    Ok(format!("{table}\n{sizes}"))
}
