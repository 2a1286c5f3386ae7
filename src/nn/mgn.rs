//! MGN (Wang et al., 2018) as reproduced in the PTL publication, and MGN_PTL (Yu et al., 2019, fig. 3).
//!
//! ```text
//!                          ┌ p1: layer3[1:], layer4 (stride 2) ─ pool ───────────────────── g1
//! stem ─ layer1 ─ layer2 ─ ┤ p2: layer3[1:], layer4 (stride 1) ─ pool, pool in 2 stripes ── g2, s20, s21
//!            layer3[0] ────┴ p3: layer3[1:], layer4 (stride 1) ─ pool, pool in 3 stripes ── g3, s30, s31, s32
//! ```
//! One shared reduction (1x1 convolution, BN, ReLU) is applied to each of the eight pooled vectors in the order g1 g2 g3 s20
//! s21 s30 s31 s32. Each result has a classifier of its own. The retrieval feature is their concatenation in that order; g1,
//! g2 and g3 have triplet losses. With cells ([`super::mgn_ptl`]) each vector gets that of a cell appended before the
//! reduction.
//!
//! Names are those of the published state dicts: MGN calls its trunk `backbone.0`, `.1`, `.4`, `.5`, `.6`; MGN_PTL keeps a whole
//! torchvision ResNet in `backbone`, whose `layer3[1:]`, `layer4` and `fc` are saved and loaded but not used.

use super::{
    Architecture, BatchNorm2d, Block, Conv2d, Head, Init, MgnCells, Network, Outputs, ResNet, ResNetConfig, Scope,
    Stage, Stem, StemKind,
};
use crate::Result;
use crate::engine::graph::{Graph, Var};
use crate::engine::op;
use crate::engine::shape::Shape;
use crate::engine::store::{Group, Store};
use crate::io::checkpoint::TensorNames;

/// Height and width must be multiples of these, so that the map after `layer4` is a whole number of pixels in p1, and can be divided into
/// two and three stripes in p2 and p3.
pub(super) const SIZE_MULTIPLES: [usize; 2] = [96, 32];
/// Classes of ImageNet: outputs of the unused `fc` in MGN_PTL.
const IMAGENET_CLASSES: usize = 1000;
/// Numbers of stripes of p1, p2 and p3.
const STRIPES: [usize; 3] = [1, 2, 3];
/// Classifiers in the order of the vectors.
const CLASSIFIERS: [&str; 8] = [
    "fc_id_2048_0",
    "fc_id_2048_1",
    "fc_id_2048_2",
    "fc_id_256_1_0",
    "fc_id_256_1_1",
    "fc_id_256_2_0",
    "fc_id_256_2_1",
    "fc_id_256_2_2",
];

/// Configuration of an MGN.
#[derive(Clone, Debug)]
pub struct MgnConfig {
    /// ResNet-50 or ResNet-101 as published.
    pub architecture: Architecture,
    /// Channels of the stem; 64 as published.
    pub base: usize,
    /// Length of each of the eight reduced vectors; 256 as published.
    pub embedding: usize,
    /// Width of the BConv-Cells relative to the published ones; `None` for MGN without cells.
    pub cell_width: Option<f32>,
    /// Number of training identities.
    pub classes: usize,
    /// The factor of the cosines, if logits are cosines ([`Head`]).
    pub logit_scale: Option<f32>,
}

/// The trunk from which all branches start: `[n, h, w, 3]` to `[n, h/16, w/16, 16·base]`.
#[derive(Clone, Debug)]
struct Trunk {
    stem: Stem,
    layer1: Stage,
    layer2: Stage,
    layer3_0: Block,
}

/// A branch: p1, p2 or p3.
#[derive(Clone, Debug)]
struct Branch {
    /// `layer3[1:]`
    layer3: Stage,
    layer4: Stage,
}

/// The modules of an MGN.
#[derive(Clone, Debug)]
pub struct Mgn {
    trunk: Trunk,
    branches: [Branch; 3],
    cells: Option<MgnCells>,
    reduction: (Conv2d, BatchNorm2d),
    classifiers: Vec<Head>,
}

