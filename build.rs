//! Compiles `proto/` without `protoc`: messages, clients and servers, and the descriptors with their comments. Reflection serves
//! these, and update masks and Freezer's JSON are driven by them.

use std::{env, error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_source_info(true).include_imports(true);
    compiler.open_files([
        "freezer/v2/action_service.proto",
        "freezer/v2/audit_service.proto",
        "freezer/v2/backup_service.proto",
        "freezer/v2/client_service.proto",
        "freezer/v2/job_service.proto",
        "freezer/v2/maintenance_service.proto",
        "freezer/v2/session_service.proto",
    ])?;

    // `compile_fds` does not write the file, even if `file_descriptor_set_path` is set.
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(
        out.join("freezer.v2.bin"),
        compiler.encode_file_descriptor_set(),
    )?;

    let mut prost = tonic_prost_build::Config::new();
    prost.enable_type_names();
    // A map in a fixed order, so that equal resources have equal bytes.
    prost.btree_map([
        ".freezer.v2.Backup.labels",
        ".freezer.v2.Client.labels",
        ".freezer.v2.Job.labels",
        ".freezer.v2.Session.jobs",
    ]);
    // Chunks of a snapshot are passed on without copying.
    prost.bytes([".freezer.v2.DownloadSnapshotResponse.chunk"]);
    let mut tonic = tonic_prost_build::configure().codec_path("crate::proto::codec::ExactCodec");
    // These messages are written from stored bytes, not from decoded messages: see `proto::Page`, `proto::Single` and
    // `proto::Watched`.
    // The feature `server` brings what clients and servers are made of.
    let serves = env::var_os("CARGO_FEATURE_SERVER").is_some();
    tonic = tonic.build_client(serves).build_server(serves);
    for name in [
        "CreateActionResponse",
        "CreateBackupResponse",
        "CreateJobResponse",
        "CreateSessionResponse",
        "GetActionResponse",
        "GetBackupResponse",
        "GetClientResponse",
        "GetJobResponse",
        "GetSessionResponse",
        "ListActionsResponse",
        "ListBackupsResponse",
        "ListClientsResponse",
        "ListJobsResponse",
        "ListSessionsResponse",
        "WatchBackupsResponse",
        "WatchClientsResponse",
        "WatchJobsResponse",
        "WatchSessionsResponse",
    ] {
        tonic = tonic.extern_path(
            format!(".freezer.v2.{name}"),
            format!("crate::proto::{name}"),
        );
    }
    tonic.compile_fds_with_config(compiler.file_descriptor_set(), prost)?;
    Ok(())
}
