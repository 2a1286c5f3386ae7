//! Networks in ONNX: nodes and weights are added one by one, and tensors are known by their names. Ops say by
//! [`Op::onnx`](crate::engine::graph::Op::onnx) what they are in ONNX, and [`Graph::onnx`](crate::engine::graph::Graph::onnx) adds a network.

pub(crate) mod message;

use std::collections::{HashMap, HashSet};

use message::{
    Attribute, Dimension, Entry, Graph, Model, Node, OperatorSet, Tensor, TensorShape, TensorType, Type, ValueInfo,
};

/// Version of ONNX's operators. ONNX Runtime reads it since 1.12, TensorRT since 8.5.
pub const OPSET: i64 = 17;
/// Version of the file format that came with [`OPSET`].
const IR_VERSION: i64 = 8;
/// The name of the dimension whose size each run chooses.
const BATCH: &str = "batch";

/// The type of a tensor's elements, with its number in ONNX.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// f32.
    Float = 1,
    /// u8.
    Uint8 = 2,
    /// i64.
    Int64 = 7,
}

/// A network in ONNX.
#[derive(Debug, Default)]
pub struct OnnxModel {
    graph: Graph,
    metadata: Vec<Entry>,
    /// How many tensors were named after each name.
    names: HashMap<String, usize>,
    /// The names of the weights, for those that several nodes use.
    weights: HashSet<String>,
}

impl OnnxModel {
    /// Adds an input `[batch, sizes...]` and returns its name.
    pub fn input(&mut self, name: &str, element: Element, sizes: &[usize]) -> String {
        let name = self.unused(name);
        self.graph.input.push(value_info(&name, element, sizes));
        name
    }

    /// Adds weights of a given shape under `name`, unless they are there already. Returns their name. `values` computes the numbers.
    pub fn weight(&mut self, name: &str, shape: &[usize], values: impl FnOnce() -> Vec<f32>) -> String {
        if self.weights.insert(name.to_string()) {
            self.tensor(name, Element::Float, shape, bytemuck::cast_slice(&values()).to_vec());
        }
        name.to_string()
    }

    /// Adds a list of whole numbers, which some operators take as an input, and returns its name.
    pub fn integers(&mut self, name: &str, values: &[i64]) -> String {
        let name = self.unused(name);
        self.tensor(&name, Element::Int64, &[values.len()], bytemuck::cast_slice(values).to_vec());
        name
    }

    /// Adds numbers of a given shape, and returns their name.
    pub fn numbers(&mut self, name: &str, shape: &[usize], values: &[f32]) -> String {
        let name = self.unused(name);
        self.tensor(&name, Element::Float, shape, bytemuck::cast_slice(values).to_vec());
        name
    }

    /// Adds a node of `op_type` with one output, and returns the output's name, which begins with `name`.
    pub fn node(&mut self, op_type: &str, name: &str, inputs: &[&str], attributes: Vec<OnnxAttribute>) -> String {
        self.nodes(op_type, name, inputs, attributes, 1).remove(0)
    }

    /// Adds a node with several outputs, and returns their names.
    pub fn nodes(
        &mut self,
        op_type: &str,
        name: &str,
        inputs: &[&str],
        attributes: Vec<OnnxAttribute>,
        outputs: usize,
    ) -> Vec<String> {
        // Some runtimes have one space of names for nodes and tensors.
        let name = self.unused(&format!("{name}/{op_type}"));
        let output: Vec<String> = (0..outputs).map(|i| format!("{name}_output_{i}")).collect();
        let inputs = inputs.iter().map(|input| input.to_string()).collect();
        self.graph.node.push(Node {
            input: inputs,
            output: output.clone(),
            name,
            op_type: op_type.into(),
            attribute: attributes.into_iter().map(|attribute| attribute.0).collect(),
        });
        output
    }

    /// Makes `from`, which a node computes and no other one reads, the output `[batch, sizes...]`, and names it `name`.
    pub fn output(&mut self, name: &str, from: &str, sizes: &[usize]) {
        let outputs = self.graph.node.iter_mut().flat_map(|node| &mut node.output);
        outputs.filter(|output| *output == from).for_each(|output| *output = name.into());
        self.graph.output.push(value_info(name, Element::Float, sizes));
    }

    /// Adds a text about the network, which runtimes show to their users.
    pub fn describe(&mut self, key: &str, value: String) {
        self.metadata.push(Entry { key: key.into(), value });
    }

    /// Returns the bytes of all weights together.
    pub fn weight_bytes(&self) -> usize {
        self.graph.initializer.iter().filter_map(|tensor| tensor.raw_data.as_ref()).map(Vec::len).sum()
    }

    /// Returns the number of nodes.
    pub fn node_count(&self) -> usize {
        self.graph.node.len()
    }

