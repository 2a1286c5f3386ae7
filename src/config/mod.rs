//! Every setting of a run: one struct that a TOML file, the command line and a run folder share.
//!
//! The sections are declared in the modules that they govern, by [`crate::base::settings`]; [`Config`] composes them.

mod load;
mod overrides;
mod training;
mod validate;

pub use load::whole_path;
pub use overrides::Overrides;
pub use training::{LossOptions, TrainOptions};

pub use crate::base::settings::{Command, Kind, Section, Setting};
use crate::base::settings::{EVERYWHERE, ON_IMAGES, Recipe, settings};
use crate::data::{Augment, DataOptions, SamplerOptions, Transform};
use crate::engine::device::{DeviceKind, DeviceOptions, GpuOptions, Precision};
use crate::engine::optim::OptimOptions;
use crate::engine::schedule::ScheduleOptions;
use crate::eval::rerank::{RerankOptions, RerankVariant};
use crate::eval::{EvalOptions, Inference};
use crate::nn::{Arch, Family, ModelOptions, NetworkConfig, PtlOptions, TaskKind};

settings! {
    /// All settings. [`Default`] is the recipe of `resnet50-ptl`, [`Config::recipe`] that of any network.
    pub struct Config in "", "General" {
        /// What is learnt: identities (reid), or classes of images (classify). Each has defaults of its own; classify: SGD at 0.01 for 30
        /// epochs, 224x224, random resized crops, smoothing 0.1.
        #[setting(flag("task").of_network())]
        pub task: TaskKind = TaskKind::Reid;
        /// Seed of everything drawn at random.
        #[setting(flag("seed").taken_by(ON_IMAGES))]
        pub seed: u64 = 0;
        /// Threads that compute; 0 takes all cores (results are the same).
        #[setting(flag("threads").at_most(1024.0).same_results().taken_by(EVERYWHERE))]
        pub threads: usize = 0;
        /// What computes; auto takes a GPU where one can be used, emulated runs the CUDA kernels on the CPU (for tests).
        #[setting(flag("device").same_results().taken_by(EVERYWHERE))]
        pub device: DeviceKind = DeviceKind::Auto;
        /// Arithmetic of convolutions on a GPU.
        #[setting(flag("precision").taken_by(ON_IMAGES))]
        pub precision: Precision = Precision::F32;
    }
    sections {
        /// How a GPU is used.
        pub gpu: GpuOptions;
        /// The network.
        pub model: ModelOptions;
        /// Its BConv-Cells.
        pub ptl: PtlOptions;
        /// The images.
        pub data: DataOptions;
        /// What happens to training images.
        pub augment: Augment;
        /// Which images make a batch.
        pub sampler: SamplerOptions;
        /// The optimiser.
        pub optim: OptimOptions;
        /// Length of the training and learning rate.
        pub schedule: ScheduleOptions;
        /// What is minimised.
        pub loss: LossOptions;
        /// The loop.
        pub train: TrainOptions;
        /// Features and predictions.
        pub eval: EvalOptions;
    }
}

impl Config {
    /// Every setting, section by section.
    pub fn settings() -> impl Iterator<Item = &'static Setting> {
        Config::SECTIONS.iter().flat_map(|section| section.settings)
    }

    /// The setting at `path`, such as `optim.lr`.
    pub fn setting(path: &str) -> Option<&'static Setting> {
        Config::settings().find(|setting| setting.path == path)
    }

    /// The defaults of the network `arch` for `task`: for `mgn` and its relatives the published recipe (Yu et al., 2019, and
    /// their code).
    pub fn recipe(task: TaskKind, arch: &str) -> Config {
        Config::recipe_for(task, arch, false)
    }

    /// As [`Config::recipe`], for `small_images` whatever the network.
    fn recipe_for(task: TaskKind, arch: &str, small_images: bool) -> Config {
        let known = Arch::new(arch, task).ok();
        let of_cifar = known.is_some_and(|arch| arch.backbone.for_small_images());
        let recipes: Vec<Recipe> = [
            (known.is_some_and(|arch| arch.family == Family::Mgn), Recipe::Mgn),
            (task == TaskKind::Classify, Recipe::Classify),
            (small_images || of_cifar, Recipe::SmallImages),
            (of_cifar, Recipe::ThreeStages),
        ]
        .into_iter()
        .filter_map(|(is_meant, recipe)| is_meant.then_some(recipe))
        .collect();
        let mut config = Config::defaults(&recipes);
        config.task = task;
        config.model.arch = arch.into();
        config
    }

    /// The first setting among `counted` that differs from `other`'s.
    pub fn first_difference(&self, other: &Config, counted: impl Fn(&Setting) -> bool) -> Option<&'static Setting> {
        Config::settings().find(|setting| counted(setting) && self.shown(setting) != other.shown(setting))
    }

    /// The network's name, taken apart.
    ///
    /// # Errors
    /// There is no such network, or not for this task.
    pub fn arch(&self) -> crate::Result<Arch> {
        Arch::new(&self.model.arch, self.task)
    }

    /// Images in a training batch.
    pub fn batch(&self) -> usize {
        match self.task {
            TaskKind::Reid => self.sampler.ids * self.sampler.images,
            TaskKind::Classify => self.sampler.batch,
        }
    }

    /// The settings that say how many images a training batch has, for messages.
    pub fn batch_settings(&self) -> &'static str {
        match self.task {
            TaskKind::Reid => "`sampler.ids` and `sampler.images`",
            TaskKind::Classify => "`sampler.batch`",
        }
    }

    /// What becomes of an image on its way to the network, in training and in evaluation.
    pub fn transform(&self) -> Transform {
        let Config { model, augment, .. } = self;
        Transform {
            height: model.height,
            width: model.image_width,
            upright: self.data.exif_orientation,
            interpolation: augment.interpolation,
            crop: augment.crop,
            crop_share: self.eval.crop_share,
            crop_scale: augment.crop_scale,
            crop_ratio: augment.crop_ratio,
        }
    }

    /// Loader threads: what the settings say, or two.
    pub fn workers(&self) -> usize {
        if self.train.workers == 0 { 2 } else { self.train.workers }
    }

    /// How the network is run on images.
    pub fn inference(&self) -> Inference {
        Inference {
            eval: self.eval.clone(),
            transform: self.transform(),
            workers: self.workers(),
            eval_state: self.ptl.eval_state,
            seed: self.seed,
        }
    }

    /// How results are re-ranked, if they are.
    pub fn rerank_options(&self) -> Option<RerankOptions> {
        let is_mgn = self.model.arch.starts_with("mgn");
        self.eval.rerank_options(if is_mgn { RerankVariant::Ptl } else { RerankVariant::Zhong })
    }

    /// The network that these settings make, for so many classes or identities.
    ///
    /// # Errors
    /// As [`Config::arch`].
    pub fn network(&self, classes: usize) -> crate::Result<NetworkConfig> {
        Ok(NetworkConfig { arch: self.arch()?, model: self.model.clone(), ptl: self.ptl.clone(), classes })
    }

    /// What computes.
    pub fn device_options(&self) -> DeviceOptions {
        DeviceOptions { kind: self.device, precision: self.precision, vendor: self.gpu.vendor }
    }
}
