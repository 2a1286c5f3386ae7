//! What the CPU path shares: matrix multiplication, convolution, and loops that give the same bits for any number of threads.

pub mod par;
