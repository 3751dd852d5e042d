//! What is wrong with a request. Every bad field is collected by its proto path before the request is refused.

use std::fmt;

/// The most violations that are reported one by one; the others are only counted. An answer must stay small (gRPC clients accept
/// about 8 KiB of trailers), and a request of 1 MiB can have many mistakes.
const TOLD_MAX: usize = 32;
/// The most bytes for all of them. They take 4 KiB of trailers in base64, which leaves as much for the status's message.
const TOLD_BYTES_MAX: usize = 3 << 10;
/// The most bytes of one path, and of one description. Paths can be long, because they contain keys of `extra`.
const PART_BYTES_MAX: usize = 512;

/// One bad field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The field's path from the request message, such as `job.job_actions[0].freezer_action.action`.
    pub field: String,
    /// What the field must be.
    pub description: String,
}

/// Every bad field of one request in the order in which they were found: at most 32, then one that tells how many more there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Violations {
    /// At most `TOLD_MAX` violations, and one more that stands for the others.
    told: Vec<Violation>,
    told_bytes: usize,
    untold: usize,
}

impl Violations {
    /// No violations yet.
    #[must_use]
    pub fn new() -> Self {
        Violations::default()
    }

    /// Only this violation.
    pub fn one(field: impl Into<String>, description: impl Into<String>) -> Self {
        let mut violations = Violations::new();
        violations.add(field, description);
        violations
    }

    /// Adds that `field` is wrong; `description` says what it must be.
    pub fn add(&mut self, field: impl Into<String>, description: impl Into<String>) {
        let (field, description) = (
            cut(field.into(), PART_BYTES_MAX),
            cut(description.into(), PART_BYTES_MAX),
        );
        let bytes = field.len() + description.len();
        if self.untold == 0
            && self.told.len() < TOLD_MAX
            && self.told_bytes + bytes <= TOLD_BYTES_MAX
        {
            self.told_bytes += bytes;
            self.told.push(Violation { field, description });
        } else {
            self.add_untold(&field, 1);
        }
    }

    /// Counts `more` violations without their text. The first of them is at `field`.
    fn add_untold(&mut self, field: &str, more: usize) {
        if self.untold > 0 {
            self.told.pop();
        }
        self.untold += more;
        let root = field.split(['.', '[']).next().unwrap_or(field);
        self.told.push(Violation {
            field: root.into(),
            description: format!("has {} more", self.untold),
        });
    }

    /// Takes over the violations of `result`, or returns its value.
    pub fn collect<T>(&mut self, result: Result<T, Violations>) -> Option<T> {
        result.map_err(|violations| self.extend(violations)).ok()
    }

    fn extend(&mut self, other: Violations) {
        let told = other.told.len() - usize::from(other.untold > 0);
        for (n, violation) in other.told.into_iter().enumerate() {
            if n < told {
                self.add(violation.field, violation.description);
            } else {
                self.add_untold(&violation.field, other.untold);
            }
        }
    }

    /// Returns `value` if nothing is wrong.
    ///
    /// # Errors
    /// The violations, if there are any.
    pub fn or<T>(self, value: T) -> Result<T, Violations> {
        if self.is_empty() {
            Ok(value)
        } else {
            Err(self)
        }
    }

    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.told.is_empty()
    }

    /// The violations in the order in which they were found.
    pub fn iter(&self) -> std::slice::Iter<'_, Violation> {
        self.told.iter()
    }
}

/// `text`, cut if it has more than `bytes_max` bytes.
pub(crate) fn cut(mut text: String, bytes_max: usize) -> String {
    if text.len() > bytes_max {
        let end = (0..=bytes_max)
            .rev()
            .find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or_default());
        text.push('…');
    }
    text
}

impl<'a> IntoIterator for &'a Violations {
    type Item = &'a Violation;
    type IntoIter = std::slice::Iter<'a, Violation>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, violation) in self.iter().enumerate() {
            let separator = if n == 0 { "" } else { "; " };
            write!(
                f,
                "{separator}{} {}",
                violation.field, violation.description
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn violations(count: usize) -> Violations {
        let mut violations = Violations::new();
        for n in 0..count {
            violations.add(format!("job.job_actions[{n}].mode"), "is bad");
        }
        violations
    }

    fn last(violations: &Violations) -> (&str, &str) {
        let last = violations.iter().last().unwrap();
        (&last.field, &last.description)
    }

    #[test]
    fn the_first_are_told_and_the_rest_is_counted() {
        let all = violations(TOLD_MAX);
        assert_eq!((all.iter().count(), last(&all).1), (TOLD_MAX, "is bad"));
        let many = violations(TOLD_MAX + 250);
        assert_eq!(
            (many.iter().count(), last(&many)),
            (TOLD_MAX + 1, ("job", "has 250 more"))
        );
    }

    #[test]
    fn the_count_survives_being_collected() {
        let mut collected = violations(TOLD_MAX - 10);
        collected.collect::<()>(Err(violations(TOLD_MAX + 20)));
        assert_eq!(
            (collected.iter().count(), last(&collected)),
            (TOLD_MAX + 1, ("job", "has 42 more"))
        );
    }

    #[test]
    fn long_ones_are_cut_and_told_as_far_as_there_is_room() {
        let mut violations = Violations::new();
        for _ in 0..10 {
            violations.add(format!("job.{}", "é".repeat(5000)), "é".repeat(5000));
        }
        let bytes: usize = violations
            .iter()
            .map(|v| v.field.len() + v.description.len())
            .sum();
        assert!(bytes < TOLD_BYTES_MAX + 64, "{bytes}");
        assert_eq!(violations.iter().last().unwrap().description, "has 8 more");
    }
}
