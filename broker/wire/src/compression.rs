//! The record batch codecs: gzip, Snappy (Xerial-framed), LZ4 (KIP-57) and zstd (KIP-110).
