//! Promise: a watch sends what is stored, then every change to what it watches, in order and without a gap. It can be resumed after
//! any revision that it has sent, whatever was written in between. A slow reader delays nobody.

mod coming_and_going;

use std::time::Duration;

use crate::harness::{
    self, OTHER_PROJECT, PROJECT, backup, backup_with, job, job_update, reason_of,
};
use icebox::{
    Access, Error, Icebox, Limits, Listener, Options, Tokens,
    proto::{
        Backup, BackupFilter, Job, JobFilter, WatchBackupsRequest, WatchEvent, WatchJobsRequest,
        WatchJobsResponse, backup_service_client::BackupServiceClient,
        job_service_client::JobServiceClient,
    },
};
use tempfile::TempDir;
use tokio::{net::TcpListener, time::timeout};
use tonic::{Code, Request, Status, Streaming, transport::Channel};

struct Server {
    icebox: Icebox,
    channel: Channel,
    _dir: TempDir,
}

impl Server {
    async fn start(options: Options, bookmark_interval: Duration) -> Server {
        Server::start_for(options, bookmark_interval, Access::default()).await
    }

    async fn start_for(options: Options, bookmark_interval: Duration, access: Access) -> Server {
        let dir = tempfile::tempdir().expect("a directory");
        let icebox = Icebox::open(dir.path().join("icebox.db"), options).await;
        let icebox = icebox.expect("a store");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let mut limits = Limits::default();
        limits.bookmark_interval = bookmark_interval;
        drop(icebox.serve_those(Listener::from(listener).with_limits(limits), access));
        let endpoint = Channel::from_shared(format!("http://{address}")).expect("a URI");
        Server {
            icebox,
            channel: endpoint.connect().await.expect("it listens"),
            _dir: dir,
        }
    }

    async fn quiet() -> Server {
        Server::start(small(), Duration::from_secs(3600)).await
    }

    async fn watch(&self, request: WatchJobsRequest) -> Watch {
        Watch(self.try_watch(request).await.expect("a watch"))
    }

    async fn try_watch(
        &self,
        request: WatchJobsRequest,
    ) -> Result<Streaming<WatchJobsResponse>, Status> {
        let mut jobs = JobServiceClient::new(self.channel.clone());
        Ok(jobs.watch_jobs(request).await?.into_inner())
    }

    async fn create(&self, job: Job) -> Job {
        let created = self.icebox.jobs().create("", job).await;
        created.expect("a job").resource
    }

    async fn update(&self, job: Job, fields: &[&str]) -> Job {
        let update = self.icebox.jobs().update("", job);
        update.fields(fields.iter().copied()).await.expect("a job")
    }

    async fn delete(&self, job: &Job) {
        let delete = self.icebox.jobs().delete(PROJECT, &job.job_id);
        delete.await.expect("it is there");
    }
}

fn small() -> Options {
    Options {
        cache_bytes: 8 << 20,
        ..Options::default()
    }
}

fn of(project: &str) -> WatchJobsRequest {
    WatchJobsRequest {
        project_id: project.into(),
        ..WatchJobsRequest::default()
    }
}

struct Watch(Streaming<WatchJobsResponse>);

impl Watch {
    async fn try_next(&mut self) -> Result<(u64, WatchEvent<Job>), Status> {
        let next = timeout(Duration::from_secs(20), self.0.message());
        let said = next.await.expect("it says something")?;
        let said = said.expect("it goes on");
        let event = said.decoded().expect("a job").expect("something is said");
        Ok((said.revision, event))
    }

    async fn next(&mut self) -> (u64, WatchEvent<Job>) {
        self.try_next().await.expect("it goes on")
    }

    async fn is(&mut self, revision: u64, event: WatchEvent<Job>) {
        assert_eq!(self.next().await, (revision, event));
    }

    async fn says_nothing(&mut self) {
        let nothing = timeout(Duration::from_millis(50), self.0.message());
        assert!(nothing.await.is_err());
    }
}

fn put(job: &Job) -> WatchEvent<Job> {
    WatchEvent::Put(job.clone())
}

