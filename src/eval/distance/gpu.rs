//! Computes bounds of distances on a GPU: always in f32 and with this crate's own kernels, whatever precision the run uses.

use std::ops::Range;
use std::sync::Arc;

use super::{DistanceBlock, DistanceSource};
use crate::Result;
use crate::base::memory;
use crate::engine::device::{Buffer, Gpu, Grid, kernels};
use crate::eval::products::{Columns, Conditioned, RowTerms, allocate, rows_that_fit, upload};
use crate::eval::rerank::{ExactReranking, GpuReranker, RerankOptions};

/// Distances between queries and a gallery that are on a GPU.
pub(crate) struct GpuDistances<'a> {
    gpu: Gpu,
    conditioned: Arc<Conditioned<'a>>,
    /// `[queries + gallery, dim]`, the queries first.
    features: Buffer,
    gallery: Columns,
    euclidean: RowTerms,
    block_rows: usize,
    reranker: Option<GpuReranker<'a>>,
}

impl<'a> GpuDistances<'a> {
    /// Uploads the rows.
    ///
    /// # Errors
    /// [`crate::Error::DeviceMemory`]; the device fails.
    pub(super) fn new(gpu: &Gpu, conditioned: Arc<Conditioned<'a>>) -> Result<GpuDistances<'a>> {
        let (n, queries, dim) = (conditioned.len(), conditioned.queries(), conditioned.dim());
        memory::ensure("ranking", 4 * (n * dim) as u64)?;
        let features = upload(gpu, &conditioned.rows(0..n))?;
        let low_norms = conditioned.low_norms(conditioned.slack());
        let euclidean = RowTerms::new(gpu, &low_norms, &vec![0.0; n], &vec![1.0; n])?;
        let gallery = Columns::new(gpu, features.ptr::<f32>().add(queries * dim), n - queries, dim)?;
        let block_rows = rows_that_fit(gpu, n - queries, 1)?;
        Ok(GpuDistances { gpu: gpu.clone(), conditioned, features, gallery, euclidean, block_rows, reranker: None })
    }
}

impl<'a> DistanceSource<'a> for GpuDistances<'a> {
    fn block_rows(&self) -> usize {
        self.block_rows
    }

    fn reranking_bytes(&self, options: &RerankOptions) -> Option<usize> {
        GpuReranker::bytes(options, self.conditioned.len(), self.gallery.dim)
    }

    fn prepare_reranking(&mut self, options: RerankOptions, done: &mut dyn FnMut(usize)) -> Result<()> {
        let features = self.features.ptr();
        self.reranker = Some(GpuReranker::new(&self.gpu, features, self.conditioned.clone(), options, done)?);
        // Products, the copy of them that is re-ranked, and the overlap of encodings.
        self.block_rows = rows_that_fit(&self.gpu, self.gallery.count, 3)?;
        Ok(())
    }

    fn exact_reranking(&self) -> Option<&ExactReranking<'a>> {
        self.reranker.as_ref().map(GpuReranker::exact)
    }

    fn fill(&self, rows: Range<usize>, block: &mut DistanceBlock) -> Result<()> {
        let gpu = &self.gpu;
        let gallery = self.conditioned.queries()..self.conditioned.len();
        let len = rows.len() * gallery.len();
        let products = allocate::<f32>(gpu, len)?;
        let query = self.features.ptr::<f32>().add(rows.start * self.gallery.dim);
        self.gallery.products(gpu, query, rows.len(), products.ptr())?;
        let reranked = match &self.reranker {
            None => None,
            Some(reranker) => {
                let copy = allocate::<f32>(gpu, len)?;
                kernels::scale_f32(gpu, Grid::any(len), products.ptr(), copy.ptr(), 1.0, len as i64)?;
                reranker.to_distances(gpu, rows.clone(), gallery.clone(), copy.ptr())?;
                Some(copy)
            }
        };
        self.euclidean.to_distances(gpu, products.ptr(), rows.clone(), gallery)?;
        block.plain.resize(len, 0.0);
        let mut copies = vec![(bytemuck::cast_slice_mut(&mut block.plain[..]), products.ptr::<f32>().address())];
        if let Some(reranked) = &reranked {
            block.reranked.resize(len, 0.0);
            copies.push((bytemuck::cast_slice_mut(&mut block.reranked[..]), reranked.ptr::<f32>().address()));
        }
        gpu.download(&mut copies)?;
        if let Some(reranker) = &self.reranker {
            block.margins = reranker.to_bounds(rows, &mut block.reranked);
        }
        Ok(())
    }
}
