//! Arrays that are encoded while they are built: a large answer is written piece by piece, so that whoever writes it
//! can let others run in between, and takes no more memory than its bytes.

use super::{Array, EncodeError, Format, WireType, Writer};

/// Elements, encoded one behind the other. They are all of one type; it stands at the methods, because each element
/// may borrow from something that lives no longer than the element.
#[derive(Debug)]
pub struct EncodedArray {
    bytes: Vec<u8>,
    count: usize,
    format: Format,
}

impl EncodedArray {
    /// No elements yet, of a message in this format.
    #[must_use]
    pub const fn new(format: Format) -> Self {
        Self { bytes: Vec::new(), count: 0, format }
    }

    /// How many elements there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there are no elements.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many bytes the elements take.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Adds an element. Its record bytes, if it has any, are copied.
    ///
    /// # Errors
    /// If it cannot be encoded; the array is then as before.
    pub fn push<'a, T: WireType<'a>>(&mut self, element: &T) -> Result<(), EncodeError> {
        let mut writer = Writer::new();
        element.write(&mut writer, self.format)?;
        for part in writer.finish() {
            self.bytes.extend_from_slice(&part);
        }
        self.count += 1;
        Ok(())
    }

    /// Adds an element that is `template`, an encoded one, but for what `change` writes into it where it stays.
    #[inline]
    pub fn push_changed(&mut self, template: &[u8], change: impl FnOnce(&mut [u8])) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(template);
        change(&mut self.bytes[start..]);
        self.count += 1;
    }

    /// Makes room for so many bytes more.
    pub fn reserve(&mut self, bytes: usize) {
        self.bytes.reserve(bytes);
    }

    /// The array as a field of a message in the same format.
    #[must_use]
    pub fn view<'v, T: WireType<'v>>(&'v self) -> Array<'v, T> {
        Array::encoded(&self.bytes, self.count, self.format)
    }
}
