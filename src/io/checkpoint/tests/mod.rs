//! Files of weights as other programs write them, and damaged ones.

mod companions;
mod damage;
mod dictionaries;
mod numbers;
