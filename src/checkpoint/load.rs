//! From a file of weights into a model: all of it, or what fits.

use std::collections::HashMap;

use super::{File, LoadReport, bad_file};
use crate::Result;
use crate::store::Store;

/// Fills every tensor of `store` from the file's tensor of the same name: a checkpoint of the same model. A counter
/// (`num_batches_tracked`) may be missing, as in files of old torch versions.
///
/// # Errors
/// Another name is missing, or one is superfluous or of another shape.
pub fn load_exact(store: &mut Store, file: &File) -> Result<()> {
    let report = fill(store, file, |_| false, |name| vec![name.to_string()])?;
    let missing: Vec<&String> =
        report.new.iter().filter(|name| store.counters.iter().all(|(n, _)| n != *name)).collect();
    let Some(example) = missing.first().copied().or(report.skipped.first().map(|(name, _)| name)) else {
        return Ok(());
    };
    let why =
        report.skipped.iter().find(|(name, _)| name == example).map_or(String::new(), |(_, why)| format!(" ({why})"));
    Err(bad_file(
        file.path(),
        format!(
            "it belongs to another model: {} tensors are missing and {} do not fit, {example}{why} among them",
            missing.len(),
            report.skipped.len()
        ),
    ))
}

/// Fills what fits by name and shape; tensors that belong to a classifier (`is_head`) always start afresh. `sources` lists for
/// a name of the model the names in a file that it may start from, the best one first; several tensors may start from one.
///
/// # Errors
/// Nothing at all fits.
pub fn fine_tune(
    store: &mut Store,
    file: &File,
    is_head: impl Fn(&str) -> bool,
    sources: impl Fn(&str) -> Vec<String>,
) -> Result<LoadReport> {
    let report = fill(store, file, is_head, sources)?;
    if !store.params.iter().any(|param| report.loaded.contains(&param.name)) {
        let names = file.names();
        let other_shape = report.skipped.iter().find(|(_, why)| why.starts_with("shape"));
        let have = match other_shape {
            Some((name, why)) => format!("{name} has the {why}"),
            None => format!("it has {}", names.first().map_or("no tensor at all", String::as_str)),
        };
        let reason = format!("no weight fits the model by name and shape ({have})");
        return Err(bad_file(file.path(), reason));
    }
    Ok(report)
}

fn fill(
    store: &mut Store,
    file: &File,
    is_head: impl Fn(&str) -> bool,
    sources: impl Fn(&str) -> Vec<String>,
) -> Result<LoadReport> {
    let mut report = LoadReport::default();
    // What became of the file's names: an empty reason where one was used.
    let mut fate: HashMap<String, String> = HashMap::new();
    let mut take = |name: &str, shape: &[usize]| -> Option<String> {
        for source in sources(name) {
            let Some(found) = file.shape(&source) else { continue };
            if is_head(name) {
                fate.entry(source).or_insert("classifier: starts afresh".into());
            } else if same_numbers(&found, shape) {
                report.loaded.push(name.into());
                fate.insert(source.clone(), String::new());
                return Some(source);
            } else {
                fate.entry(source).or_insert(format!("shape {found:?}, the model has {shape:?}"));
            }
        }
        report.new.push(name.into());
        None
    };
    let Store { params, values, buffers, counters, .. } = store;
    for param in params.iter() {
        if let Some(source) = take(&param.name, &param.shape) {
            param.from_torch(&file.f32(&source)?, &mut values[param.range.clone()]);
        }
    }
    for buffer in buffers.iter_mut() {
        if let Some(source) = take(&buffer.name, &[buffer.values.len()]) {
            buffer.values = file.f32(&source)?.into();
        }
    }
    for (name, count) in counters.iter_mut() {
        if let Some(source) = take(name, &[]) {
            *count = file.i64(&source)?[0].max(0) as u64;
        }
    }
    for name in file.names() {
        match fate.remove(&name) {
            Some(why) if why.is_empty() => {}
            Some(why) => report.skipped.push((name, why)),
            None => report.skipped.push((name, "the model has no such tensor".into())),
        }
    }
    Ok(report)
}

/// Whether tensors of these shapes are the same numbers in the same order: equal shapes, or a linear weight `[out, in]` and a
/// 1x1 convolution `[out, in, 1, 1]`.
fn same_numbers(a: &[usize], b: &[usize]) -> bool {
    let linear = |shape: &[usize]| match *shape {
        [out, input] | [out, input, 1, 1] => Some([out, input]),
        _ => None,
    };
    a == b || (linear(a).is_some() && linear(a) == linear(b))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::checkpoint::{Tensor, write};
    use crate::store::{Group, Layout};

    fn file(tensors: &[Tensor]) -> File {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        write(&path, tensors, []).unwrap();
        File::parse(Path::new("x"), std::fs::read(path).unwrap()).unwrap()
    }

    fn ramp(name: &str, shape: &[usize], from: usize) -> Tensor {
        let len = shape.iter().product::<usize>();
        Tensor::f32(name, shape, (from..from + len).map(|i| i as f32).collect())
    }

    /// Two branches that may start from one stage, a head, a running mean and its counter.
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

    fn sources(name: &str) -> Vec<String> {
        let stage = name.strip_prefix("p1.").or(name.strip_prefix("p2.")).map(|rest| format!("layer3.{rest}"));
        std::iter::once(name.to_string()).chain(stage).collect()
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
        let report = fine_tune(&mut store, &file, |name| name == "fc.weight", sources).unwrap();
        assert_eq!(report.loaded, ["p1.0.weight", "p2.0.weight"]);
        assert_eq!(report.new, ["fc.weight", "bn.running_mean", "bn.num_batches_tracked"]);
        let skipped: Vec<&str> = report.skipped.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(skipped, ["fc.weight", "other", "p2.0.weight"]);
        assert_eq!(report.skipped[2].1, "shape [2, 4], the model has [2, 3, 1, 1]");
        // [in, out] in memory.
        assert_eq!(store.values[..6], [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        assert_eq!(store.values[6..12], store.values[..6]);
        assert_eq!(store.values[12..], [0.0; 8]);
    }

    #[test]
    fn the_first_source_wins() {
        let file = file(&[ramp("layer3.0.weight", &[2, 3, 1, 1], 0), ramp("p1.0.weight", &[2, 3, 1, 1], 100)]);
        let mut store = store();
        fine_tune(&mut store, &file, |_| false, sources).unwrap();
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
        load_exact(&mut filled, &file(&whole())).unwrap();
        assert_eq!(filled.buffers[0].values[..], [30.0, 31.0]);
        let refused = |tensors: Vec<Tensor>, part: &str| {
            let error = load_exact(&mut store(), &file(&tensors)).unwrap_err().to_string();
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
        let error = fine_tune(&mut store(), &file, |_| false, sources).unwrap_err().to_string();
        assert!(error.contains("no weight fits") && error.contains("something"), "{error}");
    }
}
