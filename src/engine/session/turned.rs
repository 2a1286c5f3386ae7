//! Weights and their gradients in the order of the vendor's libraries. One launch turns all weights of a network before forward, and one
//! all gradients after backward (or those of a bucket, where several processes add them up).

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use super::gpu::Bound;
use crate::Result;
use crate::engine::device::{Buffer, Gpu, Grid, Ptr, kernels};
use crate::engine::graph::{Graph, Node};
use crate::engine::plan::{Block, Plan};
use crate::engine::store::Store;

/// The side of the tiles in `kernels/transpose.cu`.
const TILE: usize = 32;
/// The numbers of a matrix in a table.
const NUMBERS: usize = 5;

/// The tables of the launches that turn weights and gradients.
pub(super) struct TurnedWeights {
    weights: Table,
    /// One for each list of gradients that libraries have written in a step: recorded launches keep using theirs.
    gradients: Mutex<Vec<Table>>,
}

/// A table of matrices on the GPU, with five numbers for each, as `kernels/transpose.cu` takes it. It never changes.
struct Table {
    memory: Buffer,
    numbers: Vec<i64>,
}

impl Table {
    fn new(gpu: &Gpu, numbers: Vec<i64>) -> Result<Table> {
        Ok(Table { memory: gpu.allocate_with(bytemuck::cast_slice(&numbers))?, numbers })
    }

    /// Returns the grid, address and length for the launch; `None` if the table is empty.
    fn launch(&self) -> Option<(Grid, Ptr<i64>, i32)> {
        let tiles = *self.numbers.last()?;
        Some((Grid::any(256 * tiles as usize), self.memory.ptr(), (self.numbers.len() / NUMBERS) as i32))
    }
}

/// The first parameter of a node: its offset in the flat buffers, and its size as a matrix of `[kh, kw, in]` rows and `out` columns.
struct Matrix {
    offset: usize,
    rows: usize,
    columns: usize,
}

impl Matrix {
    fn of(node: &Node, store: &Store) -> Matrix {
        let param = store.param(node.attachments.params[0]);
        let columns = param.shape[0];
        Matrix { offset: param.range.start, rows: param.range.len() / columns, columns }
    }
}

/// Adds a matrix to a table: the indices of its first element before and after, and its size before.
fn push(numbers: &mut Vec<i64>, [from, to]: [usize; 2], [rows, columns]: [usize; 2]) {
    let before = numbers.last().copied().unwrap_or(0);
    let tiles = rows.div_ceil(TILE) * columns.div_ceil(TILE);
    numbers.extend([from, to, rows, columns].map(|number| number as i64));
    numbers.push(before + tiles as i64);
}

/// Returns the index of the block's first element in the arena, which has the type of activations.
fn first_element(gpu: &Gpu, block: Block) -> usize {
    block.offset * 4 / gpu.activation_bytes()
}

impl TurnedWeights {
    /// Allocates the tables of `plan`.
    ///
    /// # Errors
    /// The GPU fails.
    pub(super) fn new(gpu: &Gpu, graph: &Graph, plan: &Plan, store: &Store) -> Result<TurnedWeights> {
        let mut numbers = Vec::new();
        let mut listed = HashSet::new();
        for (node, plan) in graph.nodes.iter().zip(&plan.nodes).filter(|(_, plan)| plan.turned_weight.len > 0) {
            let Matrix { offset, rows, columns } = Matrix::of(node, store);
            // Nodes that share a weight share its place.
            if listed.insert(offset) {
                push(&mut numbers, [offset, first_element(gpu, plan.turned_weight)], [rows, columns]);
            }
        }
        Ok(TurnedWeights { weights: Table::new(gpu, numbers)?, gradients: Mutex::default() })
    }

    /// Enqueues the launch that turns all weights.
    pub(super) fn launch_weights(&self, gpu: &Gpu, arena: Ptr, bound: &Bound) -> Result<()> {
        let Some((grid, table, matrices)) = self.weights.launch() else { return Ok(()) };
        kernels::turn_weights(gpu, grid, bound.values, arena, table, matrices)
    }

    /// Enqueues the launch that turns the gradients of the nodes `written`. A list of nodes must have been launched once before it is
    /// recorded, since its table is uploaded then.
    pub(super) fn launch_gradients(
        &self,
        gpu: &Gpu,
        arena: Ptr,
        bound: &Bound,
        store: &Store,
        written: &[(&Node, Block)],
    ) -> Result<()> {
        let mut numbers = Vec::with_capacity(NUMBERS * written.len());
        for (node, block) in written {
            let Matrix { offset, rows, columns } = Matrix::of(node, store);
            push(&mut numbers, [first_element(gpu, *block), offset], [columns, rows]);
        }
        let mut tables = self.gradients.lock().unwrap_or_else(PoisonError::into_inner);
        let at = match tables.iter().position(|table| table.numbers == numbers) {
            Some(at) => at,
            None => {
                tables.push(Table::new(gpu, numbers)?);
                tables.len() - 1
            }
        };
        let Some((grid, table, matrices)) = tables[at].launch() else { return Ok(()) };
        kernels::turn_gradients(gpu, grid, arena, bound.grads, table, matrices)
    }
}
