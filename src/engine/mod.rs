//! The engine: graphs of operations, planned once and run on a CPU or a GPU, with their gradients and the update of parameters.

pub mod cpu;
pub mod device;
pub mod graph;
pub mod latent_state;
pub mod op;
pub mod optim;
pub mod plan;
pub mod schedule;
pub mod session;
pub mod shape;
pub mod store;
