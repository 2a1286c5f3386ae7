//! Progressive Transfer Learning (PTL; Yu et al., IJCAI 2019): fine-tunes person re-identification networks and image classifiers.
//!
//! A mini-batch shows the distribution of a few images, not that of the data set. PTL puts a BConv-Cell beside each stage of a ResNet: a
//! gated convolution with a *latent state*, which collects information from batch to batch and corrects the features of the stage:
//!
//! ```text
//!  image ──► stage 1 ──┬──► stage 2 ──┬──► … ──► pooled features ──► loss
//!                      ▼              ▼               ▲
//!                  BConv-Cell ───► BConv-Cell ─► … ───┘
//!                    ▲    │          ▲    │
//!                    └────┘          └────┘      latent states, kept for the next batch
//! ```
//!
//! The crate has its own engine ([`engine`]: graphs, gradients, a CPU and a CUDA back end), the networks ([`nn`]), data sets ([`data`]),
//! training ([`train`]), trained models on disk ([`model`]) and measures ([`eval`]). The program `ptl-train` is a thin layer over them.
//!
//! # Example
//!
//! Trains a small network on drawn pedestrians, then embeds an image with it:
//!
//! ```
//! use ptl::base::progress::Reporter;
//! use ptl::base::stop::StopFlag;
//! use ptl::config::{Config, Overrides};
//! use ptl::data::synth::{self, SynthConfig};
//! use ptl::data::{Dataset, DatasetKind, LoadOptions, load};
//! use ptl::eval::Output;
//! use ptl::model::TrainedModel;
//! use ptl::run_dir::RunDir;
//! use ptl::train::{self, Job, Reid, Start};
//!
//! # fn main() -> ptl::Result<()> {
//! # let temporary = tempfile::tempdir().unwrap();
//! # let folder = temporary.path();
//! let (stop, reporter) = (StopFlag::default(), Reporter::silent());
//! let drawing = SynthConfig { train_ids: 4, test_ids: 2, cams: 2, height: 32, width: 16, ..SynthConfig::default() };
//! synth::generate(&folder.join("data"), &drawing, &stop, &|_, _| {})?;
//! let dataset = load(&folder.join("data"), DatasetKind::Auto, &LoadOptions::default())?;
//!
//! let mut config = Config::default();
//! config.model.arch = "resnet18-ptl".into();
//! config.model.width = 0.125;
//! (config.model.height, config.model.image_width) = (32, 16);
//! (config.sampler.ids, config.sampler.images) = (2, 2);
//! config.schedule.epochs = 1;
//! let run = RunDir::create(&folder.join("run"))?;
//! let task = Reid { dataset: &dataset, target: None };
//! train::run(&Job { config: &config, task: &task, start: Start::Scratch, run: &run, reporter: &reporter, stop: &stop })?;
//!
//! let mut trained = TrainedModel::open(run.root(), &Overrides::default())?;
//! let query = Dataset::samples(&dataset.query[..1]);
//! let (feature, dim) = trained.model(&reporter).run(query, Output::Feature)?;
//! let length: f32 = feature.iter().map(|x| x * x).sum();
//! assert!(feature.len() == dim && (length - 1.0).abs() < 1e-4);
//! # Ok(())
//! # }
//! ```

pub mod app;
pub mod base;
pub mod config;
pub mod data;
pub mod engine;
pub mod eval;
pub mod io;
pub mod model;
pub mod nn;
pub mod run_dir;
pub mod study;
pub mod train;

pub use base::error::{Error, Result};
