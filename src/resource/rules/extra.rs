//! The rules for `extra`: the keys and values that Freezer has and the `.proto` does not.

use prost_types::{ListValue, Struct, Value, value::Kind};

use super::{Path, Violations, is_steering, quoted};
use crate::resource::limits::{EXTRA_BYTES_MAX, EXTRA_LEVELS_MAX, NAME_BYTES_MAX};

/// `extra`, if set: at most 16 KiB, at most 8 levels, and only values that JSON has.
pub(crate) fn extra(path: Path<'_>, extra: Option<&Struct>, violations: &mut Violations) {
    let Some(extra) = extra else { return };
    if extra_levels_fit(Some(extra)) {
        let size_bytes = prost::Message::encoded_len(extra);
        if size_bytes > EXTRA_BYTES_MAX {
            violations.add(
                path.to_string(),
                format!("must be at most {EXTRA_BYTES_MAX} bytes encoded, not {size_bytes}"),
            );
        }
    } else {
        violations.add(
            path.to_string(),
            format!("must nest at most {EXTRA_LEVELS_MAX} levels"),
        );
    }
    extra_struct(path, extra, 1, violations);
}

/// Whether `extra` nests at most 8 levels. Code that recurses to its end, such as measuring its encoding, has to ask this first.
/// The functions here look no deeper than the limit themselves.
pub(crate) fn extra_levels_fit(extra: Option<&Struct>) -> bool {
    fn value_fits(value: &Value, level: usize) -> bool {
        match &value.kind {
            Some(Kind::StructValue(Struct { fields })) => {
                level <= EXTRA_LEVELS_MAX
                    && fields.values().all(|value| value_fits(value, level + 1))
            }
            Some(Kind::ListValue(ListValue { values })) => {
                level <= EXTRA_LEVELS_MAX && values.iter().all(|value| value_fits(value, level + 1))
            }
            _ => true,
        }
    }
    extra.is_none_or(|extra| extra.fields.values().all(|value| value_fits(value, 2)))
}

fn extra_struct(path: Path<'_>, extra: &Struct, level: usize, violations: &mut Violations) {
    for (key, value) in &extra.fields {
        let path = format_args!("{path}[{}]", quoted(key));
        if key.len() > NAME_BYTES_MAX {
            violations.add(
                path.to_string(),
                format!(
                    "must have a key of at most {NAME_BYTES_MAX} bytes, not {}",
                    key.len()
                ),
            );
        }
        if key.contains(is_steering) {
            violations.add(
                path.to_string(),
                "must have a key without control characters",
            );
        }
        extra_value(path, value, level, violations);
    }
}

fn extra_value(path: Path<'_>, value: &Value, level: usize, violations: &mut Violations) {
    match &value.kind {
        None => violations.add(path.to_string(), "must have a value, if only null"),
        Some(Kind::NumberValue(number)) if !number.is_finite() => {
            violations.add(
                path.to_string(),
                format!("must be a finite number, not {number}"),
            );
        }
        Some(Kind::StructValue(nested)) if level < EXTRA_LEVELS_MAX => {
            extra_struct(path, nested, level + 1, violations);
        }
        Some(Kind::ListValue(list)) if level < EXTRA_LEVELS_MAX => {
            for (n, value) in list.values.iter().enumerate() {
                extra_value(format_args!("{path}[{n}]"), value, level + 1, violations);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::rules::tests::said;

    fn value(kind: Kind) -> Value {
        Value { kind: Some(kind) }
    }

    fn one(key: &str, value: Value) -> Struct {
        Struct {
            fields: [(key.to_owned(), value)].into(),
        }
    }

    fn extra_said(extra: &Struct) -> Vec<String> {
        said(|v| super::extra(format_args!("e"), Some(extra), v))
    }

    #[test]
    fn extra_nests_at_most_8_levels_and_deeper_is_not_walked() {
        let nested = |levels: usize, innermost: Value| {
            (1..levels).fold(one("a", innermost), |inner, _| {
                one("a", value(Kind::StructValue(inner)))
            })
        };
        let null = || value(Kind::NullValue(0));
        assert!(extra_said(&nested(8, null())).is_empty());
        assert_eq!(
            extra_said(&nested(9, null())),
            ["e must nest at most 8 levels"]
        );
        let list = || {
            value(Kind::ListValue(ListValue {
                values: vec![null()],
            }))
        };
        assert!(extra_said(&nested(7, list())).is_empty());
        assert_eq!(
            extra_said(&nested(8, list())),
            ["e must nest at most 8 levels"]
        );
        // Values below the limit are not looked at, but those above it are.
        let mut deep = nested(500, Value { kind: None });
        deep.fields.insert("b".into(), Value { kind: None });
        assert_eq!(
            extra_said(&deep),
            [
                "e must nest at most 8 levels",
                "e[\"b\"] must have a value, if only null"
            ]
        );
        let in_lists = (0..500).fold(Value { kind: None }, |inner, _| {
            value(Kind::ListValue(ListValue {
                values: vec![inner],
            }))
        });
        assert_eq!(
            extra_said(&one("a", in_lists)),
            ["e must nest at most 8 levels"]
        );
    }

    #[test]
    fn extra_has_at_most_16_kib_encoded() {
        let of_bytes = |bytes: usize| one("k", value(Kind::StringValue("x".repeat(bytes))));
        let around = prost::Message::encoded_len(&of_bytes(16000)) - 16000;
        assert!(extra_said(&of_bytes(EXTRA_BYTES_MAX - around)).is_empty());
        assert_eq!(
            extra_said(&of_bytes(EXTRA_BYTES_MAX - around + 1)),
            ["e must be at most 16384 bytes encoded, not 16385"]
        );
    }

    #[test]
    fn extra_holds_only_what_json_can_say_under_short_printable_keys() {
        assert!(said(|v| super::extra(format_args!("e"), None, v)).is_empty());
        assert!(extra_said(&Struct::default()).is_empty());
        let list = [f64::NAN, 1.5, f64::INFINITY].map(|number| value(Kind::NumberValue(number)));
        let mut bad = one(
            "l",
            value(Kind::ListValue(ListValue {
                values: list.into(),
            })),
        );
        let infinite = one("i", value(Kind::NumberValue(f64::NEG_INFINITY)));
        bad.fields
            .insert("s".into(), value(Kind::StructValue(infinite)));
        bad.fields.insert("a\nb".into(), Value { kind: None });
        bad.fields
            .insert("z".repeat(255), value(Kind::BoolValue(true)));
        assert_eq!(
            extra_said(&bad),
            [
                "e[\"a\\nb\"] must have a key without control characters",
                "e[\"a\\nb\"] must have a value, if only null",
                "e[\"l\"][0] must be a finite number, not NaN",
                "e[\"l\"][2] must be a finite number, not inf",
                "e[\"s\"][\"i\"] must be a finite number, not -inf",
            ]
        );
        let long = extra_said(&one(&"z".repeat(256), value(Kind::BoolValue(true))));
        assert_eq!(
            long,
            [format!(
                "e[\"{}\"…] must have a key of at most 255 bytes, not 256",
                "z".repeat(64)
            )]
        );
    }
}
