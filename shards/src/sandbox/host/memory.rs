//! A guest's linear memory as host functions see it.
//!
//! Owns: every access to it, checked.  Not: the memory.
//! G1  no pointer and no length can reach outside the memory or make the host panic.

/// A pointer and a length that do not lie in the memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the guest passed {len} bytes at {ptr:#x}, outside its memory of {memory_bytes} bytes")]
pub struct OutOfBounds {
    /// Where.
    pub ptr: u32,
    /// How many bytes.
    pub len: u64,
    /// Length of the memory.
    pub memory_bytes: u64,
}

/// The memory during one host call.
#[derive(Debug)]
pub struct GuestMemory<'a>(pub &'a mut [u8]);

impl GuestMemory<'_> {
    /// `len` bytes at `ptr`. Both are taken as unsigned, as Wasm does.
    pub fn bytes(&self, ptr: i32, len: i32) -> Result<&[u8], OutOfBounds> {
        let range = self.range(ptr, u64::from(len.cast_unsigned()))?;
        Ok(&self.0[range])
    }

    /// The same, to write to.
    pub fn bytes_mut(&mut self, ptr: i32, len: i32) -> Result<&mut [u8], OutOfBounds> {
        let range = self.range(ptr, u64::from(len.cast_unsigned()))?;
        Ok(&mut self.0[range])
    }

    /// Writes `bytes` at `ptr`; when they do not fit nothing is written.
    pub fn put(&mut self, ptr: i32, bytes: &[u8]) -> Result<(), OutOfBounds> {
        let range = self.range(ptr, bytes.len() as u64)?;
        self.0[range].copy_from_slice(bytes);
        Ok(())
    }

    /// Writes a 32-bit number.
    pub fn put_u32(&mut self, ptr: i32, number: u32) -> Result<(), OutOfBounds> {
        self.put(ptr, &number.to_le_bytes())
    }

    /// Writes a 64-bit number.
    pub fn put_u64(&mut self, ptr: i32, number: u64) -> Result<(), OutOfBounds> {
        self.put(ptr, &number.to_le_bytes())
    }

    /// Entry `idx` of an array of `N` bytes each at `ptr`.
    pub fn entry<const N: usize>(&self, ptr: i32, idx: u32) -> Result<[u8; N], OutOfBounds> {
        let range = self.entry_range(ptr, idx, N)?;
        Ok(self.0[range].try_into().expect("G1: the range is N long"))
    }

    /// Writes entry `idx` of an array of `N` bytes each at `ptr`.
    pub fn put_entry<const N: usize>(
        &mut self,
        ptr: i32,
        idx: u32,
        entry: &[u8; N],
    ) -> Result<(), OutOfBounds> {
        let range = self.entry_range(ptr, idx, N)?;
        self.0[range].copy_from_slice(entry);
        Ok(())
    }

    fn entry_range(
        &self,
        ptr: i32,
        idx: u32,
        len: usize,
    ) -> Result<std::ops::Range<usize>, OutOfBounds> {
        let at = u64::from(ptr.cast_unsigned()) + u64::from(idx) * len as u64;
        let out = OutOfBounds {
            ptr: ptr.cast_unsigned(),
            len: (u64::from(idx) + 1) * len as u64,
            memory_bytes: self.0.len() as u64,
        };
        let at = u32::try_from(at).map_err(|_| out)?;
        self.range(at.cast_signed(), len as u64).map_err(|_| out)
    }

    fn range(&self, ptr: i32, len: u64) -> Result<std::ops::Range<usize>, OutOfBounds> {
        let (ptr, memory_bytes) = (ptr.cast_unsigned(), self.0.len() as u64);
        let end = u64::from(ptr).saturating_add(len);
        if end > memory_bytes {
            return Err(OutOfBounds { ptr, len, memory_bytes });
        }
        Ok(ptr as usize..end as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn g1_no_pointer_and_length_reach_outside(
            ptr in prop_oneof![any::<i32>(), 0..200i32],
            len in prop_oneof![any::<i32>(), 0..200i32],
            idx in prop_oneof![any::<u32>(), 0..20u32],
        ) {
            let mut bytes = vec![0; 128];
            let mut memory = GuestMemory(&mut bytes);
            let (at, count) = (ptr.cast_unsigned() as usize, len.cast_unsigned() as usize);
            let inside = at <= 128 && count <= 128 - at;
            prop_assert_eq!(memory.bytes(ptr, len).is_ok(), inside);
            prop_assert_eq!(memory.bytes_mut(ptr, len).is_ok(), inside);
            prop_assert_eq!(memory.put_u64(ptr, 1).is_ok(), at <= 120);
            let entry_inside = at as u64 + u64::from(idx) * 8 <= 120;
            prop_assert_eq!(memory.entry::<8>(ptr, idx).is_ok(), entry_inside);
            prop_assert_eq!(memory.put_entry(ptr, idx, &[1; 8]).is_ok(), entry_inside);
        }
    }

    #[test]
    fn g1_entries_of_an_array_lie_one_after_the_other() {
        let mut bytes = vec![0; 16];
        let mut memory = GuestMemory(&mut bytes);
        memory.put_entry(4, 1, &[1, 2, 3, 4]).expect("inside");
        memory.put_u32(12, 7).expect("inside");
        assert_eq!(memory.entry::<4>(4, 1), Ok([1, 2, 3, 4]));
        assert_eq!(bytes, [0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 7, 0, 0, 0]);
    }
}
