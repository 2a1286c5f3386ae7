//! Compares whole networks with weights by formula: evaluation, gradients, two training steps, three Adam steps.

use std::collections::HashMap;
use std::path::Path;

use ptl::engine::graph::{Graph, Mode, StateId, Var};
use ptl::engine::latent_state::{LatentStates, StateInit};
use ptl::engine::op::{self, CrossEntropyOptions};
use ptl::engine::optim::{Optimizer, Segment, UpdateRule};
use ptl::engine::precision::Precision;
use ptl::engine::session::Session;
use ptl::engine::shape::Shape;
use ptl::engine::store::Store;
use ptl::eval::extract::normalize;
use ptl::nn::{Classifier, ClassifierConfig, Mgn, MgnConfig, Network as _, Pool, ResNetConfig, StemKind};
use serde_json::Value;

use crate::engine::{to_nchw, to_nhwc};
use crate::optim::update;
use crate::support::{
    Checker, GoldenFile, Summary, Variant, by_default, exact, files, formula_tensor, input, state_dict_tensor,
};

#[test]
fn golden_resnets() {
    for path in files("net_resnet*.json") {
        let small = path.to_string_lossy().contains("resnet18_c10.");
        for variant in exact().into_iter().take(if small { 2 } else { 1 }) {
            Network::new(GoldenFile::open(&path), variant).check();
        }
    }
}

/// Runs the networks one after the other: each takes 2 to 3.5 GB.
#[test]
fn golden_mgn() {
    for path in FULL_MGN.into_iter().flat_map(files) {
        Network::new(GoldenFile::open(&path), exact().swap_remove(0)).check();
    }
}

/// Runs the networks of full size in the emulator, which takes long.
#[test]
#[ignore = "hours in the emulator"]
fn golden_mgn_on_the_emulated_gpu() {
    for path in FULL_MGN.into_iter().flat_map(files) {
        for variant in exact().into_iter().skip(1) {
            Network::new(GoldenFile::open(&path), variant).check();
        }
    }
}

/// Files of the networks of full size.
const FULL_MGN: [&str; 2] = ["net_mgn*_c20.json", "net_mgn*_c751.json"];

#[test]
fn golden_narrow_mgn() {
    check_narrow("net_mgn_narrow.json");
}

#[test]
fn golden_narrow_mgn_ptl() {
    check_narrow("net_mgn_ptl_narrow.json");
}

/// Compares a network with few channels on every device, in every precision.
fn check_narrow(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden").join(name);
    for variant in by_default() {
        Network::new(GoldenFile::open(&path), variant).check();
    }
}

/// Compares names and shapes with the published state dicts.
#[test]
fn golden_mgn_keys() {
    for path in files("keys_mgn*.json") {
        let golden = GoldenFile::open(&path);
        let text = |key: &str| golden.json[key].as_str().unwrap_or_else(|| panic!("{key}")).to_string();
        let number = |key: &str| golden.json[key].as_u64().unwrap_or_else(|| panic!("{key}")) as usize;
        let config = MgnConfig {
            architecture: text("backbone").parse().expect("a ResNet"),
            base: 64,
            embedding: 256,
            cell_width: golden.name.contains("_ptl").then_some(1.0),
            classes: number("num_classes"),
            logit_scale: None,
        };
        let mut store = Store::new();
        Mgn::new(&mut store, &config, 0);
        let parameters = store.count(None);
        let params = store.params.iter().map(|p| (p.name.clone(), p.shape.clone()));
        let buffers = store.buffers.iter().map(|b| (b.name.clone(), vec![b.values.len()]));
        let counters = store.counters.iter().map(|(name, _)| (name.clone(), Vec::new()));
        let got: HashMap<String, Vec<usize>> = params.chain(buffers).chain(counters).collect();
        let want: HashMap<String, Vec<usize>> =
            golden.json["keys"].as_array().expect("keys").iter().map(entry).collect();
        let mut checker = Checker::new(&golden.name);
        checker.that(parameters == number("n_params"), || format!("{parameters} parameters"));
        for (name, shape) in &want {
            checker.that(got.get(name) == Some(shape), || format!("{name}: {:?}, not {shape:?}", got.get(name)));
        }
        for name in got.keys() {
            checker.that(want.contains_key(name), || format!("{name} is not in the published state dict"));
        }
    }
}

