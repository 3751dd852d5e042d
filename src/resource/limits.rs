//! The limits of a resource, each with its reason.

/// A job's description, which is its name (Freezer API v2: at most 64 bytes).
pub(crate) const DESCRIPTION_BYTES_MAX: usize = 64;
/// A backup's name, and a hostname (RFC 1035 allows 255).
pub(crate) const NAME_BYTES_MAX: usize = 255;
/// A container: a bucket's name, or a path if the storage is local.
pub(crate) const CONTAINER_BYTES_MAX: usize = 1024;
/// Any other string: Linux's `PATH_MAX`, since the longest are paths.
pub(crate) const STRING_BYTES_MAX: usize = 4096;
/// A project's id or a client's id.
pub(crate) const ID_BYTES_MAX: usize = 128;
/// `extra`, encoded: options that have no field, not documents.
pub(crate) const EXTRA_BYTES_MAX: usize = 16 << 10;
/// How deep `extra` may nest: an object in `extra` is at level 2.
pub(crate) const EXTRA_LEVELS_MAX: usize = 8;
/// A whole encoded resource: a page of 3 MiB then holds at least 48.
pub(crate) const RECORD_BYTES_MAX: usize = 64 << 10;
/// Actions in one job.
pub(crate) const JOB_ACTIONS_MAX: usize = 64;
/// Jobs that use one stored action: when it changes, all of them are written in one commit.
pub(crate) const JOBS_PER_ACTION_MAX: usize = 100;
/// Members of one session, for the same reason.
pub(crate) const SESSION_JOBS_MAX: usize = 256;
/// Actions, modes, storages or engines that a client supports.
pub(crate) const CLIENT_SUPPORTS_MAX: usize = 64;
/// Labels of one resource.
pub(crate) const LABELS_MAX: usize = 32;
