//! Promise: backups, jobs, stored actions and sessions are created, shown, changed and deleted in the same way.

use std::fmt::Debug;

use crate::harness::{
    OTHER_PROJECT, PROJECT, Server, backup, bad_fields, is_new_id, job, mask_of, reason_of,
};
use icebox::proto::{
    Action, Backup, CreateActionRequest, CreateBackupRequest, CreateJobRequest,
    CreateSessionRequest, DeleteActionRequest, DeleteBackupRequest, DeleteJobRequest,
    DeleteSessionRequest, FreezerAction, GetActionRequest, GetBackupRequest, GetJobRequest,
    GetSessionRequest, Job, ListActionsRequest, ListBackupsRequest, ListJobsRequest,
    ListSessionsRequest, Session, UpdateActionRequest, UpdateBackupRequest, UpdateJobRequest,
    UpdateSessionRequest, action_service_client::ActionServiceClient,
    backup_service_client::BackupServiceClient, job_service_client::JobServiceClient,
    session_service_client::SessionServiceClient,
};
use prost_types::Timestamp;
use tonic::{Code, Status};
use tonic_types::StatusExt;

const ID: &str = "0123456789abcdef0123456789abcdef";
/// A value for fields that only the server sets. It never sets this one.
const LONG_AGO: Timestamp = Timestamp {
    seconds: 1,
    nanos: 0,
};
const IMPOSSIBLE_REVISION: u64 = 77_777;

/// A kind of resource, with the calls of its service.
trait Kind: Clone + Debug + PartialEq {
    /// Its noun, which is also the field that holds it.
    const FIELD: &'static str;
    /// A field that may change and is not part of the name.
    const OPEN_FIELD: &'static str;

    /// One that breaks no rule, without a project.
    fn valid() -> Self;
    fn id(&self) -> &str;
    fn revision(&self) -> u64;
    fn times(&self) -> [Option<Timestamp>; 2];
    fn project(&self) -> &str;
    fn with_id(self, id: &str) -> Self;
    fn with_project(self, project: &str) -> Self;
    /// With the fields of one that somebody stored long ago.
    fn stamped(self) -> Self;
    fn user(&self) -> &str;
    /// With the n-th value in the open field.
    fn changed(self, n: usize) -> Self;

    async fn create(server: &Server, project: &str, one: Self) -> Result<Self, Status>;
    async fn get(server: &Server, project: &str, id: &str) -> Result<Self, Status>;
    async fn update(
        server: &Server,
        one: Self,
        mask: &[&str],
        expected_revision: Option<u64>,
    ) -> Result<Self, Status>;
    async fn delete(
        server: &Server,
        project: &str,
        id: &str,
        expected_revision: Option<u64>,
    ) -> Result<(), Status>;
    async fn count(server: &Server, project: &str) -> usize;
}

