//! Promise: no token, key, credential or stored value gets into the log, whatever is logged, or into an error about a token. No
//! file of the server contains a token.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use icebox::proto::{
    Backup, BackupFilter, BackupMetadata, CreateBackupRequest, CreateJobRequest, FreezerAction,
    GetBackupRequest, Job, JobAction, ListBackupsRequest, UpdateBackupRequest, UserCredentials,
    backup_service_client::BackupServiceClient, job_service_client::JobServiceClient,
};
use prost_types::FieldMask;
use tonic::{Request, Status, transport::Channel};

/// The text that every planted secret contains.
const CANARY: &str = "canary";

/// A server that logs everything it can. It is killed when this is dropped.
struct Server {
    process: Child,
    log: PathBuf,
}

impl Server {
    fn start(dir: &Path, tokens: &Path) -> Server {
        let log = dir.join("log");
        let process = Command::new(env!("CARGO_BIN_EXE_icebox"))
            .args(["serve", "--listen", "127.0.0.1:0", "--cache-mib", "16"])
            .args(["--log", "trace", "--store"])
            .arg(dir.join("icebox.db"))
            .arg("--tokens")
            .arg(tokens)
            .stderr(Stdio::from(fs::File::create(&log).expect("room")))
            .spawn()
            .expect("the binary runs");
        Server { process, log }
    }

    fn logged(&self) -> String {
        fs::read_to_string(&self.log).expect("a log")
    }

    /// Its address, as soon as it tells it.
    fn address(&self) -> String {
        let asked = Instant::now();
        loop {
            let logged = self.logged();
            let first = logged.lines().next().unwrap_or_default();
            if let Ok(first) = serde_json::from_str::<serde_json::Value>(first) {
                let address = first["fields"]["address"].as_str();
                return address.expect("it says where it listens").to_owned();
            }
            assert!(asked.elapsed() < Duration::from_secs(20), "{logged}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has ended already, if all went well.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A request with a token.
fn with_token<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let bearer = format!("Bearer {token}").parse().expect("plain text");
    request.metadata_mut().insert("authorization", bearer);
    request
}

/// A backup in which every free text is a secret.
fn backup() -> Backup {
    let secret = |what: &str| format!("{CANARY}-{what}");
    Backup {
        project_id: "demo".into(),
        user_name: secret("user"),
        backup_metadata: Some(BackupMetadata {
            backup_name: secret("name"),
            container: secret("container"),
            hostname: secret("host"),
            path_to_backup: secret("path"),
            ssh_key: secret("key"),
            ssh_username: secret("ssh-user"),
            proxy: secret("proxy"),
            ..BackupMetadata::default()
        }),
        ..Backup::default()
    }
}

fn job() -> Job {
    Job {
        project_id: "demo".into(),
        description: format!("{CANARY}-description"),
        user_credentials: Some(UserCredentials {
            trust_id: format!("{CANARY}-trust"),
            trustor_user_id: format!("{CANARY}-trustor"),
        }),
        job_actions: vec![JobAction {
            freezer_action: Some(FreezerAction {
                action: "backup".into(),
                ..FreezerAction::default()
            }),
            ..JobAction::default()
        }],
        ..Job::default()
    }
}

/// Makes calls of every kind, good and bad. Returns the refusals.
async fn call(channel: &Channel, token: &str) -> Vec<Status> {
    let mut backups = BackupServiceClient::new(channel.clone());
    let mut jobs = JobServiceClient::new(channel.clone());
    let mut refused = Vec::new();
    let create = CreateBackupRequest {
        backup: Some(backup()),
        ..CreateBackupRequest::default()
    };
    let created = backups.create_backup(with_token(token, create)).await;
    let created = created
        .expect("it is good")
        .into_inner()
        .decoded()
        .expect("it");
    let create = CreateJobRequest {
        job: Some(job()),
        ..CreateJobRequest::default()
    };
    jobs.create_job(with_token(token, create))
        .await
        .expect("it is good");
    let mut update = backup();
    update.backup_id = created.backup_id.clone();
    let update = UpdateBackupRequest {
        backup: Some(update),
        update_mask: Some(FieldMask {
            paths: vec![format!("{CANARY}.mask")],
        }),
        ..UpdateBackupRequest::default()
    };
    refused.extend(backups.update_backup(with_token(token, update)).await.err());
    let get = GetBackupRequest {
        project_id: "demo".into(),
        backup_id: format!("{CANARY}-id"),
    };
    refused.extend(backups.get_backup(with_token(token, get)).await.err());
    let list = ListBackupsRequest {
        project_id: "demo".into(),
        page_token: format!("{CANARY}-page"),
        filter: Some(BackupFilter {
            backup_name: format!("{CANARY}-name"),
            ..BackupFilter::default()
        }),
        ..ListBackupsRequest::default()
    };
    refused.extend(backups.list_backups(with_token(token, list)).await.err());
    assert_eq!(refused.len(), 3);
    for bad in [format!("{CANARY}-bad"), format!("{CANARY} {CANARY}")] {
        let list = with_token(&bad, ListBackupsRequest::default());
        let status = backups.list_backups(list).await.expect_err("nobody's");
        assert!(!format!("{status:?}").contains(CANARY), "{status:?}");
    }
    refused
}

/// Every file below a directory.
fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).expect("a directory");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths
        .flat_map(|path| {
            if path.is_dir() {
                files(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}

// The connection has to notice that the server ends while this thread waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_is_secret_is_logged_and_no_token_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let made = Command::new(env!("CARGO_BIN_EXE_icebox"))
        .args(["token", "new", "--role", "admin", "--user-id", "root"])
        .output()
        .unwrap();
    let token = String::from_utf8(made.stderr).unwrap().trim().to_owned();
    let tokens = dir.path().join("tokens.toml");
    fs::write(&tokens, &made.stdout).unwrap();
    let mut server = Server::start(dir.path(), &tokens);
    let address = format!("http://{}", server.address());
    let channel = Channel::from_shared(address)
        .unwrap()
        .connect()
        .await
        .unwrap();
    call(&channel, &token).await;
    drop(channel);
    let pid = rustix::process::Pid::from_child(&server.process);
    for shown in ["cmdline", "environ"] {
        let shown = fs::read(format!("/proc/{}/{shown}", server.process.id())).unwrap();
        assert!(!String::from_utf8_lossy(&shown).contains(&token));
    }
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(server.process.wait().unwrap().success());

    let logged = server.logged();
    // It did log everything it can, including what it has received.
    assert!(logged.contains("\"TRACE\"") && logged.lines().count() > 200);
    for line in logged.lines() {
        assert!(!line.contains(CANARY) && !line.contains(&token), "{line}");
    }
    for file in files(dir.path()) {
        let bytes = fs::read(&file).unwrap();
        let holds = bytes
            .windows(token.len())
            .any(|window| window == token.as_bytes());
        assert!(!holds, "{} has the token", file.display());
    }
}