fn removed(job: &Job) -> WatchEvent<Job> {
    WatchEvent::Removed(job.job_id.clone())
}

fn of_client(description: &str, client_id: &str) -> Job {
    Job {
        client_id: client_id.into(),
        ..job(description)
    }
}

#[tokio::test]
async fn a_watch_says_what_is_stored_and_then_each_change() {
    let server = Server::quiet().await;
    let b = server.create(job("b")).await;
    let a = server.create(job("a")).await;
    let elsewhere = Job {
        project_id: OTHER_PROJECT.into(),
        ..job("c")
    };
    let elsewhere = server.create(elsewhere).await;
    let mut watch = server.watch(of(PROJECT)).await;
    // Until everything has been sent there is no revision to resume after.
    watch.is(0, put(&a)).await;
    watch.is(0, put(&b)).await;
    watch.is(3, WatchEvent::Synced).await;
    let mut renamed = job_update(&a.job_id);
    renamed.description = "z".into();
    let renamed = server.update(renamed, &["description"]).await;
    watch.is(4, put(&renamed)).await;
    let project = OTHER_PROJECT.to_owned();
    let other = server.icebox.jobs().delete(project, &elsewhere.job_id);
    other.await.unwrap();
    let started = server.icebox.jobs().start(PROJECT, &b.job_id).await;
    watch.is(6, put(&started.unwrap())).await;
    server.delete(&b).await;
    watch.is(7, removed(&b)).await;
    let again = server.create(Job { ..b.clone() }).await;
    watch.is(8, put(&again)).await;
    watch.says_nothing().await;
    // All projects, and backups besides.
    let mut all = server.watch(of("-")).await;
    all.is(0, put(&again)).await;
    all.is(0, put(&renamed)).await;
    all.is(8, WatchEvent::Synced).await;
    let kept = server.icebox.backups().create("", backup("kept")).await;
    let kept = kept.unwrap().resource;
    let mut backups = BackupServiceClient::new(server.channel.clone());
    let request = WatchBackupsRequest {
        project_id: PROJECT.into(),
        ..WatchBackupsRequest::default()
    };
    let mut backups = backups.watch_backups(request).await.unwrap().into_inner();
    let said = backups.message().await.unwrap().unwrap();
    assert_eq!(said.decoded().unwrap(), Some(WatchEvent::Put(kept)));
    let said = backups.message().await.unwrap().unwrap();
    assert_eq!(
        (said.revision, said.decoded().unwrap()),
        (9, Some(WatchEvent::Synced))
    );
    all.says_nothing().await;
}

#[tokio::test]
async fn what_no_longer_matches_is_removed_and_what_never_did_is_not_mentioned() {
    let server = Server::quiet().await;
    let mine = server.create(of_client("mine", "node1")).await;
    let other = server.create(of_client("other", "node2")).await;
    let request = WatchJobsRequest {
        filter: Some(JobFilter {
            client_id: "node1".into(),
            ..JobFilter::default()
        }),
        ..of(PROJECT)
    };
    let mut watch = server.watch(request.clone()).await;
    watch.is(0, put(&mine)).await;
    watch.is(2, WatchEvent::Synced).await;
    // The job goes to another client, is changed there, and is deleted. Another one comes.
    let given = Job {
        client_id: "node2".into(),
        ..job_update(&mine.job_id)
    };
    server.update(given, &["client_id"]).await;
    server
        .icebox
        .jobs()
        .start(PROJECT, &mine.job_id)
        .await
        .unwrap();
    server.delete(&mine).await;
    let taken = Job {
        client_id: "node1".into(),
        description: "taken".into(),
        ..job_update(&other.job_id)
    };
    let taken = server.update(taken, &["client_id", "description"]).await;
    server.delete(&taken).await;
    let expected = [(3, removed(&mine)), (6, put(&taken)), (7, removed(&taken))];
    for (revision, event) in &expected {
        watch.is(*revision, event.clone()).await;
    }
    watch.says_nothing().await;
    // A watch that is resumed after any of these sends the rest.
    for after in 2..=7 {
        let mut resumed = server
            .watch(WatchJobsRequest {
                after_revision: after,
                ..request.clone()
            })
            .await;
        for (revision, event) in expected.iter().filter(|(revision, _)| *revision > after) {
            resumed.is(*revision, event.clone()).await;
        }
        resumed.is(7, WatchEvent::Synced).await;
        resumed.says_nothing().await;
    }
    // By names, to which the range of a list is narrowed.
    let backups = server.icebox.backups();
    let db = backups.create("", backup("db-1")).await.unwrap().resource;
    backups.create("", backup("etc")).await.unwrap();
    let filter = BackupFilter {
        backup_name_prefix: "db-".into(),
        ..BackupFilter::default()
    };
    let mut watching = backups.watch(PROJECT).filter(filter).await.unwrap();
    assert_eq!(watching.next().await, Ok(WatchEvent::Put(db.clone())));
    assert_eq!(watching.revision(), 0);
    assert_eq!(watching.next().await, Ok(WatchEvent::Synced));
    assert_eq!(watching.revision(), 9);
    backups.create("", backup("var")).await.unwrap();
    let other = backup_with("db-2", |backup, _| backup.project_id = OTHER_PROJECT.into());
    backups.create("", other).await.unwrap();
    backups.delete(PROJECT, &db.backup_id).await.unwrap();
    let gone: WatchEvent<Backup> = WatchEvent::Removed(db.backup_id);
    assert_eq!(watching.next().await, Ok(gone));
    assert_eq!(watching.revision(), 12);
}

