//! `ptl-train predict`: the classes of images without labels.

use std::fs;
use std::sync::Arc;

use super::shared::{check_classes, set_threads};
use crate::app::cli::ExitCode;
use crate::app::cli::args::PredictArgs;
use crate::app::cli::output::stderr_reporter;
use crate::base::csv_out::write_csv;
use crate::base::error::IoContext;
use crate::base::text::{Shown, plural};
use crate::data::{ClassDataset, ImageList, ImageSource, Sample, list_images};
use crate::eval::Output;
use crate::model::TrainedModel;
use crate::nn::TaskKind;
use crate::{Error, Result};

/// Runs `ptl-train predict`.
pub(crate) fn predict(args: &PredictArgs) -> Result<ExitCode> {
    let mut trained = TrainedModel::open(&args.checkpoint, &args.settings.0)?;
    if trained.config.task != TaskKind::Classify {
        return Err(Error::Checkpoint {
            path: args.checkpoint.clone(),
            reason: "it is a re-identification model, which predicts no classes: write its features with ptl-train extract, or name \
                     the run of a classifier (--task classify)"
                .into(),
        });
    }
    set_threads(&trained.config)?;
    let reporter = stderr_reporter();
    reporter.message(&format!("device: {}", trained.device));
    trained.say_choice(&reporter);
    let sample = |path| Sample { image: ImageSource::File(path), label: 0 };
    let ImageList { images, warnings } = list_images(&args.images)?;
    let mut images = ClassDataset {
        name: args.images.shown().to_string(),
        val: images.into_iter().map(sample).collect(),
        warnings,
        ..ClassDataset::default()
    };
    check_classes(&mut images, &trained.config, &reporter)?;
    images.warnings.iter().for_each(|warning| reporter.warn(warning));
    if let Some(folder) = args.out.parent() {
        fs::create_dir_all(folder).at("create", folder)?;
    }

    let samples: Arc<[Sample]> = images.val.into();
    let (probabilities, classes) = trained.model(&reporter).run(samples.clone(), Output::Probabilities)?;
    // A model of another program does not name its classes.
    let name = |class: usize| trained.class_names.get(class).cloned().unwrap_or_else(|| class.to_string());
    let top = (args.top as usize).min(classes);
    write_csv(&args.out, trained.config.eval.cells(), |csv| {
        let columns = (1..=top).flat_map(|rank| [format!("class_{rank}"), format!("probability_{rank}")]);
        csv.row(std::iter::once("image".to_string()).chain(columns))?;
        for (sample, row) in samples.iter().zip(probabilities.chunks_exact(classes)) {
            let mut order: Vec<usize> = (0..classes).collect();
            order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
            let best = order.iter().take(top).flat_map(|&class| [name(class), row[class].to_string()]);
            csv.row(std::iter::once(sample.image.name()).chain(best))?;
        }
        Ok(())
    })?;
    reporter.message(&format!(
        "predictions for {} written to {}",
        plural(samples.len(), "image", "images"),
        args.out.shown()
    ));
    Ok(ExitCode::SUCCESS)
}
