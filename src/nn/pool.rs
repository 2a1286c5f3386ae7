//! The pooling that makes a vector of a feature map.

use super::{Init, Scope};
use crate::Result;
use crate::base::settings::choice;
use crate::engine::graph::{Graph, Var};
use crate::engine::op;
use crate::engine::store::{Layout, ParamId, Store};

choice! {
    /// How a feature map becomes a vector.
    pub enum Pool {
        /// By its average.
        #[default]
        Avg = "avg",
        /// By its maximum.
        Max = "max",
        /// By its generalised mean, whose exponent is trained.
        Gem = "gem",
    }
}

/// The exponent of a generalised mean before training, as in fast-reid.
const EXPONENT: f32 = 3.0;

/// A pooling of whole images, with its parameter where it has one.
#[derive(Clone, Debug)]
pub(super) enum GlobalPool {
    Avg,
    Max,
    /// The exponent is the parameter `p`.
    Gem {
        p: ParamId,
    },
}

impl GlobalPool {
    /// Registers the parameter of the pooling, if it has one.
    pub(super) fn new(scope: &mut Scope<'_>, pool: Pool) -> GlobalPool {
        match pool {
            Pool::Avg => GlobalPool::Avg,
            Pool::Max => GlobalPool::Max,
            Pool::Gem => GlobalPool::Gem { p: scope.param("p", &[1], Layout::Plain, Init::Constant(EXPONENT)) },
        }
    }

    /// Records the pooling of `x` `[n, h, w, c]` to `[n, 1, 1, c]`.
    pub(super) fn forward(&self, g: &mut Graph, store: &Store, x: Var) -> Result<Var> {
        match self {
            GlobalPool::Avg => op::global_avg_pool(g, x),
            GlobalPool::Max => op::global_max_pool(g, x),
            GlobalPool::Gem { p } => op::gem_pool(g, store, x, *p),
        }
    }
}
