//! What leaves a log, and when: pure plans over descriptions of its segments.

mod settings;

pub use settings::CleanupSettings;
