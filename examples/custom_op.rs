//! Defines an op outside the crate (SiLU, `y = x * sigmoid(x)`), checks its gradient, and trains a small network with it:
//! `cargo run --release --example custom_op`

use ptl::engine::graph::{Attachments, Backward, Forward, Graph, Mode, Needs, OnnxNode, Op};
use ptl::engine::latent_state::{LatentStates, StateInit};
use ptl::engine::op::{CrossEntropyOptions, cross_entropy, linear};
use ptl::engine::optim::{Optimizer, Segment, UpdateRule};
use ptl::engine::store::{Group, Layout, Store};
use ptl::engine::{device::Device, session::Session, shape::Shape};

#[derive(Debug)]
struct Silu;

impl Op for Silu {
    fn name(&self) -> &'static str {
        "silu"
    }

    fn needs(&self) -> Needs {
        Needs { inputs: vec![true], ..Needs::default() } // Backward reads the input, which is kept for it.
    }

    fn forward(&self, cx: &mut Forward<'_>) {
        cx.output.iter_mut().zip(cx.inputs[0]).for_each(|(y, x)| *y = x / (1.0 + (-x).exp()));
    }

    fn backward(&self, cx: &mut Backward<'_>) {
        let Some(dx) = &mut cx.grad_inputs[0] else { return };
        for (i, (x, dy)) in cx.inputs[0].iter().zip(cx.grad_output).enumerate() {
            let sigmoid = 1.0 / (1.0 + (-x).exp());
            dx.put(i, dy * sigmoid * (1.0 + x * (1.0 - sigmoid)));
        }
    }

    fn onnx(&self, cx: &mut OnnxNode<'_>) -> ptl::Result<String> {
        let x = cx.inputs[0].clone();
        let sigmoid = cx.node("Sigmoid", &[&x], Vec::new());
        Ok(cx.node("Mul", &[&x, &sigmoid], Vec::new()))
    }
}

fn main() -> ptl::Result<()> {
    // A network of two layers learns the exclusive or of two numbers.
    let mut store = Store::new();
    let mut param = |name: &str, shape: &[usize]| store.add_param(name.into(), shape, Layout::Conv, Group::Head);
    let [w1, w2] = [param("w1", &[8, 3]), param("w2", &[2, 8])];
    store.values.iter_mut().enumerate().for_each(|(i, value)| *value = (1.0 + 3.0 * i as f32).sin());
    let mut graph = Graph::new(Mode::Train);
    let (x, labels) = (graph.input(Shape::vectors(4, 3)), graph.labels(4));
    let hidden = linear(&mut graph, &store, x, w1, None)?;
    let hidden = graph.push(Silu, &[hidden], graph.shape(hidden), Attachments::default())?;
    let logits = linear(&mut graph, &store, hidden, w2, None)?;
    let loss = cross_entropy(&mut graph, logits, labels, CrossEntropyOptions::default())?;
    graph.root(loss);
    let mut session = Session::new(graph, &store, &Device::cpu())?;
    session.set(x, &[0., 0., 1., 0., 1., 1., 1., 0., 1., 1., 1., 1.])?; // The third number of each row stands for a bias.
    session.set(labels, &[0, 1, 1, 0].map(f32::from_bits))?;
    let mut states = LatentStates::new(StateInit::Zeros, 0); // `Session` needs them for BConv-Cells, which this network does not have.
    let mut run = |store: &mut Store| -> ptl::Result<f32> {
        session.forward(store, &mut states)?;
        session.set_grad(loss, &[1.0])?;
        session.backward(store, &mut states)?;
        Ok(session.value(loss)?[0])
    };

    println!("loss before training: {:.4}", run(&mut store)?);
    // Compares the gradient of each weight with a difference of two losses.
    for (i, gradient) in store.grads.to_vec().iter().enumerate() {
        let mut move_by = |shift: f32| {
            store.values[i] += shift;
            run(&mut store)
        };
        let numerical = (move_by(0.01)? - move_by(-0.02)?) / 0.02;
        move_by(0.01)?;
        assert!((numerical - gradient).abs() < 1e-3, "weight {i}: {numerical} by differences, {gradient} by backward");
    }

    let mut sgd = Optimizer::new(&UpdateRule::Sgd { momentum: 0.9, nesterov: true }, store.values.len())?;
    let all = [Segment { range: 0..store.values.len(), lr: 0.1, weight_decay: 0.0 }];
    for _ in 0..100 {
        run(&mut store)?;
        sgd.step(&mut store.values, &store.grads, &all);
    }
    println!("loss after 100 steps: {:.4}", run(&mut store)?);
    Ok(())
}
