//! Numerical gradient check of every op, driven by the ops' own cases.

use ptl::engine::device::Device;
use ptl::engine::graph::{Attachments, Backward, Forward, Graph, Mode, Needs, Op};
use ptl::engine::latent_state::{LatentStates, StateInit};
use ptl::engine::op::{OpCase, cases};
use ptl::engine::session::CaseRun;
use ptl::engine::session::Session;
use ptl::engine::shape::Shape;
use ptl::engine::store::{Group, Layout, Store};

/// `Σ y·r` for the output y and the gradient r that backward starts from.
fn loss(run: &mut CaseRun) -> f64 {
    let cotangent = run.cotangent.clone();
    run.forward().unwrap().iter().zip(&cotangent).map(|(y, r)| f64::from(*y) * f64::from(*r)).sum()
}

/// Slopes to the left and to the right of one element of whatever `at` names.
fn slopes(probe: &mut CaseRun, step: f32, at: impl Fn(&mut CaseRun) -> &mut f32) -> [f64; 2] {
    let original = *at(probe);
    let middle = (f64::from(original), loss(probe));
    [-step, step].map(|step| {
        *at(probe) = original + step;
        let side = (f64::from(*at(probe)), loss(probe));
        *at(probe) = original;
        (side.1 - middle.1) / (side.0 - middle.0)
    })
}

fn check(case: &OpCase, mode: Mode, what: &str, analytic: &[f32], at: impl Fn(&mut CaseRun, usize) -> &mut f32) {
    let mut probe = CaseRun::new(case, mode).poisoned();
    let scale = analytic.iter().fold(0.0f64, |m, v| m.max(f64::from(*v).abs()));
    let mut skipped = 0;
    for (i, &gradient) in analytic.iter().enumerate() {
        let [left, right] = slopes(&mut probe, if case.smooth { 1e-2 } else { 2e-3 }, |p| at(p, i));
        let numerical = (left + right) / 2.0;
        // A kink at or near the point makes the two sides differ by much more than curvature does.
        if !case.smooth && (left - right).abs() > 8e-3 * scale.max(1e-3) {
            skipped += 1;
            continue;
        }
        let error = (numerical - f64::from(gradient)).abs();
        assert!(
            error <= 5e-3 * scale.max(1e-2),
            "{} ({mode:?}), {what}[{i}]: analytic {gradient}, numerical {numerical}, largest {scale}",
            case.name
        );
    }
    assert!(skipped * 2 <= analytic.len(), "{}: {skipped} of {} elements sit on kinks", case.name, analytic.len());
}

#[test]
fn every_op_matches_its_numerical_gradient() {
    for mode in [Mode::Train, Mode::EvalGrad] {
        for case in cases().into_iter().filter(|case| !case.detached) {
            let mut probe = CaseRun::new(&case, mode).poisoned();
            probe.forward().unwrap();
            probe.store.grads.fill(f32::NAN);
            probe.backward().unwrap();
            for (i, &var) in probe.inputs.clone().iter().enumerate() {
                let gradient = probe.session.grad(var).unwrap().to_vec();
                check(&case, mode, &format!("input {i}"), &gradient, |p, e| &mut p.input_values[i][e]);
            }
            for (i, &id) in probe.params.clone().iter().enumerate() {
                let gradient = probe.store.grad(id).to_vec();
                check(&case, mode, &format!("param {i}"), &gradient, |p, e| {
                    let id = p.params[i];
                    &mut p.store.value_mut(id)[e]
                });
            }
        }
    }
}

#[test]
fn gradients_of_a_value_with_several_consumers_add_up() {
    let shape = Shape::new(2, 3, 2, 4);
    let mut store = Store::new();
    let mut graph = Graph::new(Mode::Train);
    let x = graph.input_with_grad(shape);
    let a = ptl::engine::op::relu(&mut graph, x).unwrap();
    let b = ptl::engine::op::add(&mut graph, x, a).unwrap();
    let y = ptl::engine::op::concat(&mut graph, &[b, x, a]).unwrap();
    graph.root(y);
    let mut session = Session::new(graph, &store, &Device::cpu()).unwrap().poisoned();
    let values: Vec<f32> = (0..shape.len()).map(|i| [0.5, -1.5, 2.0][i % 3]).collect();
    session.set(x, &values).unwrap();
    let mut states = LatentStates::new(StateInit::Zeros, 0);
    session.forward(&mut store, &mut states).unwrap();
    session.set_grad(y, &vec![1.0; 3 * shape.len()]).unwrap();
    session.backward(&mut store, &mut states).unwrap();
    // y = [x + relu(x), x, relu(x)]: 2 + 2·[x > 0].
    let expected: Vec<f32> = values.iter().map(|v| if *v > 0.0 { 4.0 } else { 2.0 }).collect();
    assert_eq!(session.grad(x).unwrap(), expected);
}

#[derive(Debug)]
struct Duplicate;

impl Op for Duplicate {
    fn name(&self) -> &'static str {
        "duplicate"
    }

    fn needs(&self) -> Needs {
        Needs { inputs: vec![false], ..Needs::default() }
    }

    fn forward(&self, cx: &mut Forward<'_>) {
        cx.output.copy_from_slice(cx.inputs[0]);
    }

    fn backward(&self, _: &mut Backward<'_>) {}
}

#[test]
fn the_same_tensor_twice_and_one_of_another_graph_are_refused_with_the_ops_name() {
    let shape = Shape::new(1, 2, 2, 1);
    let [mut graph, mut other] = [(); 2].map(|()| Graph::new(Mode::Train));
    let (x, _) = (graph.input(shape), other.input(shape));
    let foreign = other.input(shape);
    let error = ptl::engine::op::add(&mut graph, x, x).unwrap_err().to_string();
    assert!(error.starts_with("add: input 1 is the same"), "{error}");
    let error = graph.push(Duplicate, &[foreign], shape, Attachments::default()).unwrap_err().to_string();
    assert!(error.starts_with("duplicate: ") && error.contains("no value of this graph"), "{error}");
}

#[test]
fn a_bias_of_another_length_is_refused() {
    let (mut graph, mut store) = (Graph::new(Mode::Train), Store::default());
    let mut param = |name: &str, shape: &[usize], layout| store.add_param(name.into(), shape, layout, Group::Head);
    let (weight, bias) = (param("weight", &[3, 2], Layout::Conv), param("bias", &[2], Layout::Plain));
    let x = graph.input(Shape::vectors(1, 2));
    let error = ptl::engine::op::linear(&mut graph, &store, x, weight, Some(bias)).unwrap_err().to_string();
    assert!(error.contains("bias has the shape [2], the output has 3 channels"), "{error}");
}

#[test]
fn a_frozen_parameter_gets_no_gradient_and_what_lies_before_it_is_skipped() {
    let case = cases().into_iter().find(|c| c.name == "conv2d 3x3 bias").unwrap();
    let mut probe = CaseRun::new(&case, Mode::Train);
    probe.store.params[0].trainable = false;
    let graph = {
        let mut graph = Graph::new(Mode::Train);
        let x = graph.input(case.inputs[0]);
        let y = (case.build)(&mut graph, &mut probe.store, &[x], &probe.params, &[]).unwrap();
        graph.root(y);
        graph
    };
    let session = Session::new(graph, &probe.store, &Device::cpu()).unwrap();
    assert!(!session.has_grad(0) && session.has_grad(1));
}
