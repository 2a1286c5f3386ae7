//! Weights with the names of other programs are loaded into the networks completely, or refused.

use super::{Arch, ModelOptions, Network, NetworkConfig, Pool, PtlOptions, StemKind};
use crate::Result;
use crate::engine::store::Store;
use crate::io::checkpoint::{self, File, FineTune, LoadReport, Place, Tensor};
use crate::nn::TaskKind;

/// A narrow network of that name.
fn build(arch: &str, task: TaskKind, store: &mut Store, seed: u64) -> Box<dyn Network> {
    build_pooled(arch, task, Pool::Avg, store, seed)
}

/// The same with another pooling.
fn build_pooled(arch: &str, task: TaskKind, pool: Pool, store: &mut Store, seed: u64) -> Box<dyn Network> {
    let arch = Arch::new(arch, task).unwrap();
    let stem = if arch.backbone.for_small_images() { StemKind::Cifar } else { StemKind::Imagenet };
    let config = NetworkConfig {
        arch,
        model: ModelOptions { width: 0.0625, stem, pool, ..ModelOptions::default() },
        ptl: PtlOptions { stages: vec![1, 2], ..PtlOptions::default() },
        classes: 3,
    };
    config.build(store, seed).unwrap()
}

/// Tensors of a network, its numbers drawn from seed 1.
fn tensors(arch: &str, task: TaskKind) -> Vec<Tensor<'static>> {
    let store = Box::leak(Box::new(Store::new()));
    build(arch, task, store, 1);
    store
        .buffers
        .iter_mut()
        .enumerate()
        .for_each(|(i, buffer)| buffer.values = vec![1.5 + i as f32; buffer.values.len()].into());
    checkpoint::state_dict(store)
}

fn renamed<'a>(tensors: Vec<Tensor<'a>>, rename: impl Fn(&str) -> Option<String>) -> Vec<Tensor<'a>> {
    let renamed = |mut tensor: Tensor<'a>| {
        tensor.name = rename(&tensor.name)?;
        Some(tensor)
    };
    tensors.into_iter().filter_map(renamed).collect()
}

fn file(tensors: &[Tensor]) -> File {
    open(tensors, None).unwrap()
}

fn open(tensors: &[Tensor], dictionary: Option<&str>) -> Result<File> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    checkpoint::write(&path, tensors, []).unwrap();
    File::open_dictionary(&path, dictionary)
}

/// Starts a network from a file, with a fresh classifier.
fn start(arch: &str, task: TaskKind, file: &File, partial: bool) -> Result<(Store, LoadReport)> {
    let mut store = Store::new();
    let network = build(arch, task, &mut store, 0);
    let head = Arch::new(arch, task).unwrap();
    let how = FineTune { names: &*network, is_head: &|name| head.is_head(name), partial };
    let report = checkpoint::fine_tune(&mut store, file, how)?;
    Ok((store, report))
}

/// Whether the backbone has the numbers of the same network of seed 1.
fn has_backbone(arch: &str, task: TaskKind, store: &Store) -> bool {
    let mut other = Store::new();
    let network = build(arch, task, &mut other, 1);
    let params = store.params.iter().filter(|param| network.is_backbone(&param.name));
    let statistics = store.buffers.iter().filter(|buffer| network.is_backbone(&buffer.name));
    params.clone().count() > 0
        && params.clone().all(|param| store.values[param.range.clone()] == other.values[param.range.clone()])
        && statistics.clone().all(|buffer| buffer.values.iter().all(|&value| value >= 1.5))
}

fn in_backbone(name: &str, prefix: &str) -> Option<String> {
    Some(name.strip_prefix("backbone.").map_or_else(|| name.to_string(), |rest| format!("{prefix}{rest}")))
}

const REID: TaskKind = TaskKind::Reid;
const CLASSES: TaskKind = TaskKind::Classify;

/// A name of our baseline as another program writes it, `None` where that has no such tensor.
type Rename = fn(&str) -> Option<String>;

