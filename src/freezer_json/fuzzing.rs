//! Documents for the fuzzer.

use serde_json::Value;

use super::{Documented, Form};
use crate::proto::{Action, Backup, Client, Job, Session};

/// Reads a document as each kind of resource. What was read must be written as a document that reads back as the same resource.
pub fn document(text: &str) {
    let Ok(value) = serde_json::from_str::<Value>(text) else {
        return;
    };
    // First as any kind, as an import does.
    drop(super::read_document(&value));
    reads_back::<Backup>(&value);
    reads_back::<Job>(&value);
    reads_back::<Action>(&value);
    reads_back::<Client>(&value);
    reads_back::<Session>(&value);
}

fn reads_back<R: Documented>(document: &Value) {
    let Ok((resource, _)) = R::read(document) else {
        return;
    };
    // An `extra` may hold a key that has a place of its own in a document. Such keys are not checked yet at this point.
    for form in [Form::Document, Form::Api] {
        drop(resource.to_document(form));
    }
    let written = resource.to_document(Form::Full);
    let (again, _) = R::read(&written).expect("what was written can be read");
    assert!(again == resource, "{written}");
}
