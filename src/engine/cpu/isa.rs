//! The instruction sets that loops are compiled for, and the choice of one at run time.

use std::sync::OnceLock;

use crate::{Error, Result};

/// The environment variable that limits the choice, as `ONEDNN_MAX_CPU_ISA` does for oneDNN: to repeat the results of an older processor, and
/// to measure.
const LIMIT: &str = "PTL_MAX_ISA";

/// An instruction set, the best one last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum InstructionSet {
    /// What every processor of the architecture has: SSE2 or NEON.
    Portable,
    /// AVX2 with FMA.
    Avx2,
    /// AVX-512 F, VL, BW and DQ.
    Avx512,
}

impl InstructionSet {
    const ALL: [InstructionSet; 3] = [InstructionSet::Portable, InstructionSet::Avx2, InstructionSet::Avx512];

    /// Returns the name that `PTL_MAX_ISA` takes.
    pub fn name(self) -> &'static str {
        ["portable", "avx2", "avx512"][self as usize]
    }

    /// Returns the best instruction set of this machine.
    fn detected() -> InstructionSet {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq");
            return if avx512 { InstructionSet::Avx512 } else { InstructionSet::Avx2 };
        }
        InstructionSet::Portable
    }

    /// Returns the best instruction set that this machine has and the environment variable `PTL_MAX_ISA` allows.
    ///
    /// # Errors
    /// [`Error::Setting`] if the variable names no instruction set. Loops then use the best one.
    pub fn requested() -> Result<InstructionSet> {
        let Some(value) = std::env::var_os(LIMIT).filter(|value| !value.is_empty()) else {
            return Ok(Self::detected());
        };
        let limit = Self::ALL.into_iter().find(|isa| value == isa.name());
        limit.map(|limit| limit.min(Self::detected())).ok_or_else(|| Error::Setting {
            setting: LIMIT.into(),
            value: value.to_string_lossy().into_owned(),
            reason: format!("known are {}", Self::ALL.map(Self::name).join(", ")),
        })
    }

    /// Returns what [`InstructionSet::requested`] said first.
    #[inline]
    pub(crate) fn best() -> InstructionSet {
        static BEST: OnceLock<InstructionSet> = OnceLock::new();
        *BEST.get_or_init(|| Self::requested().unwrap_or_else(|_| Self::detected()))
    }

    /// Returns whether the processor has dot products of bf16, and the environment allows the instruction set that they belong to.
    pub fn has_bf16() -> bool {
        Self::best() == InstructionSet::Avx512 && Self::processor_has_bf16()
    }

    /// Returns whether only the environment forbids the processor's dot products of bf16.
    pub(crate) fn bf16_is_forbidden() -> bool {
        Self::processor_has_bf16() && !Self::has_bf16()
    }

    fn processor_has_bf16() -> bool {
        #[cfg(target_arch = "x86_64")]
        return Self::detected() == InstructionSet::Avx512 && is_x86_feature_detected!("avx512bf16");
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// Returns the instruction sets that this machine has and the environment allows, the best one first.
    #[cfg(test)]
    pub(super) fn available() -> impl Iterator<Item = InstructionSet> {
        Self::ALL.into_iter().rev().filter(|&isa| isa <= Self::best())
    }
}

/// Defines functions whose bodies are compiled once for each instruction set. A call runs the version for [`InstructionSet::best`].
///
/// The body is repeated inside functions that enable the instruction set, so its loops and closures are compiled for it, inlined or not.
/// Functions that the body calls are not, unless they are `#[inline(always)]` or defined by this macro.
macro_rules! for_each_isa {
    ($(
        $(#[$meta:meta])*
        $vis:vis fn $name:ident $(<$(const $generic:ident: $kind:ty),+>)? ($($arg:ident: $type:ty),* $(,)?)
        $(-> $result:ty)? $body:block
    )+) => {$(
        $(#[$meta])*
        #[allow(clippy::too_many_arguments, reason = "operands of one loop")]
        $vis fn $name $(<$(const $generic: $kind),+>)? ($($arg: $type),*) $(-> $result)? {
            #[cfg(target_arch = "x86_64")]
            {
                use $crate::engine::cpu::InstructionSet;
                #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
                fn avx512 $(<$(const $generic: $kind),+>)? ($($arg: $type),*) $(-> $result)? $body
                #[target_feature(enable = "avx2,fma")]
                fn avx2 $(<$(const $generic: $kind),+>)? ($($arg: $type),*) $(-> $result)? $body
                match InstructionSet::best() {
                    // SAFETY: all of these were detected (`InstructionSet::detected`).
                    InstructionSet::Avx512 => return unsafe { avx512 $(::<$($generic),+>)? ($($arg),*) },
                    // SAFETY: detected.
                    InstructionSet::Avx2 => return unsafe { avx2 $(::<$($generic),+>)? ($($arg),*) },
                    InstructionSet::Portable => {}
                }
            }
            fn portable $(<$(const $generic: $kind),+>)? ($($arg: $type),*) $(-> $result)? $body
            portable $(::<$($generic),+>)? ($($arg),*)
        }
    )+};
}
pub(crate) use for_each_isa;
