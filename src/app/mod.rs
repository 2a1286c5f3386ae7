//! The program `ptl-train` (feature `cli`), and the check of a GPU's results.

#[cfg(feature = "cli")]
pub mod cli;
pub mod selftest;
