//! A convolution and the batch normalisation after it in one pass, for evaluation on the CPU: each part of the convolution's output is
//! normalised while it is in registers or in a cache. The results have the bits of the two ops.

use super::batch_norm::BatchNormOp;
use super::batch_norm::cpu::fixed_normalization;
use crate::engine::cpu::conv::{self, Packed};
use crate::engine::geometry::Conv2dGeometry;
use crate::engine::graph::{Backward, Forward, Needs, Op};

/// Takes the inputs `x` and, if there is one, the residual; the parameters are the convolution's weight, then weight and bias of the
/// normalisation.
#[derive(Debug)]
pub(super) struct Conv2dNorm {
    pub geometry: Conv2dGeometry,
    pub norm: BatchNormOp,
}

impl Op for Conv2dNorm {
    fn name(&self) -> &'static str {
        "conv2d_batch_norm"
    }

    fn needs(&self) -> Needs {
        let inputs = vec![false; 1 + usize::from(self.norm.residual)];
        let forward_workspace = conv::forward_workspace(&self.geometry);
        Needs { inputs, forward_workspace, reusable_workspace: true, ..Needs::default() }
    }

    fn forward(&self, cx: &mut Forward<'_>) {
        let statistics = [&*cx.buffers[0], &*cx.buffers[1]];
        let residual = cx.inputs.get(1).copied();
        let norm = fixed_normalization(&self.norm, statistics, [cx.params[1], cx.params[2]], residual);
        let (x, weight) = (cx.inputs[0], cx.params[0]);
        let packed = Packed { memory: cx.workspace, ready: cx.workspace_is_ready };
        conv::conv2d_forward_normalized(cx.precision, &self.geometry, x, weight, &norm, cx.output, packed);
    }

    fn backward(&self, _: &mut Backward<'_>) {
        unreachable!("only graphs without backward have this op");
    }

    fn flops(&self) -> u64 {
        self.geometry.flops()
    }
}

#[cfg(test)]
mod tests {
    use crate::Result;
    use crate::engine::graph::{Graph, Mode, Var};
    use crate::engine::op::batch_norm::case_norm;
    use crate::engine::op::case::Build;
    use crate::engine::op::{self, OpCase};
    use crate::engine::session::CaseRun;
    use crate::engine::shape::Shape;
    use crate::engine::store::{Layout, ParamId, Store};

    /// Records a convolution and a batch normalisation, with the residual that the case has.
    fn build<const RELU: bool>(g: &mut Graph, s: &mut Store, x: &[Var], p: &[ParamId], _: &[Var]) -> Result<Var> {
        let [out, _, k, _] = s.param(p[0]).shape[..] else { unreachable!("a kernel") };
        let y = op::conv2d(g, s, x[0], p[0], None, [1, 1], [k / 2, k / 2])?;
        let norm = case_norm(s, &p[1..], out);
        op::batch_norm(g, s, y, &norm, x.get(1).copied(), RELU)
    }

    /// Returns a case for images of `size`, with `out` output channels and `k` x `k` taps.
    fn case(size: Shape, out: usize, k: usize, residual: bool, build: Build) -> OpCase {
        let params =
            [(&[out, size.c, k, k][..], Layout::Conv), (&[out][..], Layout::Plain), (&[out][..], Layout::Plain)];
        let inputs = [size, Shape { c: out, ..size }];
        let inputs = if residual { &inputs[..] } else { &inputs[..1] };
        OpCase::new("conv2d, batch_norm", inputs, &params, build)
    }

    #[test]
    fn one_pass_gives_the_bits_of_two() {
        let cases = [
            case(Shape::new(2, 5, 4, 70), 100, 1, false, build::<true>),
            case(Shape::new(3, 9, 11, 3), 24, 3, false, build::<false>),
            case(Shape::new(1, 6, 7, 300), 20, 1, true, build::<true>),
            case(Shape::new(2, 9, 10, 32), 48, 3, true, build::<true>),
            case(Shape::new(2, 9, 10, 16), 160, 3, false, build::<true>),
        ];
        for case in cases {
            let mut one = CaseRun::new(&case, Mode::Eval).poisoned();
            let mut two = CaseRun::new(&case, Mode::EvalGrad).poisoned();
            assert_eq!((one.nodes(), two.nodes()), (1, 2));
            let bits = |run: &mut CaseRun| run.forward().unwrap().iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&mut one), bits(&mut two));
        }
    }

    #[test]
    fn a_convolution_whose_output_is_read_elsewhere_stays() {
        fn nodes(build: Build) -> usize {
            CaseRun::new(&case(Shape::new(1, 4, 4, 8), 8, 1, false, build), Mode::Eval).nodes()
        }
        assert_eq!(nodes(build::<true>), 1);
        let kept: Build = |g, s, x, p, fixed| {
            let y = build::<true>(g, s, x, p, fixed)?;
            g.keep(Var(y.0 - 1));
            Ok(y)
        };
        assert_eq!(nodes(kept), 2);
        let read: Build = |g, s, x, p, fixed| {
            let y = build::<true>(g, s, x, p, fixed)?;
            op::add(g, y, Var(y.0 - 1))
        };
        assert_eq!(nodes(read), 3);
    }

    #[test]
    fn a_convolution_whose_input_is_the_residual_stays() {
        let own: Build = |g, s, x, p, fixed| build::<true>(g, s, &[x[0], x[0]], p, fixed);
        let run = CaseRun::new(&case(Shape::new(1, 4, 4, 8), 8, 1, false, own), Mode::Eval);
        assert_eq!(run.nodes(), 2);
    }
}
