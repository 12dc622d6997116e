//! A strictly ascending sequence of numbers as bits, close to the fewest that can say it.
//!
//! Owns: Golomb's code of the gaps, with a divisor that is reckoned from how many numbers there are and below what, so
//! that a set has one form; [`Coded`], which is looked up in place through a sparse index; [`Stream`], which reads
//! without one.
//! Never: panics on bytes that arrived, or allocates more than four times their number for them.
//! Read next: `serials.rs` and `fingerprints.rs`, which say what the numbers are.
//!
//! Rice's code, whose divisors are powers of two, costs up to 0.12 bits more per number than the limit, which is more
//! than 2 % where every twentieth token is revoked. Any divisor costs 0.03, and one multiplication.

use std::fmt::Debug;
use std::iter::Peekable;

use crate::wire::Refused;

/// The largest universe: 96-bit numbers.
pub const UNIVERSE_MAX: u128 = 1 << 96;

/// ln 2 in units of 2^-16.
const LN_2: u128 = 45_426;
/// What is added before the divisor is rounded down, in units of 2^-16. The best divisor for a share p of the universe is
/// the least whole number not below `ln(2 − p) / −ln(1 − p)`, which is `ln 2 / p − 0.847` for small p.
const ROUNDING: u128 = 10_027;

/// A number of the sequence: how wide it is decides how much the index costs.
pub trait Word: Copy + Ord + Debug + private::Sealed {
    /// Bits of the widest number.
    const BITS: u32;
    /// Numbers per entry of the index.
    const BLOCK: usize;
    /// As the widest type.
    fn widen(self) -> u128;
    /// The low bits of the widest type.
    fn narrow(wide: u128) -> Self;
    /// `self + quotient · divisor + remainder`, modulo 2^BITS.
    fn step(self, quotient: u64, divisor: Self, remainder: Self) -> Self;
    /// Quotient and remainder. Callers see to it that the quotient fits.
    fn divide(self, divisor: Self) -> (u64, Self);
    /// The low bits of a window.
    fn of_bits(bits: u64) -> Self;
    /// `self − other`, modulo 2^BITS.
    fn minus(self, other: Self) -> Self;
    /// `self + 1`, modulo 2^BITS.
    fn next(self) -> Self;
}

mod private {
    pub trait Sealed {}
}

macro_rules! word {
    ($type:ty, $block:literal) => {
        impl private::Sealed for $type {}
        impl Word for $type {
            const BITS: u32 = <$type>::BITS;
            const BLOCK: usize = $block;
            fn widen(self) -> u128 {
                u128::from(self)
            }
            fn narrow(wide: u128) -> Self {
                wide as Self
            }
            #[inline(always)]
            fn step(self, quotient: u64, divisor: Self, remainder: Self) -> Self {
                self.wrapping_add((quotient as Self).wrapping_mul(divisor)).wrapping_add(remainder)
            }
            fn divide(self, divisor: Self) -> (u64, Self) {
                let quotient = self / divisor;
                (quotient as u64, self - quotient * divisor)
            }
            #[inline(always)]
            fn of_bits(bits: u64) -> Self {
                bits as Self
            }
            #[inline(always)]
            fn minus(self, other: Self) -> Self {
                self.wrapping_sub(other)
            }
            #[inline(always)]
            fn next(self) -> Self {
                self.wrapping_add(1)
            }
        }
    };
}

// A look-up reads half a block. Serials have few bits each: where every tenth is revoked this index is a tenth of the whole.
word!(u32, 128);
word!(u64, 64);
word!(u128, 64);

/// How gaps are written: a gap is `quotient · divisor + remainder`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Code<W> {
    divisor: W,
    /// Bits of the longer remainders.
    bits: u32,
    /// Remainders below this have a bit less.
    cutoff: W,
    /// The same, where remainders fit a window.
    short_cutoff: u64,
}

