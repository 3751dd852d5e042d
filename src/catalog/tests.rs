//! The catalog compared with a model: jobs of two projects, written, read by id, listed, watched, followed and audited.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use proptest::{prelude::*, sample};
use tokio::runtime;

use super::{page::takes_what_comes, *};
use crate::{
    proto::{
        ChangeOperation, FreezerAction, JobAction, JobFilter, Page, UserCredentials, WatchEvent,
    },
    resource::Kind,
    store::Options,
};

const PROJECTS: [&str; 2] = ["a", "ab"];
const CLIENTS: [&str; 3] = ["", "web", "db"];

/// What is stored: by project, name and id, as lists are sorted.
type Model = BTreeMap<(String, String, String), Job>;

/// A change in the audit log: what was done, and the project, the name and the id of the job.
type Logged = (ChangeOperation, (String, String, String));

#[derive(Clone, Debug)]
enum Op {
    Create {
        project: &'static str,
        id: u8,
        name: String,
        client: &'static str,
        has_secret: bool,
    },
    Rename(sample::Index, String),
    Assign(sample::Index, &'static str),
    SetSecret(sample::Index, bool),
    Delete(sample::Index),
    Walk {
        scope: Scope,
        limit: usize,
        by_token: bool,
        client: &'static str,
        prefix: String,
        skip: usize,
        with_secrets: bool,
    },
}

fn name() -> impl Strategy<Value = String> {
    "[a-c]{1,3}"
}

fn scope() -> impl Strategy<Value = Scope> {
    prop_oneof![
        3 => sample::select(&PROJECTS[..]).prop_map(|project| Scope::Project(project_id(project))),
        1 => Just(Scope::AllProjects),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let project = || sample::select(&PROJECTS[..]);
    let client = || sample::select(&CLIENTS[..]);
    prop_oneof![
        6 => (project(), 0..40u8, name(), client(), any::<bool>()).prop_map(
            |(project, id, name, client, has_secret)| Op::Create { project, id, name, client, has_secret }
        ),
        1 => (any::<sample::Index>(), name()).prop_map(|(job, name)| Op::Rename(job, name)),
        1 => (any::<sample::Index>(), client()).prop_map(|(job, client)| Op::Assign(job, client)),
        1 => (any::<sample::Index>(), any::<bool>()).prop_map(|(job, has)| Op::SetSecret(job, has)),
        2 => any::<sample::Index>().prop_map(Op::Delete),
        3 => (scope(), 1..6usize, any::<bool>(), client(), "[a-c]{0,1}", 0..3usize, any::<bool>()).prop_map(
            |(scope, limit, by_token, client, prefix, skip, with_secrets)| {
                Op::Walk { scope, limit, by_token, client, prefix, skip, with_secrets }
            }
        ),
    ]
}

pub(super) fn project_id(project: &str) -> ProjectId {
    ProjectId::parse("project_id", project).unwrap()
}

pub(super) fn resource_id(id: &str) -> ResourceId {
    ResourceId::parse("id", id).unwrap()
}

fn secret(has: bool) -> Option<UserCredentials> {
    has.then(|| UserCredentials {
        trust_id: "trust".into(),
        trustor_user_id: "user".into(),
    })
}

pub(super) fn job(project: &str, id: u8, name: &str, client: &str) -> Job {
    let action = FreezerAction {
        action: "backup".into(),
        ..FreezerAction::default()
    };
    Job {
        job_id: format!("{id:02x}").repeat(16),
        project_id: project.into(),
        description: name.into(),
        client_id: client.into(),
        job_actions: vec![JobAction {
            freezer_action: Some(action),
            ..JobAction::default()
        }],
        ..Job::default()
    }
}

/// All that was ever committed, in order.
pub(super) async fn all_changes(catalog: &Catalog) -> Vec<Change> {
    let mut changes = catalog.changes(0);
    let mut all = Vec::new();
    while changes.after() < catalog.revision() {
        all.extend(changes.next().await.unwrap());
    }
    all
}

fn key_of(job: &Job) -> (String, String, String) {
    let (project, name) = (job.project_id.clone(), job.description.clone());
    (project, name, job.job_id.clone())
}

/// Applies what a watch has reported.
fn apply(event: WatchEvent<Job>, jobs: &mut BTreeMap<String, Job>) {
    match event {
        WatchEvent::Put(job) => drop(jobs.insert(job.job_id.clone(), job)),
        WatchEvent::Removed(id) => drop(jobs.remove(&id)),
        WatchEvent::Synced => {}
    }
}

/// A catalog beside its model.
pub(super) struct Tested {
    pub(super) catalog: Catalog,
    model: Model,
    log: Vec<Logged>,
    author: Author,
}

impl Tested {
    pub(super) fn open(dir: &tempfile::TempDir) -> Tested {
        let options = Options::default();
        let store = Store::open_unless(Arc::default(), &dir.path().join("store"), &options);
        Tested {
            catalog: Catalog::new(store.unwrap()),
            model: Model::new(),
            log: Vec::new(),
            author: Author {
                caller: "somebody".into(),
                peer: "somewhere".into(),
            },
        }
    }

    async fn run(&mut self, op: Op) {
        match op {
            Op::Create {
                project,
                id,
                name,
                client,
                has_secret,
            } => {
                let mut job = job(project, id, &name, client);
                job.user_credentials = secret(has_secret);
                self.create(job).await;
            }
            Op::Rename(which, name) => {
                let rename = move |job: &mut Job| name.clone_into(&mut job.description);
                self.change(which, rename).await;
            }
            Op::Assign(which, client) => {
                let assign = move |job: &mut Job| client.clone_into(&mut job.client_id);
                self.change(which, assign).await;
            }
            Op::SetSecret(which, has) => {
                let set = move |job: &mut Job| job.user_credentials = secret(has);
                self.change(which, set).await;
            }
            Op::Delete(which) => self.delete(which).await,
            Op::Walk {
                scope,
                limit,
                by_token,
                client,
                prefix,
                skip,
                with_secrets,
            } => {
                let query = Query {
                    scope,
                    limit,
                    after: After::Nothing,
                    filter: JobFilter {
                        client_id: client.into(),
                        description_prefix: prefix,
                        ..JobFilter::default()
                    },
                    only: None,
                    skip,
                    with_secrets,
                };
                self.walk(query, by_token).await;
            }
        }
    }

    pub(super) async fn create(&mut self, job: Job) {
        let new = Valid::new(&job.project_id, Some(job.clone())).unwrap();
        let created = self.catalog.create(Some(&self.author), new).await;
        let mut all = self.model.values();
        let same_id = all.find(|it| (&it.project_id, &it.job_id) == (&job.project_id, &job.job_id));
        let is_equal = same_id.is_some_and(|stored| {
            let mut unstamped = stored.clone();
            unstamped.set_stamps(Stamps::default());
            unstamped == job
        });
        match (same_id, created) {
            (None, Ok(made)) => {
                assert!(made.is_new);
                self.log.push((ChangeOperation::Created, key_of(&job)));
                self.model.insert(key_of(&job), *made.resource);
            }
            (Some(stored), Ok(made)) => {
                assert!(is_equal && !made.is_new);
                assert_eq!(&*made.resource, stored);
            }
            (Some(_), Err(Error::AlreadyExists { id, .. })) => {
                assert!(!is_equal);
                assert_eq!(id, job.job_id);
            }
            (_, created) => panic!("{:?}", created.map(|made| made.resource)),
        }
    }

    /// One of the jobs, if there are any.
    fn one(&self, which: sample::Index) -> Option<Job> {
        let jobs: Vec<_> = self.model.values().collect();
        (!jobs.is_empty()).then(|| jobs[which.index(jobs.len())].clone())
    }

    async fn change(
        &mut self,
        which: sample::Index,
        change: impl Fn(&mut Job) + Clone + Send + Sync + 'static,
    ) {
        let Some(job) = self.one(which) else {
            return;
        };
        let (project, id) = (project_id(&job.project_id), resource_id(&job.job_id));
        let update = move |job: &Job| {
            let mut changed = job.clone();
            change(&mut changed);
            Ok(changed)
        };
        let mut expected = update(&job).unwrap();
        let stale = job.revision + 1;
        let refused = self.catalog.update(
            None,
            project.clone(),
            id.clone(),
            Some(stale),
            update.clone(),
        );
        let refused = refused.await.unwrap_err();
        assert!(matches!(refused, Error::Stale { current, .. } if current == job.revision));
        let before = self.catalog.revision();
        let updated =
            self.catalog
                .update(Some(&self.author), project, id, Some(job.revision), update);
        let (stored, is_changed) = updated.await.unwrap();
        assert_eq!(is_changed, expected != job);
        assert_eq!(self.catalog.revision() > before, is_changed);
        expected.set_stamps(Stamps {
            create_time: job.create_time,
            ..stored.stamps()
        });
        assert_eq!(stored, expected);
        if is_changed {
            self.log.push((ChangeOperation::Updated, key_of(&stored)));
        }
        self.model.remove(&key_of(&job));
        self.model.insert(key_of(&stored), stored);
    }

    async fn delete(&mut self, which: sample::Index) {
        let Some(job) = self.one(which) else {
            return;
        };
        let (project, id) = (project_id(&job.project_id), resource_id(&job.job_id));
        let delete = |revision| {
            let (project, id) = (project.clone(), id.clone());
            let author = Some(&self.author);
            self.catalog.delete::<Job>(author, project, id, revision)
        };
        let refused = delete(Some(job.revision + 1)).await.unwrap_err();
        assert!(matches!(refused, Error::Stale { .. }));
        delete(Some(job.revision)).await.unwrap();
        let refused = delete(None).await.unwrap_err();
        assert!(matches!(refused, Error::NotFound { .. }));
        self.log.push((ChangeOperation::Deleted, key_of(&job)));
        self.model.remove(&key_of(&job));
    }

    /// Reads all pages of a list, and compares them with the model.
    async fn walk(&self, mut query: Query<Job>, by_token: bool) {
        let wanted = |job: &&Job| {
            let filter = &query.filter;
            let is_of_scope = match &query.scope {
                Scope::Project(project) => project.as_str() == job.project_id,
                Scope::AllProjects => true,
            };
            let is_of_client = filter.client_id.is_empty() || filter.client_id == job.client_id;
            is_of_scope && is_of_client && job.description.starts_with(&filter.description_prefix)
        };
        let expected = self.model.values().filter(wanted).skip(query.skip);
        let shown = |job: &Job| Job {
            user_credentials: job.user_credentials.clone().filter(|_| query.with_secrets),
            ..job.clone()
        };
        let mut expected = expected.map(shown).collect::<Vec<_>>().into_iter();
        loop {
            let page: Page<Job> = self.catalog.list(query.clone()).await.unwrap();
            assert_eq!(page.revision, self.catalog.revision());
            let jobs = page.decoded().unwrap();
            let of_page: Vec<Job> = expected.by_ref().take(query.limit).collect();
            assert_eq!(jobs, of_page);
            let is_last = page.next_page_token.is_empty();
            if is_last || takes_what_comes(&query) {
                assert_eq!(is_last, expected.len() == 0);
            }
            if is_last {
                return;
            }
            query.skip = 0;
            query.after = if by_token {
                After::Token(page.next_page_token)
            } else {
                let id = resource_id(&jobs.last().unwrap().job_id);
                let named = self
                    .model
                    .values()
                    .filter(|job| job.job_id == id.to_string());
                if query.scope == Scope::AllProjects && named.count() > 1 {
                    let marked = Query {
                        after: After::Marker(id),
                        ..query.clone()
                    };
                    let refused = self.catalog.list(marked).await.unwrap_err().to_string();
                    assert!(refused.contains("use page_token"), "{refused}");
                    After::Token(page.next_page_token)
                } else {
                    After::Marker(id)
                }
            };
        }
    }

    async fn check(&self) {
        for job in self.model.values() {
            for with_secret in [false, true] {
                let (project, id) = (project_id(&job.project_id), resource_id(&job.job_id));
                let got = self.catalog.get::<Job>(project, id, with_secret).await;
                let secret = job.user_credentials.clone().filter(|_| with_secret);
                let expected = Job {
                    user_credentials: secret,
                    ..job.clone()
                };
                assert_eq!(got.unwrap().decoded().unwrap(), expected);
            }
        }
        let absent = self
            .catalog
            .get::<Job>(project_id("b"), ResourceId::new(), false);
        assert!(matches!(absent.await, Err(Error::NotFound { .. })));
        for (prefix, limit) in [("", 3), ("1", 100), ("0f", 100), ("0f0", 100), ("e", 100)] {
            let ids = self.catalog.ids_starting_with::<Job>(
                project_id(PROJECTS[0]),
                prefix.into(),
                limit,
            );
            let jobs = self
                .model
                .values()
                .filter(|job| job.project_id == PROJECTS[0]);
            let mut expected: Vec<_> = jobs.map(|job| job.job_id.clone()).collect();
            expected.retain(|id| id.starts_with(prefix));
            expected.sort();
            expected.truncate(limit);
            assert_eq!(ids.await.unwrap(), expected);
        }
        let status = self.catalog.status().await.unwrap();
        assert_eq!(status.counts.jobs, self.model.len() as u64);
        assert_eq!(status.revision, self.catalog.revision());
    }

    /// Reads the audit log in pages of three, and compares it with what was done.
    async fn check_log(&self, scope: &Scope, kind: Option<Kind>, resource_id: &str) {
        let wanted = |(_, (project, _, id)): &&Logged| {
            let is_of_scope = match scope {
                Scope::Project(wanted) => wanted.as_str() == project,
                Scope::AllProjects => true,
            };
            let is_of_kind = kind.is_none_or(|kind| kind == Job::KIND);
            is_of_scope && is_of_kind && (resource_id.is_empty() || resource_id == id)
        };
        let mut expected = self.log.iter().filter(wanted);
        let (mut after_revision, mut is_last) = (0, false);
        while !is_last {
            let query = AuditQuery {
                scope: scope.clone(),
                after_revision,
                limit: 3,
                kind,
                resource_id: resource_id.into(),
            };
            let page = self.catalog.audit(query).await.unwrap();
            assert!(page.changes.len() == 3 || page.is_last && page.changes.len() < 3);
            for change in page.changes {
                assert!(change.revision > after_revision);
                let (operation, (project, name, id)) = expected.next().unwrap();
                assert_eq!(change.operation(), *operation);
                let told = [&change.project_id, &change.name, &change.resource_id];
                assert_eq!(told, [project, name, id]);
                let (caller, peer) = (&*change.caller, &*change.peer);
                assert_eq!((caller, peer), ("somebody", "somewhere"));
            }
            (after_revision, is_last) = (page.next_after_revision, page.is_last);
        }
        assert_eq!(expected.next(), None);
    }

    /// Makes a model from all changes, and compares it.
    async fn check_changes(&self) {
        let mut jobs = BTreeMap::new();
        let mut last = 0;
        for Change { revision, changed } in all_changes(&self.catalog).await {
            assert!(revision > last);
            last = revision;
            match changed {
                Changed::Job(job) => {
                    assert_eq!(job.revision, revision);
                    jobs.insert((job.project_id.clone(), job.job_id.clone()), job);
                }
                Changed::JobDeleted { project_id, job_id } => {
                    assert!(jobs.remove(&(project_id, job_id)).is_some());
                }
                other => panic!("{other:?}"),
            }
        }
        let jobs = jobs.into_values().map(|job| (key_of(&job), job));
        assert_eq!(jobs.collect::<Model>(), self.model);
    }

    /// The jobs that a watch has reported, once it is in sync.
    async fn watched(
        watch: &mut Watch<Job>,
        mut jobs: BTreeMap<String, Job>,
    ) -> BTreeMap<String, Job> {
        loop {
            match watch.next().await.unwrap().decoded().unwrap().unwrap() {
                WatchEvent::Synced => return jobs,
                event => apply(event, &mut jobs),
            }
        }
    }

    /// Follows a watch in the background. Returns the jobs that it has reported so far.
    fn follow(
        mut watch: Watch<Job>,
        seen: BTreeMap<String, Job>,
    ) -> sync::watch::Receiver<BTreeMap<String, Job>> {
        let (jobs, follower) = sync::watch::channel(seen);
        tokio::spawn(async move {
            while let Ok(said) = watch.next().await {
                let event = said.decoded().unwrap().unwrap();
                jobs.send_modify(|jobs| apply(event, jobs));
            }
        });
        follower
    }

    fn watch(&self, client: &str, after_revision: u64) -> Result<Watch<Job>, Error> {
        self.catalog.watch(WatchQuery {
            scope: Scope::Project(project_id(PROJECTS[0])),
            filter: JobFilter {
                client_id: client.into(),
                ..JobFilter::default()
            },
            after_revision,
            with_secrets: true,
            bookmark_interval: Duration::from_secs(1000),
        })
    }

    fn of_client(&self, client: &str) -> BTreeMap<String, Job> {
        let jobs = self.model.values().filter(|job| {
            job.project_id == PROJECTS[0] && (client.is_empty() || job.client_id == client)
        });
        jobs.map(|job| (job.job_id.clone(), job.clone())).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_catalog_does_what_a_sorted_map_does(ops in prop::collection::vec(op(), 1..80)) {
        let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        runtime.block_on(async {
            let mut tested = Tested::open(&dir);
            let half = ops.len() / 2;
            let mut watchers = Vec::new();
            for (n, op) in ops.into_iter().enumerate() {
                if n == half {
                    for client in CLIENTS {
                        let mut watch = tested.watch(client, 0).unwrap();
                        let seen = Tested::watched(&mut watch, BTreeMap::new()).await;
                        assert_eq!(seen, tested.of_client(client));
                        let follower = Tested::follow(watch, seen.clone());
                        watchers.push((client, tested.catalog.revision(), seen, follower));
                    }
                }
                tested.run(op).await;
            }
            tested.check().await;
            for (client, revision, seen, mut follower) in watchers {
                let expected = tested.of_client(client);
                let mut resumed = tested.watch(client, revision).unwrap();
                assert_eq!(Tested::watched(&mut resumed, seen).await, expected);
                let followed = follower.wait_for(|jobs| *jobs == expected);
                let followed = tokio::time::timeout(Duration::from_secs(20), followed).await;
                drop(followed.expect("the watch is told of changes"));
            }
            let ahead = tested.watch("", tested.catalog.revision() + 1);
            assert!(matches!(ahead, Err(Error::Ahead { .. })));
            tested.check_changes().await;
            let of_project = Scope::Project(project_id(PROJECTS[0]));
            let id = "07".repeat(16);
            for scope in [Scope::AllProjects, of_project] {
                for kind in [None, Some(Job::KIND), Some(Backup::KIND)] {
                    tested.check_log(&scope, kind, "").await;
                    tested.check_log(&scope, kind, &id).await;
                }
            }
            let verified = tested.catalog.store.read_far(|view| verify(view)).await;
            assert_eq!(verified.unwrap().jobs, tested.model.len() as u64);
        });
    }
}

#[tokio::test]
async fn a_commit_writes_no_more_than_the_store_takes() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = Tested::open(&dir).catalog;
    // Stores a job with a name of this length, and returns how many bytes are too many, if they are.
    let store = async |id: u8, name_bytes: usize| {
        let job = job(PROJECTS[0], id, &"n".repeat(name_bytes), "");
        let about = (project_id(PROJECTS[0]), resource_id(&job.job_id));
        let stored = catalog.transact(None, about, Reach::Far, move |transaction| {
            transaction.create(job.clone())
        });
        match stored.await {
            Ok(_) => None,
            Err(Error::Invalid(violations)) => {
                let said = violations.iter().next().unwrap();
                assert_eq!(said.field, "request");
                let bytes = said.description.split(' ').nth(2).unwrap();
                Some(bytes.parse::<usize>().unwrap() - COMMIT_BYTES_MAX)
            }
            Err(other) => panic!("{other}"),
        }
    };
    // The times at which it is stored: two fields with the nanoseconds, which are left out in the first millisecond of a second.
    let times_bytes = 2 * 6;
    // A name stands in the record, in its key, and in the locator.
    let many = COMMIT_BYTES_MAX / 3;
    let too_many = store(0, many).await.expect("too many");
    let fits = many - (too_many + times_bytes).div_ceil(3);
    assert_eq!(store(1, fits).await, None);
    let more = times_bytes;
    let over = store(2, fits + more).await.expect("too many");
    assert!(over <= 3 * more + times_bytes, "{over}");
    let status = catalog.status().await.unwrap();
    assert_eq!(status.counts.jobs, 1);
}
