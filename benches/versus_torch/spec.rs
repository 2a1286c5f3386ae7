//! The works by which the two programs are compared, as `works.py` describes them in JSON.

use std::path::PathBuf;

use serde::Deserialize;

use crate::cells::{Cell, CellSpec};
use crate::convs::{Convs, ConvsSpec, Product, ProductSpec};
use crate::inference::{Evaluation, Features, InferenceSpec};
use crate::loading::{Loading, LoadingSpec};
use crate::ranking::{Ranking, Reranking};
use crate::steps::{Step, StepSpec};
use crate::work::Work;

/// A work, and the folder of its files: `inputs.safetensors` is read, `weights.safetensors` is written if it has a network.
#[derive(Deserialize)]
pub struct Spec {
    folder: PathBuf,
    #[serde(flatten)]
    kind: Kind,
}

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
enum Kind {
    Step(StepSpec),
    Evaluation(InferenceSpec),
    Features(InferenceSpec),
    Cell(CellSpec),
    Convs(ConvsSpec),
    Product(ProductSpec),
    Loading(LoadingSpec),
    Ranking,
    Reranking,
}

impl Spec {
    /// Sets the work up.
    pub fn prepare(self) -> Box<dyn Work> {
        let folder = &self.folder;
        match self.kind {
            Kind::Step(spec) => Box::new(Step::new(folder, spec)),
            Kind::Evaluation(spec) => Box::new(Evaluation::new(folder, &spec)),
            Kind::Features(spec) => Box::new(Features::new(folder, &spec)),
            Kind::Cell(spec) => Box::new(Cell::new(folder, &spec)),
            Kind::Convs(spec) => Box::new(Convs::new(folder, spec)),
            Kind::Product(spec) => Box::new(Product::new(folder, &spec)),
            Kind::Loading(spec) => Box::new(Loading::new(folder, spec)),
            Kind::Ranking => Box::new(Ranking::new(folder)),
            Kind::Reranking => Box::new(Reranking::new(folder)),
        }
    }
}
