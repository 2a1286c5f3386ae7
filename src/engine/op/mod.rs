//! The ops, one file each: the function that records the op, with its shape rule; forward and backward on the CPU and on a GPU; cases
//! for tests and benches.
//!
//! To add an op, write `src/engine/op/x.rs` with a function that records it ([`Graph::push`](crate::engine::graph::Graph::push)), an
//! [`Op`](crate::engine::graph::Op) for the work and for ONNX, and `cases()` and `bench_cases()`; then add its name to the lists below.

pub mod add;
pub mod avg_pool;
pub mod batch_norm;
pub mod bconv_cell;
mod case;
mod cell_launch;
pub mod center;
pub mod channel_gate;
mod columns;
pub mod concat;
pub mod conv2d;
mod conv2d_norm;
mod conv_launch;
pub mod cosine;
pub mod cross_entropy;
pub mod depthwise_conv2d;
mod gather;
pub mod gem_pool;
pub mod instance_norm;
pub mod margin;
pub mod max_pool;
mod measure;
pub mod narrow;
pub mod normalize;
mod pool_window;
pub mod relu;
pub mod soft_cross_entropy;
pub mod triplet;
mod workspace;

pub use add::add;
pub use avg_pool::{avg_pool2d, global_avg_pool};
pub use batch_norm::{BatchNorm, batch_norm};
pub use bconv_cell::bconv_cell;
pub use case::OpCase;
pub(crate) use center::launch_move_centers;
pub use center::{center_loss, move_centers};
pub use channel_gate::channel_gate;
pub use concat::concat;
pub use conv2d::{conv2d, linear};
pub use cosine::cosine_linear;
pub use cross_entropy::{CrossEntropyOptions, cross_entropy};
pub use depthwise_conv2d::depthwise_conv2d;
pub use gather::gather_batch;
pub use gem_pool::gem_pool;
pub use instance_norm::instance_norm;
pub use margin::{Margin, margin_logits};
pub use max_pool::{global_max_pool, max_pool2d};
pub use narrow::{narrow_channels, narrow_rows};
pub use normalize::normalize;
pub use relu::relu;
pub use soft_cross_entropy::soft_cross_entropy;
pub use triplet::{NO_LABEL, TripletBank, batch_hard_triplet};

use crate::Error;

/// Lists what the function `$list` of every op's file returns.
macro_rules! from_every_op {
    ($list:ident) => {
        [
            add::$list(),
            avg_pool::$list(),
            batch_norm::$list(),
            bconv_cell::$list(),
            center::$list(),
            channel_gate::$list(),
            concat::$list(),
            conv2d::$list(),
            cosine::$list(),
            cross_entropy::$list(),
            depthwise_conv2d::$list(),
            gem_pool::$list(),
            instance_norm::$list(),
            margin::$list(),
            max_pool::$list(),
            narrow::$list(),
            normalize::$list(),
            relu::$list(),
            soft_cross_entropy::$list(),
            triplet::$list(),
        ]
        .into_iter()
        .flatten()
        .collect()
    };
}

/// Returns small cases of every op, for tests.
pub fn cases() -> Vec<OpCase> {
    from_every_op!(cases)
}

/// Returns cases of every op at the size of a ResNet-50 on 256x128 images, for benches.
pub fn bench_cases() -> Vec<OpCase> {
    from_every_op!(bench_cases)
}

/// Returns the error of an op whose operands do not fit.
fn mismatch(op: &'static str, detail: String) -> Error {
    Error::Shape { op, detail }
}
