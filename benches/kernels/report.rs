//! Formats measurements as tables.

use std::time::Duration;

use ptl::base::report::Table;
use serde_json::{Value, json};

use crate::machine::Machine;

/// One measurement.
pub struct Row {
    pub what: String,
    pub batch: usize,
    pub pass: &'static str,
    /// Who computes convolutions and cells: `OWN`, `VENDOR` or `AUTO`.
    pub by: &'static str,
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

/// Times of a cell, each for evaluation and for training: fused, with the gradients by our own kernels; unfused, on a GPU with the vendor's
/// libraries; and as the program chooses. What a device does not have is `None`.
#[derive(Default)]
pub struct Gain {
    pub cell: String,
    pub batch: usize,
    pub fused: [Option<Duration>; 2],
    pub unfused: [Option<Duration>; 2],
    pub chosen: [Option<Duration>; 2],
}

fn microseconds(time: Duration) -> String {
    format!("{:.1}", 1e6 * time.as_secs_f64())
}

/// Returns a table of all rows with rates and shares.
pub fn rows(machine: &Machine, rows: &[Row]) -> String {
    let mut table = Table::new(["what", "batch", "pass", "convolutions", "µs", "GB/s", "GFLOP/s", "of the roofline"]);
    for row in rows {
        let cells = [
            row.what.clone(),
            row.batch.to_string(),
            row.pass.to_string(),
            row.by.to_string(),
            microseconds(row.time),
            row.rate(row.bytes.unwrap_or(0), 1e9),
            row.rate(row.flops, 1e9),
            row.share(machine),
        ];
        table.row(cells);
    }
    let (copy, product) = (machine.copy / 1e9, machine.product / 1e9);
    let (name, by, table) = (machine.best(), machine.product_by, table.to_markdown());
    format!("\n== {name}: copy {copy:.0} GB/s, product {product:.0} GFLOP/s (by {by})\n\n{table}")
}

/// Returns the ceilings and all rows as numbers.
pub fn figures(machine: &Machine, rows: &[Row]) -> Value {
    let row = |row: &Row| {
        json!({
            "what": row.what, "batch": row.batch, "pass": row.pass, "convolutions": row.by, "seconds": row.time.as_secs_f64(),
            "bytes": row.bytes.filter(|bytes| *bytes > 0), "flops": row.flops,
        })
    };
    json!({
        "device": machine.best().to_string(),
        "precision": machine.precision().to_string(),
        "copy_bytes_per_second": machine.copy,
        "product_flops_per_second": machine.product,
        "product_by": machine.product_by,
        "rows": rows.iter().map(row).collect::<Vec<_>>(),
    })
}

/// Returns a table of the times of each way.
pub fn gains(gains: &[Gain]) -> String {
    let header = ["cell", "batch", "pass", "fused µs", "unfused µs", "unfused by fused", "chosen µs"];
    let mut table = Table::new(header);
    let mut batches: Vec<usize> = gains.iter().map(|gain| gain.batch).collect();
    batches.dedup();
    for (at, pass) in ["evaluation", "training"].into_iter().enumerate() {
        let mut add = |cell: &str, batch: usize, [fused, unfused, chosen]: [Option<Duration>; 3]| {
            let time = |time: Option<Duration>| time.map_or("-".into(), microseconds);
            let ratio = unfused.zip(fused).map(|(unfused, fused)| unfused.as_secs_f64() / fused.as_secs_f64());
            let ratio = ratio.map_or("-".into(), |ratio| format!("{ratio:.2}"));
            let times = [time(fused), time(unfused), ratio, time(chosen)];
            table.row([cell.to_string(), batch.to_string(), pass.to_string()].into_iter().chain(times));
        };
        let of = |gain: &Gain| [gain.fused[at], gain.unfused[at], gain.chosen[at]];
        for gain in gains {
            add(&gain.cell, gain.batch, of(gain));
        }
        for &batch in &batches {
            let of_batch: Vec<_> = gains.iter().filter(|gain| gain.batch == batch).map(of).collect();
            add("all", batch, [0, 1, 2].map(|i| of_batch.iter().map(|times| times[i]).sum()));
        }
    }
    table.to_markdown()
}

/// Explanation of the numbers.
pub const NOTES: &str = "\
Bytes are counted from shapes, each tensor once for each launch that has it. A cell's: tests/emulated/cells.rs. An op's: inputs, parameters
and output forward; backward the output's gradient, inputs and parameters again, and the gradients of both. The optimiser's: gradient twice
(norm, update), parameter and three moments read and written. Those of a step and of a convolution of ResNet-50 are not counted: their
share is that of their arithmetic. Tensors that fit into a cache stay there from pass to pass, so a share may exceed 100 %. The column
convolutions says who computed convolutions and cells: our own kernels, among them the fused cell; the vendor's libraries, with a kernel of
ours for the gates of an unfused cell; or, for each pass, the faster of both as the program measured them (auto).";
