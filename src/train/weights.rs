//! The initial weights of a training.

use std::path::Path;

use super::Job;
use super::task::Task;
use crate::base::text::Shown;
use crate::engine::store::Store;
use crate::io::checkpoint::{self, FineTune};
use crate::model::{has_header, model_header};
use crate::nn::Network;
use crate::{Error, Result};

/// Loads the tensors of the file `path` that fit into `store`, and reports what was loaded.
pub(super) fn load<T: Task>(job: &Job<'_, T>, path: &Path, network: &dyn Network, store: &mut Store) -> Result<()> {
    let Job { config, task, .. } = *job;
    let arch = config.arch()?;
    let keep = config.train.keep_head;
    let file = checkpoint::File::open_dictionary(path, config.train.weights_dict.as_deref())?;
    let how =
        FineTune { names: network, is_head: &|name| !keep && arch.is_head(name), partial: config.train.init_partial };
    let report = checkpoint::fine_tune(store, &file, how)?;
    if keep {
        let fits = !report.new.iter().any(|name| arch.is_head(name));
        // Files of other programs name no classes.
        let named = has_header(&file).then(|| model_header(path, &file)).transpose()?;
        let same = named.is_none_or(|header| header.names_fit(&task.class_names()));
        if !(fits && same) {
            let classes = task.classes();
            let reason = format!(
                "its classifier does not fit {} with these {classes} classes and the head {}: leave `train.keep_head` out",
                config.model.arch, config.model.head
            );
            return Err(Error::Checkpoint { path: path.into(), reason });
        }
    }
    job.reporter.message(&format!("weights from {}{}:\n{}", path.shown(), report.place.choice(&file), report.table()));
    if let Some(partial) = &report.partial {
        job.reporter.warn(&format!("`train.init_partial`: {partial}"));
    }
    Ok(())
}