#[tokio::test]
async fn bad_watches_are_refused_and_say_why() {
    let server = Server::quiet().await;
    server.create(job("a")).await;
    let refused = |request| async { server.try_watch(request).await.unwrap_err() };
    let request = WatchJobsRequest {
        filter: Some(JobFilter {
            status: "asleep".into(),
            ..JobFilter::default()
        }),
        ..of("no project")
    };
    let status = refused(request).await;
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(
        harness::bad_fields(&status),
        ["project_id", "filter.status"]
    );
    let status = refused(WatchJobsRequest {
        after_revision: 2,
        ..of(PROJECT)
    })
    .await;
    assert_eq!(status.code(), Code::OutOfRange);
    assert_eq!(reason_of(&status), "REVISION_AHEAD");
}

#[tokio::test]
async fn a_watch_says_where_it_is_though_nothing_that_it_watches_happens() {
    let server = Server::start(small(), Duration::from_millis(20)).await;
    let mut watch = server.watch(of(OTHER_PROJECT)).await;
    watch.is(0, WatchEvent::Synced).await;
    watch.is(0, WatchEvent::Synced).await;
    server.create(job("a")).await;
    loop {
        let (revision, event) = watch.next().await;
        assert_eq!(event, WatchEvent::Synced);
        if revision == 1 {
            break;
        }
    }
}

