//! What must be the same on all processes that compute together.

use crate::config::Config;
use crate::engine::collective::Collective;
use crate::engine::cpu::InstructionSet;
use crate::{Error, Result};

/// Stands between settings, none of which contains it: texts may have several lines.
const SEPARATOR: &str = "\0";

/// Refuses processes that would not take the same decisions, or not compute the same bits.
///
/// # Errors
/// [`Error::Ranks`]: the versions of their programs, their settings or instruction sets differ.
pub(crate) fn check_alike(ranks: &Collective, config: &Config) -> Result<()> {
    if !ranks.has_others() {
        return Ok(());
    }
    let refuse = |reason: String| Err(Error::Ranks { reason });
    if let Some((rank, [first, other])) = ranks.first_difference(env!("CARGO_PKG_VERSION")) {
        return refuse(format!(
            "process 0 is version {first} of this program, and process {rank} version {other}: start the same program"
        ));
    }
    let settings: Vec<String> =
        Config::settings().map(|setting| format!("`{}` = {}", setting.path, config.said(setting))).collect();
    if let Some((rank, texts)) = ranks.first_difference(&settings.join(SEPARATOR)) {
        let [first, other] = texts.each_ref().map(|text| text.split(SEPARATOR));
        let (first, other) = first.zip(other).find(|(first, other)| first != other).unwrap_or_default();
        return refuse(format!(
            "the processes have different settings: {first} for process 0, {other} for process {rank}; start all with the same"
        ));
    }
    let instructions = format!("{:?}", InstructionSet::best());
    if let Some((rank, [first, other])) = ranks.first_difference(&instructions) {
        return refuse(format!(
            "process 0 computes with the instruction set {first}, and process {rank} with {other}, which gives other bits: set PTL_MAX_ISA to avx2 or \
             portable for all"
        ));
    }
    Ok(())
}
