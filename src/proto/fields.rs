//! Reads the fields of an encoded message one by one, for code that needs some of them and not the message.

use prost::{
    DecodeError,
    encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field},
};

/// The rest of an encoded message.
#[derive(Clone, Debug)]
pub(crate) struct Fields<'a>(&'a [u8]);

/// The encoded value of a field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Raw<'a> {
    /// A number or a bool.
    Varint(u64),
    /// The bits of a double.
    Fixed64(u64),
    /// A text, a message, or bytes.
    Bytes(&'a [u8]),
}

impl<'a> Fields<'a> {
    /// The fields of this message.
    pub(crate) fn of(message: &'a [u8]) -> Self {
        Fields(message)
    }

    /// The next field, with its tag. Fields of types that no resource has are skipped.
    ///
    /// # Errors
    /// If the bytes are not a message.
    pub(crate) fn next(&mut self) -> Result<Option<(u32, Raw<'a>)>, DecodeError> {
        let rest = &mut self.0;
        while !rest.is_empty() {
            let (tag, wire_type) = decode_key(rest)?;
            let raw = match wire_type {
                WireType::Varint => Raw::Varint(decode_varint(rest)?),
                WireType::LengthDelimited => {
                    let len = usize::try_from(decode_varint(rest)?).map_err(|_| malformed())?;
                    Raw::Bytes(split(rest, len)?)
                }
                WireType::SixtyFourBit => {
                    let bytes = split(rest, size_of::<u64>())?;
                    Raw::Fixed64(u64::from_le_bytes(bytes.try_into().expect("so many bytes")))
                }
                _ => {
                    skip_field(wire_type, tag, rest, DecodeContext::default())?;
                    continue;
                }
            };
            return Ok(Some((tag, raw)));
        }
        Ok(None)
    }
}

impl<'a> Raw<'a> {
    /// The value as text.
    ///
    /// # Errors
    /// If it is not text.
    pub(crate) fn text(self) -> Result<&'a str, DecodeError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| malformed())
    }

    /// The value as bytes, which may hold a message.
    ///
    /// # Errors
    /// If it is a number.
    pub(crate) fn bytes(self) -> Result<&'a [u8], DecodeError> {
        match self {
            Raw::Bytes(bytes) => Ok(bytes),
            _ => Err(malformed()),
        }
    }
}

/// The text in a field of an encoded message, if the field is set.
///
/// # Errors
/// If the bytes are not a message, or the field is not text.
pub(crate) fn text_in(message: &[u8], tag: u32) -> Result<Option<&str>, DecodeError> {
    let (mut text, mut fields) = (None, Fields::of(message));
    while let Some((found, raw)) = fields.next()? {
        if found == tag {
            text = Some(raw.text()?);
        }
    }
    Ok(text)
}

/// The key of a map's entry, and its value, if that is set. The keys are strings.
///
/// # Errors
/// If the bytes are not an entry.
pub(crate) fn entry_of(entry: &[u8]) -> Result<(&str, Option<Raw<'_>>), DecodeError> {
    let (mut key, mut value, mut fields) = ("", None, Fields::of(entry));
    while let Some((tag, raw)) = fields.next()? {
        match tag {
            1 => key = raw.text()?,
            2 => value = Some(raw),
            _ => {}
        }
    }
    Ok((key, value))
}

/// Takes `len` bytes from the front.
fn split<'a>(rest: &mut &'a [u8], len: usize) -> Result<&'a [u8], DecodeError> {
    let (bytes, behind) = rest.split_at_checked(len).ok_or_else(malformed)?;
    *rest = behind;
    Ok(bytes)
}

/// The error for bytes that are not a message.
pub(crate) fn malformed() -> DecodeError {
    // prost has no public way to make its error. Decoding nothing as a number gives one.
    decode_varint(&mut &[][..]).expect_err("there is nothing to decode")
}
