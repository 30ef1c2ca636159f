//! What every backend must do, as checks that each of them runs.
