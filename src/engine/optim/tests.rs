use rand::RngExt;

use super::*;
use crate::base::rng::{Purpose, stream};

fn all_rules() -> [UpdateRule; 7] {
    let OptimOptions { betas, eps, .. } = OptimOptions::default();
    [
        UpdateRule::Adam { betas, eps, amsgrad: false },
        UpdateRule::Adam { betas, eps, amsgrad: true },
        UpdateRule::AdamW { betas, eps, amsgrad: false },
        UpdateRule::AdamW { betas, eps, amsgrad: true },
        UpdateRule::Sgd { momentum: 0.0, nesterov: false },
        UpdateRule::Sgd { momentum: 0.9, nesterov: false },
        UpdateRule::Sgd { momentum: 0.9, nesterov: true },
    ]
}

fn numbers(item: u64, len: usize) -> Vec<f32> {
    let mut rng = stream(7, Purpose::Test, 0, item);
    (0..len).map(|_| rng.random_range(-1.0..1.0)).collect()
}

fn segment(range: Range<usize>) -> Segment {
    Segment { range, lr: 0.01, weight_decay: 0.1 }
}

/// `steps` updates; returns the parameters and the optimiser.
fn run(config: &UpdateRule, len: usize, segments: &[Segment], steps: u64) -> (Vec<f32>, Optimizer) {
    let mut optimizer = Optimizer::new(config, len).unwrap();
    let mut params = numbers(0, len);
    for t in 1..=steps {
        optimizer.step(&mut params, &numbers(t, len), segments);
    }
    (params, optimizer)
}

#[test]
fn elements_outside_of_all_segments_are_untouched() {
    for config in all_rules() {
        let (params, optimizer) = run(&config, 10, &[segment(0..3), segment(5..9)], 3);
        let start = numbers(0, 10);
        for i in 0..10 {
            let inside = i < 3 || (5..9).contains(&i);
            assert_eq!(params[i] != start[i], inside, "{config:?} element {i}");
            for (name, buffer) in optimizer.state() {
                assert_eq!(buffer[i] != 0.0, inside, "{config:?} {name}[{i}]");
            }
        }
    }
}

#[test]
fn segments_have_their_own_rate_and_decay() {
    for config in all_rules() {
        let one = |segment: Segment| run(&config, 8, &[segment], 4).0;
        let left = Segment { range: 0..4, lr: 0.1, weight_decay: 0.0 };
        let right = Segment { range: 4..8, lr: 0.001, weight_decay: 0.5 };
        let both = run(&config, 8, &[left.clone(), right.clone()], 4).0;
        assert_eq!(both[..4], one(left)[..4], "{config:?}");
        assert_eq!(both[4..], one(right)[4..], "{config:?}");
    }
}

#[test]
fn restored_state_continues_bit_for_bit() {
    for config in all_rules() {
        let segments = [segment(0..50)];
        let (want, want_optimizer) = run(&config, 50, &segments, 9);
        let (mut params, first) = run(&config, 50, &segments, 4);
        let mut resumed = Optimizer::new(&config, 50).unwrap();
        resumed.restore(first.steps(), &first.state().collect::<Vec<_>>()).unwrap();
        for t in 5..=9 {
            resumed.step(&mut params, &numbers(t, 50), &segments);
        }
        assert_eq!(params, want, "{config:?}");
        assert!(resumed.state().eq(want_optimizer.state()), "{config:?}");
    }
}

#[test]
fn thread_count_does_not_matter() {
    let len = 3 * CHUNK + 17;
    let segments = [segment(5..CHUNK), segment(CHUNK..len)];
    for config in all_rules() {
        let with = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| (run(&config, len, &segments, 2).0, global_norm(&numbers(1, len), &segments).to_bits()))
        };
        assert!(with(1) == with(5), "{config:?}");
    }
}

#[test]
fn restore_refuses_another_optimizers_state() {
    let [adam, amsgrad, .., sgd] = all_rules();
    let (_, stored) = run(&adam, 6, &[segment(0..6)], 2);
    for (config, len) in [(&amsgrad, 6), (&sgd, 6), (&adam, 7)] {
        let mut other = Optimizer::new(config, len).unwrap();
        let error = other.restore(2, &stored.state().collect::<Vec<_>>()).unwrap_err().to_string();
        assert!(error.contains("exp_avg [6], exp_avg_sq [6]"), "{error}");
        assert_eq!(other.steps(), 0);
    }
}

#[test]
fn clipping_scales_to_the_norm_and_spares_the_rest() {
    let mut grads = vec![3.0, 100.0, 4.0];
    let segments = [segment(0..1), segment(2..3)];
    assert_eq!(clip_grad_norm(&mut grads, &segments, 5.0), 5.0);
    assert_eq!(grads, [3.0, 100.0, 4.0]);
    assert_eq!(clip_grad_norm(&mut grads, &segments, 2.5), 5.0);
    assert_eq!(grads, [1.5, 100.0, 2.0]);
    grads[0] = f32::NAN;
    assert!(clip_grad_norm(&mut grads, &segments, 1.0).is_nan());
    assert_eq!(grads[1..], [100.0, 2.0]);
}

#[test]
fn bad_settings_are_refused() {
    let betas = [0.9, 0.999];
    for (config, setting) in [
        (UpdateRule::Adam { betas: [0.9, 1.0], eps: 1e-8, amsgrad: false }, "optim.betas"),
        (UpdateRule::AdamW { betas, eps: 0.0, amsgrad: false }, "optim.eps"),
        (UpdateRule::Sgd { momentum: f64::NAN, nesterov: false }, "optim.momentum"),
        (UpdateRule::Sgd { momentum: 0.0, nesterov: true }, "optim.nesterov"),
    ] {
        let error = Optimizer::new(&config, 1).unwrap_err().to_string();
        assert!(error.starts_with(setting), "{error}");
    }
}