/// Layouts of re-identification baselines, and whether their neck is found too.
const BASELINES: [(&str, Rename, bool); 14] = [
    ("ours", |name| Some(name.into()), true),
    ("DataParallel", |name| Some(format!("module.{name}")), true),
    ("torch.compile", |name| Some(format!("_orig_mod.{name}")), true),
    ("a compiled backbone", |name| in_backbone(name, "backbone._orig_mod."), true),
    (
        "a compiled backbone on several GPUs in Lightning",
        |name| Some(format!("model.module.{}", in_backbone(name, "backbone._orig_mod.")?)),
        true,
    ),
    ("Lightning", |name| Some(format!("model.{name}")), true),
    ("Lightning, net", |name| Some(format!("net.{name}")), true),
    ("reid-strong-baseline", |name| in_backbone(name, "base."), true),
    ("reid-strong-baseline in Lightning", |name| Some(format!("model.{}", in_backbone(name, "base.")?)), true),
    (
        "fast-reid",
        |name| match name {
            "classifier.weight" => Some("heads.weight".into()),
            name => Some(name.replace("bottleneck.", "heads.bottleneck.0.")),
        },
        true,
    ),
    (
        "fast-reid before 1.0 in a wrapper",
        |name| match name {
            "classifier.weight" => Some("model.heads.classifier.weight".into()),
            name => Some(format!("model.{}", name.replace("bottleneck.", "heads.bnneck."))),
        },
        true,
    ),
    ("torchreid", |name| in_backbone(name, "module.").filter(|name| !name.starts_with("bottleneck")), false),
    ("torchvision, timm", |name| name.strip_prefix("backbone.").map(String::from), false),
    ("an encoder far down", |name| Some(format!("a.b.encoder.{}", name.strip_prefix("backbone.")?)), false),
];

#[test]
fn baselines_of_every_layout_are_loaded_whole() {
    for arch in ["resnet18", "resnet50", "resnet18-ptl", "cifar-resnet20", "resnet50-ibn-a", "resnet18-ibn-b-ptl"] {
        let plain = arch.trim_end_matches("-ptl");
        for (layout, rename, neck) in BASELINES {
            let mut tensors = renamed(tensors(plain, REID), rename);
            // Other things beside the weights do not matter.
            tensors.push(Tensor::i64("n_averaged", &[], vec![7]));
            tensors.push(Tensor::f32("criterion.center_loss.centers", &[2, 3], vec![0.0; 6]));
            let (store, report) =
                start(arch, REID, &file(&tensors), false).unwrap_or_else(|e| panic!("{arch}, {layout}: {e}"));
            assert!(has_backbone(arch, REID, &store), "{arch}, {layout}");
            // With cells the neck is longer.
            let found = report.loaded.iter().any(|name| name == "bottleneck.weight");
            assert_eq!(found, neck && plain == arch, "{arch}, {layout}: the neck");
            assert!(
                report.new.contains(&"classifier.weight".to_string()) && report.partial.is_none(),
                "{arch}, {layout}"
            );
        }
    }
}

#[test]
fn classifiers_and_granularities_start_from_every_layout_too() {
    let prefixes = ["", "module.", "model.", "net._orig_mod.", "backbone.", "model.backbone.", "base."];
    for prefix in prefixes {
        for (arch, source) in
            [("resnet18", "resnet18"), ("resnet18-ptl", "resnet18"), ("cifar-resnet20", "cifar-resnet20")]
        {
            let tensors = renamed(tensors(source, CLASSES), |name| Some(format!("{prefix}{name}")));
            let (store, _) =
                start(arch, CLASSES, &file(&tensors), false).unwrap_or_else(|e| panic!("{arch} {prefix}: {e}"));
            assert!(has_backbone(arch, CLASSES, &store), "{arch}, {prefix}");
        }
        for arch in ["mgn", "mgn-ptl"] {
            // torchvision's ResNet-50; several branches start from the same layers.
            let tensors = renamed(tensors("resnet50", CLASSES), |name| Some(format!("{prefix}{name}")));
            let (_, report) =
                start(arch, REID, &file(&tensors), false).unwrap_or_else(|e| panic!("{arch} {prefix}: {e}"));
            for name in ["p1.1.0.conv1.weight", "p3.0.0.bn2.running_var"] {
                assert!(report.loaded.iter().any(|loaded| loaded == name), "{arch}, {prefix}: {name}");
            }
        }
    }
    // MGN with cells starts from MGN without, and the other way round.
    for (arch, source) in [("mgn", "mgn-ptl"), ("mgn-ptl", "mgn")] {
        let tensors = renamed(tensors(source, REID), |name| Some(format!("model.{name}")));
        start(arch, REID, &file(&tensors), false).unwrap_or_else(|e| panic!("{arch} from {source}: {e}"));
    }
}

