//! The program `ptl-train`.

pub mod cli;
pub mod selftest;
