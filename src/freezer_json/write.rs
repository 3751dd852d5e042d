//! Writes Freezer's documents. The text is made field by field from an encoded message, which is never decoded as a whole: this is
//! the fastest way to write a page of a list.
//!
//! The message was stored by Icebox or has just been encoded: each field stands there once, and the elements of a list follow each
//! other. For other messages the text is still JSON.

use jiff::Timestamp;
use prost::{DecodeError, Message};
use prost_types::{Struct, value::Kind as StructKind};
use serde_json::Value as Json;

use super::{
    Form,
    shape::{Field, Shape, Value, shape_of},
};
use crate::proto::{
    Client,
    fields::{Fields, Raw, entry_of, malformed},
};

/// The keys that stand beside the client: they tell who owns it.
const BESIDE_CLIENT: [&str; 2] = ["project_id", "user_id"];

/// Writes the documents of one kind of resources.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Writer {
    shape: &'static Shape,
    form: Form,
    is_of_clients: bool,
}

impl Writer {
    /// For a kind whose documents have the same keys as its fields.
    #[must_use]
    pub(crate) fn of_fields<M: prost::Name>(form: Form) -> Writer {
        Writer {
            shape: shape_of::<M>(),
            form,
            is_of_clients: false,
        }
    }

    /// For clients.
    #[must_use]
    pub(crate) fn of_clients(form: Form) -> Writer {
        Writer {
            is_of_clients: true,
            ..Writer::of_fields::<Client>(form)
        }
    }

    /// The document of a resource.
    #[must_use]
    pub(crate) fn json_of(&self, resource: &impl Message) -> Json {
        let mut text = Vec::new();
        let written = self.write(&resource.encode_to_vec(), &mut text);
        written.expect("a message reads back under its own descriptor");
        serde_json::from_slice(&text).expect("what was written is JSON")
    }

    /// Appends the document of an encoded resource.
    ///
    /// # Errors
    /// If the record does not decode. Then a part of it has been appended.
    pub(crate) fn write(&self, record: &[u8], to: &mut Vec<u8>) -> Result<(), DecodeError> {
        if !self.is_of_clients {
            return write_message(self.shape, record, self.form, all, to);
        }
        write_message(self.shape, record, self.form, is_beside, to)?;
        let ended = to.pop();
        debug_assert_eq!(ended, Some(b'}'));
        to.extend_from_slice(if to.ends_with(b"{") {
            br#""client":"#
        } else {
            br#","client":"#
        });
        write_message(self.shape, record, self.form, is_within, to)?;
        to.push(b'}');
        Ok(())
    }
}

fn all(_field: &Field) -> bool {
    true
}

fn is_beside(field: &Field) -> bool {
    BESIDE_CLIENT.contains(&field.name.as_str())
}

fn is_within(field: &Field) -> bool {
    !is_beside(field)
}

/// A JSON object that is being written.
struct Object<'a> {
    to: &'a mut Vec<u8>,
    is_empty: bool,
    /// The list or map that is being written: its tag, and the byte that ends it.
    open: Option<(u32, u8)>,
    /// The set of the tags that have been written.
    seen: u64,
}

impl<'a> Object<'a> {
    fn begin(to: &'a mut Vec<u8>) -> Self {
        to.push(b'{');
        Object {
            to,
            is_empty: true,
            open: None,
            seen: 0,
        }
    }

    fn key(&mut self, name: &str) {
        self.close();
        if !self.is_empty {
            self.to.push(b',');
        }
        self.is_empty = false;
        write_text(name, self.to);
        self.to.push(b':');
    }

    fn saw(&mut self, field: &Field) {
        self.seen |= 1 << field.tag;
    }

    fn has(&self, field: &Field) -> bool {
        self.seen & 1 << field.tag != 0
    }

    /// Begins a list or map, or continues it.
    fn element(&mut self, field: &Field, [begin, end]: [u8; 2]) {
        if self.open.is_some_and(|(tag, _)| tag == field.tag) {
            self.to.push(b',');
            return;
        }
        self.key(&field.name);
        self.to.push(begin);
        self.open = Some((field.tag, end));
    }

    fn close(&mut self) {
        if let Some((_, end)) = self.open.take() {
            self.to.push(end);
        }
    }

    fn end(mut self) {
        self.close();
        self.to.push(b'}');
    }
}

