//! Every setting of a run: one struct that is read from TOML files and flags, and stored in run folders.
//!
//! Each section is declared in the module that uses it, by [`crate::base::settings`]; [`Config`] composes them.

mod class_weights;
mod load;
mod overrides;
mod training;
mod validate;

pub use class_weights::ClassWeights;
pub(crate) use load::whole_path;
pub use overrides::Overrides;
pub use training::{LossOptions, TrainOptions};

pub use crate::base::settings::{Command, Kind, Section, Setting};
use crate::base::settings::{EVERYWHERE, ON_IMAGES, ON_RUNS, Recipe, settings};
use crate::data::{Augment, DataOptions, SamplerOptions, Transform};
use crate::engine::device::{DeviceKind, DeviceOptions, GpuOptions};
use crate::engine::latent_state::LatentStates;
use crate::engine::optim::OptimOptions;
use crate::engine::precision::Precision;
use crate::engine::schedule::ScheduleOptions;
use crate::eval::rerank::{RerankOptions, RerankVariant};
use crate::eval::{EvalOptions, Inference};
use crate::nn::{Arch, Family, ModelOptions, NetworkConfig, PtlOptions, TaskKind};

settings! {
    /// All settings. [`Default`] is the recipe of `resnet50-ptl`, [`Config::recipe`] that of any network.
    pub struct Config in "", "General" {
        /// What to learn: identities (reid) or classes of images (classify). Their defaults differ; classify: SGD at 0.01 for 30 epochs,
        /// 224x224, random resized crops, smoothing 0.1.
        #[setting(flag("task").of_network())]
        pub task: TaskKind = TaskKind::Reid;
        /// Seed of everything drawn at random.
        #[setting(flag("seed").taken_by(ON_IMAGES))]
        pub seed: u64 = 0;
        /// Compute threads; 0: all cores (results are the same).
        #[setting(flag("threads").at_most(1024.0).because("0 takes all cores").same_results().taken_by(EVERYWHERE))]
        pub threads: usize = 0;
        /// Device that computes: cpu, cuda (the first GPU), cuda:1 (the second one), emulated (the CUDA kernels run by the CPU, for tests),
        /// or auto: the first GPU if it can be used, else the CPU.
        #[setting(flag("device").same_results().taken_by(EVERYWHERE))]
        pub device: DeviceKind = DeviceKind::Auto;
        /// What convolutions compute in. tf32 needs a GPU; bf16 a GPU or a CPU with AVX-512 BF16, where it rounds the factors of convolutions
        /// that Winograd's method does not compute.
        #[setting(flag("precision").taken_by(ON_RUNS))]
        pub precision: Precision = Precision::F32;
    }
    sections {
        /// Use of a GPU.
        pub gpu: GpuOptions;
        /// The network.
        pub model: ModelOptions;
        /// The BConv-Cells.
        pub ptl: PtlOptions;
        /// The images.
        pub data: DataOptions;
        /// Augmentation of training images.
        pub augment: Augment;
        /// Choice of the images of a batch.
        pub sampler: SamplerOptions;
        /// The optimiser.
        pub optim: OptimOptions;
        /// Length of the training and learning rate.
        pub schedule: ScheduleOptions;
        /// The losses.
        pub loss: LossOptions;
        /// The training loop.
        pub train: TrainOptions;
        /// Evaluation: features, predictions, rankings.
        pub eval: EvalOptions;
    }
}

