//! Fine-tunes person re-identification networks and image classifiers by Progressive Transfer Learning (PTL; Yu et al., IJCAI 2019).
//!
//! A mini-batch shows the distribution of a few images, not that of the data set. PTL adds a BConv-Cell to each stage of a ResNet: a
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
//! # Modules
//!
//! | to | use |
//! |---|---|
//! | load a data set and its images | [`data`] |
//! | choose a network and all settings of a training | [`nn`], [`config`] |
//! | train, fine-tune, resume | [`train`], with a [`run_dir`] |
//! | open a trained model, compute features or probabilities | [`model`], [`eval`] |
//! | measure: mAP, CMC, re-ranking, accuracy, calibration | [`eval`] |
//! | compare trainings | [`study`] |
//! | give a network to other programs | [`eval::onnx`], [`io::onnx`] |
//! | read and write weights, PyTorch's too | [`io`] |
//! | build a network of your own, or an op | [`engine`] |
//!
//! # Example
//!
//! Trains a small network on generated pedestrians, then computes the feature of an image:
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
//!
//! # Features
//!
//! - `cli` (default): the program `ptl-train` with its command line, progress bars and pictures. Users of the library do not need it.
//! - `onnx-runtime` (default): [`Model::compare_onnx`](eval::Model::compare_onnx) can run networks that were written as ONNX.
//! - `emulator`: [`Device::open`](engine::device::Device::open) can run the CUDA kernels on the CPU, for tests. Needs a C++17 compiler.

#![deny(missing_docs)]
#![deny(unreachable_pub)]
// Only the program uses some private functions.
#![cfg_attr(not(feature = "cli"), allow(dead_code, unused_imports))]

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

/// Compiles the examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
