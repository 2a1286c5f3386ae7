//! `ptl-train selftest`.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;

use crate::Result;
use crate::app::cli::ExitCode;
use crate::app::cli::args::SelftestArgs;
use crate::app::cli::output::{print, stderr_reporter};
use crate::app::selftest;
use crate::base::atomic::atomic_write;
use crate::base::report::Table;
use crate::engine::device::{Device, DeviceOptions};
use crate::engine::precision::Precision;

/// Runs `ptl-train selftest`. The exit code is 1 if a comparison fails.
pub(crate) fn selftest(args: &SelftestArgs) -> Result<ExitCode> {
    // clap accepts no other words.
    let precision = match args.precision.as_str() {
        "bf16" => Precision::Bf16,
        "tf32" => Precision::Tf32,
        _ => Precision::F32,
    };
    let device = Device::open(&DeviceOptions { kind: args.device, precision, vendor: args.vendor, local_rank: 0 })?;
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let seed = args.seed.unwrap_or_else(now);
    let reporter = stderr_reporter();
    reporter.message(&format!("{device}, seed {seed}"));

    let mut checks = Vec::new();
    let done = selftest::run(&device, seed, args.full, &mut |check| checks.push(check.clone()));
    device.report_choices(&reporter);
    let verdict = |passed| if passed { "ok" } else { "FAILED" };
    let mut table = Table::new(["comparison", "largest deviation", "allowed", ""]);
    for check in &checks {
        let numbers = [check.deviation, check.allowed].map(|number| format!("{number:.1e}"));
        let [deviation, allowed] = numbers;
        table.row([check.name.clone(), deviation, allowed, verdict(check.passed()).into()]);
    }
    let failed = checks.iter().filter(|check| !check.passed()).count();
    let summary = format!("{} of {} comparisons passed", checks.len() - failed, checks.len());
    print(&format!("{}\n{summary} on {device}\n", table.to_markdown()))?;
    // Written last: the table is printed even if the file cannot be written.
    if let Some(path) = &args.json {
        let list: Vec<_> = (checks.iter())
            .map(|c| json!({ "name": c.name, "deviation": c.deviation, "allowed": c.allowed, "passed": c.passed() }))
            .collect();
        let report = json!({ "device": device.to_string(), "seed": seed, "failed": failed, "checks": list });
        atomic_write(path, |file| writeln!(file, "{report:#}"))?;
    }
    done.map(|()| ExitCode::from(u8::from(failed > 0)))
}
