//! Measures the convolutions of ResNet-50 on a GPU, each by our own kernels and by the vendor's library.

use criterion::{BenchmarkId, Criterion};
use ptl::engine::geometry::Conv2dGeometry;
use ptl::engine::graph::{Graph, Mode, Var};
use ptl::engine::op::{OpCase, conv2d};
use ptl::engine::session::CaseRun;
use ptl::engine::shape::Shape;
use ptl::engine::store::{Layout, ParamId, Store};

use crate::machine::{Machine, group};
use crate::report::Row;
use crate::support::resnet50_layers;

/// Measures each layer forward, and forward with both gradients. The bench `conv` does this on the CPU.
pub fn run(criterion: &mut Criterion, machine: &Machine, rows: &mut Vec<Row>) {
    let Some(&batch) = machine.batches().last().filter(|_| machine.gpu().is_some()) else { return };
    let mut group = group(criterion, &format!("convs {}", machine.precision()), 0.2);
    for layer in resnet50_layers(batch) {
        let case = case(&layer.geometry, machine.tiny());
        for (by, device) in machine.devices() {
            let mut run = CaseRun::on(device, &case, Mode::Train, 1);
            run.forward().expect("a device that works");
            run.backward().expect("a device that works");
            let forward_flops = run.session.graph().flops();
            for (pass, backward) in [("forward", false), ("forward+backward", true)] {
                let flops = if backward { 3 * forward_flops } else { forward_flops };
                let id = BenchmarkId::new(format!("{} {pass}, {by}", layer.name), batch);
                let time = machine.time(device, &mut group, id, flops, || {
                    run.forward_again()?;
                    if backward { run.backward_again() } else { Ok(()) }
                });
                let what = format!("{} (x{})", layer.name, layer.count);
                rows.push(Row { what, batch, pass, by, time, bytes: Some(0), flops });
            }
        }
    }
}

/// Returns a convolution as an op; a tiny one has few pixels and channels.
fn case(g: &Conv2dGeometry, tiny: bool) -> OpCase {
    fn build<const STRIDE: usize, const PADDING: usize>(
        g: &mut Graph,
        s: &mut Store,
        x: &[Var],
        p: &[ParamId],
        _fixed: &[Var],
    ) -> ptl::Result<Var> {
        conv2d(g, s, x[0], p[0], None, [STRIDE; 2], [PADDING; 2])
    }
    let ([n, h, w, inputs], [.., outputs], kernel) = (g.input(), g.output(), g.kernel());
    let size = |size: usize| if tiny { size.div_ceil(16).max(3) } else { size };
    OpCase {
        name: "a convolution of ResNet-50",
        inputs: vec![Shape::new(n, size(h), size(w), size(inputs))],
        params: vec![(vec![size(outputs), size(inputs), kernel[0], kernel[1]], Layout::Conv)],
        build: match (kernel[0], g.stride()[0]) {
            (1, 1) => build::<1, 0>,
            (1, _) => build::<2, 0>,
            (3, 1) => build::<1, 1>,
            (3, _) => build::<2, 1>,
            _ => build::<2, 3>,
        },
        fixed: Vec::new(),
        smooth: true,
        detached: false,
    }
}
