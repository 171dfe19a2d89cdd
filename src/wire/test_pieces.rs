//! Streams in pieces, for tests of codecs that take bytes as they come.

/// `stream` cut into pieces of these lengths, as far as they go; the last piece is the rest.
pub(in crate::wire) fn pieces<'b>(mut stream: &'b [u8], cuts: &[usize]) -> Vec<&'b [u8]> {
    let mut pieces = Vec::new();
    for cut in cuts {
        let (now, later) = stream.split_at(stream.len().min(*cut));
        pieces.push(now);
        stream = later;
    }
    pieces.push(stream);
    pieces
}
