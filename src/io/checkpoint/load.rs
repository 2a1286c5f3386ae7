//! Loads a file of weights into a model: all of it, or what fits.

use std::collections::HashMap;

use super::backbone::Gap;
use super::report::Unused;
use super::tensor::same_numbers;
use super::words::{is_averaged, is_no_weight};
use super::{File, LoadReport, Place, TensorNames, bad_file};
use crate::Result;
use crate::base::text::{Shown, are, plural};
use crate::engine::store::Store;
use crate::io::Dtype;

/// The names of a network's tensors in another program's file, and the place of the network in it.
pub(crate) type ForeignNames<'a> = (&'a dyn TensorNames, &'a Place);

/// Fills every tensor of `store` from the tensor of the same name in the file, a checkpoint of the same model. A counter
/// (`num_batches_tracked`) may be missing, as in files of old torch versions. A `foreign` file may have losses, counters and an average
/// of the weights beside the network.
///
/// # Errors
/// A tensor is missing, surplus, or has another shape; a value is not finite, or a variance is negative.
pub fn load_exact(store: &mut Store, file: &File, foreign: Option<ForeignNames<'_>>) -> Result<()> {
    exactly(store, file, foreign)?.fill(store, file)
}

/// Checks whether [`load_exact`] could fill `store`, which may have shapes without values.
///
/// # Errors
/// A tensor is missing, surplus, or has another shape.
pub(crate) fn fits_exactly(store: &Store, file: &File, foreign: Option<ForeignNames<'_>>) -> Result<()> {
    exactly(store, file, foreign).map(drop)
}

fn exactly(store: &Store, file: &File, foreign: Option<ForeignNames<'_>>) -> Result<Matching> {
    let sources = |name: &str| match foreign {
        Some((names, place)) => place.sources(names, name),
        None => vec![name.to_string()],
    };
    let matching = Matching::new(store, file, |_| false, sources)?;
    matching.check_exact(store, file, |name| foreign.is_some() && is_beside(name))?;
    Ok(matching)
}

/// Returns whether a tensor in another program's file is not part of the network itself.
fn is_beside(name: &str) -> bool {
    is_no_weight(name) || name.split('.').any(is_averaged)
}

/// How to start training from a file.
#[derive(Clone, Copy)]
pub struct FineTune<'a> {
    /// What the network's tensors may be called in the file.
    pub names: &'a dyn TensorNames,
    /// Tells the tensors that are always newly initialised: those of a classifier.
    pub is_head: &'a dyn Fn(&str) -> bool,
    /// Whether a part of the backbone suffices.
    pub partial: bool,
}

/// Fills the tensors of `store` that fit by name and shape; several may be filled from one tensor of the file.
///
/// # Errors
/// Nothing fits; not the whole backbone fits, and `partial` is not set; a value is not finite, or a variance is negative.
pub fn fine_tune(store: &mut Store, file: &File, how: FineTune<'_>) -> Result<LoadReport> {
    let FineTune { names, is_head, partial } = how;
    let place = Place::find(store, file, names)?;
    let matching = Matching::new(store, file, is_head, |name| place.sources(names, name))?;
    let report = &matching.report;
    if !store.params.iter().any(|param| report.loaded.contains(&param.name)) {
        let have = match report.skipped.iter().find(|(_, why)| why.is_shape()) {
            Some((name, why)) => format!("{} has the {why}", name.shown()),
            None => format!(
                "it has {}",
                file.all_names().next().map_or("no tensor at all".into(), |name| name.shown().to_string())
            ),
        };
        let reason = format!("no weight fits the model by name and shape ({have})");
        return Err(bad_file(file.path(), reason));
    }
    let gap = Gap::of(store, file, names, &place, report);
    if let Some(gap) = gap.as_ref().filter(|_| !partial) {
        let reason = format!(
            "{}: name the network that it was made with (`model.arch`, `model.width`, `model.stem`), or pass `train.init_partial` to take what fits and \
             start the rest from random values",
            gap.sentence()
        );
        return Err(bad_file(file.path(), reason));
    }
    matching.fill(store, file)?;
    let mut report = matching.report;
    report.place = place;
    report.partial = gap.map(|gap| match gap.missing {
        0 => format!("a part of the file's backbone is not used: {}", gap.sentence()),
        missing => {
            let start = if missing == 1 { "starts" } else { "start" };
            format!(
                "{missing} of the {} tensors of the backbone {start} from random values: {}",
                gap.all,
                gap.sentence()
            )
        }
    });
    Ok(report)
}

/// Assigns to each tensor of a model the tensor of a file that fills it.
struct Matching {
    report: LoadReport,
    /// Names in the model, and the names in the file.
    sources: HashMap<String, String>,
}