/// torchreid's names are those of the network, in its files often with a prefix.
#[test]
fn osnets_start_from_torchreids_weights() {
    for prefix in ["", "module.", "model."] {
        let file = file(&renamed(tensors("osnet-x0-5", REID), |name| Some(format!("{prefix}{name}"))));
        for (arch, task) in [("osnet-x0-5", REID), ("osnet-x0-5-ptl", REID), ("osnet-x0-5", CLASSES)] {
            let (store, report) = start(arch, task, &file, false).unwrap_or_else(|e| panic!("{arch} {prefix}: {e}"));
            assert!(has_backbone(arch, task, &store), "{arch}, {prefix}");
            let is_new = |name: &str| report.new.iter().any(|new| new == name);
            assert!(is_new("classifier.weight") && is_new("classifier.bias"), "{arch}, {prefix}");
            // With cells the input of the embedding is longer.
            assert_eq!(is_new("fc.0.weight"), arch.ends_with("-ptl"), "{arch}, {prefix}");
            assert!(!is_new("fc.1.weight"), "{arch}, {prefix}");
        }
        let mut store = Store::of_shapes();
        let network = build("osnet-x0-5", REID, &mut store, 0);
        let place = Place::find(&store, &file, &*network).unwrap();
        checkpoint::fits_exactly(&store, &file, Some((&*network, &place))).unwrap();
        let error = start("osnet-x1-0", REID, &file, false).unwrap_err().to_string();
        assert!(error.contains("it lacks") && error.contains("has the shape"), "{error}");
    }
}

#[test]
fn other_networks_are_refused_by_what_they_lack_and_have() {
    let resnet = |name: &str| renamed(tensors(name, CLASSES), |name| Some(format!("model.{name}")));
    let refused = |arch: &str, tensors: &[Tensor], parts: &[&str]| {
        let error = start(arch, REID, &file(tensors), false).unwrap_err().to_string();
        assert!(parts.iter().chain(&["`train.init_partial`"]).all(|part| error.contains(part)), "{parts:?}: {error}");
        let (_, report) = start(arch, REID, &file(tensors), true).unwrap();
        assert!(report.partial.is_some(), "{parts:?}");
    };
    // Deeper and shallower: every tensor of a ResNet-18 is in a ResNet-34 as well.
    refused("resnet18", &resnet("resnet34"), &["it has", "of a backbone that the model does not have", "layer1.2."]);
    refused("resnet34", &resnet("resnet18"), &["it lacks", "backbone.layer1.2.conv1.weight"]);
    // Instance normalisation in half of the channels, and of a sum.
    let (a, b) = (resnet("resnet18-ibn-a"), resnet("resnet18-ibn-b"));
    refused("resnet18", &a, &["backbone.layer1.0.bn1.weight", "model.layer1.0.bn1."]);
    refused("resnet18-ibn-a", &resnet("resnet18"), &["backbone.layer1.0.bn1.IN.weight", "model.layer1.0.bn1."]);
    refused("resnet18", &b, &["it lacks", "backbone.bn1.running_mean", "model.layer1.1.IN."]);
    // A deep stem, and a pooled shortcut.
    let deep = renamed(resnet("resnet18"), |name| {
        Some(name.replace("model.conv1.", "model.conv1.0.").replace("downsample.1", "downsample.2"))
    });
    refused("resnet18", &deep, &["backbone.conv1.weight", "model.conv1.0.weight"]);
    // Blocks between the stages.
    let mut attention = renamed(resnet("resnet18"), |name| Some(name.replace("model.", "backbone.")));
    attention.push(Tensor::f32("backbone.NL_2.0.g.weight", &[2], vec![0.0; 2]));
    refused("resnet18", &attention, &["it has 1 of a backbone", "backbone.NL_2.0.g.weight"]);
    // Statistics are numbers of the network too.
    let bare = renamed(resnet("resnet18"), |name| (!name.contains("running_")).then(|| name.into()));
    refused("resnet18", &bare, &["it lacks", "running_mean"]);
    // Another stem.
    refused(
        "resnet18",
        &renamed(resnet("resnet18"), |name| Some(name.replace("layer2", "stage2"))),
        &["backbone.layer2"],
    );
}

