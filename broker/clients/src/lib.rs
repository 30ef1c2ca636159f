//! Tests of the broker with clients and codecs of other projects; the library itself is empty.