/// The divisor for `count` numbers below `universe`: `⌊count^-1 · universe · ln 2 + 0.153⌋`, at least 1, in whole numbers.
///
/// # Panics
/// When the universe is above [`UNIVERSE_MAX`].
pub fn divisor(universe: u128, count: u32) -> u128 {
    assert!(universe <= UNIVERSE_MAX, "a product of at most 112 bits");
    if count == 0 {
        return 1;
    }
    ((universe * LN_2 / u128::from(count) + ROUNDING) >> 16).max(1)
}

impl<W: Word> Code<W> {
    fn new(universe: u128, count: u32) -> Self {
        let divisor = divisor(universe, count);
        // The bits of divisor − 1: how long a remainder can be.
        let bits = u128::BITS - (divisor - 1).leading_zeros();
        let cutoff = (1 << bits) - divisor;
        Self { divisor: W::narrow(divisor), bits, cutoff: W::narrow(cutoff), short_cutoff: cutoff as u64 }
    }

    /// The fewest bits of a number.
    fn bits_min(&self) -> u64 {
        let shorter = u32::from(self.cutoff.widen() > 0);
        u64::from(1 + self.bits - shorter)
    }
}

/// Bits of a window that are there wherever in a byte it begins.
const WINDOW_BITS: u32 = 57;

/// Bits, the highest of each byte first.
#[derive(Clone, Debug)]
struct BitReader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl BitReader<'_> {
    /// The next bits from the top, at least [`WINDOW_BITS`] of them; zeros past the end.
    #[inline(always)]
    fn window(&self) -> u64 {
        let byte = self.at / 8;
        let eight = match self.bytes.get(byte..byte + 8) {
            Some(eight) => u64::from_be_bytes(eight.try_into().expect("eight bytes")),
            None => self.window_at_end(byte),
        };
        eight << (self.at % 8)
    }

    #[cold]
    fn window_at_end(&self, byte: usize) -> u64 {
        let mut eight = [0; 8];
        let rest = self.bytes.get(byte..).unwrap_or_default();
        eight[..rest.len()].copy_from_slice(rest);
        u64::from_be_bytes(eight)
    }

    fn left(&self) -> usize {
        (self.bytes.len() * 8).saturating_sub(self.at)
    }

    /// Quotient and remainder of the next gap, None where the bytes end before it does.
    #[inline(always)]
    fn gap<W: Word>(&mut self, code: &Code<W>) -> Option<(u64, W)> {
        let window = self.window();
        let zeros = window.leading_zeros();
        if zeros + 1 + code.bits > WINDOW_BITS {
            return self.long_gap(code);
        }
        let (length, remainder) = match code.bits {
            0 => (0, 0),
            // Which of the two lengths it is nobody can foretell, the processor neither: so both are read, and no branch.
            bits => {
                let rest = window << zeros << 1;
                let short = rest >> 1 >> (64 - bits);
                let long = (rest >> (64 - bits)).wrapping_sub(code.short_cutoff);
                let is_long = u64::from(short >= code.short_cutoff);
                (bits - 1 + is_long as u32, short ^ ((short ^ long) & is_long.wrapping_neg()))
            }
        };
        self.at += (zeros + 1 + length) as usize;
        (self.at <= self.bytes.len() * 8).then_some((u64::from(zeros), W::of_bits(remainder)))
    }

    /// A gap that does not fit one window.
    fn long_gap<W: Word>(&mut self, code: &Code<W>) -> Option<(u64, W)> {
        let mut quotient = 0;
        loop {
            if self.left() == 0 {
                return None;
            }
            let zeros = self.window().leading_zeros().min(WINDOW_BITS);
            quotient += u64::from(zeros);
            self.at += zeros as usize;
            if zeros < WINDOW_BITS {
                self.at += 1;
                break;
            }
        }
        let Some(short_bits) = code.bits.checked_sub(1) else { return Some((quotient, W::of_bits(0))) };
        let short = self.bits(short_bits)?;
        if short < code.cutoff.widen() {
            return Some((quotient, W::narrow(short)));
        }
        let long = short << 1 | self.bits(1)?;
        Some((quotient, W::narrow(long - code.cutoff.widen())))
    }

    fn bits(&mut self, count: u32) -> Option<u128> {
        if self.left() < count as usize {
            return None;
        }
        let (mut value, mut missing) = (0, count);
        while missing > 0 {
            let part = missing.min(WINDOW_BITS);
            value = value << part | u128::from(self.window() >> (64 - part));
            self.at += part as usize;
            missing -= part;
        }
        Some(value)
    }
}