impl Matching {
    /// Matches tensors by name and shape, without reading values.
    ///
    /// # Errors
    /// A needed tensor is stored in a form that cannot be read.
    fn new(
        store: &Store,
        file: &File,
        is_head: impl Fn(&str) -> bool,
        sources: impl Fn(&str) -> Vec<String>,
    ) -> Result<Matching> {
        let mut matching = Matching { report: LoadReport::default(), sources: HashMap::new() };
        let Matching { report, sources: used } = &mut matching;
        // Why tensors of the file are not used; `None` for one that is.
        let mut fate: HashMap<String, Option<Unused>> = HashMap::new();
        let mut take = |name: &str, shape: &[usize]| {
            let mut unread = None;
            for source in sources(name) {
                let found = file.shape(&source);
                if is_head(name) && (found.is_some() || file.unread(&source).is_some()) {
                    fate.entry(source).or_insert(Some(Unused::Head));
                } else if let Some(why) = file.unread(&source) {
                    unread.get_or_insert(format!("{} cannot be used: {why}", source.shown()));
                } else if let Some(found) = found {
                    if same_numbers(&found, shape) {
                        report.loaded.push(name.into());
                        report.sources.push(source.clone());
                        fate.insert(source.clone(), None);
                        used.insert(name.into(), source);
                        return Ok(());
                    }
                    fate.entry(source).or_insert(Some(Unused::Shape { file: found, model: shape.to_vec() }));
                }
            }
            report.new.push(name.into());
            unread.map_or(Ok(()), |reason| Err(bad_file(file.path(), reason)))
        };
        for (name, shape) in super::place::tensors(store) {
            take(name, &shape)?;
        }
        for (name, _) in &store.counters {
            take(name, &[])?;
        }
        for name in file.all_names() {
            match fate.remove(name) {
                Some(None) => {}
                Some(Some(why)) => report.skipped.push((name.into(), why)),
                None => {
                    let why = file.unread(name).map_or(Unused::Unknown, |why| Unused::Unread(why.into()));
                    report.skipped.push((name.into(), why));
                }
            }
        }
        Ok(matching)
    }

    /// Checks that the match leaves out nothing but counters of the model, and tensors of the file that are `beside` the network.
    fn check_exact(&self, store: &Store, file: &File, beside: impl Fn(&str) -> bool) -> Result<()> {
        let counter = |name: &String| store.counters.iter().any(|(counter, _)| counter == name);
        let missing: Vec<&String> = self.report.new.iter().filter(|name| !counter(name)).collect();
        let skipped: Vec<&(String, Unused)> = self.report.skipped.iter().filter(|(name, _)| !beside(name)).collect();
        let Some(example) = missing.first().copied().or(skipped.first().map(|(name, _)| name)) else {
            return Ok(());
        };
        let why = skipped.iter().find(|(name, _)| name == example).or(skipped.iter().find(|(_, why)| why.is_shape()));
        let why = why.map_or(String::new(), |(_, why)| format!(" ({why})"));
        Err(bad_file(
            file.path(),
            format!(
                "it belongs to another model: {} missing and {} not fit, {}{why} among them",
                plural(missing.len(), "tensor is", "tensors are"),
                plural(skipped.len(), "does", "do"),
                example.shown()
            ),
        ))
    }

    /// Copies the values.
    ///
    /// # Errors
    /// A value is not finite, or a variance is negative.
    fn fill(&self, store: &mut Store, file: &File) -> Result<()> {
        let Store { params, values, buffers, counters, .. } = store;
        for param in params.iter() {
            if let Some(source) = self.sources.get(&param.name) {
                param.from_torch(&file.finite(source)?, &mut values[param.range.clone()]);
            }
        }
        for buffer in buffers.iter_mut() {
            if let Some(source) = self.sources.get(&buffer.name) {
                let values = file.finite(source)?;
                let negative = values.iter().filter(|value| **value < 0.0).count();
                if negative > 0 && buffer.name.ends_with("running_var") {
                    let reason = format!(
                        "{negative} of the {} of {} {} negative, and a variance never is: these weights are broken",
                        plural(values.len(), "value", "values"),
                        source.shown(),
                        are(negative)
                    );
                    return Err(bad_file(file.path(), reason));
                }
                buffer.values = values.into();
            }
        }
        for (name, count) in counters.iter_mut() {
            if let Some(source) = self.sources.get(name) {
                *count = counted(file, source)?;
            }
        }
        Ok(())
    }
}