#[tokio::test]
async fn what_the_history_has_let_go_of_is_told() {
    let options = Options {
        journal_keep_bytes: 0,
        journal_keep_changes: 1,
        ..small()
    };
    let server = Server::start(options, Duration::from_secs(3600)).await;
    for n in 0..20 {
        server.create(job(&format!("job {n}"))).await;
    }
    // The file is written anew once there is much more history than there are records.
    let mut large = job("large");
    large.job_actions[0]
        .freezer_action
        .as_mut()
        .unwrap()
        .log_file = "x".repeat(4000);
    large.job_actions = vec![large.job_actions[0].clone(); 14];
    let large = server.create(large).await;
    let status = loop {
        for n in 0..500 {
            let mut update = job_update(&large.job_id);
            update.session_tag = n;
            server.update(update, &["session_tag"]).await;
        }
        let mut watch = server
            .watch(WatchJobsRequest {
                after_revision: 1,
                ..of(PROJECT)
            })
            .await;
        match watch.try_next().await {
            Ok(_) => {}
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::OutOfRange);
    assert_eq!(reason_of(&status), "REVISION_COMPACTED");
    // After a new read everything is there.
    let mut watch = server.watch(of(PROJECT)).await;
    let (mut stored, revision) = (0, server.icebox.revision());
    loop {
        match watch.next().await {
            (0, WatchEvent::Put(_)) => stored += 1,
            (at, event) => {
                assert_eq!((at, event), (revision, WatchEvent::Synced));
                break;
            }
        }
    }
    assert_eq!(stored, 21);
}

#[tokio::test]
async fn a_watch_ends_when_its_token_is_gone_or_has_expired() {
    // The token `test`.
    const HASH: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    let tokens = |rest: &str| {
        let entry = format!("[[token]]\nsha256 = \"{HASH}\"\nuser_id = \"me\"\n{rest}");
        Tokens::parse(&entry).expect("tokens")
    };
    let member = || tokens("role = \"member\"\nprojects = [\"demo\"]\n");
    let access = Access::with_tokens(member());
    let server = Server::start_for(small(), Duration::from_secs(3600), access.clone()).await;
    let watch = async || {
        let mut request = Request::new(of(PROJECT));
        let bearer = "Bearer test".parse().expect("it is ASCII");
        request.metadata_mut().insert("authorization", bearer);
        let mut jobs = JobServiceClient::new(server.channel.clone());
        Watch(jobs.watch_jobs(request).await.unwrap().into_inner())
    };
    let ends = async |mut watch: Watch| {
        let status = watch.try_next().await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated);
        assert_eq!(reason_of(&status), "BAD_TOKEN");
    };
    let mut gone = watch().await;
    gone.is(0, WatchEvent::Synced).await;
    // A watch whose token is unchanged goes on.
    access.replace_tokens(member());
    gone.says_nothing().await;
    access.replace_tokens(tokens("role = \"member\"\nprojects = [\"other\"]\n"));
    ends(gone).await;
    let soon = std::time::SystemTime::now() + Duration::from_secs(2);
    let soon = jiff::Timestamp::try_from(soon).expect("a time");
    access.replace_tokens(tokens(&format!("role = \"admin\"\nexpires = {soon}\n")));
    let mut expires = watch().await;
    expires.is(0, WatchEvent::Synced).await;
    ends(expires).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_end_with_the_server_and_say_so() {
    let server = Server::quiet().await;
    let mut watch = server.watch(of(PROJECT)).await;
    watch.is(0, WatchEvent::Synced).await;
    let began = std::time::Instant::now();
    let closing = tokio::spawn(server.icebox.close());
    let status = watch.try_next().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(reason_of(&status), "SHUTTING_DOWN");
    closing.await.unwrap().unwrap();
    // It ends at once, and not after the time that calls under way have.
    assert!(began.elapsed() < Duration::from_secs(6), "{began:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_holds_nobody_up_and_catches_up_from_the_history() {
    let server = Server::quiet().await;
    let mut slow = server.watch(of(PROJECT)).await;
    let mut large = job("large");
    large.job_actions[0]
        .freezer_action
        .as_mut()
        .unwrap()
        .log_file = "x".repeat(4000);
    let large = server.create(large).await;
    // 12 MB, of which 4 are in memory, and less than one on its way.
    for n in 1..=3000 {
        let mut update = job_update(&large.job_id);
        update.session_tag = n;
        server.update(update, &["session_tag"]).await;
    }
    let mut last = 0;
    while last < 3001 {
        let (revision, event) = slow.next().await;
        if event == WatchEvent::Synced {
            assert_eq!(last, 0);
            continue;
        }
        assert_eq!(revision, last + 1);
        last = revision;
    }
}

#[tokio::test]
async fn a_program_that_embeds_icebox_watches_too() {
    let server = Server::quiet().await;
    let jobs = server.icebox.jobs();
    assert_eq!(
        jobs.watch(PROJECT).after(7).await.err(),
        Some(Error::Ahead { after: 7, head: 0 })
    );
    let mut watching = jobs.watch(PROJECT).await.unwrap();
    assert_eq!(watching.next().await, Ok(WatchEvent::Synced));
    let waiting = timeout(Duration::from_millis(20), watching.next());
    assert!(waiting.await.is_err());
    let made = server.create(job("a")).await;
    assert_eq!(watching.next().await, Ok(WatchEvent::Put(made)));
}