macro_rules! kind {
    (
        $kind:ident($field:ident, $id:ident), $client:ident,
        $create:ident($create_request:ident), $get:ident($get_request:ident),
        $update:ident($update_request:ident), $delete:ident($delete_request:ident),
        $list:ident($list_request:ident),
        valid: $valid:expr, open: $open:literal, changed: |$one:ident, $n:ident| $changed:expr
    ) => {
        impl Kind for $kind {
            const FIELD: &'static str = stringify!($field);
            const OPEN_FIELD: &'static str = $open;

            fn valid() -> Self {
                $kind {
                    project_id: String::new(),
                    ..$valid
                }
            }

            fn id(&self) -> &str {
                &self.$id
            }

            fn revision(&self) -> u64 {
                self.revision
            }

            fn times(&self) -> [Option<Timestamp>; 2] {
                [self.create_time, self.update_time]
            }

            fn project(&self) -> &str {
                &self.project_id
            }

            fn with_id(mut self, id: &str) -> Self {
                id.clone_into(&mut self.$id);
                self
            }

            fn with_project(mut self, project: &str) -> Self {
                project.clone_into(&mut self.project_id);
                self
            }

            fn stamped(mut self) -> Self {
                self.create_time = Some(LONG_AGO);
                self.update_time = Some(LONG_AGO);
                self.revision = IMPOSSIBLE_REVISION;
                self.user_id = "somebody".into();
                self
            }

            fn user(&self) -> &str {
                &self.user_id
            }

            fn changed(self, $n: usize) -> Self {
                let mut $one = self;
                $changed;
                $one
            }

            async fn create(server: &Server, project: &str, one: Self) -> Result<Self, Status> {
                let request = $create_request {
                    project_id: project.into(),
                    $field: Some(one),
                };
                let created = $client::new(server.channel.clone())
                    .$create(request)
                    .await?;
                Ok(created.into_inner().decoded().expect("what was created"))
            }

            async fn get(server: &Server, project: &str, id: &str) -> Result<Self, Status> {
                let request = $get_request {
                    project_id: project.into(),
                    $id: id.into(),
                };
                let found = $client::new(server.channel.clone()).$get(request).await?;
                Ok(found.into_inner().decoded().expect("what was stored"))
            }

            async fn update(
                server: &Server,
                one: Self,
                mask: &[&str],
                expected_revision: Option<u64>,
            ) -> Result<Self, Status> {
                let request = $update_request {
                    project_id: String::new(),
                    $field: Some(one),
                    update_mask: Some(mask_of(mask)),
                    expected_revision,
                };
                let updated = $client::new(server.channel.clone())
                    .$update(request)
                    .await?;
                Ok(updated.into_inner().$field.expect("what was updated"))
            }

            async fn delete(
                server: &Server,
                project: &str,
                id: &str,
                expected_revision: Option<u64>,
            ) -> Result<(), Status> {
                let mut request = $delete_request::default();
                request.project_id = project.into();
                request.$id = id.into();
                request.expected_revision = expected_revision;
                let mut client = $client::new(server.channel.clone());
                client.$delete(request).await.map(drop)
            }

            async fn count(server: &Server, project: &str) -> usize {
                let request = $list_request {
                    project_id: project.into(),
                    ..Default::default()
                };
                let listed = $client::new(server.channel.clone()).$list(request).await;
                listed.expect("a list").into_inner().count()
            }
        }
    };
}

kind!(
    Backup(backup, backup_id), BackupServiceClient,
    create_backup(CreateBackupRequest), get_backup(GetBackupRequest),
    update_backup(UpdateBackupRequest), delete_backup(DeleteBackupRequest),
    list_backups(ListBackupsRequest),
    valid: backup("a"), open: "status",
    changed: |one, n| one.status = ["error", "deleting", "deleted"][n].into()
);
kind!(
    Job(job, job_id), JobServiceClient,
    create_job(CreateJobRequest), get_job(GetJobRequest),
    update_job(UpdateJobRequest), delete_job(DeleteJobRequest),
    list_jobs(ListJobsRequest),
    valid: job("a"), open: "client_id",
    changed: |one, n| one.client_id = format!("node{n}")
);
kind!(
    Action(action, action_id), ActionServiceClient,
    create_action(CreateActionRequest), get_action(GetActionRequest),
    update_action(UpdateActionRequest), delete_action(DeleteActionRequest),
    list_actions(ListActionsRequest),
    valid: Action {
        freezer_action: Some(FreezerAction {
            action: "exec".into(),
            ..FreezerAction::default()
        }),
        ..Action::default()
    },
    open: "max_retries",
    changed: |one, n| one.max_retries = i32::try_from(n).ok()
);
kind!(
    Session(session, session_id), SessionServiceClient,
    create_session(CreateSessionRequest), get_session(GetSessionRequest),
    update_session(UpdateSessionRequest), delete_session(DeleteSessionRequest),
    list_sessions(ListSessionsRequest),
    valid: Session {
        description: "a".into(),
        ..Session::default()
    },
    open: "hold_off",
    changed: |one, n| one.hold_off = i32::try_from(n).ok()
);

