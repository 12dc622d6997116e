//! Bytes in their one form: whole numbers and slices, read within bounds.
//!
//! Owns: [`Reader`] and the variable-length number that the whole format uses.
//! Never: allocates by what it reads, takes a number in two forms.
//! Read next: `golomb.rs`.

use crate::wire::Refused;

/// Appends a number: seven bits per byte, the lowest first, the top bit set on all bytes but the last.
pub(super) fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// What is left of a string of bytes.
#[derive(Clone, Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// All that is left.
    pub(super) fn rest(self) -> &'a [u8] {
        self.rest
    }

    pub(super) fn byte(&mut self) -> Result<u8, Refused> {
        self.take(1).map(|byte| byte[0])
    }

    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], Refused> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(Refused::Malformed("ends too early"))?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Refused> {
        let taken = self.take(N)?;
        Ok(taken.try_into().expect("as many bytes as were asked for"))
    }

    /// A number up to `max`, in its shortest form.
    pub(super) fn number(&mut self, max: u64) -> Result<u64, Refused> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                break;
            }
            number |= bits << shift;
            if byte < 0x80 {
                if byte == 0 && shift > 0 {
                    return Err(Refused::Malformed("a number that is not in its shortest form"));
                }
                return if number <= max { Ok(number) } else { Err(Refused::Malformed("a number beyond its limit")) };
            }
        }
        Err(Refused::Malformed("a number beyond 64 bits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_one_form() {
        for number in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX - 1, u64::MAX] {
            let mut bytes = Vec::new();
            put_number(&mut bytes, number);
            let mut reader = Reader::new(&bytes);
            assert_eq!(reader.number(u64::MAX), Ok(number));
            assert!(reader.is_empty());
        }
        check_refused(&[], "ends too early");
        check_refused(&[0x80], "ends too early");
        check_refused(&[0x80, 0x00], "a number that is not in its shortest form");
        check_refused(&[0xe9, 0x07], "a number beyond its limit");
        check_refused(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02], "a number beyond 64 bits");
        check_refused(&[0x80; 11], "a number beyond 64 bits");
    }

    #[track_caller]
    fn check_refused(bytes: &[u8], why: &'static str) {
        assert_eq!(Reader::new(bytes).number(1000), Err(Refused::Malformed(why)), "{bytes:?}");
    }
}
