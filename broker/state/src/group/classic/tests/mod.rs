//! Rules of the classic protocol, one test each, and a model that finds what nobody thought of.

mod joining;
mod leaving;
mod loading;
mod model;
mod rebalancing;
mod reporting;
mod stage;
mod statics;
mod syncing;
