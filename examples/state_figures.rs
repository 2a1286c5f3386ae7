//! Measures what latent states hold while a network is fine-tuned, and draws it:
//! `cargo run --release --example state_figures -- DATA WEIGHTS OUT`
//!
//! DATA is a data set of identities, WEIGHTS a run or file of a `resnet18` of width 0.25 to start from. Writes `state-figures.csv` and these charts
//! into OUT:
//!
//! - `state-norm.svg`: root mean square of the state of each cell after each step.
//! - `state-kept.svg`: share of the state before a step that the forget gate leaves in the state after it. A cell's new state is linear in
//!   its old one, so this is the difference to a step that starts from zeros, relative to the old state.
//! - `state-slots.svg`: mean cosine between the states of two slots.
//! - `state-steps.svg`: mean cosine between the states of a slot before and after a step.
//! - `gradient-noise.svg`: standard deviation of the backbone's gradient between batches, relative to its mean over batches, by the size of a
//!   batch, at the weights after the first epoch. (At the end there is hardly a gradient left on the training images.)

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use plotters::prelude::*;
use ptl::config::Config;
use ptl::data::{
    Batch, Crop, Dataset, DatasetKind, IdentitySampler, ImageCache, Interpolation, LoadOptions, Loader, LoaderOptions,
    Sample, Sampler, load,
};
use ptl::engine::device::Device;
use ptl::engine::graph::{Graph, Mode, StateId, Var};
use ptl::engine::latent_state::{LatentStates, StateForm, StatePolicy};
use ptl::engine::session::Session;
use ptl::engine::shape::Shape;
use ptl::engine::store::{Group, Store};
use ptl::io::checkpoint::{File, FineTune, fine_tune};
use ptl::model::model_file;
use ptl::train::Trainer;

/// Steps between two measurements of the states.
const EVERY: usize = 5;
/// Batches whose gradients are compared.
const GRADIENTS: usize = 48;
/// Sizes of batches, `[identities, images of each]`.
const BATCHES: [[usize; 2]; 5] = [[2, 2], [4, 2], [4, 4], [8, 4], [16, 4]];

/// One line of a chart.
struct Line {
    name: String,
    points: Vec<(f64, f64)>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<PathBuf> = std::env::args().skip(1).map(PathBuf::from).collect();
    let [data, weights, out] = &args[..] else {
        return Err("usage: state_figures DATA WEIGHTS OUT".into());
    };
    let dataset = load(data, DatasetKind::Auto, &LoadOptions::default())?;
    let weights = model_file(weights)?;
    std::fs::create_dir_all(out)?;

    let mut charts = vec![
        ("state-norm", "State after a step, root mean square", "step", Vec::new()),
        ("state-kept", "Share of the old state in the new one", "step", Vec::new()),
        ("state-slots", "Cosine between the states of two slots", "step", Vec::new()),
        ("state-steps", "Cosine between the states of a slot before and after a step", "step", Vec::new()),
        ("gradient-noise", "Noise of the backbone's gradient, relative to its mean", "images in a batch", Vec::new()),
    ];
    for arm in ["plain", "memoryless", "carry", "mean"] {
        let mut run = Run::new(arm, &dataset, &weights)?;
        let measured = run.train()?;
        if arm == "carry" {
            charts.iter_mut().zip(measured).for_each(|(chart, lines)| chart.3 = lines);
        }
        let noise = run.gradient_noise()?;
        println!("{arm}: {noise:?}");
        charts[4].3.push(Line { name: arm.into(), points: noise });
    }
    let mut csv = "chart,line,x,y\n".to_string();
    for (name, title, x, lines) in &charts {
        draw(&out.join(format!("{name}.svg")), title, x, lines)?;
        for line in lines {
            line.points.iter().for_each(|(x, y)| writeln!(csv, "{name},{},{x},{y:.5}", line.name).expect("text"));
        }
    }
    std::fs::write(out.join("state-figures.csv"), csv)?;
    Ok(())
}

/// A fine-tuning with the settings of the study's task `ids`.
struct Run<'a> {
    config: Config,
    dataset: &'a Dataset,
    samples: Arc<[Sample]>,
    cache: Arc<ImageCache>,
    trainer: Trainer,
    /// The weights after the first epoch.
    early: Vec<f32>,
}

