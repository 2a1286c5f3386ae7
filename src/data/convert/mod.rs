//! Converts data sets that are not published as folders of images.

pub mod cuhk03;
pub mod mat5;