/// Returns name and shape in one line of a list of keys.
fn entry(line: &Value) -> (String, Vec<usize>) {
    let shape = serde_json::from_value(line[1].clone()).expect("a shape");
    (line[0].as_str().expect("a name").to_string(), shape)
}

enum Modules {
    Classifier(Box<Classifier>),
    Mgn { mgn: Box<Mgn>, cells: bool },
}

struct Network {
    variant: Variant,
    golden: GoldenFile,
    tag: String,
    input_shape: [usize; 4],
    store: Store,
    modules: Modules,
    states: LatentStates,
}

/// A recorded network with its loss.
struct Recorded {
    session: Session,
    images: Var,
    labels: Var,
    /// Outputs by their names in the golden file.
    outputs: Vec<(&'static str, Var)>,
    /// Each loss with its weight in the sum.
    losses: Vec<(Var, f32)>,
}

impl Network {
    fn new(golden: GoldenFile, variant: Variant) -> Network {
        let meta = &golden.json["meta"];
        let text = |key: &str| meta[key].as_str().unwrap_or_else(|| panic!("meta.{key}")).to_string();
        let classes = meta["num_classes"].as_u64().expect("num_classes") as usize;
        let shape: Vec<usize> = serde_json::from_value(meta["input_shape"].clone()).expect("input_shape");
        let (tag, kind) = (text("tag"), text("kind"));
        let mut store = Store::new();
        let modules = if kind.starts_with("mgn") {
            let cells = kind == "mgn_ptl";
            let architecture = "resnet50".parse().expect("a ResNet");
            let cell_width = cells.then_some(1.0);
            let size = |key: &str, published| meta[key].as_u64().map_or(published, |size| size as usize);
            let (base, embedding) = (size("base", 64), size("embedding", 256));
            let config = MgnConfig { architecture, base, embedding, cell_width, classes, logit_scale: None };
            Modules::Mgn { mgn: Box::new(Mgn::new(&mut store, &config, 0)), cells }
        } else {
            let architecture = kind.parse().expect("a ResNet");
            let (stem, pool) = (StemKind::Imagenet, Pool::Avg);
            let backbone = ResNetConfig { architecture, ibn: None, base: 64, stem, last_stride: 2, classes: None };
            let config = ClassifierConfig { backbone, pool, ptl: None, classes, logit_scale: None };
            Modules::Classifier(Box::new(Classifier::new(&mut store, &config, 0).expect("a classifier")))
        };
        let mut network = Network {
            variant,
            golden,
            tag,
            input_shape: shape.try_into().expect("four sizes"),
            store,
            modules,
            states: LatentStates::new(StateInit::Zeros, 0),
        };
        network.fill();
        network
    }

    /// Sets weights and statistics by formula.
    fn fill(&mut self) {
        let salt = self.golden.salt();
        for param in &self.store.params {
            let torch = state_dict_tensor(salt, &self.tag, &param.name, &param.shape);
            param.from_torch(&torch, &mut self.store.values[param.range.clone()]);
        }
        for buffer in &mut self.store.buffers {
            buffer.values = state_dict_tensor(salt, &self.tag, &buffer.name, &[buffer.values.len()]).into();
        }
        self.store.counters.iter_mut().for_each(|(_, count)| *count = 0);
        self.states.reset();
    }

    /// Sets all latent states by formula.
    fn fill_states(&mut self, recorded: &Recorded) {
        let batch = self.input_shape[0];
        for (i, decl) in recorded.session.graph().states().iter().enumerate() {
            let shape = Shape { n: batch, ..decl.slot };
            let key = format!("{}/latent.{}", self.tag, cell_name(&decl.name));
            let torch = formula_tensor(self.golden.salt(), &key, shape.len(), 0.0, 0.5);
            self.states.set_current(StateId::from_index(i), to_nhwc(&torch, shape));
        }
    }

