//! Credentials in jobs, which only admins and the job's client may see.

use bytes::Bytes;
use prost::Message;
use tonic::{Code, Status};

use super::house::{CLIENT, House, OWN, code, job, message};
use crate::proto::{self, Action, Backup, Job, Session};

/// The credentials in the job that a role gets from each call.
async fn credentials_shown(house: &House, role: &str, job: &Job) -> [Vec<String>; 3] {
    let bearer = format!("Bearer {role}");
    let trusts = |jobs: Vec<Job>| -> Vec<String> {
        let credentials = jobs.into_iter().filter_map(|job| job.user_credentials);
        credentials
            .map(|credentials| credentials.trust_id)
            .collect()
    };
    let call = async |path, message| house.call(path, message, &[&bearer]).await;
    let stored = (
        Backup::default(),
        job.clone(),
        Action::default(),
        Session::default(),
    );
    let path = "/freezer.v2.JobService/GetJob";
    let got = call(path, message(path, OWN, CLIENT, &stored))
        .await
        .unwrap();
    let got = proto::GetJobResponse::decode(got).unwrap();
    let path = "/freezer.v2.JobService/ListJobs";
    let list = |filter: Option<proto::JobFilter>| {
        let request = proto::ListJobsRequest {
            project_id: OWN.into(),
            filter,
            ..Default::default()
        };
        request.encode_to_vec()
    };
    let by_status = proto::JobFilter {
        status: "completed".into(),
        ..Default::default()
    };
    let mut lists = Vec::new();
    for filter in [None, Some(by_status)] {
        let listed = call(path, list(filter)).await.unwrap();
        let listed = proto::ListJobsResponse::decode(listed).unwrap();
        lists.push(trusts(listed.decoded().unwrap()));
    }
    [
        trusts(vec![got.decoded().unwrap()]),
        lists.remove(0),
        lists.remove(0),
    ]
}

fn job_with_credentials(trust: &str, client: &str) -> Job {
    Job {
        description: trust.into(),
        job_schedule: Some(proto::JobSchedule {
            status: "completed".into(),
            ..Default::default()
        }),
        user_credentials: Some(proto::UserCredentials {
            trust_id: trust.into(),
            trustor_user_id: "somebody".into(),
        }),
        ..job(client)
    }
}

#[tokio::test]
async fn a_jobs_credentials_are_shown_to_admins_and_to_its_client_alone() {
    let house = House::new().await;
    let created = |answered: Result<Bytes, Status>| {
        let created = proto::CreateJobResponse::decode(answered.unwrap()).unwrap();
        created.decoded().unwrap()
    };
    // The one who stores them does not see them again.
    let path = "/freezer.v2.JobService/CreateJob";
    let create = |job: Job| proto::CreateJobRequest {
        project_id: OWN.into(),
        job: Some(job),
    };
    let member = &["Bearer member"][..];
    let sent = create(job_with_credentials("trust1", CLIENT)).encode_to_vec();
    let mine = created(house.call(path, sent, member).await);
    assert_eq!(mine.user_credentials, None);
    // A repeated create with the same credentials finds the same job.
    let mut again = job_with_credentials("trust1", CLIENT);
    again.job_id = mine.job_id.clone();
    let sent = create(again.clone()).encode_to_vec();
    assert_eq!(created(house.call(path, sent, member).await), mine);
    again.user_credentials = None;
    let other = house
        .call(path, create(again).encode_to_vec(), member)
        .await;
    assert_eq!(code(&other), Code::AlreadyExists);
    let others = create(job_with_credentials("trust2", "node2")).encode_to_vec();
    house.call(path, others, &["Bearer admin"]).await.unwrap();
    house.stored(OWN, CLIENT).await;

    let [none, one, both] = [
        vec![],
        vec!["trust1".to_owned()],
        vec!["trust1".to_owned(), "trust2".into()],
    ];
    for (role, expected) in [
        ("admin", [&one, &both, &both]),
        ("agent", [&one, &one, &one]),
        ("member", [&none, &none, &none]),
        ("reader", [&none, &none, &none]),
    ] {
        let shown = credentials_shown(&house, role, &mine).await;
        assert_eq!(shown.each_ref(), expected, "{role}");
    }
}

#[tokio::test]
async fn credentials_stay_with_their_job_until_they_are_taken_away() {
    let house = House::new().await;
    let create = async |job: Job| house.icebox.jobs().create(OWN, job).await.unwrap().resource;
    let mut mine = create(job_with_credentials("trust1", CLIENT)).await;
    create(job_with_credentials("trust2", "node2")).await;
    let member = &["Bearer member"][..];
    let (one, two) = (vec!["trust1".to_owned()], vec!["trust2".to_owned()]);
    // A change of other fields, even of the name, leaves them as they are. A member may remove them.
    let path = "/freezer.v2.JobService/UpdateJob";
    let update = async |job: Job, mask: &str| {
        let update = proto::UpdateJobRequest {
            project_id: OWN.into(),
            job: Some(job),
            update_mask: Some(prost_types::FieldMask {
                paths: vec![mask.into()],
            }),
            ..Default::default()
        };
        let answered = house.call(path, update.encode_to_vec(), member).await;
        proto::UpdateJobResponse::decode(answered.unwrap())
            .unwrap()
            .job
            .unwrap()
    };
    mine.description = "a new name".into();
    mine = update(mine, "description").await;
    assert_eq!(mine.user_credentials, None);
    let shown = credentials_shown(&house, "agent", &mine).await;
    assert_eq!(shown, [one.clone(), one.clone(), one]);
    mine = update(mine, "user_credentials").await;
    let shown = credentials_shown(&house, "admin", &mine).await;
    assert_eq!(shown, [vec![], two.clone(), two]);
    // They are deleted with their job.
    let path = "/freezer.v2.JobService/DeleteJob";
    let sent = message(
        path,
        OWN,
        CLIENT,
        &(
            Backup::default(),
            mine,
            Action::default(),
            Session::default(),
        ),
    );
    house.call(path, sent, member).await.unwrap();
}
