//! The names of all networks, and how a network is built from its name and its settings.

use std::str::FromStr;

use super::{
    Architecture, Baseline, BaselineConfig, Classifier, ClassifierConfig, HeadKind, Ibn, Mgn, MgnConfig, Network,
    OsNet, OsNetConfig, Pool, PtlOptions, ResNetConfig, StemKind, TaskKind,
};
use crate::base::settings::{COSINE_HEAD, CROSS_ENTROPY, LAST_STRIDE, ON_NETWORKS, ON_RUNS, settings};
use crate::engine::store::Store;
use crate::{Error, Result};

/// The family of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// A backbone with an embedding and a classifier of identities.
    Baseline,
    /// The multiple granularity network.
    Mgn,
    /// A backbone with a classifier, as in torchvision.
    Classifier,
}

/// What images pass before they are pooled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backbone {
    /// A ResNet.
    ResNet(Architecture),
    /// The OSNet whose stem has this number of channels as published.
    OsNet(usize),
}

impl Backbone {
    /// The OSNets by the ends of their names.
    const OSNETS: [(&str, usize); 4] = [("x1-0", 64), ("x0-75", 48), ("x0-5", 32), ("x0-25", 16)];

    /// Returns the number of stages.
    pub fn stages(self) -> usize {
        match self {
            Backbone::ResNet(architecture) => architecture.stages(),
            Backbone::OsNet(_) => super::osnet::STAGES.len(),
        }
    }

    /// Returns the channels of the stem as published.
    pub fn base(self) -> usize {
        match self {
            Backbone::ResNet(architecture) => architecture.base(),
            Backbone::OsNet(base) => base,
        }
    }

    /// Returns whether it is made for images of 32x32 pixels.
    pub(crate) fn for_small_images(self) -> bool {
        matches!(self, Backbone::ResNet(architecture) if architecture.for_small_images())
    }

    /// Returns the stride from images to the feature map.
    fn total_stride(self, stem: StemKind, last_stride: usize) -> usize {
        match self {
            Backbone::ResNet(architecture) => {
                ResNetConfig { architecture, ibn: None, base: 1, stem, last_stride, classes: None }.total_stride()
            }
            Backbone::OsNet(_) => super::osnet::total_stride(stem),
        }
    }
}

impl FromStr for Backbone {
    type Err = Error;

    fn from_str(name: &str) -> Result<Backbone> {
        let width = name.strip_prefix("osnet-");
        match Backbone::OSNETS.into_iter().find(|(end, _)| width == Some(end)) {
            Some((_, base)) => Ok(Backbone::OsNet(base)),
            None => Ok(Backbone::ResNet(name.parse()?)),
        }
    }
}

/// A network's name, parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arch {
    /// What surrounds the backbone.
    pub family: Family,
    /// The backbone; for MGN a ResNet.
    pub backbone: Backbone,
    /// Where a ResNet normalises by image, if it does.
    pub ibn: Option<Ibn>,
    /// Whether the network has BConv-Cells.
    pub ptl: bool,
}

impl Arch {
    /// All names: a network, then `-ibn-a` or `-ibn-b` where it is an IBN-Net, then `-ptl` where it has BConv-Cells.
    pub const NAMES: [&str; 42] = [
        "resnet18",
        "resnet34",
        "resnet50",
        "resnet101",
        "cifar-resnet20",
        "cifar-resnet32",
        "cifar-resnet56",
        "mgn",
        "mgn-resnet101",
        "osnet-x1-0",
        "osnet-x0-75",
        "osnet-x0-5",
        "osnet-x0-25",
        "resnet18-ibn-a",
        "resnet18-ibn-b",
        "resnet34-ibn-a",
        "resnet34-ibn-b",
        "resnet50-ibn-a",
        "resnet50-ibn-b",
        "resnet101-ibn-a",
        "resnet101-ibn-b",
        "resnet18-ptl",
        "resnet34-ptl",
        "resnet50-ptl",
        "resnet101-ptl",
        "cifar-resnet20-ptl",
        "cifar-resnet32-ptl",
        "cifar-resnet56-ptl",
        "mgn-ptl",
        "mgn-resnet101-ptl",
        "osnet-x1-0-ptl",
        "osnet-x0-75-ptl",
        "osnet-x0-5-ptl",
        "osnet-x0-25-ptl",
        "resnet18-ibn-a-ptl",
        "resnet18-ibn-b-ptl",
        "resnet34-ibn-a-ptl",
        "resnet34-ibn-b-ptl",
        "resnet50-ibn-a-ptl",
        "resnet50-ibn-b-ptl",
        "resnet101-ibn-a-ptl",
        "resnet101-ibn-b-ptl",
    ];

