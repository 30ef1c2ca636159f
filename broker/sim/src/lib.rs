//! The broker under simulation, with named checkers.
