//! Icebox: a backup catalog and job registry with the resources of the OpenStack Freezer API v2.
//!
//! One way, down and back up, each layer knowing only the next:
//!
//! - [`proto`]: what is said on the wire, beside them all.

pub mod proto;