impl<'a> Run<'a> {
    fn new(arm: &str, dataset: &'a Dataset, weights: &Path) -> ptl::Result<Run<'a>> {
        let mut config = Config::default();
        config.model.arch = if arm == "plain" { "resnet18" } else { "resnet18-ptl" }.into();
        config.model.width = 0.25;
        (config.model.height, config.model.image_width) = (64, 64);
        (config.sampler.ids, config.sampler.images, config.sampler.passes) = (4, 4, 4);
        (config.augment.flip, config.augment.pad, config.augment.random_erasing) = (0.0, 6, 0.0);
        (config.augment.crop, config.augment.interpolation) = (Crop::Squeeze, Interpolation::Bicubic);
        (config.schedule.epochs, config.schedule.warmup_epochs, config.optim.lr) = (8, 1, 2e-3);
        match arm {
            "memoryless" => config.ptl.state_policy = StatePolicy::Reset,
            "mean" => config.ptl.state_form = StateForm::Mean,
            _ => {}
        }
        config.validate()?;
        let samples = Dataset::samples(&dataset.train);
        let cache = ImageCache::new(samples.len(), &config.transform(), 512);
        let file = File::open(weights)?;
        let trainer = Trainer::new(&config, dataset.train_classes(), |network, store| {
            let is_head = |name: &str| name == "classifier.weight";
            fine_tune(store, &file, FineTune { names: network, is_head: &is_head, partial: false }).map(drop)
        })?;
        Ok(Run { config, dataset, samples, cache, trainer, early: Vec::new() })
    }

    /// Loads the batches of an epoch.
    fn batches(&self, [ids, images]: [usize; 2], epoch: u64) -> ptl::Result<Vec<Batch>> {
        let sampler = IdentitySampler::new(&self.dataset.train, ids, images, self.config.sampler.passes);
        let options = LoaderOptions {
            transform: self.config.transform(),
            augment: Some(self.config.augment.clone()),
            seed: self.config.seed,
            epoch,
            workers: 1,
        };
        let batches = sampler.epoch(self.config.seed, epoch);
        Loader::new(self.samples.clone(), &batches, 0, options, self.cache.clone())?.collect()
    }

    /// Trains, and returns for each cell the norm, the share that is kept, the cosine between two slots, and that between two steps, by step.
    fn train(&mut self) -> ptl::Result<[Vec<Line>; 4]> {
        let sizes = [self.config.sampler.ids, self.config.sampler.images];
        let mut probe = Probe::new(&self.config, &self.trainer)?;
        let cells = self.trainer.state_decls().len();
        let lines =
            || (1..=cells).map(|cell| Line { name: format!("cell {cell}"), points: Vec::new() }).collect::<Vec<_>>();
        let [mut norm, mut kept, mut between, mut over] = [lines(), lines(), lines(), lines()];
        let mut step = 0;
        for epoch in 0..self.config.schedule.epochs {
            self.trainer.begin_epoch();
            let batches = self.batches(sizes, epoch as u64)?;
            let schedule = self.config.schedule.per_step(batches.len() as u64);
            for (i, batch) in batches.iter().enumerate() {
                let measured = i > 0 && step % EVERY == 0;
                let before = self.trainer.states.clone();
                if measured {
                    let shares = probe.kept(batch, &self.trainer.store, &before)?;
                    kept.iter_mut().zip(shares).for_each(|(line, share)| line.points.push((step as f64, share)));
                }
                let lr = schedule.lr(self.config.optim.lr, step as u64);
                self.trainer.step(batch, None, lr)?;
                if measured {
                    for cell in 0..cells {
                        let (then, now) = (
                            before.current(StateId::from_index(cell)),
                            self.trainer.states.current(StateId::from_index(cell)),
                        );
                        let slots = batch.labels.len();
                        norm[cell].points.push((step as f64, (dot(now, now) / now.len() as f64).sqrt()));
                        between[cell].points.push((step as f64, cosine_of_slots(now, slots)));
                        let len = now.len() / slots;
                        let of_slot = |(then, now): (&[f32], &[f32])| cosine(then, now);
                        let sum: f64 = then.chunks(len).zip(now.chunks(len)).map(of_slot).sum();
                        over[cell].points.push((step as f64, sum / slots as f64));
                    }
                }
                step += 1;
            }
            if epoch == 0 {
                self.early = self.trainer.store.values.to_vec();
            }
        }
        Ok([norm, kept, between, over])
    }

    /// Returns for each size of a batch the standard deviation of the gradient relative to its mean, at the weights after the first epoch. Leaves
    /// a size out, and says so, where the mean over so few batches is not larger than its own noise.
    fn gradient_noise(&self) -> ptl::Result<Vec<(f64, f64)>> {
        let noise = |sizes: [usize; 2]| -> ptl::Result<Option<(f64, f64)>> {
            let mut config = self.config.clone();
            [config.sampler.ids, config.sampler.images] = sizes;
            let mut trainer = Trainer::new(&config, self.dataset.train_classes(), |_, store| {
                store.values.copy_from_slice(&self.early);
                Ok(())
            })?;
            let (mut gradients, mut epoch) = (Vec::new(), 100);
            while gradients.len() < GRADIENTS {
                for batch in self.batches(sizes, epoch)? {
                    // The first steps fill the states; a learning rate of 0 leaves the weights.
                    trainer.step(&batch, None, 0.0)?;
                    gradients.push(backbone_gradient(&trainer.store));
                }
                epoch += 1;
            }
            let gradients = &gradients[gradients.len() - GRADIENTS..];
            let mean: Vec<f32> = (0..gradients[0].len())
                .map(|i| gradients.iter().map(|gradient| gradient[i]).sum::<f32>() / GRADIENTS as f32)
                .collect();
            let apart =
                |gradient: &Vec<f32>| gradient.iter().zip(&mean).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
            let variance = gradients.iter().map(apart).sum::<f64>() / (GRADIENTS - 1) as f64;
            // The mean over batches has noise of its own, which its squared norm includes.
            let signal = dot(&mean, &mean) - variance / GRADIENTS as f64;
            let images = sizes[0] * sizes[1];
            if signal <= 0.0 {
                println!("batches of {images} images: the gradient is lost in its noise");
            }
            Ok((signal > 0.0).then(|| (images as f64, (variance / signal).sqrt())))
        };
        BATCHES.into_iter().map(noise).filter_map(Result::transpose).collect()
    }
}

/// The network of a training without its update.
struct Probe {
    session: Session,
    images: Var,
}

impl Probe {
    fn new(config: &Config, trainer: &Trainer) -> ptl::Result<Probe> {
        let mut graph = Graph::new(Mode::Train);
        let images = graph.input(Shape::new(config.batch(), config.model.height, config.model.image_width, 3));
        let outputs = trainer.network.forward(&mut graph, &trainer.store, images)?;
        graph.root(outputs.feature);
        Ok(Probe { session: Session::new(graph, &trainer.store, &Device::cpu())?, images })
    }