    fn record(&self, mode: Mode) -> Recorded {
        let [n, c, h, w] = self.input_shape;
        let mut graph = Graph::new(mode);
        let images = graph.input_with_grad(Shape::new(n, h, w, c));
        let labels = graph.labels(n);
        let (outputs, losses) = match &self.modules {
            Modules::Classifier(classifier) => {
                let outputs = classifier.forward(&mut graph, &self.store, images).expect("the network records");
                let logits = outputs.logits[0];
                let loss = op::cross_entropy(&mut graph, logits, labels, CrossEntropyOptions::default())
                    .expect("the loss records");
                (vec![("logits", logits)], vec![(loss, 1.0)])
            }
            Modules::Mgn { mgn, .. } => {
                let recorded = mgn.forward(&mut graph, &self.store, images).expect("the network records");
                let mut losses = Vec::new();
                for &embedding in &recorded.embeddings {
                    let loss =
                        op::batch_hard_triplet(&mut graph, embedding, labels, None, 1.2).expect("the loss records");
                    losses.push((loss, 1.0 / 3.0));
                }
                for &logits in &recorded.logits {
                    let loss = op::cross_entropy(&mut graph, logits, labels, CrossEntropyOptions::default())
                        .expect("the loss records");
                    losses.push((loss, 1.0 / 8.0));
                }
                let vars = recorded.embeddings.into_iter().chain(recorded.logits).chain([recorded.feature]);
                (MGN_OUTPUTS.into_iter().zip(vars).collect(), losses)
            }
        };
        outputs.iter().for_each(|&(_, output)| graph.keep(output));
        losses.iter().for_each(|&(loss, _)| graph.root(loss));
        let session = Session::new(graph, &self.store, &self.variant.device).unwrap().poisoned();
        Recorded { session, images, labels, outputs, losses }
    }

    /// Runs the forward pass. Returns the sum of the losses, and each of them.
    fn forward(&mut self, recorded: &mut Recorded, which: usize) -> (f64, Vec<f64>) {
        let [n, c, h, w] = self.input_shape;
        let x = input(self.golden.salt(), &self.tag, &format!("input{which}"), self.input_shape);
        let labels: Vec<u32> =
            serde_json::from_value(self.golden.json[format!("labels{which}")].clone()).expect("labels");
        let session = &mut recorded.session;
        session.set(recorded.images, &to_nhwc(&x, Shape::new(n, h, w, c))).unwrap();
        session.set(recorded.labels, bytemuck::cast_slice(&labels)).unwrap();
        session.forward(&mut self.store, &mut self.states).unwrap();
        let parts: Vec<f64> = recorded.losses.iter().map(|l| f64::from(session.value(l.0).unwrap()[0])).collect();
        (parts.iter().zip(&recorded.losses).map(|(part, (_, weight))| part * f64::from(*weight)).sum(), parts)
    }

    fn backward(&mut self, recorded: &mut Recorded) {
        self.store.grads.fill(f32::NAN);
        recorded.losses.iter().for_each(|&(loss, weight)| recorded.session.set_grad(loss, &[weight]).unwrap());
        recorded.session.backward(&mut self.store, &mut self.states).unwrap();
    }