struct BitWriter {
    bytes: Vec<u8>,
    /// The bits after them, lowest last.
    pending: u64,
    /// How many: fewer than 32.
    count: u32,
}

impl BitWriter {
    /// Up to 32 bits.
    fn put(&mut self, value: u64, count: u32) {
        self.pending = self.pending << count | value;
        self.count += count;
        if self.count >= 32 {
            self.count -= 32;
            self.bytes.extend_from_slice(&((self.pending >> self.count) as u32).to_be_bytes());
        }
    }

    fn bits(&mut self, value: u128, mut count: u32) {
        while count > 32 {
            count -= 32;
            self.put(u64::from((value >> count) as u32), 32);
        }
        self.put(value as u64 & ((1 << count) - 1), count);
    }

    fn gap<W: Word>(&mut self, code: &Code<W>, gap: W) {
        let (mut zeros, remainder) = gap.divide(code.divisor);
        while zeros >= 32 {
            self.put(0, 32);
            zeros -= 32;
        }
        self.put(1, zeros as u32 + 1);
        match code.bits {
            0 => (),
            bits if remainder < code.cutoff => self.bits(remainder.widen(), bits - 1),
            bits => self.bits(remainder.widen() + code.cutoff.widen(), bits),
        }
    }

    /// Bits written.
    fn at(&self) -> usize {
        self.bytes.len() * 8 + self.count as usize
    }

    fn finish(mut self) -> Vec<u8> {
        let last = (self.pending << (32 - self.count)) as u32;
        self.bytes.extend(&last.to_be_bytes()[..self.count.div_ceil(8) as usize]);
        self.bytes
    }
}

/// A sequence read number by number from bytes that nobody has vouched for. It ends after the last number, or with the
/// first refusal. Memory: a few words.
#[derive(Clone, Debug)]
pub struct Stream<'a, W> {
    code: Code<W>,
    universe: u128,
    quotient_max: u64,
    reader: BitReader<'a>,
    left: u32,
    /// The least number that may come.
    low: u128,
}

impl<'a, W: Word> Stream<'a, W> {
    /// A sequence of `count` numbers below `universe`.
    ///
    /// # Errors
    /// [`Refused::Malformed`] when there cannot be so many below it or in so many bytes.
    pub fn new(universe: u128, count: u32, bytes: &'a [u8]) -> Result<Self, Refused> {
        if universe > UNIVERSE_MAX || (W::BITS < 128 && universe > 1 << W::BITS) {
            return Err(Refused::Malformed("a universe that is too wide"));
        }
        if u128::from(count) > universe {
            return Err(Refused::Malformed("more entries than their universe has"));
        }
        let code: Code<W> = Code::new(universe, count);
        if u64::from(count) * code.bits_min() > bytes.len() as u64 * 8 {
            return Err(Refused::Malformed("more entries than the bytes can hold"));
        }
        // Some one and a half times the count.
        let quotient_max = (universe / code.divisor.widen()) as u64;
        let reader = BitReader { bytes, at: 0 };
        let stream = Self { code, universe, quotient_max, reader, left: count, low: 0 };
        // Nothing will be read after which the end could be checked.
        if count == 0 {
            stream.finish()?;
        }
        Ok(stream)
    }

