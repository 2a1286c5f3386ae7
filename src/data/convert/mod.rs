//! Data sets whose published form is no folder of images, turned into one.

pub mod cuhk03;
pub mod mat5;