    fn check(&mut self) {
        let narrow = self.golden.name.ends_with("_narrow");
        let allowed = match self.variant.precision() {
            Precision::F32 if narrow => &NARROW_IN_F32,
            Precision::F32 => &IN_F32,
            Precision::Tf32 => &NARROW_IN_TF32,
            Precision::Bf16 => &NARROW_IN_BF16,
        };
        // These tolerances are for whole networks in this precision; the variant's bound is for a few layers.
        let mut checker = Checker::new(format!("{} on {}", self.golden.name, self.variant.name));
        let step = &allowed.evaluation;
        let eval = match &self.modules {
            Modules::Mgn { cells: true, .. } => {
                // The states of `eval_c0zero`; `evalgrad` starts from formula states, as does `eval_c0formula`.
                let mut recorded = self.record(Mode::EvalGrad);
                self.forward(&mut recorded, 1);
                self.outputs(&mut checker, &recorded, "eval_c0zero", step.outputs);
                self.latent_states(&mut checker, &recorded, "eval_c0zero.latent_after", step.latent);
                self.features(&mut checker, "eval_c0zero", step.outputs);
                "eval_c0formula"
            }
            Modules::Mgn { cells: false, .. } => {
                self.features(&mut checker, "eval", step.outputs);
                "eval"
            }
            Modules::Classifier(_) => "eval",
        };
        let mut recorded = self.record(Mode::EvalGrad);
        self.fill_states(&recorded);
        let (loss, parts) = self.forward(&mut recorded, 1);
        self.backward(&mut recorded);
        self.outputs(&mut checker, &recorded, eval, step.outputs);
        self.latent_states(&mut checker, &recorded, &format!("{eval}.latent_after"), step.latent);
        self.step(&mut checker, &recorded, "evalgrad", loss, &parts, step);
        drop(recorded);

        self.states.reset();
        let step = &allowed.training;
        let mut recorded = self.record(Mode::Train);
        for which in [1, 2] {
            let key = format!("train{which}");
            let (loss, parts) = self.forward(&mut recorded, which);
            self.backward(&mut recorded);
            self.outputs(&mut checker, &recorded, &key, step.outputs);
            self.latent_states(&mut checker, &recorded, &format!("{key}.latent"), step.latent);
            self.step(&mut checker, &recorded, &key, loss, &parts, step);
            for buffer in &self.store.buffers {
                let want = self.summary(&format!("{key}.buffers"), &buffer.name);
                let got = Summary::of(&buffer.values, self.golden.salt(), &self.tag, &buffer.name, 0);
                let name = format!("{key} {}", buffer.name);
                checker.close(&format!("{name}.l2"), &[got.l2], &[want.l2], allowed.buffers);
                checker.close_absolute(&format!("{name}.proj"), &[got.proj], &[want.proj], allowed.buffers * want.l2);
            }
            for (name, count) in &self.store.counters {
                let want = &self.golden.json[format!("{key}.buffers")][name];
                checker.that(want.as_u64() == Some(*count), || format!("{key}: {name} is {count}, not {want}"));
            }
        }
        drop(recorded);
        self.adam(&mut checker, &allowed.adam);
    }

    /// Compares the losses and gradients of a step.
    fn step(
        &self,
        checker: &mut Checker,
        recorded: &Recorded,
        key: &str,
        loss: f64,
        parts: &[f64],
        allowed: &StepTolerances,
    ) {
        checker.close(&format!("{key}.loss"), &[loss], &[self.number(&format!("{key}.loss"))], allowed.loss);
        self.parts(checker, key, parts, allowed.parts);
        self.gradients(checker, recorded, key, allowed);
        // "proj" of the input gradient is a sum of terms that nearly cancel: relative to l2, as everywhere.
        self.input_gradient(checker, recorded, key, allowed.input_gradient);
    }

    fn outputs(&self, checker: &mut Checker, recorded: &Recorded, key: &str, tolerance: f64) {
        for (name, var) in &recorded.outputs {
            let want = self.golden.f32(&format!("{key}.{name}"));
            checker.close(&format!("{key}.{name}"), &recorded.session.value(*var).unwrap(), &want, tolerance);
        }
    }

    /// Compares the single losses of an MGN.
    fn parts(&self, checker: &mut Checker, key: &str, parts: &[f64], tolerance: f64) {
        if matches!(self.modules, Modules::Mgn { .. }) {
            let stored = &self.golden.json[format!("{key}.parts")];
            let list = |name: &str| serde_json::from_value::<Vec<f64>>(stored[name].clone()).expect("losses");
            let want: Vec<f64> = list("triplets").into_iter().chain(list("ces")).collect();
            checker.close(&format!("{key}.parts"), parts, &want, tolerance);
        }
    }