    /// Parses the name of a network for `task`.
    ///
    /// # Errors
    /// There is no such network, or it is not for this task.
    pub fn new(name: &str, task: TaskKind) -> Result<Arch> {
        let refuse = |reason: String| Error::Setting { setting: "model.arch".into(), value: name.into(), reason };
        if !Arch::NAMES.contains(&name) {
            return Err(refuse(format!("known are {}", Arch::NAMES.join(", "))));
        }
        let (plain, ptl) = name.strip_suffix("-ptl").map_or((name, false), |plain| (plain, true));
        let ibn = Ibn::ALL.into_iter().find(|ibn| plain.ends_with(ibn.suffix()));
        let plain = ibn.map_or(plain, |ibn| plain.trim_end_matches(ibn.suffix()));
        let (family, backbone) = match (plain.strip_prefix("mgn"), task) {
            (Some(_), TaskKind::Classify) => {
                return Err(refuse("mgn is for re-identification: name a resnet to classify with".into()));
            }
            (Some(""), _) => (Family::Mgn, Backbone::ResNet(Architecture::ResNet50)),
            (Some(backbone), _) => (Family::Mgn, backbone.trim_start_matches('-').parse()?),
            (None, TaskKind::Reid) => (Family::Baseline, plain.parse()?),
            (None, TaskKind::Classify) => (Family::Classifier, plain.parse()?),
        };
        Ok(Arch { family, backbone, ibn, ptl })
    }

    /// Returns whether the tensor `name` belongs to the classifier, which is newly initialised for other identities or classes.
    pub(crate) fn is_head(self, name: &str) -> bool {
        match (self.family, self.backbone) {
            (_, Backbone::OsNet(_)) => name.starts_with("classifier."),
            (Family::Baseline, _) => name == "classifier.weight",
            (Family::Mgn, _) => name.starts_with("fc_id_"),
            (Family::Classifier, _) => name.starts_with("fc."),
        }
    }
}

settings! {
    /// `[model]`: the network.
    pub struct ModelOptions in "model", "Network" {
        /// Network; -ibn-a and -ibn-b normalise a part of a ResNet by image, -ptl adds BConv-Cells. For mgn* the defaults are the published
        /// recipe: 384x128 images, 450 epochs, rate / 10 at 320, 360 and 400, margin 1.2.
        #[setting(flag("arch").choice(&Arch::NAMES).of_network().taken_by(ON_RUNS))]
        pub arch: String = DEFAULT_ARCH.into();
        /// Multiplier of the backbone's channel counts.
        #[setting(flag("width").at_least(0.02).at_most(16.0).of_network())]
        pub width: f32 = 1.0;
        /// Input height in pixels.
        #[setting(flag("height").at_least(16.0).at_most(4096.0).taken_by(ON_NETWORKS))]
        pub height: usize = 256, Mgn => 384, Classify => 224, SmallImages => 32;
        /// Input width in pixels.
        #[setting(flag("image-width").at_least(16.0).at_most(4096.0).taken_by(ON_NETWORKS))]
        pub image_width: usize = 128, Classify => 224, SmallImages => 32;
        /// How images enter: by 7x7 stride 2 and a max pool (imagenet), or for small images by 3x3 stride 1 (cifar); fixed for mgn* and
        /// cifar-*.
        #[setting(flag("stem").of_network())]
        pub stem: StemKind = StemKind::Imagenet, SmallImages => StemKind::Cifar;
        /// Stride of the backbone's last stage, 1 or 2 (fixed for mgn* and osnet-*).
        #[setting(flag("last-stride").at_least(1.0).at_most(2.0).needs(&[LAST_STRIDE]).of_network())]
        pub last_stride: usize = 1, Classify => 2, SmallImages => 2;
        /// Length of the embedding; 0 takes the pooled vector itself, for osnet-* 512, or for each of mgn*'s eight branches 256 x width.
        #[setting(flag("embedding").at_most(65536.0).of_network())]
        pub embedding: usize = 0;
        /// Global pooling: the average, the maximum (fixed for mgn*), or the generalised mean with a trained exponent (gem).
        #[setting(flag("pool").of_network())]
        pub pool: Pool = Pool::Avg, Mgn => Pool::Max;
        /// The classifier: linear, or scaled cosines that are trained with a margin (arcface; Deng et al., 2019; circle; Sun et al., 2020).
        #[setting(flag("head").needs(&[CROSS_ENTROPY]).of_network())]
        pub head: HeadKind = HeadKind::Linear;
        /// Factor of the cosines of --head arcface (64 if not set, as published) or circle (256).
        #[setting(flag("head-scale").above(0.0).at_most(65536.0).needs(&[COSINE_HEAD]).of_network())]
        #[serde(skip_serializing_if = "Option::is_none")]
        pub head_scale: Option<f32> = None;
    }
}