fn write_message(
    shape: &Shape,
    message: &[u8],
    form: Form,
    takes: fn(&Field) -> bool,
    to: &mut Vec<u8>,
) -> Result<(), DecodeError> {
    let is_written = |field: &Field| takes(field) && (form == Form::Full || !field.is_output_only);
    let mut object = Object::begin(to);
    let mut fields = Fields::of(message);
    let mut extra = None;
    while let Some((tag, raw)) = fields.next()? {
        let Some(field) = shape.field(tag).filter(|field| is_written(field)) else {
            continue;
        };
        object.saw(field);
        match field.value {
            Value::Extra => extra = Some(raw.bytes()?),
            Value::TextMap => {
                let (key, value) = entry_of(raw.bytes()?)?;
                object.element(field, *b"{}");
                write_text(key, object.to);
                object.to.push(b':');
                write_text(value.map_or(Ok(""), Raw::text)?, object.to);
            }
            Value::MessageMap(shape) => {
                let (key, value) = entry_of(raw.bytes()?)?;
                object.element(field, *b"{}");
                write_text(key, object.to);
                object.to.push(b':');
                let message = value.map_or(Ok(&[][..]), Raw::bytes)?;
                write_message(shape, message, form, all, object.to)?;
            }
            _ if field.is_list => {
                object.element(field, *b"[]");
                write_value(field.value, raw, form, object.to)?;
            }
            _ => {
                object.key(&field.name);
                write_value(field.value, raw, form, object.to)?;
            }
        }
    }
    if let Some(extra) = extra {
        for (key, value) in Struct::decode(extra)?.fields {
            // If the field itself is set, it counts, since the key would be read as the field.
            match shape.named(&key) {
                Some(field) if object.has(field) => continue,
                Some(field) => object.saw(field),
                None => {}
            }
            object.key(&key);
            write_any(&value, object.to);
        }
    }
    for (field, unset) in shape.written_unset(form) {
        if takes(field) && !object.has(field) {
            object.key(&field.name);
            object.to.extend_from_slice(unset.as_bytes());
        }
    }
    object.end();
    Ok(())
}

fn write_value(
    value: Value,
    raw: Raw<'_>,
    form: Form,
    to: &mut Vec<u8>,
) -> Result<(), DecodeError> {
    match (value, raw) {
        (Value::Bool, Raw::Varint(value)) => write_json(&(value != 0), to),
        // A negative number of 32 bits takes 64 bits on the wire.
        (Value::Signed, Raw::Varint(value)) => write_json(&value.cast_signed(), to),
        (Value::Unsigned, Raw::Varint(value)) => write_json(&value, to),
        (Value::Double, Raw::Fixed64(bits)) => write_json(&f64::from_bits(bits), to),
        (Value::Text, raw) => write_text(raw.text()?, to),
        (Value::Timestamp, raw) => write_timestamp(raw.bytes()?, to)?,
        (Value::Any, raw) => write_members(&Struct::decode(raw.bytes()?)?, to),
        (Value::Message(shape), raw) => write_message(shape, raw.bytes()?, form, all, to)?,
        _ => return Err(malformed()),
    }
    Ok(())
}

fn write_text(text: &str, to: &mut Vec<u8>) {
    write_json(text, to);
}

/// Writes a number, a text or a bool.
fn write_json<T: serde::Serialize + ?Sized>(value: &T, to: &mut Vec<u8>) {
    serde_json::to_writer(to, value).expect("it has a place in JSON, and memory takes it");
}

fn write_timestamp(message: &[u8], to: &mut Vec<u8>) -> Result<(), DecodeError> {
    let time = prost_types::Timestamp::decode(message)?;
    match Timestamp::new(time.seconds, time.nanos) {
        Ok(time) => write_text(&time.to_string(), to),
        Err(_) => to.extend_from_slice(b"null"),
    }
    Ok(())
}

fn write_members(members: &Struct, to: &mut Vec<u8>) {
    let mut object = Object::begin(to);
    for (key, value) in &members.fields {
        object.key(key);
        write_any(value, object.to);
    }
    object.end();
}

fn write_any(value: &prost_types::Value, to: &mut Vec<u8>) {
    match &value.kind {
        None | Some(StructKind::NullValue(_)) => to.extend_from_slice(b"null"),
        Some(StructKind::BoolValue(value)) => write_json(value, to),
        Some(StructKind::NumberValue(value)) => write_number(*value, to),
        Some(StructKind::StringValue(text)) => write_text(text, to),
        Some(StructKind::ListValue(list)) => {
            to.push(b'[');
            for (n, value) in list.values.iter().enumerate() {
                if n > 0 {
                    to.push(b',');
                }
                write_any(value, to);
            }
            to.push(b']');
        }
        Some(StructKind::StructValue(members)) => write_members(members, to),
    }
}

/// Writes a double as people do: `1`, not `1.0`. Beyond 2^53 a double cannot tell neighbouring integers apart, so that it is not
/// written as one; nor is -0.
#[allow(clippy::cast_possible_truncation, reason = "whole, and within 2^53")]
fn write_number(value: f64, to: &mut Vec<u8>) {
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0
        && value.abs() <= EXACT_MAX
        && !(value == 0.0 && value.is_sign_negative())
    {
        write_json(&(value as i64), to);
    } else {
        write_json(&value, to);
    }
}