impl Mgn {
    /// Registers the network in `store` with initial values drawn from `seed`.
    pub fn new(store: &mut Store, config: &MgnConfig, seed: u64) -> Mgn {
        let &MgnConfig { architecture, base, embedding, cell_width, classes, logit_scale } = config;
        let (ibn, stem) = (None, StemKind::Imagenet);
        let resnet = |last_stride, classes| ResNetConfig { architecture, ibn, base, stem, last_stride, classes };
        let mut root = Scope::root(store, seed);

        let cells = cell_width.map(|width| MgnCells::new(root.child("ptl"), &resnet(2, None), width));
        let trunk = match &cells {
            None => Trunk::new(root.child("backbone").in_group(Group::Backbone), &resnet(2, None)),
            Some(_) => Trunk::of(&ResNet::new(root.child("backbone"), resnet(2, Some(IMAGENET_CLASSES)))),
        };
        let branches = [("p1", 2), ("p2", 1), ("p3", 1)].map(|(name, last_stride)| {
            Branch::new(root.child(name).in_group(Group::Branches), &resnet(last_stride, None))
        });

        let pooled = resnet(2, None).out_channels() + cells.as_ref().map_or(0, MgnCells::out_channels);
        let mut scope = root.child("reduction");
        let sizes = [pooled, embedding];
        let mut conv = Conv2d::new(&mut scope.child(0), sizes, 1, 1, 0, Init::KaimingFanIn);
        if cells.is_some() {
            conv = conv.with_bias(&mut scope.child(0), sizes, 1);
        }
        let bn = BatchNorm2d::with_weight(&mut scope.child(1), embedding, Init::Normal { mean: 1.0, std: 0.02 });
        let init = if cells.is_some() { Init::KaimingFanIn } else { Init::KaimingFanOut };
        let classifier = |name| Head::new(&mut root.child(name), [embedding, classes], true, init, logit_scale);
        let classifiers = CLASSIFIERS.map(classifier).into();
        Mgn { trunk, branches, cells, reduction: (conv, bn), classifiers }
    }

    /// Applies the shared reduction to a pooled vector.
    fn reduce(&self, g: &mut Graph, store: &Store, x: Var) -> Result<Var> {
        let (conv, bn) = &self.reduction;
        let x = conv.forward(g, store, x)?;
        bn.forward_relu(g, store, x)
    }
}

impl Trunk {
    /// Registers the trunk with MGN's names.
    fn new(mut scope: Scope<'_>, config: &ResNetConfig) -> Trunk {
        let blocks = config.architecture.blocks();
        let sizes = [config.stage_input(3), config.base << 2];
        Trunk {
            stem: Stem::new(&mut scope, ["0", "1"], config.stem, config.base, None),
            layer1: Stage::new(&mut scope.child(4), config, 1, 0..blocks[0]),
            layer2: Stage::new(&mut scope.child(5), config, 2, 0..blocks[1]),
            layer3_0: Block::new(
                &mut scope.child(6).at_stage(3),
                config.architecture.bottleneck(),
                sizes,
                config.stage_stride(3),
                None,
            ),
        }
    }

    /// Takes the trunk from a ResNet.
    fn of(resnet: &ResNet) -> Trunk {
        Trunk {
            stem: resnet.stem.clone(),
            layer1: resnet.layers[0].clone(),
            layer2: resnet.layers[1].clone(),
            layer3_0: resnet.layers[2].blocks[0].clone(),
        }
    }

    /// Returns the maps after stem, `layer1`, `layer2` and `layer3[0]`.
    fn forward(&self, g: &mut Graph, store: &Store, images: Var) -> Result<[Var; 4]> {
        let x1 = self.stem.forward(g, store, images)?;
        let x2 = self.layer1.forward(g, store, x1)?;
        let x3 = self.layer2.forward(g, store, x2)?;
        let x4 = self.layer3_0.forward(g, store, x3)?;
        Ok([x1, x2, x3, x4])
    }
}

impl Branch {
    fn new(mut scope: Scope<'_>, config: &ResNetConfig) -> Branch {
        let blocks = config.architecture.blocks();
        Branch {
            layer3: Stage::new(&mut scope.child(0), config, 3, 1..blocks[2]),
            layer4: Stage::new(&mut scope.child(1), config, 4, 0..blocks[3]),
        }
    }

    fn forward(&self, g: &mut Graph, store: &Store, x: Var) -> Result<Var> {
        let x = self.layer3.forward(g, store, x)?;
        self.layer4.forward(g, store, x)
    }
}

