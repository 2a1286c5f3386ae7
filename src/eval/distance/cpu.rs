//! Computes bounds of distances on the CPU.

use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use super::{DistanceBlock, DistanceSource};
use crate::Result;
use crate::engine::cpu::{PackedRows, matmul_nt};
use crate::eval::products::{Conditioned, block_rows};
use crate::eval::rerank::{ExactReranking, RerankOptions, Reranker};

/// Distances between queries and a gallery that is packed once for all of them.
pub(crate) struct CpuDistances<'a> {
    conditioned: Arc<Conditioned<'a>>,
    /// Squared length of each row, less its slack.
    low_norms: Vec<f32>,
    packed: PackedRows,
    reranker: Option<Reranker<'a>>,
}

impl<'a> CpuDistances<'a> {
    pub(super) fn new(conditioned: Arc<Conditioned<'a>>) -> CpuDistances<'a> {
        let low_norms = conditioned.low_norms(conditioned.slack());
        let packed = conditioned.packed(conditioned.queries()..conditioned.len());
        CpuDistances { conditioned, low_norms, packed, reranker: None }
    }

    /// Turns products `[rows, gallery]` into lower bounds of |q - g|² = |q|² + |g|² - 2 q·g.
    fn to_bounds(&self, rows: Range<usize>, block: &mut [f32]) {
        let (query, gallery) = self.low_norms.split_at(self.conditioned.queries());
        block.par_chunks_mut(self.packed.rows()).zip(&query[rows]).for_each(|(row, norm)| {
            for (value, other) in row.iter_mut().zip(gallery) {
                *value = (norm + other - 2.0 * *value).max(0.0);
            }
        });
    }
}

impl<'a> DistanceSource<'a> for CpuDistances<'a> {
    fn block_rows(&self) -> usize {
        block_rows(self.packed.rows())
    }

    fn reranking_bytes(&self, options: &RerankOptions) -> Option<usize> {
        let n = self.conditioned.len();
        // The packed features, a block of distances, neighbours, encodings.
        let (k1, encoded) = (options.k1.min(n), options.k1.saturating_mul(options.k2).min(n));
        Some(4 * n * self.conditioned.dim() + 4 * n * block_rows(n) + n * (40 * k1 + 24 * encoded + 800))
    }

    fn prepare_reranking(&mut self, options: RerankOptions, done: &mut dyn FnMut(usize)) -> Result<()> {
        let bytes = self.reranking_bytes(&options).expect("the CPU takes all options");
        crate::base::memory::ensure("re-ranking", bytes as u64)?;
        self.reranker = Some(Reranker::new(self.conditioned.clone(), options, done));
        Ok(())
    }

    fn exact_reranking(&self) -> Option<&ExactReranking<'a>> {
        self.reranker.as_ref().map(Reranker::exact)
    }

    fn fill(&self, rows: Range<usize>, block: &mut DistanceBlock) -> Result<()> {
        let n_gallery = self.packed.rows();
        block.plain.resize(rows.len() * n_gallery, 0.0);
        matmul_nt(&self.conditioned.rows(rows.clone()), &self.packed, 0..n_gallery, &mut block.plain);
        if let Some(reranker) = &self.reranker {
            block.reranked.clone_from(&block.plain);
            block.margins = reranker.to_bounds(rows.start, &mut block.reranked);
        }
        self.to_bounds(rows, &mut block.plain);
        Ok(())
    }
}
