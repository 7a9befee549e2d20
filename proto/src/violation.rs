//! Collects everything that is wrong with a request, so that its sender can mend it in one go.

use crate::{
    reason::Reason,
    status::{DOMAIN, MAX_MESSAGE, middle_cut},
};
use rustic_core::IdError;
use std::{collections::HashMap, fmt, str::FromStr};
use tonic::Status;
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

/// Most violations that a status names, and longest text of each: a status must fit into headers.
const MAX_FIELDS: usize = 8;
const MAX_WHAT: usize = 250;

/// What is wrong with a request, by field.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Violations(Vec<(String, String)>);

impl Violations {
    /// Notes that `field` is wrong; `what` reads on from the field's name and says what to do.
    pub fn add(&mut self, field: &str, what: impl Into<String>) {
        self.0.push((field.to_owned(), what.into()));
    }

    /// Takes over what else is wrong.
    pub fn extend(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    /// Reads an id, noting what is wrong with it.
    pub fn id<T: FromStr<Err = IdError>>(&mut self, field: &str, text: &str) -> Option<T> {
        text.parse().map_err(|e: IdError| self.add(field, e.to_string())).ok()
    }

    /// Fields and what is wrong with them.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(field, what)| (field.as_str(), what.as_str()))
    }

    /// `value` if nothing is wrong.
    pub fn into_result<T>(self, value: Option<T>) -> Result<T, Self> {
        match value {
            Some(value) if self.0.is_empty() => Ok(value),
            _ => Err(self),
        }
    }
}

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text: Vec<_> = self.iter().map(|(field, what)| format!("{field} {what}")).collect();
        f.write_str(&text.join("; "))
    }
}

/// INVALID_REQUEST with one `BadRequest` field violation each.
impl From<Violations> for Status {
    fn from(violations: Violations) -> Self {
        let text = violations.to_string();
        let field = |(field, what)| FieldViolation::new(middle_cut(field, 100), middle_cut(what, MAX_WHAT));
        let fields: Vec<_> = violations.iter().take(MAX_FIELDS).map(field).collect();
        let mut details = ErrorDetails::with_error_info(Reason::InvalidRequest.as_str(), DOMAIN, HashMap::new());
        details.set_bad_request(fields);
        Status::with_error_details(Reason::InvalidRequest.code(), middle_cut(&text, MAX_MESSAGE), details)
    }
}
