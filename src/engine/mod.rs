//! The engine: graphs of operations, planned once and run on a CPU or a GPU, with their gradients and the update of parameters.
//!
//! The modules, each of which imports only those before it: [`shape`] and [`geometry`] (sizes), [`precision`], [`cpu`] and [`device`] (what
//! computes), [`store`] (parameters), [`collective`] (several processes), [`onnx`] (networks for other programs), [`graph`] (what is recorded), [`latent_state`], [`plan`]
//! (what lives where in memory), [`op`] (the ops), [`session`] (running a graph). [`optim`] and [`schedule`] update the parameters.

pub mod collective;
pub mod cpu;
pub mod device;
pub mod geometry;
pub mod graph;
pub mod latent_state;
pub mod onnx;
pub mod op;
pub mod optim;
pub mod plan;
pub mod precision;
pub mod schedule;
pub mod session;
pub mod shape;
pub mod store;