    /// The next number and the bit after it.
    fn advance(&mut self) -> Result<(W, usize), Refused> {
        let (quotient, remainder) = self.reader.gap(&self.code).ok_or(Refused::Malformed("ends within an entry"))?;
        if quotient > self.quotient_max {
            return Err(Refused::Malformed("a run of zeros that is too long"));
        }
        // No more than three times the universe, so that no product overflows.
        let value = self.low + u128::from(quotient) * self.code.divisor.widen() + remainder.widen();
        if value >= self.universe {
            return Err(Refused::Malformed("an entry past its universe"));
        }
        self.low = value + 1;
        Ok((W::narrow(value), self.reader.at))
    }

    /// What must hold of the bits after the last number.
    fn finish(&self) -> Result<(), Refused> {
        let left = self.reader.left();
        if left >= 8 {
            return Err(Refused::Malformed("bytes left over"));
        }
        let padding = self.reader.bytes.last().map_or(0, |last| u32::from(*last) & ((1 << left) - 1));
        if padding != 0 {
            return Err(Refused::Malformed("padding that is not zero"));
        }
        Ok(())
    }
}

impl<W: Word> Iterator for Stream<'_, W> {
    type Item = Result<W, Refused>;

    fn next(&mut self) -> Option<Self::Item> {
        let left = self.left.checked_sub(1)?;
        let read =
            self.advance().and_then(|(value, _)| if left == 0 { self.finish().map(|()| value) } else { Ok(value) });
        self.left = if read.is_ok() { left } else { 0 };
        Some(read)
    }
}

/// A sequence whose bytes were checked, with an index over it. Memory: the bytes, and per [`Word::BLOCK`] numbers one
/// number and four bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Coded<W> {
    code: Code<W>,
    count: u32,
    bytes: Box<[u8]>,
    /// The first number of each block.
    firsts: Box<[W]>,
    /// The bit after it.
    offsets: Box<[u32]>,
}

impl<W: Word> Coded<W> {
    /// The code of numbers that ascend strictly and lie below `universe`. They are gone through twice: counted first.
    ///
    /// # Panics
    /// When they do not ascend, or reach the universe, or there are 2^32 of them: our own bug.
    pub fn encode(universe: u128, values: impl Iterator<Item = W> + Clone) -> Self {
        let count = u32::try_from(values.clone().count()).expect("callers bound the number of entries");
        let code: Code<W> = Code::new(universe, count);
        let bits = u64::from(count) * u64::from(code.bits + 2);
        let mut writer = BitWriter { bytes: Vec::with_capacity(bits.div_ceil(8) as usize), pending: 0, count: 0 };
        let blocks = (count as usize).div_ceil(W::BLOCK);
        let (mut firsts, mut offsets) = (Vec::with_capacity(blocks), Vec::with_capacity(blocks));
        let mut last: Option<W> = None;
        for (number, value) in values.enumerate() {
            assert!(last.is_none_or(|last| last < value), "{value:?} after {last:?}: numbers ascend");
            writer.gap(&code, last.map_or(value, |last| value.minus(last.next())));
            last = Some(value);
            if number % W::BLOCK == 0 {
                firsts.push(value);
                offsets.push(bit_offset(writer.at()));
            }
        }
        assert!(last.is_none_or(|last| last.widen() < universe), "{last:?} is past the universe of {universe}");
        Self { code, count, bytes: writer.finish().into(), firsts: firsts.into(), offsets: offsets.into() }
    }

    /// What is in either of two sequences below one universe.
    pub(super) fn union(&self, other: &Self, universe: u128) -> Self {
        Self::encode(universe, Either { a: self.iter().peekable(), b: other.iter().peekable() })
    }

    /// What is in this one only, of one universe.
    pub(super) fn minus(&self, other: &Self, universe: u128) -> Self {
        Self::encode(universe, Only { a: self.iter(), b: other.iter().peekable() })
    }

