//! Formats measurements as tables.

use std::time::Duration;

use ptl::base::report::Table;

use crate::machine::Machine;

/// One measurement.
pub struct Row {
    pub what: String,
    pub batch: usize,
    pub pass: &'static str,
    pub time: Duration,
    /// Bytes read and written, counted from shapes; `None` if unknown.
    pub bytes: Option<u64>,
    pub flops: u64,
}

impl Row {
    fn rate(&self, amount: u64, unit: f64) -> String {
        if amount == 0 { "-".into() } else { format!("{:.1}", amount as f64 / self.time.as_secs_f64() / unit) }
    }

    /// Returns the least time that the device's ceilings allow, as a share of the measured time.
    fn share(&self, machine: &Machine) -> String {
        let Some(bytes) = self.bytes else { return "-".into() };
        let least = (bytes as f64 / machine.copy).max(self.flops as f64 / machine.product);
        format!("{:.0} %", 100.0 * least / self.time.as_secs_f64())
    }
}

/// Times of a cell, fused and not.
pub struct Gain {
    pub cell: String,
    pub batch: usize,
    /// Evaluation and training; training unfused is measured on GPUs only.
    pub fused: [Duration; 2],
    pub unfused: [Option<Duration>; 2],
}

fn microseconds(time: Duration) -> String {
    format!("{:.1}", 1e6 * time.as_secs_f64())
}

/// Returns a table of all rows with rates and shares.
pub fn rows(machine: &Machine, rows: &[Row]) -> String {
    let mut table = Table::new(["what", "batch", "pass", "µs", "GB/s", "GFLOP/s", "of the roofline"]);
    for row in rows {
        let cells = [
            row.what.clone(),
            row.batch.to_string(),
            row.pass.to_string(),
            microseconds(row.time),
            row.rate(row.bytes.unwrap_or(0), 1e9),
            row.rate(row.flops, 1e9),
            row.share(machine),
        ];
        table.row(cells);
    }
    let (copy, product) = (machine.copy / 1e9, machine.product / 1e9);
    format!("\n== {}: copy {copy:.0} GB/s, product {product:.0} GFLOP/s\n\n{}", machine.device, table.to_markdown())
}

/// Returns a table of the times that fusing saves.
pub fn gains(gains: &[Gain]) -> String {
    let header =
        ["cell", "batch", "evaluation, fused µs", "unfused µs", "gain", "training, fused µs", "unfused µs", "gain"];
    let mut table = Table::new(header);
    let row = |name: [String; 2], fused: [Duration; 2], unfused: [Option<Duration>; 2]| {
        let mut cells = name.to_vec();
        for (fused, unfused) in fused.into_iter().zip(unfused) {
            cells.push(microseconds(fused));
            cells.push(unfused.map_or("-".into(), microseconds));
            let gain = unfused.map(|unfused| unfused.as_secs_f64() / fused.as_secs_f64());
            cells.push(gain.map_or("-".into(), |gain| format!("{gain:.2}")));
        }
        cells
    };
    for gain in gains {
        table.row(row([gain.cell.clone(), gain.batch.to_string()], gain.fused, gain.unfused));
    }
    let mut batches: Vec<usize> = gains.iter().map(|gain| gain.batch).collect();
    batches.dedup();
    for batch in batches {
        let of_batch: Vec<&Gain> = gains.iter().filter(|gain| gain.batch == batch).collect();
        let fused = [0, 1].map(|i| of_batch.iter().map(|gain| gain.fused[i]).sum());
        let unfused = [0, 1].map(|i| of_batch.iter().map(|gain| gain.unfused[i]).sum());
        table.row(row(["all".into(), batch.to_string()], fused, unfused));
    }
    table.to_markdown()
}

/// Explanation of the numbers.
pub const NOTES: &str = "\
Bytes are counted from shapes, each tensor once for each launch that has it. A cell's: tests/emulated/cells.rs. An op's: inputs, parameters
and output forward; backward the output's gradient, inputs and parameters again, and the gradients of both. The optimiser's: gradient twice
(norm, update), parameter and three moments read and written. A step's are not counted: its share is that of its arithmetic. Tensors that
fit into a cache stay there from pass to pass, so a share may exceed 100 %.";