/// Makes a test for each kind from a promise.
macro_rules! promises {
    ($($promise:ident),* $(,)?) => {
        $(
            mod $promise {
                use super::*;

                #[tokio::test]
                async fn of_backups() {
                    super::$promise::<Backup>().await;
                }

                #[tokio::test]
                async fn of_jobs() {
                    super::$promise::<Job>().await;
                }

                #[tokio::test]
                async fn of_actions() {
                    super::$promise::<Action>().await;
                }

                #[tokio::test]
                async fn of_sessions() {
                    super::$promise::<Session>().await;
                }
            }
        )*
    };
}

promises!(
    a_create_without_an_id_gets_a_time_ordered_one,
    an_identical_create_returns_what_is_stored_and_a_different_one_is_refused,
    a_create_cannot_set_what_the_server_sets,
    the_project_may_stand_in_the_request_or_the_resource_and_must_agree,
    another_projects_resource_is_not_found_and_not_touched,
    two_projects_may_use_the_same_id,
    a_stale_update_or_delete_changes_nothing,
    an_update_that_changes_nothing_takes_no_revision,
    a_deleted_resource_is_gone_and_its_id_free,
);

async fn stored<K: Kind>(server: &Server) -> K {
    let created = K::create(server, PROJECT, K::valid()).await;
    created.expect("it keeps every rule")
}

fn assert_refused<T: Debug>(refused: Result<T, Status>, code: Code, reason: &str) -> Status {
    let status = refused.expect_err("it is refused");
    assert_eq!((status.code(), reason_of(&status).as_str()), (code, reason));
    status
}

fn assert_about(status: &Status, id: &str) {
    let about = status
        .get_details_resource_info()
        .expect("what it is about");
    assert_eq!(about.resource_name, id);
}

async fn a_create_without_an_id_gets_a_time_ordered_one<K: Kind>() {
    let server = Server::start().await;
    let (first, second): (K, K) = (stored(&server).await, stored(&server).await);
    assert!(is_new_id(first.id()), "{}", first.id());
    assert!(first.id() < second.id());
    let [created, updated] = first.times();
    assert!(created.is_some() && created == updated);
    assert_eq!(
        K::get(&server, PROJECT, first.id())
            .await
            .expect("it is done"),
        first
    );
}

async fn an_identical_create_returns_what_is_stored_and_a_different_one_is_refused<K: Kind>() {
    let server = Server::start().await;
    let one = K::valid().with_id(ID);
    let stored = K::create(&server, PROJECT, one.clone())
        .await
        .expect("it is done");
    let again = K::create(&server, PROJECT, one.clone()).await;
    assert_eq!(again.expect("it is done"), stored);
    let different = K::create(&server, PROJECT, one.changed(0)).await;
    let status = assert_refused(different, Code::AlreadyExists, "ALREADY_EXISTS");
    assert_about(&status, ID);
    assert_eq!(
        K::get(&server, PROJECT, ID).await.expect("it is done"),
        stored
    );
    assert_eq!(server.revision().await, stored.revision());
}

async fn a_create_cannot_set_what_the_server_sets<K: Kind>() {
    let server = Server::start().await;
    let stored = K::create(&server, PROJECT, K::valid().stamped())
        .await
        .expect("it is done");
    for time in stored.times() {
        assert!(time.expect("a time").seconds > LONG_AGO.seconds);
    }
    assert_ne!(stored.revision(), IMPOSSIBLE_REVISION);
    // Everybody who can connect is an administrator here, and stores what others have made.
    assert_eq!(stored.user(), "somebody");
}

async fn the_project_may_stand_in_the_request_or_the_resource_and_must_agree<K: Kind>() {
    let server = Server::start().await;
    for (outer, inner, accepted) in [
        (PROJECT, "", true),
        ("", PROJECT, true),
        (PROJECT, PROJECT, true),
        (PROJECT, OTHER_PROJECT, false),
    ] {
        match K::create(&server, outer, K::valid().with_project(inner)).await {
            Ok(created) => {
                assert!(accepted);
                assert_eq!(created.project(), PROJECT);
            }
            Err(status) => {
                assert!(!accepted, "{outer:?} {inner:?}: {status}");
                assert_eq!(status.code(), Code::InvalidArgument);
                assert_eq!(bad_fields(&status), [format!("{}.project_id", K::FIELD)]);
            }
        }
    }
}

