//! Splits a stream of bytes into lines of bounded length.
//!
//! A line ends with `\n`, `\r\n` or `\r`, wherever the stream is cut into chunks. What a progress bar draws over is a line
//! each time; one that holds nothing is left out, since a bar begins with `\r` as often as it ends with one.

/// A line, or a piece of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece<'a> {
    /// Without the line end.
    pub(super) bytes: &'a [u8],
    /// Its line had not ended yet when it was given out: it was too long, or it was to be shown. The rest of the line comes as
    /// a piece that `continues` it, unless nothing but its end was left.
    pub(super) partial: bool,
    /// It goes on with the line of the piece before.
    pub(super) continues: bool,
}

/// What the last byte was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Last {
    /// None, or none that matters.
    Other,
    /// `\r`, which ended a line. A `\n` that comes next belongs to it.
    Ended,
    /// `\r` with nothing before it: an empty line if `\n` comes next.
    Nothing,
}

/// Holds at most one line of at most `max` bytes.
#[derive(Debug)]
pub(super) struct LineSplitter {
    held: Vec<u8>,
    max: usize,
    last: Last,
    /// A piece of this line was given out.
    begun: bool,
}

impl LineSplitter {
    pub(super) fn new(max: usize) -> Self {
        Self { held: Vec::new(), max, last: Last::Other, begun: false }
    }

    /// Whether anything waits for the end of its line.
    pub(super) fn is_holding(&self) -> bool {
        !self.held.is_empty()
    }

    /// Takes bytes and gives out every line, or piece, that they complete. Returns whether there was one.
    pub(super) fn feed(&mut self, mut bytes: &[u8], mut out: impl FnMut(Piece<'_>)) -> bool {
        let mut given = false;
        let mut out = |piece: Piece<'_>| {
            given = true;
            out(piece);
        };
        while let Some(first) = bytes.first() {
            match first {
                b'\n' | b'\r' => {
                    self.end(*first, &mut out);
                    bytes = &bytes[1..];
                }
                _ if self.held.len() == self.max => self.give(true, &mut out),
                _ => {
                    let reach = bytes.len().min(self.max - self.held.len());
                    let end = bytes[..reach].iter().position(|byte| matches!(byte, b'\n' | b'\r')).unwrap_or(reach);
                    self.held.extend_from_slice(&bytes[..end]);
                    self.last = Last::Other;
                    bytes = &bytes[end..];
                }
            }
        }
        given
    }

