//! Compares BConv-Cells over four steps, with a state that shrinks with the batch.

use ptl::engine::graph::Mode;
use ptl::engine::op;
use ptl::engine::shape::Shape;
use ptl::engine::store::Store;

use crate::engine::{Run, grad, param};
use crate::support::{GoldenFile, Variant, all_precisions, files, formula_tensor};

#[test]
fn golden_bconv_cells() {
    for path in files("bconv_*.safetensors") {
        let golden = GoldenFile::open(&path);
        all_precisions().iter().for_each(|variant| check(&golden, variant));
    }
}

fn check(golden: &GoldenFile, variant: &Variant) {
    let size = |key: &str| golden.meta(key).as_u64().unwrap_or_else(|| panic!("{}: {key}", golden.name)) as usize;
    let scale = |key: &str, default: f64| golden.metadata.get(key).map_or(default, |v| v.parse().expect("a number"));
    let [cin, cout, k, s, p, h, w] = ["cin", "cout", "k", "s", "p", "h", "w"].map(size);
    let batches: Vec<usize> = serde_json::from_value(golden.meta("bs")).expect("a list of batch sizes");
    let saturated = golden.metadata.contains_key("xs");
    // Pre-activations in the hundreds lose digits before the gates see them.
    let [tolerance_y, tolerance_grad] = if saturated { [2e-4, 2e-4] } else { [1e-5, 2e-5] };
    let out = [(h + 2 * p - k) / s + 1, (w + 2 * p - k) / s + 1];

    let stored_or_formula = |key: &str, formula_key: &str, len: usize, scale: f64| {
        if golden.has(key) {
            golden.f32(key)
        } else {
            formula_tensor(golden.salt(), &format!("{}/{formula_key}", golden.name), len, 0.0, scale)
        }
    };
    let shape = [4 * cout, cin, k, k];
    let fan_in = (cin * k * k) as f64;
    let len = shape.iter().product();
    let weight = stored_or_formula("gates.weight", "gates.weight", len, 1.5 * (3.0 / fan_in).sqrt());

    let mut store = Store::new();
    let id = param(&mut store, "gates.weight", &shape, &weight);
    let mut checker = variant.checker(&golden.name);
    let mut state = golden.f32("c0");
    for (t, &batch) in batches.iter().enumerate().map(|(i, b)| (i + 1, b)) {
        let mut run =
            Run::new(&variant.device, &mut store, Mode::Train, Shape::new(batch, h, w, cin), |g, store, x| {
                op::bconv_cell(g, store, "cell", x, id, [s, s], [p, p])
            });
        run.set_state(0, &state);
        let x = stored_or_formula(&format!("x{t}"), &format!("x{t}"), batch * cin * h * w, scale("xs", 1.5));
        let out_len = batch * cout * out[0] * out[1];
        let r = stored_or_formula(&format!("r{t}"), &format!("r{t}"), out_len, 1.0);
        let y = run.forward(&mut store, &x);
        state = run.state(0);
        let dx = run.backward(&mut store, &r);
        let dw = grad(&store, id);
        checker.that(y.iter().chain(&dx).chain(&dw).all(|v| v.is_finite()), || format!("step {t} has NaN or infinity"));
        // Short formats round pre-activations in the hundreds by tenths, and saturated gates change abruptly with them.
        if saturated && variant.floor > 0.0 {
            continue;
        }
        checker.close(&format!("y{t}"), &y, &golden.f32(&format!("y{t}")), tolerance_y);
        checker.close(&format!("c{t}"), &state, &golden.f32(&format!("c{t}")), tolerance_y);
        checker.close(&format!("dx{t}"), &dx, &golden.f32(&format!("dx{t}")), tolerance_grad);
        let loss: f64 = y.iter().zip(&r).map(|(y, r)| f64::from(*y) * f64::from(*r)).sum();
        let loss_tolerance = variant.floor.max(2e-5) * (out_len as f64).sqrt() * if saturated { 10.0 } else { 1.0 };
        checker.close_absolute(&format!("L{t}"), &[loss], &golden.f32(&format!("L{t}")), loss_tolerance);
        if golden.has(&format!("dW{t}")) {
            checker.close(&format!("dW{t}"), &dw, &golden.f32(&format!("dW{t}")), tolerance_grad);
        } else {
            let sums = |key: fn(usize, usize, usize) -> usize, len: usize| {
                let mut sums = vec![0.0f64; len];
                for (i, &v) in dw.iter().enumerate() {
                    let (o, c, tap) = (i / (cin * k * k), i / (k * k) % cin, i % (k * k));
                    sums[key(o, c, tap)] += f64::from(v);
                }
                sums
            };
            let norm = dw.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
            let stored = |what: &str| golden.f32(&format!("dW{t}.{what}"));
            checker.close(&format!("dW{t}.norm"), &[norm], &stored("norm"), 1e-4);
            checker.close(&format!("dW{t}.sum_in_kk"), &sums(|o, _, _| o, 4 * cout), &stored("sum_in_kk"), 1e-4);
            checker.close(&format!("dW{t}.sum_out_kk"), &sums(|_, c, _| c, cin), &stored("sum_out_kk"), 1e-4);
            checker.close(&format!("dW{t}.sum_out_in"), &sums(|_, _, tap| tap, k * k), &stored("sum_out_in"), 1e-4);
            checker.close(&format!("dW{t}.row0"), &dw[..cin * k * k], &stored("row0"), tolerance_grad);
        }
    }
}