async fn another_projects_resource_is_not_found_and_not_touched<K: Kind>() {
    let server = Server::start().await;
    let stored: K = stored(&server).await;
    let id = stored.id();
    let update = stored.clone().changed(0).with_project(OTHER_PROJECT);
    for refused in [
        K::get(&server, OTHER_PROJECT, id).await.map(drop),
        K::update(&server, update, &[K::OPEN_FIELD], None)
            .await
            .map(drop),
        K::delete(&server, OTHER_PROJECT, id, None).await,
    ] {
        assert_about(&assert_refused(refused, Code::NotFound, "NOT_FOUND"), id);
    }
    assert_eq!(
        K::get(&server, PROJECT, id).await.expect("it is done"),
        stored
    );
    assert_eq!(server.revision().await, stored.revision());
}

async fn two_projects_may_use_the_same_id<K: Kind>() {
    let server = Server::start().await;
    let mine = K::create(&server, PROJECT, K::valid().with_id(ID))
        .await
        .expect("it is done");
    let theirs = K::valid().with_id(ID).changed(0);
    let theirs = K::create(&server, OTHER_PROJECT, theirs)
        .await
        .expect("it is done");
    assert_eq!(
        K::get(&server, PROJECT, ID).await.expect("it is done"),
        mine
    );
    K::delete(&server, PROJECT, ID, None)
        .await
        .expect("it is done");
    assert_eq!(
        K::get(&server, OTHER_PROJECT, ID)
            .await
            .expect("it is done"),
        theirs
    );
}

async fn a_stale_update_or_delete_changes_nothing<K: Kind>() {
    let server = Server::start().await;
    let stored: K = stored(&server).await;
    let (id, mask) = (stored.id().to_owned(), [K::OPEN_FIELD]);
    let update = async |n, expected| {
        K::update(&server, stored.clone().changed(n), &mask, Some(expected)).await
    };
    let updated = update(0, stored.revision()).await.expect("it is done");
    for expected in [stored.revision(), 0, u64::MAX] {
        for refused in [
            update(1, expected).await.map(drop),
            K::delete(&server, PROJECT, &id, Some(expected)).await,
        ] {
            assert_about(
                &assert_refused(refused, Code::Aborted, "STALE_REVISION"),
                &id,
            );
        }
    }
    assert_eq!(
        K::get(&server, PROJECT, &id).await.expect("it is done"),
        updated
    );
    assert_eq!(server.revision().await, updated.revision());
    K::delete(&server, PROJECT, &id, Some(updated.revision()))
        .await
        .expect("it is done");
}

async fn an_update_that_changes_nothing_takes_no_revision<K: Kind>() {
    let server = Server::start().await;
    let stored: K = stored(&server).await;
    for mask in [&[][..], &[K::OPEN_FIELD], &["*"]] {
        let updated = K::update(&server, stored.clone(), mask, None).await;
        assert_eq!(updated.expect("it is done"), stored, "{mask:?}");
    }
    assert_eq!(server.revision().await, stored.revision());
}

async fn a_deleted_resource_is_gone_and_its_id_free<K: Kind>() {
    let server = Server::start().await;
    let first = K::create(&server, PROJECT, K::valid().with_id(ID))
        .await
        .expect("it is done");
    K::delete(&server, PROJECT, ID, None)
        .await
        .expect("it is done");
    for refused in [
        K::get(&server, PROJECT, ID).await.map(drop),
        K::delete(&server, PROJECT, ID, None).await,
    ] {
        assert_refused(refused, Code::NotFound, "NOT_FOUND");
    }
    assert_eq!(K::count(&server, PROJECT).await, 0);
    let other = K::valid().with_id(ID).changed(0);
    let other = K::create(&server, PROJECT, other)
        .await
        .expect("it is done");
    assert!(other.revision() > first.revision());
    assert_eq!(K::count(&server, PROJECT).await, 1);
}
