//! Splits a stream of bytes into lines of bounded length.

/// A line, or a piece of one that is too long.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Piece<'a> {
    /// Without the line end.
    pub(super) bytes: &'a [u8],
    /// More of the same line follows.
    pub(super) partial: bool,
}

/// Holds at most one line of at most `max` bytes.
#[derive(Debug)]
pub(super) struct LineSplitter {
    held: Vec<u8>,
    max: usize,
}

impl LineSplitter {
    pub(super) fn new(max: usize) -> Self {
        Self { held: Vec::new(), max }
    }

    /// Takes bytes and gives out every line, or piece, that they complete.
    pub(super) fn feed(&mut self, mut bytes: &[u8], mut out: impl FnMut(Piece<'_>)) {
        while !bytes.is_empty() {
            let room = self.max - self.held.len();
            let reach = bytes.len().min(room);
            if let Some(end) = bytes[..reach].iter().position(|byte| *byte == b'\n') {
                self.held.extend_from_slice(&bytes[..end]);
                self.give(false, &mut out);
                bytes = &bytes[end + 1..];
            } else {
                self.held.extend_from_slice(&bytes[..reach]);
                bytes = &bytes[reach..];
                if self.held.len() == self.max {
                    // A line that is exactly full is whole if its end comes next.
                    let whole = bytes.first() == Some(&b'\n');
                    self.give(!whole, &mut out);
                    bytes = if whole { &bytes[1..] } else { bytes };
                }
            }
        }
    }

    /// Gives out what the stream ended with.
    pub(super) fn finish(mut self, mut out: impl FnMut(Piece<'_>)) {
        if !self.held.is_empty() {
            self.give(false, &mut out);
        }
    }

    fn give(&mut self, partial: bool, out: &mut impl FnMut(Piece<'_>)) {
        let line = self.held.strip_suffix(b"\r").filter(|_| !partial).unwrap_or(&self.held);
        out(Piece { bytes: line, partial });
        self.held.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(max: usize, chunks: &[Vec<u8>]) -> Vec<(Vec<u8>, bool)> {
        let mut splitter = LineSplitter::new(max);
        let mut out = vec![];
        for chunk in chunks {
            splitter.feed(chunk, |piece| out.push((piece.bytes.to_vec(), piece.partial)));
        }
        splitter.finish(|piece| out.push((piece.bytes.to_vec(), piece.partial)));
        out
    }

    #[test]
    fn lines_come_whole_and_long_ones_in_pieces() {
        let whole = |text: &str| (text.as_bytes().to_vec(), false);
        assert_eq!(
            split(8, &[b"one\r\ntw".to_vec(), b"o\n\nend".to_vec()]),
            [whole("one"), whole("two"), whole(""), whole("end")]
        );
        assert_eq!(split(4, &[b"abcdefgh\n".to_vec()])[0], (b"abcd".to_vec(), true));
        assert_eq!(split(4, &[b"abcd\nx".to_vec()]), [whole("abcd"), whole("x")]);
    }

    proptest! {
        #[test]
        fn no_byte_is_lost_and_no_piece_is_too_long(
            chunks in prop::collection::vec(prop::collection::vec(prop::sample::select(b"ab\n".to_vec()), 0..20), 0..8),
            max in 1usize..6,
        ) {
            let pieces = split(max, &chunks);
            prop_assert!(pieces.iter().all(|(bytes, _)| bytes.len() <= max));
            let kept: Vec<u8> = pieces.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
            let sent: Vec<u8> = chunks.concat().into_iter().filter(|byte| *byte != b'\n').collect();
            prop_assert_eq!(kept, sent);
        }
    }
}