    fn latent_states(&self, checker: &mut Checker, recorded: &Recorded, key: &str, tolerance: f64) {
        for (i, decl) in recorded.session.graph().states().iter().enumerate() {
            let state = self.states.current(StateId::from_index(i));
            let torch = to_nchw(state, Shape { n: self.input_shape[0], ..decl.slot });
            let cell = cell_name(&decl.name);
            let want = self.summary(key, cell);
            let probe = format!("lat.{cell}");
            let got = Summary::of(&torch, self.golden.salt(), &self.tag, &probe, want.first.len());
            checker.close(&format!("{key} {cell}.l2"), &[got.l2], &[want.l2], tolerance);
            checker.close_absolute(&format!("{key} {cell}.proj"), &[got.proj], &[want.proj], tolerance * want.l2);
            checker.close(&format!("{key} {cell}.first"), &got.first, &want.first, tolerance);
        }
    }

    /// Compares the retrieval feature of image and mirror image together, with states of zero before each.
    fn features(&mut self, checker: &mut Checker, key: &str, tolerance: f64) {
        let Modules::Mgn { mgn, .. } = &self.modules else { return };
        let [n, c, h, w] = self.input_shape;
        let shape = Shape::new(n, h, w, c);
        let mut graph = Graph::new(Mode::Eval);
        let images = graph.input(shape);
        let feature = mgn.forward(&mut graph, &self.store, images).expect("the network records").feature;
        graph.keep(feature);
        let mut session = Session::new(graph, &self.store, &self.variant.device).unwrap();
        let x = input(self.golden.salt(), &self.tag, "input1", self.input_shape);
        let mut pixels = to_nhwc(&x, shape);
        let mut features = vec![0.0; session.graph().shape(feature).len()];
        for _ in 0..2 {
            session.set(images, &pixels).unwrap();
            let mut states = LatentStates::new(StateInit::Zeros, 0);
            session.forward(&mut self.store, &mut states).unwrap();
            features.iter_mut().zip(&session.value(feature).unwrap()[..]).for_each(|(sum, v)| *sum += v);
            for row in pixels.chunks_exact_mut(w * c) {
                let (row, _) = row.as_chunks_mut::<3>();
                row.reverse();
            }
        }
        features.chunks_exact_mut(session.graph().shape(feature).c).for_each(normalize);
        let name = format!("{key}.feature_flip_norm");
        checker.close(&name, &features, &self.golden.f32(&name), tolerance);
    }

    /// Compares every parameter's gradient, and of cells that of each gate where it is stored.
    fn gradients(&self, checker: &mut Checker, recorded: &Recorded, key: &str, allowed: &StepTolerances) {
        let [mut parameters, mut gates] = [Deviations::default(), Deviations::default()];
        for (i, param) in self.store.params.iter().enumerate() {
            let stored = self.golden.json[format!("{key}.grad")].get(&param.name);
            let want = Summary::stored(stored.unwrap_or_else(|| panic!("{key}.grad: {}", param.name)));
            checker.that(recorded.session.has_grad(i) == want.is_some(), || {
                format!("{key}: who has a gradient: {}", param.name)
            });
            let Some(want) = want else { continue };
            let torch = param.to_torch(&self.store.grads[param.range.clone()]);
            let mut compare = |list: &mut Deviations, name: &str, torch: &[f32], want: Summary, each| {
                let got = Summary::of(torch, self.golden.salt(), &self.tag, name, 0);
                let name = format!("{key} gradient of {name}");
                if want.l2 < 1e-8 {
                    // Exactly zero by algebra (a bias before a batch norm): only its size can be checked.
                    checker.that(got.l2 <= allowed.zero, || format!("{name}: {:e}, not 0", got.l2));
                } else {
                    list.compare(checker, &name, &got, &want, each);
                }
            };
            if param.name.ends_with("gates.weight") {
                compare(&mut parameters, &param.name, &torch, want, allowed.cells);
                let stored = self.golden.json[format!("{key}.gates")].get(&param.name);
                for (k, stored) in stored.and_then(Value::as_array).into_iter().flatten().enumerate() {
                    let gate = &torch[torch.len() / 4 * k..torch.len() / 4 * (k + 1)];
                    let want = Summary::stored(stored).expect("a gradient");
                    let name = format!("{}.{}", param.name, ["i", "f", "o", "g"][k]);
                    compare(&mut gates, &name, gate, want, allowed.gates);
                }
            } else {
                let each = if param.shape.len() == 1 { allowed.vectors } else { allowed.weights };
                compare(&mut parameters, &param.name, &torch, want, each);
            }
        }
        parameters.medians(checker, &format!("{key}, parameters"), allowed.median);
        gates.medians(checker, &format!("{key}, gates"), allowed.gates_median);
    }