/// The network that is trained by default.
pub const DEFAULT_ARCH: &str = "resnet50-ptl";

/// Configuration of a network.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// The network's name in `model`, parsed.
    pub arch: Arch,
    /// The settings of the network; the size of its input is not used.
    pub model: ModelOptions,
    /// Settings of the BConv-Cells, if `arch` has them.
    pub ptl: PtlOptions,
    /// Number of training identities, or of classes.
    pub classes: usize,
}

impl NetworkConfig {
    /// Registers the network in `store`, with initial values drawn from `seed`.
    ///
    /// # Errors
    /// [`Error::Setting`] names a setting that does not fit.
    pub fn build(&self, store: &mut Store, seed: u64) -> Result<Box<dyn Network>> {
        let published = self.arch.backbone.base();
        let model = &self.model;
        let base = (published as f32 * model.width).round();
        if !(1.0..=1024.0).contains(&base) {
            return Err(Error::Setting {
                setting: "model.width".into(),
                value: model.width.to_string(),
                reason: format!("the stem has {published} channels times this: choose from 1 to 1024"),
            });
        }
        if !(1..=1 << 24).contains(&self.classes) {
            return Err(Error::Setting {
                setting: "classes".into(),
                value: self.classes.to_string(),
                reason: "a classifier has from 1 to 16777216".into(),
            });
        }
        let ibn = self.arch.ibn;
        let (base, classes) = (base as usize, self.classes);
        if ibn == Some(Ibn::A) && base < 2 {
            return Err(Error::Setting {
                setting: "model.width".into(),
                value: model.width.to_string(),
                reason:
                    "an IBN-a divides the channels of its first stage, so it needs two or more: take a larger width"
                        .into(),
            });
        }
        let ptl = self.arch.ptl.then(|| self.ptl.clone());
        let &ModelOptions { stem, last_stride, embedding, pool, .. } = model;
        let logit_scale = model.head.scale(model.head_scale);
        let architecture = match self.arch.backbone {
            Backbone::ResNet(architecture) => architecture,
            Backbone::OsNet(_) => {
                let triplets = self.arch.family == Family::Baseline;
                let config = OsNetConfig { base, stem, embedding, pool, ptl, classes, logit_scale, triplets };
                return Ok(Box::new(OsNet::new(store, &config, seed)?));
            }
        };
        Ok(match self.arch.family {
            Family::Classifier => {
                let backbone = ResNetConfig { architecture, ibn, base, stem, last_stride, classes: None };
                Box::new(Classifier::new(store, &ClassifierConfig { backbone, pool, ptl, classes, logit_scale }, seed)?)
            }
            Family::Baseline => {
                let config = BaselineConfig {
                    architecture,
                    ibn,
                    base,
                    stem,
                    last_stride,
                    embedding,
                    pool,
                    ptl,
                    classes,
                    logit_scale,
                };
                Box::new(Baseline::new(store, &config, seed)?)
            }
            Family::Mgn => {
                let embedding = if embedding == 0 { (4 * base).max(1) } else { embedding };
                let cell_width = self.arch.ptl.then_some(self.ptl.cell_width);
                let config = MgnConfig { architecture, base, embedding, cell_width, classes, logit_scale };
                Box::new(Mgn::new(store, &config, seed))
            }
        })
    }
}

