//! Netlink attributes, written and read. Pure: values in, bytes out, and back.

/// What was read is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::kernel) struct Damaged(pub(in crate::kernel) String);

const NESTED: u16 = 0x8000;
const KIND: u16 = 0x3fff;
const HEADER: usize = 4;

/// Attributes, one after another.
#[derive(Debug, Default)]
pub(in crate::kernel) struct Writer(Vec<u8>);

impl Writer {
    pub(in crate::kernel) fn put(&mut self, kind: u16, value: &[u8]) {
        let length = (HEADER + value.len()).try_into().unwrap_or(u16::MAX);
        self.0.extend(u16::to_ne_bytes(length));
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.pad();
    }

    pub(in crate::kernel) fn text(&mut self, kind: u16, text: &str) {
        let mut bytes = Vec::with_capacity(text.len() + 1);
        bytes.extend(text.as_bytes());
        bytes.push(0);
        self.put(kind, &bytes);
    }

    /// In the byte order of the network, as all of netfilter has its numbers.
    pub(in crate::kernel) fn number(&mut self, kind: u16, number: u32) {
        self.put(kind, &number.to_be_bytes());
    }

    pub(in crate::kernel) fn nest(&mut self, kind: u16, inner: impl FnOnce(&mut Self)) {
        let start = self.0.len();
        self.put(kind | NESTED, &[]);
        inner(self);
        // An attribute that is too long gets a length that the kernel refuses.
        let length = (self.0.len() - start).try_into().unwrap_or(u16::MAX);
        if let Some(place) = self.0.get_mut(start..start + 2) {
            place.copy_from_slice(&u16::to_ne_bytes(length));
        }
    }

    /// Bytes that are no attribute: a header.
    pub(in crate::kernel) fn raw(&mut self, bytes: &[u8]) {
        self.0.extend(bytes);
        self.pad();
    }

    pub(in crate::kernel) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(in crate::kernel) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// Overwrites bytes that are there.
    pub(in crate::kernel) fn patch(&mut self, at: usize, bytes: &[u8]) {
        if let Some(place) = self.0.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }

    fn pad(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }
}

/// The attributes in some bytes: kind and value of each. Damage is the last item.
pub(in crate::kernel) fn attributes(bytes: &[u8]) -> impl Iterator<Item = Result<(u16, &[u8]), Damaged>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        // What is too short for a header is padding.
        let (header, _) = rest.split_first_chunk::<HEADER>()?;
        let [l0, l1, k0, k1] = *header;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let found = rest.get(HEADER..length);
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        let Some(value) = found else {
            rest = &[];
            return Some(Err(Damaged(format!("an attribute of {length} bytes"))));
        };
        Some(Ok((u16::from_ne_bytes([k0, k1]) & KIND, value)))
    })
}

/// The values of the attributes of these kinds, each absent if it is not there; others are skipped.
pub(in crate::kernel) fn pick<const N: usize>(
    bytes: &[u8],
    kinds: [u16; N],
) -> Result<[Option<&[u8]>; N], Damaged> {
    let mut found = [None; N];
    for attribute in attributes(bytes) {
        let (kind, value) = attribute?;
        if let Some(at) = kinds.iter().position(|wanted| *wanted == kind)
            && let Some(place) = found.get_mut(at)
        {
            *place = Some(value);
        }
    }
    Ok(found)
}

/// A number in the byte order of the network.
pub(in crate::kernel) fn number(value: &[u8]) -> Result<u32, Damaged> {
    match <[u8; 4]>::try_from(value) {
        Ok(bytes) => Ok(u32::from_be_bytes(bytes)),
        Err(_) => Err(Damaged(format!("a number of {} bytes", value.len()))),
    }
}

/// A text up to its NUL.
pub(in crate::kernel) fn text(value: &[u8]) -> Result<&str, Damaged> {
    let text = value.split(|byte| *byte == 0).next().unwrap_or_default();
    std::str::from_utf8(text).map_err(|_| Damaged("a name that is not text".into()))
}

/// An attribute that must be there.
pub(in crate::kernel) fn needed<'a>(value: Option<&'a [u8]>, what: &str) -> Result<&'a [u8], Damaged> {
    value.ok_or_else(|| Damaged(format!("no {what}")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut writer = Writer::default();
        writer.text(1, "own4");
        writer.nest(3, |inner| {
            inner.number(1, 7);
            inner.put(2, &[1, 2, 3]);
        });
        assert_eq!(writer.bytes().len() % 4, 0);
        let [name, none, nest] = pick(writer.bytes(), [1, 2, 3]).unwrap();
        assert_eq!(text(name.unwrap()), Ok("own4"));
        assert_eq!(none, None);
        let [seven, bytes] = pick(nest.unwrap(), [1, 2]).unwrap();
        assert_eq!(number(seven.unwrap()), Ok(7));
        assert_eq!(bytes, Some(&[1, 2, 3][..]));
    }

    #[test]
    fn damage_is_said() {
        for bad in [&[3, 0, 1, 0][..], &[0, 0, 0, 0], &[9, 0, 1, 0, 1, 1, 1, 1]] {
            assert!(pick(bad, [1]).is_err(), "{bad:?}");
        }
        assert_eq!(pick(&[1, 2], [1]), Ok([None]));
        assert!(number(&[1]).is_err());
        assert!(text(&[0xff, 0]).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic_or_run_on(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(attributes(&bytes).count() <= 1 + bytes.len() / 4);
        }
    }
}