/// Records the maximum over each of `stripes` horizontal stripes of equal height, from the top: `[n, 1, 1, c]` each.
fn pool_stripes(g: &mut Graph, x: Var, stripes: usize) -> Result<Vec<Var>> {
    let Shape { h, w, .. } = g.shape(x);
    let kernel = [h / stripes, w];
    let pooled = op::max_pool2d(g, x, kernel, kernel, [0, 0])?;
    if stripes == 1 {
        return Ok(vec![pooled]);
    }
    (0..stripes).map(|stripe| op::narrow_rows(g, pooled, stripe..stripe + 1)).collect()
}

/// Returns the eight pooled vectors of three maps, in the published order.
fn pool_parts(g: &mut Graph, maps: [Var; 3]) -> Result<Vec<Var>> {
    let mut parts = Vec::new();
    for map in maps {
        parts.extend(pool_stripes(g, map, 1)?);
    }
    for (map, stripes) in maps.into_iter().zip(STRIPES).skip(1) {
        parts.extend(pool_stripes(g, map, stripes)?);
    }
    Ok(parts)
}

impl Network for Mgn {
    fn forward(&self, g: &mut Graph, store: &Store, images: Var) -> Result<Outputs> {
        let maps = self.trunk.forward(g, store, images)?;
        let mut branches = Vec::with_capacity(3);
        for branch in &self.branches {
            branches.push(branch.forward(g, store, maps[3])?);
        }
        let mut parts = pool_parts(g, [branches[0], branches[1], branches[2]])?;
        if let Some(cells) = &self.cells {
            let cell_maps = cells.forward(g, store, images, maps)?;
            let cell_parts = pool_parts(g, cell_maps)?;
            for (part, cell) in parts.iter_mut().zip(cell_parts) {
                *part = op::concat(g, &[*part, cell])?;
            }
        }
        let mut vectors = Vec::with_capacity(parts.len());
        for part in parts {
            vectors.push(self.reduce(g, store, part)?);
        }
        let mut logits = Vec::with_capacity(vectors.len());
        for (classifier, &vector) in self.classifiers.iter().zip(&vectors) {
            logits.push(classifier.forward(g, store, vector)?);
        }
        let feature = op::concat(g, &vectors)?;
        Ok(Outputs { embeddings: vectors[..3].to_vec(), logits, feature })
    }
}

impl TensorNames for Mgn {
    fn pretrained_names(&self, name: &str) -> Vec<String> {
        let mut names = vec![name.to_string()];
        if let Some(torchvision) = torchvision_name(name) {
            names.extend([format!("backbone.{torchvision}"), mgn_name(&torchvision)]);
            names.push(torchvision);
        }
        names.retain({
            let mut seen = std::collections::HashSet::new();
            move |name| seen.insert(name.clone())
        });
        names
    }

    fn is_backbone(&self, name: &str) -> bool {
        // The `fc` in MGN_PTL is not used.
        torchvision_name(name).is_some_and(|torchvision| !torchvision.starts_with("fc."))
    }
}

/// The modules of MGN's trunk, and torchvision's names of them.
const TRUNK_NAMES: [(&str, &str); 5] = [
    ("backbone.0.", "conv1."),
    ("backbone.1.", "bn1."),
    ("backbone.4.", "layer1."),
    ("backbone.5.", "layer2."),
    ("backbone.6.", "layer3.0."),
];

/// Returns torchvision's name of a tensor of the trunk or of a branch; `None` for a tensor that no ResNet has.
fn torchvision_name(name: &str) -> Option<String> {
    for (mgn, torchvision) in TRUNK_NAMES {
        if let Some(rest) = name.strip_prefix(mgn) {
            return Some(format!("{torchvision}{rest}"));
        }
    }
    if let Some(rest) = name.strip_prefix("backbone.") {
        return Some(rest.to_string());
    }
    let branch = ["p1.", "p2.", "p3."].into_iter().find_map(|branch| name.strip_prefix(branch))?;
    match branch.split_once('.')? {
        ("0", rest) => {
            let (block, rest) = rest.split_once('.')?;
            Some(format!("layer3.{}.{rest}", block.parse::<usize>().ok()? + 1))
        }
        ("1", rest) => Some(format!("layer4.{rest}")),
        _ => None,
    }
}