    /// Returns for each cell the share of its old state in the new one.
    fn kept(&mut self, batch: &Batch, store: &Store, states: &LatentStates) -> ptl::Result<Vec<f64>> {
        let cells = self.session.graph().states().len();
        let mut after = |states: &LatentStates| -> ptl::Result<LatentStates> {
            let (mut store, mut states) = (store.clone(), states.clone());
            self.session.set_images(self.images, batch)?;
            self.session.forward(&mut store, &mut states)?;
            Ok(states)
        };
        let whole = after(states)?;
        let share = |cell: usize| -> ptl::Result<f64> {
            let id = StateId::from_index(cell);
            let old = states.current(id);
            let mut without = states.clone();
            without.set_current(id, vec![0.0; old.len()]);
            // The inputs of this cell are the same, because only cells behind it read its output.
            let without = after(&without)?;
            let left: Vec<f32> = whole.current(id).iter().zip(without.current(id)).map(|(a, b)| a - b).collect();
            Ok((dot(&left, &left) / dot(old, old)).sqrt())
        };
        (0..cells).map(share).collect()
    }
}

/// Returns the gradients of the backbone.
fn backbone_gradient(store: &Store) -> Vec<f32> {
    let backbone = store.params.iter().filter(|param| param.group == Group::Backbone);
    backbone.flat_map(|param| store.grads[param.range.clone()].iter().copied()).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// Returns the mean cosine between the states of two different slots.
fn cosine_of_slots(state: &[f32], slots: usize) -> f64 {
    let slot: Vec<&[f32]> = state.chunks_exact(state.len() / slots).collect();
    let pairs = (0..slots).flat_map(|i| (0..i).map(move |j| (i, j)));
    let cosines: Vec<f64> = pairs.map(|(i, j)| cosine(slot[i], slot[j])).collect();
    cosines.iter().sum::<f64>() / cosines.len() as f64
}

/// Draws lines into an SVG file.
fn draw(path: &Path, title: &str, x: &str, lines: &[Line]) -> Result<(), Box<dyn std::error::Error>> {
    let points = || lines.iter().flat_map(|line| &line.points);
    let (last, top) = points().fold((1.0f64, 0.0f64), |(last, top), (x, y)| (last.max(*x), top.max(*y)));
    let root = SVGBackend::new(path, (880, 500)).into_drawing_area();
    root.fill(&WHITE)?;
    let (area, legend) = root.split_horizontally(750);
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..last, 0.0..1.05 * top)?;
    chart.configure_mesh().x_desc(x).light_line_style(WHITE).draw()?;
    for (i, line) in lines.iter().enumerate() {
        let colour = Palette99::pick(i).to_rgba();
        chart.draw_series(LineSeries::new(line.points.iter().copied(), colour.stroke_width(2)))?;
        let y = 60 + 24 * i as i32;
        legend.draw(&PathElement::new([(8, y), (28, y)], colour.stroke_width(2)))?;
        legend.draw(&Text::new(line.name.as_str(), (36, y - 7), ("sans-serif", 14)))?;
    }
    root.present()?;
    Ok(())
}