    fn input_gradient(&self, checker: &mut Checker, recorded: &Recorded, key: &str, tolerance: [f64; 2]) {
        let [n, c, h, w] = self.input_shape;
        let torch = to_nchw(&recorded.session.grad(recorded.images).unwrap(), Shape::new(n, h, w, c));
        let got = Summary::of(&torch, self.golden.salt(), &self.tag, "input1", 0);
        let want = Summary::stored(&self.golden.json[format!("{key}.dinput")]).expect("a summary");
        checker.close(&format!("{key}.dinput.l2"), &[got.l2], &[want.l2], tolerance[0]);
        checker.close_absolute(&format!("{key}.dinput.proj"), &[got.proj], &[want.proj], tolerance[1] * want.l2);
    }

    fn adam(&mut self, checker: &mut Checker, allowed: &AdamTolerances) {
        self.fill();
        let config = UpdateRule::Adam { betas: [0.9, 0.999], eps: 1e-8, amsgrad: true };
        let mut optimizer = Optimizer::new(&config, self.store.values.len()).expect("an optimiser");
        let mut recorded = self.record(Mode::Train);
        let trained = self.store.params.iter().enumerate().filter(|(i, _)| recorded.session.has_grad(*i));
        let segment = |range| Segment { range, lr: 2e-4, weight_decay: 5e-4 };
        let segments: Vec<Segment> = trained.map(|(_, param)| segment(param.range.clone())).collect();
        let losses: Vec<f64> = serde_json::from_value(self.golden.json["adam.losses"].clone()).expect("losses");
        for (i, (which, tolerance)) in [1, 2, 1].into_iter().zip(allowed.losses).enumerate() {
            let (loss, _) = self.forward(&mut recorded, which);
            self.backward(&mut recorded);
            checker.close(&format!("adam.losses[{i}]"), &[loss], &[losses[i]], tolerance);
            let Store { values, grads, .. } = &mut self.store;
            update(&self.variant.device, &mut optimizer, values, grads, &segments);
        }
        // Of narrow networks, what the steps add is stored, of the others the parameters after them.
        let added = !self.golden.json["adam.updates"].is_null();
        let key = if added { "adam.updates" } else { "adam.params_after3" };
        let mut deviations = Deviations::default();
        for param in &self.store.params {
            let name = format!("{key} {}", param.name);
            let want = self.summary(key, &param.name);
            let mut torch = param.to_torch(&self.store.values[param.range.clone()]);
            if added {
                let before = state_dict_tensor(self.golden.salt(), &self.tag, &param.name, &param.shape);
                torch.iter_mut().zip(before).for_each(|(after, before)| *after -= before);
            }
            let got = Summary::of(&torch, self.golden.salt(), &self.tag, &param.name, 0);
            if want.l2 == 0.0 {
                checker.that(got.l2 == 0.0, || format!("{name}: not 0"));
            } else {
                deviations.compare(checker, &name, &got, &want, allowed.each);
            }
        }
        deviations.medians(checker, key, allowed.median);
        drop(recorded);
        self.states.reset();
        let mut recorded = self.record(Mode::EvalGrad);
        self.forward(&mut recorded, 1);
        // Of an MGN, the stored output is the retrieval feature.
        for (name, var) in &recorded.outputs {
            let key = format!("adam.eval_after3.{name}");
            if self.golden.has(&key) {
                checker.close(&key, &recorded.session.value(*var).unwrap(), &self.golden.f32(&key), allowed.outputs);
            }
        }
    }

    fn number(&self, key: &str) -> f64 {
        self.golden.json[key].as_f64().unwrap_or_else(|| panic!("{key}"))
    }