/// Reads a counter. A model that was converted to half precision as a whole has floating-point counters.
fn counted(file: &File, name: &str) -> Result<u64> {
    let float = matches!(file.dtype(name), Some(Dtype::F16 | Dtype::BF16 | Dtype::F32 | Dtype::F64));
    Ok(if float { file.f32(name)?[0] as u64 } else { file.i64(name)?[0].max(0) as u64 })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::engine::store::{Group, Layout};
    use crate::io::checkpoint::{Tensor, write};

    fn file(tensors: &[Tensor]) -> File {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        write(&path, tensors, []).unwrap();
        File::parse(Path::new("x"), std::fs::read(path).unwrap(), None).unwrap()
    }

    fn ramp(name: &str, shape: &[usize], from: usize) -> Tensor<'static> {
        let len = shape.iter().product::<usize>();
        Tensor::f32(name, shape, (from..from + len).map(|i| i as f32).collect::<Vec<_>>())
    }

    #[test]
    fn a_negative_variance_is_named() {
        let mut store = Store::new();
        store.add_buffer("bn.running_var".into(), 2, 1.0);
        let load = |store: &mut Store, values: [f32; 2]| {
            load_exact(store, &file(&[Tensor::f32("bn.running_var", &[2], values.to_vec())]), None)
        };
        load(&mut store, [0.0, 2.0]).unwrap();
        let error = load(&mut store, [1.0, -2.0]).unwrap_err().to_string();
        assert!(error.contains("1 of the 2 values of bn.running_var is negative"), "{error}");
    }

    /// Returns a model of two branches that may start from one stage, a head, a running mean and its counter.
    fn store() -> Store {
        let mut store = Store::new();
        for name in ["p1.0.weight", "p2.0.weight"] {
            store.add_param(name.into(), &[2, 3, 1, 1], Layout::Conv, Group::Backbone);
        }
        store.add_param("fc.weight".into(), &[4, 2], Layout::Conv, Group::Head);
        store.add_buffer("bn.running_mean".into(), 2, 0.0);
        store.add_counter("bn.num_batches_tracked".into());
        store
    }

    fn start(store: &mut Store, file: &File, is_head: &dyn Fn(&str) -> bool, partial: bool) -> Result<LoadReport> {
        fine_tune(store, file, FineTune { names: &Branches, is_head, partial })
    }

    struct Branches;

    impl TensorNames for Branches {
        fn pretrained_names(&self, name: &str) -> Vec<String> {
            let stage = name.strip_prefix("p1.").or(name.strip_prefix("p2.")).map(|rest| format!("layer3.{rest}"));
            std::iter::once(name.to_string()).chain(stage).collect()
        }

        fn is_backbone(&self, name: &str) -> bool {
            name.starts_with('p')
        }
    }

    #[test]
    fn one_tensor_feeds_several_and_what_does_not_fit_is_named() {
        let file = file(&[
            ramp("layer3.0.weight", &[2, 3, 1, 1], 0),
            ramp("p2.0.weight", &[2, 4], 50),
            ramp("fc.weight", &[4, 2], 90),
            ramp("other", &[1], 0),
        ]);
        let mut store = store();
        let report = start(&mut store, &file, &|name| name == "fc.weight", true).unwrap();
        assert_eq!(report.loaded, ["p1.0.weight", "p2.0.weight"]);
        assert_eq!(report.new, ["fc.weight", "bn.running_mean", "bn.num_batches_tracked"]);
        let skipped: Vec<&str> = report.skipped.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(skipped, ["fc.weight", "other", "p2.0.weight"]);
        assert_eq!(report.skipped[2].1.to_string(), "shape [2, 4], the model has [2, 3, 1, 1]");
        // [in, out] in memory.
        assert_eq!(store.values[..6], [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        assert_eq!(store.values[6..12], store.values[..6]);
        assert_eq!(store.values[12..], [0.0; 8]);
    }

    #[test]
    fn the_first_source_wins() {
        let file = file(&[ramp("layer3.0.weight", &[2, 3, 1, 1], 0), ramp("p1.0.weight", &[2, 3, 1, 1], 100)]);
        let mut store = store();
        start(&mut store, &file, &|_| false, false).unwrap();
        assert_eq!(store.values[0], 100.0);
        assert_eq!(store.values[6], 0.0);
    }

    #[test]
    fn exactly_means_every_name_but_counters() {
        let whole = || {
            vec![
                // A linear weight for a 1x1 convolution.
                ramp("p1.0.weight", &[2, 3], 0),
                ramp("p2.0.weight", &[2, 3, 1, 1], 10),
                ramp("fc.weight", &[4, 2, 1, 1], 20),
                ramp("bn.running_mean", &[2], 30),
            ]
        };
        let mut filled = store();
        load_exact(&mut filled, &file(&whole()), None).unwrap();
        assert_eq!(filled.buffers[0].values[..], [30.0, 31.0]);
        let refused = |tensors: Vec<Tensor>, part: &str| {
            let error = load_exact(&mut store(), &file(&tensors), None).unwrap_err().to_string();
            assert!(error.contains("another model") && error.contains(part), "{error}");
        };
        refused(whole().into_iter().skip(1).collect(), "p1.0.weight");
        refused(whole().into_iter().chain([ramp("more", &[1], 0)]).collect(), "more");
        let other = whole().into_iter().skip(1).chain([ramp("p1.0.weight", &[2, 4], 0)]);
        refused(other.collect(), "shape [2, 4], the model has [2, 3, 1, 1]");
    }

    #[test]
    fn a_file_of_which_nothing_fits_is_refused() {
        let file = file(&[ramp("something", &[3], 0)]);
        let error = start(&mut store(), &file, &|_| false, true).unwrap_err().to_string();
        assert!(error.contains("no weight fits") && error.contains("something"), "{error}");
    }
}
