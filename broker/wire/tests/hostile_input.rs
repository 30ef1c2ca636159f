//! Bytes from strangers: no decoder panics, and none allocates beyond its input, whatever the counts and
//! lengths in it say.

use logmill_wire::api::Message;
use logmill_wire::primitives::Writer;
use logmill_wire::samples::{self, Pattern, Sample, Shape};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static ALLOCATED_BYTES: Cell<usize> = const { Cell::new(0) };
}

/// Counts the bytes that the thread asks for; what it frees is not taken off.
struct Counting;

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(new_size);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

fn count(bytes: usize) {
    // A thread that is ending has no counter any more.
    let _ = ALLOCATED_BYTES.try_with(|allocated| allocated.set(allocated.get().saturating_add(bytes)));
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocated_by(work: impl FnOnce()) -> usize {
    let before = ALLOCATED_BYTES.get();
    work();
    ALLOCATED_BYTES.get() - before
}

/// How many inputs are tried per message and version.
const CASES_PER_VERSION: u64 = 1_600;

/// Decodes, and if that succeeds visits every element at every depth. Returns whether it succeeded.
fn decode_all<'a, M: Message<'a> + PartialEq>(bytes: &'a [u8], version: i16) -> bool {
    match M::decode_body(bytes, version) {
        Ok(message) => {
            // Comparing goes through all nested arrays on both sides.
            assert!(message == message.clone(), "{} v{version} reads back differently", M::NAME);
            true
        }
        Err(_) => false,
    }
}

fn mutate(bytes: &mut Vec<u8>, pattern: &mut Pattern) {
    for _ in 0..=pattern.bits() % 3 {
        let at = (pattern.bits() as usize) % (bytes.len() + 1);
        match pattern.bits() % 6 {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, pattern.bits() as u8),
            2 => overwrite(bytes, at, &[1 << (pattern.bits() % 8)]),
            3 => overwrite(bytes, at, &[pattern.bits() as u8]),
            4 => overwrite(bytes, at, &i32::MAX.to_be_bytes()),
            // Lengths and counts that are as large as they can be, in both encodings.
            _ => overwrite(bytes, at, &[0xff, 0xff, 0xff, 0xff, 0x0f]),
        }
    }
}

fn overwrite(bytes: &mut [u8], at: usize, with: &[u8]) {
    for (target, &byte) in bytes.iter_mut().skip(at).zip(with) {
        *target = byte;
    }
}

/// One input: a valid message that was damaged, or nothing but noise.
fn input<'a, M: Message<'a> + Sample>(seed: u64, version: i16) -> Vec<u8> {
    let mut pattern = Pattern::new(Shape::Mixed, seed);
    if seed % 8 == 7 {
        let length = pattern.bits() % 200;
        return (0..length).map(|_| pattern.bits() as u8).collect();
    }
    let shape = [Shape::Full, Shape::Mixed, Shape::Mixed, Shape::Null][(seed % 4) as usize];
    let mut writer = Writer::new();
    samples::message::<M>(shape, seed / 8, version)
        .encode(&mut writer, version)
        .expect("a sample can be encoded");
    let mut bytes = writer.finish().concat();
    if !seed.is_multiple_of(8) {
        mutate(&mut bytes, &mut pattern);
    }
    bytes
}

macro_rules! check_message {
    ($module:ident, $message:ident, $name:ident) => {{
        for version in logmill_wire::api::$module::VERSIONS {
            let mut accepted = 0;
            for seed in 0..CASES_PER_VERSION {
                let bytes = input::<logmill_wire::api::$module::$message>(seed, version);
                let mut valid = false;
                let allocated = allocated_by(|| {
                    valid = decode_all::<logmill_wire::api::$module::$message>(&bytes, version);
                });
                assert!(
                    allocated <= 4 * bytes.len() + 1024,
                    "{} v{version} allocated {allocated} bytes for an input of {} (seed {seed})",
                    stringify!($name),
                    bytes.len()
                );
                assert!(valid || seed % 8 != 0, "{} v{version} refuses its own encoding", stringify!($name));
                accepted += u64::from(valid);
            }
            // Damage in a string or a number goes unnoticed, so that iteration is exercised on damaged input too.
            assert!(accepted >= CASES_PER_VERSION / 8, "{} v{version}: {accepted}", stringify!($name));
        }
    }};
}

#[test]
fn no_input_panics_or_allocates_beyond_its_size() {
    logmill_wire::for_each_message!(check_message);
    logmill_wire::for_each_record!(check_message);
}

#[test]
fn the_allocator_counts() {
    assert!(allocated_by(|| drop(std::hint::black_box(vec![0_u8; 10_000]))) >= 10_000);
    assert_eq!(allocated_by(|| ()), 0);
}