#[test]
fn of_several_networks_the_one_that_is_meant_is_taken() {
    let twice = |a: &str, b: &str| {
        let other = tensors("resnet18", REID).into_iter().map(|mut tensor| {
            tensor.name = format!("{b}{}", tensor.name);
            tensor
        });
        renamed(tensors("resnet18", REID), |name| Some(format!("{a}{name}")))
            .into_iter()
            .chain(other)
            .collect::<Vec<_>>()
    };
    // An average only where it is asked for.
    for (network, average) in [("student.", "teacher."), ("model.", "model_ema."), ("encoder_q.", "encoder_k.")] {
        let tensors = twice(network, average);
        let (_, report) = start("resnet18", REID, &file(&tensors), false).unwrap();
        assert!(report.skipped.iter().any(|(name, _)| name.starts_with(average)), "{network}");
        assert!(!report.skipped.iter().any(|(name, _)| name.starts_with(&format!("{network}backbone."))), "{network}");
        let asked = open(&tensors, Some(average.trim_end_matches('.'))).unwrap();
        assert!(asked.names().iter().all(|name| !name.starts_with(network)), "{average}");
        start("resnet18", REID, &asked, false).unwrap();
    }
    // One at the top and another under a name: the one at the top is taken, and the choice is said.
    let tensors = twice("", "model.");
    let (_, report) = start("resnet18", REID, &file(&tensors), false).unwrap();
    let choice = report.place.choice(&file(&tensors));
    assert_eq!(choice, " (the tensors at its top; it also has model: `train.weights_dict` takes another)");
    let error = start("resnet18", REID, &file(&twice("rgb.", "infrared.")), false).unwrap_err().to_string();
    assert!(error.contains("under rgb and under infrared") && error.contains("`train.weights_dict`"), "{error}");
    let error = open(&twice("rgb.", "infrared."), Some("depth")).err().unwrap().to_string();
    assert!(error.contains("no names under depth") && error.contains("infrared, rgb"), "{error}");
}

#[test]
fn the_exponent_of_a_pooling_is_loaded_from_fast_reid_and_starts_at_three() {
    let exponent = |store: &Store, name: &str| {
        let param = store.params.iter().find(|param| param.name == name).expect("an exponent");
        store.values[param.range.clone()].to_vec()
    };
    let mut tensors =
        renamed(tensors("resnet18", REID), |name| Some(name.replace("bottleneck.", "heads.bottleneck.0.")));
    tensors.push(Tensor::f32("heads.pool_layer.p", &[1], vec![4.5]));
    let file = file(&tensors);
    for arch in ["resnet18", "resnet18-ptl"] {
        let mut store = Store::new();
        let network = build_pooled(arch, REID, Pool::Gem, &mut store, 0);
        assert_eq!(exponent(&store, "pool.p"), [3.0]);
        let how = FineTune { names: &*network, is_head: &|name| name == "classifier.weight", partial: false };
        checkpoint::fine_tune(&mut store, &file, how).unwrap();
        assert_eq!(exponent(&store, "pool.p"), [4.5]);
        assert!(store.params.iter().all(|param| param.name != "ptl.pool.p"), "a cell is pooled by its average");
    }
    // A classifier's exponent is no part of its backbone, so torchvision's files lack nothing.
    let mut store = Store::new();
    let network = build_pooled("resnet18", CLASSES, Pool::Gem, &mut store, 0);
    let how = FineTune { names: &*network, is_head: &|name| name.starts_with("fc."), partial: false };
    checkpoint::fine_tune(&mut store, &self::file(&self::tensors("resnet18", CLASSES)), how).unwrap();
}

/// For evaluation, all tensors must be there, whatever their prefix.
#[test]
fn exactly_means_the_same_under_any_prefix() {
    for (layout, rename, neck) in BASELINES {
        let mut tensors = renamed(tensors("resnet18", REID), rename);
        tensors.push(Tensor::i64("n_averaged", &[], vec![7]));
        tensors.push(Tensor::f32("criterion.centers", &[2, 3], vec![0.0; 6]));
        let file = file(&tensors);
        let mut store = Store::of_shapes();
        let network = build("resnet18", REID, &mut store, 0);
        let place = Place::find(&store, &file, &*network).unwrap();
        let fits = checkpoint::fits_exactly(&store, &file, Some((&*network, &place)));
        assert_eq!(fits.is_ok(), neck, "{layout}: {fits:?}");
        if neck {
            store.allocate().unwrap();
            checkpoint::load_exact(&mut store, &file, Some((&*network, &place))).unwrap();
            assert!(has_backbone("resnet18", REID, &store), "{layout}");
        }
        // A layer more is another network.
        tensors.push(Tensor::f32("more.weight", &[1], vec![0.0]));
        let file = self::file(&tensors);
        assert!(checkpoint::fits_exactly(&store, &file, Some((&*network, &place))).is_err(), "{layout}");
    }
}