    /// Gives out what is held, though its line goes on.
    pub(super) fn show(&mut self, mut out: impl FnMut(Piece<'_>)) {
        if self.is_holding() {
            self.give(true, &mut out);
        }
    }

    /// Gives out what the stream ended with.
    pub(super) fn finish(mut self, mut out: impl FnMut(Piece<'_>)) {
        if self.is_holding() {
            self.give(false, &mut out);
        }
    }

    fn end(&mut self, byte: u8, out: &mut impl FnMut(Piece<'_>)) {
        let (last, is_return) = (std::mem::replace(&mut self.last, Last::Other), byte == b'\r');
        let is_empty = self.held.is_empty() && !self.begun;
        match (is_empty, is_return, last) {
            // The second half of an end that was seen already.
            (true, false, Last::Ended) => {}
            (true, true, _) => self.last = Last::Nothing,
            (_, _, _) => {
                if is_empty || self.is_holding() {
                    self.give(false, out);
                }
                self.begun = false;
                self.last = if is_return { Last::Ended } else { Last::Other };
            }
        }
    }

    fn give(&mut self, partial: bool, out: &mut impl FnMut(Piece<'_>)) {
        out(Piece { bytes: &self.held, partial, continues: self.begun });
        self.begun = partial;
        self.held.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Given = (Vec<u8>, bool, bool);

    fn note(out: &mut Vec<Given>) -> impl FnMut(Piece<'_>) {
        |piece| out.push((piece.bytes.to_vec(), piece.partial, piece.continues))
    }

    fn split(max: usize, chunks: &[Vec<u8>]) -> Vec<Given> {
        let mut splitter = LineSplitter::new(max);
        let mut out = vec![];
        for chunk in chunks {
            splitter.feed(chunk, note(&mut out));
        }
        splitter.finish(note(&mut out));
        out
    }

    fn whole(text: &str) -> Given {
        (text.as_bytes().to_vec(), false, false)
    }

    #[test]
    fn lines_come_whole_and_long_ones_in_pieces() {
        assert_eq!(
            split(8, &[b"one\r\ntw".to_vec(), b"o\n\nend".to_vec()]),
            [whole("one"), whole("two"), whole(""), whole("end")]
        );
        let piece = |text: &str, partial, continues| (text.as_bytes().to_vec(), partial, continues);
        let pieces = [piece("abcd", true, false), piece("efgh", false, true), whole("i")];
        assert_eq!(split(4, &[b"abcdefgh\ni\n".to_vec()]), pieces);
        assert_eq!(split(4, &[b"abcd".to_vec(), b"\nx".to_vec()]), [whole("abcd"), whole("x")]);
    }

    #[test]
    fn the_frames_of_a_progress_bar_are_lines_wherever_their_ends_stand() {
        let frames = [whole("10%"), whole("20%"), whole("done")];
        for text in ["10%\r20%\rdone\n", "\r10%\r20%\rdone\r\n", "\r\r10%\r\r20%\rdone"] {
            assert_eq!(split(80, &[text.as_bytes().to_vec()]), frames, "{text:?}");
        }
    }

    #[test]
    fn a_return_and_a_line_feed_are_one_end_though_a_chunk_ends_between_them() {
        assert_eq!(split(8, &[b"one\r".to_vec(), b"\ntwo".to_vec()]), [whole("one"), whole("two")]);
        assert_eq!(
            split(8, &[b"one\r\n\r".to_vec(), b"\n\ntwo".to_vec()]),
            [whole("one"), whole(""), whole(""), whole("two")]
        );
    }

    #[test]
    fn a_line_that_is_shown_before_its_end_goes_on_with_what_comes_later() {
        let mut splitter = LineSplitter::new(80);
        let mut out = vec![];
        let mut steps: Vec<&[u8]> = vec![b"name? ", b"Bob\n", b"wait", b"\nnext\n", b"wait", b"\r\nnext\n"];
        steps.drain(..).for_each(|chunk| {
            splitter.feed(chunk, note(&mut out));
            splitter.show(note(&mut out));
        });
        assert!(!splitter.is_holding());
        let piece = |text: &str, partial, continues| (text.as_bytes().to_vec(), partial, continues);
        let expected = [
            piece("name? ", true, false),
            piece("Bob", false, true),
            piece("wait", true, false),
            whole("next"),
            piece("wait", true, false),
            whole("next"),
        ];
        assert_eq!(out, expected);
    }

    /// What a reader makes of the pieces: lines, each put together again.
    fn joined(pieces: &[Given]) -> Vec<Vec<u8>> {
        let mut lines: Vec<Vec<u8>> = vec![];
        for (bytes, _, continues) in pieces {
            match lines.last_mut().filter(|_| *continues) {
                Some(line) => line.extend_from_slice(bytes),
                None => lines.push(bytes.clone()),
            }
        }
        lines
    }

    /// The same by the rule itself, from the whole text.
    fn lines_of(text: &[u8]) -> Vec<Vec<u8>> {
        let text = String::from_utf8_lossy(text).replace("\r\n", "\n");
        let mut lines = vec![];
        for line in text.split_inclusive(['\n', '\r']) {
            let content = line.trim_end_matches(['\n', '\r']);
            if !content.is_empty() || line == "\n" {
                lines.push(content.as_bytes().to_vec());
            }
        }
        lines
    }

    fn chunks() -> impl Strategy<Value = Vec<Vec<u8>>> {
        prop::collection::vec(prop::collection::vec(prop::sample::select(b"ab\n\r".to_vec()), 0..20), 0..8)
    }

    proptest! {
        #[test]
        fn no_byte_is_lost_and_no_piece_is_too_long(chunks in chunks(), max in 1usize..6) {
            let pieces = split(max, &chunks);
            prop_assert!(pieces.iter().all(|(bytes, ..)| bytes.len() <= max));
            let kept: Vec<u8> = pieces.iter().flat_map(|(bytes, ..)| bytes.clone()).collect();
            let sent: Vec<u8> = chunks.concat().into_iter().filter(|byte| !b"\r\n".contains(byte)).collect();
            prop_assert_eq!(kept, sent);
        }

        #[test]
        fn where_the_stream_is_cut_makes_no_difference(chunks in chunks(), max in 1usize..6) {
            prop_assert_eq!(split(max, &chunks), split(max, &[chunks.concat()]));
        }

        #[test]
        fn lines_are_those_of_the_text_whenever_they_are_shown(
            chunks in chunks(),
            max in 1usize..6,
            shown in prop::collection::vec(any::<bool>(), 8),
        ) {
            let (mut splitter, mut out) = (LineSplitter::new(max), vec![]);
            for (chunk, show) in chunks.iter().zip(shown) {
                splitter.feed(chunk, note(&mut out));
                if show {
                    splitter.show(note(&mut out));
                    prop_assert!(!splitter.is_holding());
                }
            }
            splitter.finish(note(&mut out));
            prop_assert_eq!(joined(&out), lines_of(&chunks.concat()));
            // A piece that continues a line follows one that said so.
            for (before, after) in out.iter().zip(out.iter().skip(1)) {
                prop_assert!(!after.2 || before.1, "{:?} then {:?}", before, after);
            }
        }
    }
}