    /// A sequence from the only bytes that say it.
    ///
    /// # Errors
    /// [`Refused::Malformed`] with what is wrong.
    pub fn decode(universe: u128, count: u32, bytes: &[u8]) -> Result<Self, Refused> {
        if bytes.len() > u32::MAX as usize / 8 {
            return Err(Refused::TooLarge { bytes: bytes.len(), limit: u32::MAX as usize / 8 });
        }
        let mut stream = Stream::new(universe, count, bytes)?;
        let blocks = (count as usize).div_ceil(W::BLOCK);
        let (mut firsts, mut offsets) = (Vec::with_capacity(blocks), Vec::with_capacity(blocks));
        for number in 0..count as usize {
            let (value, after) = stream.advance()?;
            if number % W::BLOCK == 0 {
                firsts.push(value);
                offsets.push(bit_offset(after));
            }
        }
        stream.finish()?;
        let code = stream.code;
        Ok(Self { code, count, bytes: bytes.into(), firsts: firsts.into(), offsets: offsets.into() })
    }

    /// Whether a number is among them. Allocates nothing; reads one block.
    pub fn contains(&self, value: W) -> bool {
        let Some(block) = self.firsts.partition_point(|first| *first <= value).checked_sub(1) else { return false };
        let mut found = self.firsts[block];
        let mut reader = BitReader { bytes: &self.bytes, at: self.offsets[block] as usize };
        let after_it = self.count as usize - block * W::BLOCK - 1;
        for _ in 0..after_it.min(W::BLOCK - 1) {
            if found >= value {
                break;
            }
            let Some((quotient, remainder)) = reader.gap(&self.code) else { break };
            found = found.next().step(quotient, self.code.divisor, remainder);
        }
        found == value
    }

    /// The numbers, ascending.
    pub fn iter(&self) -> Values<'_, W> {
        let reader = BitReader { bytes: &self.bytes, at: 0 };
        Values { code: self.code, reader, left: self.count, low: W::of_bits(0) }
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The code's bytes, without count and universe.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Bytes of memory that it takes, index and all.
    pub fn memory_bytes(&self) -> usize {
        self.bytes.len() + size_of_val::<[W]>(&self.firsts) + size_of_val::<[u32]>(&self.offsets) + size_of::<Self>()
    }
}

impl<W: Word> Debug for Coded<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

fn bit_offset(bit: usize) -> u32 {
    u32::try_from(bit).expect("callers bound the bytes to 2^29")
}

/// The numbers of a [`Coded`].
#[derive(Clone, Debug)]
pub struct Values<'a, W> {
    code: Code<W>,
    reader: BitReader<'a>,
    left: u32,
    low: W,
}

impl<W: Word> Iterator for Values<'_, W> {
    type Item = W;

    fn next(&mut self) -> Option<W> {
        self.left = self.left.checked_sub(1)?;
        let (quotient, remainder) = self.reader.gap(&self.code)?;
        let value = self.low.step(quotient, self.code.divisor, remainder);
        self.low = value.next();
        Some(value)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left as usize, Some(self.left as usize))
    }
}

/// What is in either of two ascending sequences.
#[derive(Clone)]
struct Either<'a, W: Word> {
    a: Peekable<Values<'a, W>>,
    b: Peekable<Values<'a, W>>,
}

impl<W: Word> Iterator for Either<'_, W> {
    type Item = W;

    fn next(&mut self) -> Option<W> {
        let Some(b) = self.b.peek() else { return self.a.next() };
        match self.a.peek() {
            Some(a) if a < b => self.a.next(),
            Some(a) if a == b => {
                self.a.next();
                self.b.next()
            }
            Some(_) | None => self.b.next(),
        }
    }
}

/// What is in the first of two ascending sequences only.
#[derive(Clone)]
struct Only<'a, W: Word> {
    a: Values<'a, W>,
    b: Peekable<Values<'a, W>>,
}