    fn summary(&self, key: &str, name: &str) -> Summary {
        let stored: &Value = &self.golden.json[key][name];
        Summary::stored(stored).unwrap_or_else(|| panic!("{key}: {name}"))
    }
}

/// How far parameters or their gradients are off, in l2 and in proj, relative to l2.
#[derive(Default)]
struct Deviations([Vec<f64>; 2]);

impl Deviations {
    /// Compares one.
    fn compare(&mut self, checker: &mut Checker, name: &str, got: &Summary, want: &Summary, allowed: [f64; 2]) {
        let found = [(got.l2 - want.l2).abs() / want.l2, (got.proj - want.proj).abs() / want.l2];
        for (i, what) in ["l2", "proj"].into_iter().enumerate() {
            checker.that(found[i] <= allowed[i], || {
                format!("{name}: {what} off by {:e}, allowed {:e}", found[i], allowed[i])
            });
            self.0[i].push(found[i]);
        }
    }

    /// Compares the medians, if there were any.
    fn medians(mut self, checker: &mut Checker, key: &str, allowed: [f64; 2]) {
        for (list, allowed) in self.0.iter_mut().zip(allowed) {
            list.sort_by(f64::total_cmp);
            if let Some(&middle) = list.get(list.len() / 2) {
                checker.that(middle <= allowed, || format!("{key}: median {middle:e} > {allowed:e}"));
            }
        }
    }
}

/// How far each quantity of a network may be off.
struct Tolerances {
    evaluation: StepTolerances,
    training: StepTolerances,
    /// Running statistics after a step.
    buffers: f64,
    adam: AdamTolerances,
}

/// How far a step may be off.
struct StepTolerances {
    loss: f64,
    /// Each single loss.
    parts: f64,
    outputs: f64,
    latent: f64,
    /// Gradients, in l2 and proj: of the weight of each cell.
    cells: [f64; 2],
    /// Of each gate of a cell, and the median over gates.
    gates: [f64; 2],
    gates_median: [f64; 2],
    /// Of each other weight with more than one dimension.
    weights: [f64; 2],
    /// Of each bias and each parameter of a batch norm.
    vectors: [f64; 2],
    /// Median over parameters.
    median: [f64; 2],
    /// Largest l2 of a gradient that is zero by algebra.
    zero: f64,
    /// Gradient of the images.
    input_gradient: [f64; 2],
}

/// How far three steps of Adam may be off.
struct AdamTolerances {
    losses: [f64; 3],
    /// Of each parameter, or in narrow networks of what is added to it, in l2 and proj.
    each: [f64; 2],
    /// Median over parameters.
    median: [f64; 2],
    /// Outputs in evaluation after the steps.
    outputs: f64,
}

/// For networks of full width. Batch statistics of few samples and Adam's first steps, which are as large for small gradients as for large
/// ones, enlarge rounding.
const IN_F32: Tolerances = Tolerances {
    evaluation: StepTolerances {
        loss: 1e-5,
        parts: 5e-5,
        outputs: 1e-5,
        latent: 1e-5,
        cells: [2e-3, 5e-3],
        gates: [2e-3, 5e-3],
        gates_median: [5e-5, 5e-5],
        weights: [2e-3, 5e-3],
        vectors: [2e-3, 5e-3],
        median: [5e-5, 5e-5],
        zero: 1e-5,
        input_gradient: [2e-3, 5e-3],
    },
    training: StepTolerances {
        loss: 1e-5,
        parts: 5e-5,
        outputs: 5e-4,
        latent: 1e-4,
        cells: [3e-2, 2e-1],
        gates: [3e-2, 2e-1],
        gates_median: [1e-3, 5e-3],
        weights: [3e-2, 2e-1],
        vectors: [3e-2, 2e-1],
        median: [1e-3, 5e-3],
        zero: 1e-5,
        input_gradient: [1e-3, 5e-2],
    },
    buffers: 1e-5,
    adam: AdamTolerances { losses: [1e-5, 5e-3, 2e-2], each: [1e-3, 2e-2], median: [1e-3, 2e-2], outputs: 1e-1 },
};

/// For narrow networks with batches of eight, which rounding changes less: 3 to 10 times what PyTorch's float32 changes (`fp32_vs_fp64` in the
/// golden files). Where a value passes zero before a ReLU, its whole gradient appears or vanishes, so single gradients, and the losses, keep
/// the tolerances of full width.
const NARROW_IN_F32: Tolerances = Tolerances {
    evaluation: StepTolerances { median: [2.5e-6, 5e-6], gates_median: [2.5e-6, 5e-6], ..IN_F32.evaluation },
    training: StepTolerances {
        outputs: 3e-5,
        latent: 2e-5,
        median: [5e-6, 1.5e-5],
        gates_median: [1e-5, 2e-5],
        ..IN_F32.training
    },
    buffers: 2e-6,
    adam: AdamTolerances { losses: [2e-6, 7e-6, 8e-5], each: [0.02, 0.13], median: [1e-3, 7e-3], outputs: 5e-4 },
};

/// For narrow networks: about 3 times what PyTorch changes if it rounds in the same format (`tf32_vs_fp64`, `bf16_vs_fp64`). For tf32 it
/// rounds the factors of every product to 11 significant bits. For bf16 it rounds them to 8, and with them all tensors that are kept in memory
/// between layers, and their gradients. The changes are the largest over both networks, and for single numbers, such as a loss, over
/// similar ones. In bf16, a single gradient shows little more than its size; the medians show that gradients are right.
const NARROW_IN_TF32: Tolerances = Tolerances {
    evaluation: StepTolerances {
        loss: 1.5e-4,
        parts: 2.5e-4,
        outputs: 6e-3,
        latent: 9e-3,
        cells: [0.06, 0.07],
        gates: [0.11, 0.15],
        gates_median: [2e-3, 5e-3],
        weights: [0.13, 0.35],
        vectors: [0.22, 0.5],
        median: [0.012, 0.05],
        zero: 1e-5,
        input_gradient: [5e-3, 0.05],
    },
    training: StepTolerances {
        loss: 1e-3,
        parts: 4e-3,
        outputs: 0.016,
        latent: 0.013,
        cells: [0.06, 0.2],
        gates: [0.1, 0.2],
        gates_median: [6e-3, 0.025],
        weights: [0.22, 0.6],
        vectors: [0.6, 0.9],
        median: [0.017, 0.1],
        zero: 1e-5,
        input_gradient: [0.036, 0.3],
    },
    buffers: 1.6e-3,
    adam: AdamTolerances { losses: [1e-3, 4.5e-3, 4.5e-3], each: [0.6, 1.3], median: [0.018, 0.25], outputs: 0.024 },
};

/// As [`NARROW_IN_TF32`].
const NARROW_IN_BF16: Tolerances = Tolerances {
    evaluation: StepTolerances {
        loss: 5e-4,
        parts: 3e-3,
        outputs: 0.08,
        latent: 0.08,
        cells: [0.28, 0.7],
        gates: [0.6, 1.3],
        gates_median: [0.085, 0.17],
        weights: [0.6, 2.0],
        vectors: [1.0, 2.0],
        median: [0.075, 0.22],
        zero: 2e-3,
        input_gradient: [0.04, 0.4],
    },
    training: StepTolerances {
        loss: 0.012,
        parts: 0.04,
        outputs: 0.4,
        latent: 0.18,
        cells: [0.42, 1.0],
        gates: [0.6, 1.3],
        gates_median: [0.08, 0.3],
        weights: [0.8, 2.5],
        vectors: [1.5, 2.5],
        median: [0.1, 0.4],
        zero: 2e-3,
        input_gradient: [0.13, 1.5],
    },
    buffers: 0.012,
    adam: AdamTolerances { losses: [0.012, 0.019, 0.05], each: [1.4, 4.0], median: [0.05, 0.55], outputs: 0.11 },
};

/// Outputs of an MGN in the order in which it records them: three embeddings, eight logits, the feature.
const MGN_OUTPUTS: [&str; 12] =
    ["fg_p1", "fg_p2", "fg_p3", "l_p1", "l_p2", "l_p3", "l0_p2", "l1_p2", "l0_p3", "l1_p3", "l2_p3", "predict"];

/// Returns the cell of a state: `bconv3` of `ptl.bconv3.latent_state`.
fn cell_name(state: &str) -> &str {
    state.split('.').nth(1).expect("a cell in a branch")
}