/// Checks that `arch` can take images of height h and width w, pixels.
///
/// # Errors
/// [`Error::Setting`] says which multiples both sides must be.
pub fn check_image_size(arch: Arch, [h, w]: [usize; 2], stem: StemKind, last_stride: usize) -> Result<()> {
    let (multiples, why) = match arch.family {
        // Any size, as in torchvision.
        Family::Classifier => return Ok(()),
        Family::Baseline => ([arch.backbone.total_stride(stem, last_stride); 2], "the network's total stride"),
        Family::Mgn => (super::mgn::SIZE_MULTIPLES, "so that two and three stripes divide the feature map"),
    };
    if [h, w].contains(&0) || !h.is_multiple_of(multiples[0]) || !w.is_multiple_of(multiples[1]) {
        return Err(Error::Setting {
            setting: "model.height x model.image_width".into(),
            value: format!("{h}x{w}"),
            reason: format!("the height must be a multiple of {}, the width of {}: {why}", multiples[0], multiples[1]),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart() {
        let arch = |name: &str| Arch::new(name, TaskKind::Reid).unwrap();
        for name in Arch::NAMES {
            assert_eq!(arch(name).ptl, name.ends_with("-ptl"), "{name}");
            assert_eq!(arch(name).family == Family::Mgn, name.starts_with("mgn"), "{name}");
            assert_eq!(arch(name).ibn.is_some(), name.contains("-ibn-"), "{name}");
        }
        let resnet = Backbone::ResNet;
        let expected = Arch { family: Family::Mgn, backbone: resnet(Architecture::ResNet101), ibn: None, ptl: true };
        assert_eq!(arch("mgn-resnet101-ptl"), expected);
        assert_eq!(arch("mgn").backbone, resnet(Architecture::ResNet50));
        let expected = Arch { family: Family::Baseline, backbone: Backbone::OsNet(48), ibn: None, ptl: true };
        assert_eq!(arch("osnet-x0-75-ptl"), expected);
        let error = Arch::new("mgn-resnet18", TaskKind::Reid).unwrap_err().to_string();
        assert!(error.contains("mgn-resnet18") && error.contains("resnet50-ptl"), "{error}");
        let classifier = Arch::new("cifar-resnet20-ptl", TaskKind::Classify).unwrap();
        let backbone = resnet(Architecture::CifarResNet20);
        let expected = Arch { family: Family::Classifier, backbone, ibn: None, ptl: true };
        assert_eq!(classifier, expected);
        for (name, ibn, ptl) in [("resnet50-ibn-a", Ibn::A, false), ("resnet50-ibn-b-ptl", Ibn::B, true)] {
            let expected =
                Arch { family: Family::Baseline, backbone: resnet(Architecture::ResNet50), ibn: Some(ibn), ptl };
            assert_eq!(arch(name), expected);
        }
        assert!(Arch::new("mgn", TaskKind::Classify).unwrap_err().to_string().contains("name a resnet"));
    }

    #[test]
    fn a_head_of_cosines_has_the_weights_of_a_linear_one_and_no_bias() {
        for (name, task) in
            [("resnet18", TaskKind::Reid), ("mgn-ptl", TaskKind::Reid), ("cifar-resnet20", TaskKind::Classify)]
        {
            let arch = Arch::new(name, task).unwrap();
            let names = |head: HeadKind| -> Vec<String> {
                let model = ModelOptions { width: 0.0625, head, ..ModelOptions::default() };
                let ptl = PtlOptions::default();
                let mut store = Store::of_shapes();
                NetworkConfig { arch, model, ptl, classes: 3 }.build(&mut store, 0).unwrap();
                store.params.into_iter().map(|param| param.name).collect()
            };
            let mut linear = names(HeadKind::Linear);
            linear.retain(|name| !(arch.is_head(name) && name.ends_with(".bias")));
            assert_eq!(names(HeadKind::Circle), linear, "{name}");
        }
    }

    #[test]
    fn image_sizes_that_lose_pixels_are_refused() {
        let check =
            |name: &str, size| check_image_size(Arch::new(name, TaskKind::Reid).unwrap(), size, StemKind::Imagenet, 2);
        for size in [[384, 128], [96, 32], [192, 96]] {
            check("mgn-ptl", size).unwrap();
        }
        for size in [[256, 128], [384, 48], [0, 32], [96, 0]] {
            let error = check("mgn", size).unwrap_err().to_string();
            assert!(error.contains("multiple of 96, the width of 32"), "{error}");
        }
        check("resnet50", [256, 128]).unwrap();
        assert!(check("resnet50", [240, 128]).unwrap_err().to_string().contains("multiple of 32"));
        check("osnet-x1-0", [240, 112]).unwrap();
        assert!(check("osnet-x0-25-ptl", [240, 120]).unwrap_err().to_string().contains("multiple of 16"));
    }
}