impl<W: Word> Iterator for Only<'_, W> {
    type Item = W;

    fn next(&mut self) -> Option<W> {
        loop {
            let candidate = self.a.next()?;
            while self.b.next_if(|b| *b < candidate).is_some() {}
            if self.b.peek() != Some(&candidate) {
                return Some(candidate);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn encode<W: Word>(universe: u128, values: &[W]) -> Coded<W> {
        Coded::encode(universe, values.iter().copied())
    }

    #[test]
    fn the_divisor_is_the_best_one_for_a_share_of_the_universe() {
        check_divisor(100, 50, 1);
        check_divisor(100, 38, 1);
        check_divisor(100, 30, 2);
        check_divisor(100, 10, 7);
        check_divisor(100, 5, 14);
        check_divisor(10_000_000, 100_000, 69);
        check_divisor(10_000_000, 0, 1);
        check_divisor(1, 1, 1);
        check_divisor(1 << 64, 1, 45_426 << 48);
    }

    #[track_caller]
    fn check_divisor(universe: u128, count: u32, expected: u128) {
        assert_eq!(divisor(universe, count), expected, "{count} of {universe}");
    }

    #[test]
    fn known_bits() {
        // 3 of 10: divisor 2, gaps 0, 3, 4: 1 0, 01 1, 001 0.
        let coded = encode(10, &[0_u32, 4, 9]);
        assert_eq!(coded.as_bytes(), [0b1001_1001, 0b0000_0000]);
        // 3 of 16: divisor 3, whose remainders are 0, 10, 11. Gaps 1, 2, 5: 1 10, 1 11, 01 11.
        let coded = encode(16, &[1_u32, 4, 10]);
        assert_eq!(divisor(16, 3), 3);
        assert_eq!(coded.as_bytes(), [0b1101_1101, 0b1100_0000]);
    }

    #[test]
    fn nothing_has_no_bytes() {
        let nothing = encode::<u64>(1 << 64, &[]);
        assert!(nothing.as_bytes().is_empty() && !nothing.contains(0) && !nothing.contains(u64::MAX));
        assert_eq!(Coded::<u64>::decode(1 << 64, 0, &[]), Ok(nothing));
        check_refused(10, 0, &[0], "bytes left over");
    }

    #[test]
    fn the_ends_of_each_universe_have_a_code() {
        check_round(1 << 32, &[0_u32, u32::MAX]);
        check_round(1 << 64, &[0_u64, u64::MAX]);
        check_round(1 << 64, &[u64::MAX]);
        check_round(1 << 96, &[0_u128, (1 << 96) - 1]);
        check_round(1 << 96, &[(1_u128 << 96) - 1]);
        check_round(1, &[0_u32]);
        check_round(300, &(0..300).collect::<Vec<u32>>());
        check_round(1 << 64, &(0..300).collect::<Vec<u64>>());
        check_round(1 << 64, &(0..300).map(|n| u64::MAX - 299 + n).collect::<Vec<u64>>());
    }

    #[track_caller]
    fn check_round<W: Word>(universe: u128, values: &[W]) {
        let coded = encode(universe, values);
        assert_eq!(coded.iter().collect::<Vec<_>>(), values);
        let again = Coded::<W>::decode(universe, values.len() as u32, coded.as_bytes());
        assert_eq!(again, Ok(coded.clone()));
        let stream = Stream::<W>::new(universe, values.len() as u32, coded.as_bytes()).unwrap();
        assert_eq!(stream.collect::<Result<Vec<W>, _>>(), Ok(values.to_vec()));
        for value in values {
            assert!(coded.contains(*value), "{value:?}");
        }
        let among: BTreeSet<W> = values.iter().copied().collect();
        for value in values.iter().flat_map(|value| [value.next(), value.minus(W::of_bits(1))]) {
            assert_eq!(coded.contains(value), among.contains(&value), "{value:?}");
        }
    }

    #[test]
    fn bytes_that_say_it_in_another_way_are_refused() {
        let whole = encode(10, &[0_u32, 4, 9]);
        let bytes = whole.as_bytes();
        check_refused(10, 3, &[bytes, &[0]].concat(), "bytes left over");
        check_refused(10, 3, &[bytes[0], 1], "padding that is not zero");
        check_refused(10, 3, &[bytes[0], 0x80], "an entry past its universe");
        check_refused(10, 3, &[0b1001_1000], "ends within an entry");
        check_refused(10, 3, &[], "more entries than the bytes can hold");
        check_refused(10, 11, &[0xff; 2], "more entries than their universe has");
        check_refused(10, 3, &[0, 0, 0, 0, 1, 0], "a run of zeros that is too long");
        check_refused(10, 3, &[0; 100], "ends within an entry");
        check_refused(1 << 33, 3, &[0; 100], "a universe that is too wide");
        // The same entries under another count have another divisor: they are not what they were.
        assert_ne!(Coded::<u32>::decode(10, 2, bytes), Ok(whole));
    }

    #[track_caller]
    fn check_refused(universe: u128, count: u32, bytes: &[u8], why: &'static str) {
        assert_eq!(Coded::<u32>::decode(universe, count, bytes), Err(Refused::Malformed(why)));
        let streamed =
            Stream::<u32>::new(universe, count, bytes).and_then(|stream| stream.collect::<Result<Vec<_>, _>>());
        assert_eq!(streamed, Err(Refused::Malformed(why)));
    }

    /// Bits per entry over the least that a set of this share of its universe takes.
    fn overhead(universe: u32, step: f64) -> f64 {
        let mut values = BTreeSet::new();
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let target = (f64::from(universe) * step) as usize;
        while values.len() < target {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            values.insert(((state >> 33) % u64::from(universe)) as u32);
        }
        let coded = Coded::encode(u128::from(universe), values.iter().copied());
        let share = values.len() as f64 / f64::from(universe);
        let entropy = -share * share.log2() - (1.0 - share) * (1.0 - share).log2();
        coded.as_bytes().len() as f64 * 8.0 / (f64::from(universe) * entropy)
    }

    #[test]
    fn no_share_costs_more_than_a_fiftieth_over_its_limit() {
        for share in [0.000_5, 0.001, 0.005, 0.01, 0.02, 0.03, 0.05, 0.057, 0.075, 0.1, 0.15, 0.2] {
            let ratio = overhead(1_000_000, share);
            assert!(ratio < 1.02, "{share}: {ratio}");
        }
        for share in [0.25, 0.3, 0.36, 0.4, 0.45, 0.5] {
            let ratio = overhead(200_000, share);
            assert!(ratio < 1.04, "{share}: {ratio}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_coded_comes_back(values in prop::collection::btree_set(any::<u64>(), 0..600), probe: u64) {
            let list: Vec<u64> = values.iter().copied().collect();
            check_round(1 << 64, &list);
            prop_assert_eq!(encode(1 << 64, &list).contains(probe), values.contains(&probe));
        }

        #[test]
        fn wide_numbers_too(values in prop::collection::btree_set(0..UNIVERSE_MAX, 0..300)) {
            check_round(UNIVERSE_MAX, &values.into_iter().collect::<Vec<u128>>());
        }

        #[test]
        fn dense_numbers_too(values in prop::collection::btree_set(0..700_u32, 0..600), more in 0..50_u32) {
            let universe = values.last().map_or(0, |last| last + 1) + more;
            check_round(u128::from(universe), &values.into_iter().collect::<Vec<u32>>());
        }

        #[test]
        fn bytes_that_are_taken_are_the_only_ones_that_say_it(
            bytes in prop::collection::vec(any::<u8>(), 0..60), universe in 0..2000_u128, count in 0..100_u32,
        ) {
            if let Ok(coded) = Coded::<u32>::decode(universe, count, &bytes) {
                let again = Coded::encode(universe, coded.iter());
                prop_assert_eq!(again.as_bytes(), &bytes[..]);
            }
            let wide = Stream::<u128>::new(UNIVERSE_MAX, count, &bytes);
            let _ = wide.map(|stream| stream.count());
        }
    }
}