impl Config {
    /// Returns every setting, section by section.
    pub fn settings() -> impl Iterator<Item = &'static Setting> {
        Config::SECTIONS.iter().flat_map(|section| section.settings)
    }

    /// Returns the setting at `path`, such as `optim.lr`.
    pub fn setting(path: &str) -> Option<&'static Setting> {
        Config::settings().find(|setting| setting.path == path)
    }

    /// Returns the defaults of the network `arch` for `task`. `mgn` and `mgn-ptl` have the published recipe (Yu et al., 2019, and
    /// their code).
    pub fn recipe(task: TaskKind, arch: &str) -> Config {
        Config::recipe_for(task, arch, false)
    }

    /// Returns the defaults as [`Config::recipe`] does; `small_images` selects the defaults for small images, whatever the network.
    fn recipe_for(task: TaskKind, arch: &str, small_images: bool) -> Config {
        let known = Arch::new(arch, task).ok();
        let of_cifar = known.is_some_and(|arch| arch.backbone.for_small_images());
        let recipes: Vec<Recipe> = [
            (known.is_some_and(|arch| arch.family == Family::Mgn), Recipe::Mgn),
            (task == TaskKind::Classify, Recipe::Classify),
            (small_images || of_cifar, Recipe::SmallImages),
            (known.is_some_and(|arch| arch.backbone.stages() == 3), Recipe::ThreeStages),
        ]
        .into_iter()
        .filter_map(|(applies, recipe)| applies.then_some(recipe))
        .collect();
        let mut config = Config::defaults(&recipes);
        config.task = task;
        config.model.arch = arch.into();
        config
    }

    /// Returns the first setting that `counted` accepts and whose value differs from that in `other`.
    pub fn first_difference(&self, other: &Config, counted: impl Fn(&Setting) -> bool) -> Option<&'static Setting> {
        let [own, others] = [self, other].map(|config| config.to_table().expect("validated settings"));
        Config::settings().find(|setting| counted(setting) && setting.value_in(&own) != setting.value_in(&others))
    }

    /// Parses the name of the network.
    ///
    /// # Errors
    /// There is no such network for this task.
    pub fn arch(&self) -> crate::Result<Arch> {
        Arch::new(&self.model.arch, self.task)
    }

    /// Returns the number of images in a training batch.
    pub fn batch(&self) -> usize {
        match self.task {
            TaskKind::Reid => self.sampler.ids * self.sampler.images,
            TaskKind::Classify => self.sampler.batch,
        }
    }

    /// Returns the settings that determine the number of images in a training batch, for messages.
    pub fn batch_settings(&self) -> &'static str {
        match self.task {
            TaskKind::Reid => "`sampler.ids` and `sampler.images`",
            TaskKind::Classify => "`sampler.batch`",
        }
    }

    /// Returns whether images of a training batch are mixed in pairs.
    pub fn mixes(&self) -> bool {
        self.augment.mixup > 0.0 || self.augment.cutmix > 0.0
    }

    /// Returns how images are prepared for the network, in training and in evaluation.
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

    /// Returns the number of loader threads: the setting, or two if that is 0.
    pub fn workers(&self) -> usize {
        if self.train.workers == 0 { 2 } else { self.train.workers }
    }

    /// Returns how the network is run on images.
    pub fn inference(&self) -> Inference {
        Inference {
            eval: self.eval.clone(),
            transform: self.transform(),
            workers: self.workers(),
            eval_state: self.ptl.eval_state,
            seed: self.seed,
        }
    }

    /// Returns the latent states of the network for `classes` classes or identities, before the first step.
    pub fn latent_states(&self, classes: usize) -> LatentStates {
        let PtlOptions { state_init, state_form, state_rate, .. } = self.ptl;
        LatentStates::new(state_init, self.seed).with_form(state_form, state_rate, classes)
    }

    /// Returns how results are re-ranked; `None` if they are not.
    pub fn rerank_options(&self) -> Option<RerankOptions> {
        let is_mgn = self.model.arch.starts_with("mgn");
        self.eval.rerank_options(if is_mgn { RerankVariant::Ptl } else { RerankVariant::Zhong })
    }

    /// Returns the description of the network for `classes` classes or identities.
    ///
    /// # Errors
    /// As [`Config::arch`].
    pub fn network(&self, classes: usize) -> crate::Result<NetworkConfig> {
        Ok(NetworkConfig { arch: self.arch()?, model: self.model.clone(), ptl: self.ptl.clone(), classes })
    }

    /// Returns the options of the device that computes.
    pub fn device_options(&self) -> DeviceOptions {
        DeviceOptions { kind: self.device, precision: self.precision, vendor: self.gpu.vendor, local_rank: 0 }
    }
}