/// Returns MGN's name of a tensor with a name of torchvision: in the trunk, or else in the first branch.
fn mgn_name(torchvision: &str) -> String {
    for (mgn, prefix) in TRUNK_NAMES {
        if let Some(rest) = torchvision.strip_prefix(prefix) {
            return format!("{mgn}{rest}");
        }
    }
    if let Some(rest) = torchvision.strip_prefix("layer4.") {
        return format!("p1.1.{rest}");
    }
    let block = torchvision.strip_prefix("layer3.").and_then(|rest| rest.split_once('.'));
    match block.and_then(|(block, rest)| Some((block.parse::<usize>().ok()?.checked_sub(1)?, rest))) {
        Some((block, rest)) => format!("p1.0.{block}.{rest}"),
        None => torchvision.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::graph::Mode;
    use crate::engine::plan::Plan;

    fn tiny(cell_width: Option<f32>) -> (Mgn, Store) {
        let mut store = Store::new();
        let config = MgnConfig {
            architecture: Architecture::ResNet50,
            base: 4,
            embedding: 8,
            cell_width,
            classes: 5,
            logit_scale: None,
        };
        (Mgn::new(&mut store, &config, 0), store)
    }

    fn record(mgn: &Mgn, store: &Store, size: [usize; 2]) -> Result<(Graph, Outputs)> {
        let mut graph = Graph::new(Mode::Train);
        let images = graph.input(Shape::new(4, size[0], size[1], 3));
        let outputs = mgn.forward(&mut graph, store, images)?;
        Ok((graph, outputs))
    }

    #[test]
    fn eight_vectors_three_triplets_and_eight_cells_at_any_permitted_size() {
        for (cell_width, cells) in [(None, 0), (Some(1.0), 8), (Some(0.3), 8)] {
            let (mgn, store) = tiny(cell_width);
            for size in [[96, 32], [192, 64], [384, 128]] {
                let (graph, outputs) = record(&mgn, &store, size).unwrap();
                assert_eq!((outputs.embeddings.len(), outputs.logits.len()), (3, 8));
                assert_eq!(graph.shape(outputs.feature), Shape::vectors(4, 64));
                assert!(outputs.logits.iter().all(|&l| graph.shape(l) == Shape::vectors(4, 5)));
                assert_eq!(graph.states().len(), cells);
            }
        }
    }

    #[test]
    fn tensors_start_from_the_same_place_of_any_relative() {
        let (mgn, _) = tiny(None);
        let has = |name: &str, source: &str| {
            let names = mgn.pretrained_names(name);
            assert_eq!(names[0], name);
            assert!(names.contains(&source.to_string()), "{name}: {names:?} has no {source}");
        };
        has("backbone.0.weight", "conv1.weight");
        has("backbone.6.conv2.weight", "layer3.0.conv2.weight");
        has("backbone.4.1.bn2.bias", "backbone.layer1.1.bn2.bias");
        has("p2.0.4.bn3.running_var", "layer3.5.bn3.running_var");
        has("p3.1.0.downsample.0.weight", "backbone.layer4.0.downsample.0.weight");
        // MGN_PTL from MGN, and its unused parts from the first branch.
        has("backbone.layer2.3.conv1.weight", "backbone.5.3.conv1.weight");
        has("backbone.layer3.0.conv1.weight", "backbone.6.conv1.weight");
        has("backbone.layer4.1.conv1.weight", "p1.1.1.conv1.weight");
        for own in ["reduction.0.weight", "ptl.bconv3.gates.weight", "fc_id_2048_0.bias"] {
            assert_eq!(mgn.pretrained_names(own), [own]);
        }
    }

    /// Returns the MiB of the arena of a training step with 16 images of 384x128, if values are computed again beyond `ample` words.
    fn arena(cell_width: Option<f32>, ample: usize) -> usize {
        let config = MgnConfig {
            architecture: Architecture::ResNet50,
            base: 64,
            embedding: 256,
            cell_width,
            classes: 751,
            logit_scale: None,
        };
        let mut store = Store::of_shapes();
        let mgn = Mgn::new(&mut store, &config, 0);
        let mut graph = Graph::new(Mode::Train);
        let images = graph.input(Shape::new(16, 384, 128, 3));
        let outputs = mgn.forward(&mut graph, &store, images).unwrap();
        outputs.logits.iter().chain(&outputs.embeddings).for_each(|var| graph.root(*var));
        Plan::with_ample(ample, &graph, &store, None).unwrap().arena_bytes() >> 20
    }

    #[test]
    fn a_step_takes_a_quarter_less_memory_with_values_computed_again() {
        for cell_width in [None, Some(1.0)] {
            let [all, some] = [usize::MAX, 0].map(|ample| arena(cell_width, ample));
            println!("cells {cell_width:?}: {all} MiB, {some} MiB with values computed again");
            assert!(4 * some < 3 * all, "{all} and {some} MiB");
        }
    }
}