    /// Returns the message that a file holds.
    pub(crate) fn into_message(self) -> Model {
        let OnnxModel { mut graph, metadata, .. } = self;
        graph.name = "network".into();
        Model {
            ir_version: IR_VERSION,
            producer_name: env!("CARGO_PKG_NAME").into(),
            producer_version: env!("CARGO_PKG_VERSION").into(),
            graph: Some(graph),
            opset_import: vec![OperatorSet { domain: String::new(), version: OPSET }],
            metadata_props: metadata,
        }
    }

    fn tensor(&mut self, name: &str, element: Element, shape: &[usize], bytes: Vec<u8>) {
        self.graph.initializer.push(Tensor {
            dims: shape.iter().map(|&size| size as i64).collect(),
            data_type: element as i32,
            name: name.to_string(),
            raw_data: Some(bytes),
            external_data: Vec::new(),
            data_location: None,
        });
    }

    /// Returns `name`, or where that is taken, a name that begins with it.
    fn unused(&mut self, name: &str) -> String {
        let count = self.names.entry(name.to_string()).or_default();
        *count += 1;
        if *count == 1 { name.to_string() } else { format!("{name}_{}", *count - 1) }
    }
}

/// A constant of an operator.
#[derive(Clone, Debug)]
pub struct OnnxAttribute(Attribute);

impl OnnxAttribute {
    /// Returns an attribute that holds a real number.
    pub fn float(name: &str, value: f32) -> OnnxAttribute {
        OnnxAttribute(Attribute { name: name.into(), f: Some(value), kind: 1, ..Attribute::default() })
    }

    /// Returns an attribute that holds a whole number.
    pub fn int(name: &str, value: i64) -> OnnxAttribute {
        OnnxAttribute(Attribute { name: name.into(), i: Some(value), kind: 2, ..Attribute::default() })
    }

    /// Returns an attribute that holds a list of whole numbers.
    pub fn ints(name: &str, values: &[i64]) -> OnnxAttribute {
        OnnxAttribute(Attribute { name: name.into(), ints: values.to_vec(), kind: 7, ..Attribute::default() })
    }

    /// Returns the attributes for kernel, strides and padding of a window that moves over an image: `[height, width]` each.
    pub fn window(kernel: [usize; 2], stride: [usize; 2], padding: [usize; 2]) -> Vec<OnnxAttribute> {
        let ints = |sizes: [usize; 2]| sizes.map(|size| size as i64);
        let [top, left] = ints(padding);
        vec![
            OnnxAttribute::ints("kernel_shape", &ints(kernel)),
            OnnxAttribute::ints("strides", &ints(stride)),
            OnnxAttribute::ints("pads", &[top, left, top, left]),
        ]
    }
}

fn value_info(name: &str, element: Element, sizes: &[usize]) -> ValueInfo {
    let size = |&size: &usize| Dimension { dim_value: Some(size as i64), dim_param: None };
    let batch = Dimension { dim_value: None, dim_param: Some(BATCH.into()) };
    let dim = std::iter::once(batch).chain(sizes.iter().map(size)).collect();
    let tensor_type = TensorType { elem_type: element as i32, shape: Some(TensorShape { dim }) };
    ValueInfo { name: name.into(), r#type: Some(Type { tensor_type: Some(tensor_type) }) }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    #[test]
    fn names_are_used_once_and_weights_are_stored_once() {
        let mut model = OnnxModel::default();
        let x = model.input("images", Element::Float, &[3, 4, 4]);
        for _ in 0..2 {
            let w = model.weight("conv.weight", &[1, 3, 1, 1], || vec![1.0, 2.0, 3.0]);
            model.node("Conv", "conv", &[&x, &w], OnnxAttribute::window([1, 1], [2, 1], [0, 1]));
        }
        assert_eq!((model.node_count(), model.weight_bytes()), (2, 12));
        let outputs: Vec<&str> = model.graph.node.iter().map(|node| &node.output[0][..]).collect();
        assert_eq!(outputs, ["conv/Conv_output_0", "conv/Conv_1_output_0"]);
        let pads = &model.graph.node[0].attribute[2];
        assert_eq!((&pads.name[..], &pads.ints[..], pads.kind), ("pads", &[0, 1, 0, 1][..], 7));
    }

    #[test]
    fn the_bytes_are_those_of_the_format() {
        // Written by hand from onnx.proto.
        let attribute = OnnxAttribute::int("axis", 0).0.encode_to_vec();
        assert_eq!(attribute, [&[0x0a, 4][..], b"axis", &[0x18, 0, 0xa0, 0x01, 2]].concat());
        let value = value_info("x", Element::Uint8, &[300]).encode_to_vec();
        let batch = [&[0x0a, 7, 0x12, 5][..], b"batch"].concat();
        let shape = [&batch[..], &[0x0a, 3, 0x08, 0xac, 0x02]].concat();
        let tensor = [&[0x08, 2, 0x12, shape.len() as u8][..], &shape].concat();
        let kind = [&[0x0a, tensor.len() as u8][..], &tensor].concat();
        assert_eq!(value, [&[0x0a, 1, b'x', 0x12, kind.len() as u8][..], &kind].concat());
    }
}
