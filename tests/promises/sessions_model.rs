//! Promise: whatever agents do to a session at the same time has the same result as if they had done it one after another. Each
//! change of the session is what one of their calls does, and each answer is the right one for that moment.

use std::collections::{BTreeMap, BTreeSet};

use crate::harness::{PROJECT, Server, job};
use icebox::proto::{
    AddJobRequest, CreateSessionRequest, EndSessionRequest, RemoveJobRequest, Session,
    StartSessionRequest, WatchEvent, WatchSessionsRequest,
    session_service_client::SessionServiceClient,
};
use tonic::{Code, Status, transport::Channel};

const JOBS: usize = 6;
const CALLS_EACH: usize = 25;

/// A session without its times.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    tag: i64,
    status: String,
    result: String,
    members: BTreeMap<String, (String, String)>,
}

/// A call of an agent.
#[derive(Clone, Debug, PartialEq)]
enum Call {
    Add(String),
    Remove(String),
    Start(String, i64),
    End(String, i64, &'static str),
}

/// The answer to a call.
#[derive(Clone, Debug, PartialEq)]
enum Answer {
    Done,
    Said(String, i64),
    Refused(Code),
}

impl Answer {
    /// Whether a call that leaves a session like this may have this answer: a tag in an answer is the session's.
    fn may_come_with(&self, session: &Model) -> bool {
        match self {
            Answer::Said(_, tag) => *tag == session.tag,
            Answer::Done | Answer::Refused(_) => true,
        }
    }
}

impl Model {
    fn of(session: &Session) -> Model {
        let members = session.jobs.iter();
        Model {
            tag: session.session_tag,
            status: session.status.clone(),
            result: session.result.clone(),
            members: members
                .map(|(id, member)| (id.clone(), (member.status.clone(), member.result.clone())))
                .collect(),
        }
    }

    /// What a call may do to the session, with its answer. There are several possibilities if the time of day decides.
    fn after(&self, call: &Call) -> Vec<(Model, Answer)> {
        let mut next = self.clone();
        let said = |next: Model, word: &str| {
            let tag = next.tag;
            (next, Answer::Said(word.into(), tag))
        };
        match call {
            Call::Add(job) => {
                next.members.entry(job.clone()).or_default();
                vec![(next, Answer::Done)]
            }
            Call::Remove(job) => {
                if next.members.remove(job).is_none() {
                    return vec![(next, Answer::Refused(Code::NotFound))];
                }
                next.aggregate();
                vec![(next, Answer::Done)]
            }
            Call::Start(job, tag) | Call::End(job, tag, _)
                if !next.members.contains_key(job) || *tag > next.tag =>
            {
                vec![(next, Answer::Refused(Code::InvalidArgument))]
            }
            Call::Start(job, tag) => {
                let mut runs = next.clone();
                runs.run(job);
                if *tag < next.tag {
                    return vec![said(runs, "success"), said(next, "out-of-sync")];
                }
                let mut begins = runs;
                begins.tag += 1;
                begins.status = "running".into();
                begins.result.clear();
                vec![said(begins, "success"), said(next, "hold-off")]
            }
            Call::End(_, tag, _) if *tag < next.tag => vec![said(next, "out-of-sync")],
            Call::End(job, _, result) => {
                let ended = ("completed".into(), (*result).into());
                next.members.insert(job.clone(), ended);
                next.aggregate();
                vec![said(next, "success")]
            }
        }
    }

    fn run(&mut self, job: &str) {
        let running = ("running".into(), String::new());
        self.members.insert(job.to_owned(), running);
    }

    fn aggregate(&mut self) {
        let is_over = self
            .members
            .values()
            .all(|(status, _)| status == "completed");
        if self.status == "running" && is_over && !self.members.is_empty() {
            let has_succeeded = self.members.values().all(|(_, result)| result == "success");
            self.status = "completed".into();
            self.result = if has_succeeded { "success" } else { "fail" }.into();
        }
    }
}

/// Random numbers that a seed determines.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).expect("31 bits") % end
    }

    fn call(&mut self, jobs: &[String], tag: i64) -> Call {
        let job = jobs[self.below(jobs.len())].clone();
        // Mostly the tag that the agent knows, sometimes an old one, or one that never existed.
        let tag = [tag, tag, tag, tag - 1, tag + 1][self.below(5)].max(0);
        match self.below(10) {
            0..=2 => Call::Add(job),
            3 => Call::Remove(job),
            4..=6 => Call::Start(job, tag),
            _ => Call::End(job, tag, ["success", "fail", "aborted"][self.below(3)]),
        }
    }
}

async fn make(mut client: SessionServiceClient<Channel>, session_id: &str, call: &Call) -> Answer {
    let (project_id, session_id) = (PROJECT.to_owned(), session_id.to_owned());
    let answered: Result<Answer, Status> = match call.clone() {
        Call::Add(job_id) => {
            let request = AddJobRequest {
                project_id,
                session_id,
                job_id,
            };
            client.add_job(request).await.map(|_| Answer::Done)
        }
        Call::Remove(job_id) => {
            let request = RemoveJobRequest {
                project_id,
                session_id,
                job_id,
            };
            client.remove_job(request).await.map(|_| Answer::Done)
        }
        Call::Start(job_id, current_tag) => {
            let request = StartSessionRequest {
                project_id,
                session_id,
                job_id,
                current_tag,
            };
            let answer = client
                .start_session(request)
                .await
                .map(tonic::Response::into_inner);
            answer.map(|answer| Answer::Said(answer.result, answer.session_tag))
        }
        Call::End(job_id, current_tag, result) => {
            let result = result.into();
            let request = EndSessionRequest {
                project_id,
                session_id,
                job_id,
                current_tag,
                result,
            };
            let answer = client
                .end_session(request)
                .await
                .map(tonic::Response::into_inner);
            answer.map(|answer| Answer::Said(answer.result, answer.session_tag))
        }
    };
    answered.unwrap_or_else(|status| Answer::Refused(status.code()))
}

/// Lets agents make random calls. Returns the session's states one after another, and the calls with their answers.
async fn soak(agents: usize, hold_off: i32, seed: u64) -> (Vec<Model>, Vec<(Call, Answer)>) {
    let server = Server::start().await;
    let client = SessionServiceClient::new(server.channel.clone());
    let session = Session {
        project_id: PROJECT.into(),
        description: "weekly".into(),
        hold_off: Some(hold_off),
        ..Session::default()
    };
    let request = CreateSessionRequest {
        project_id: String::new(),
        session: Some(session),
    };
    let created = client
        .clone()
        .create_session(request)
        .await
        .expect("created");
    let session_id = created
        .into_inner()
        .decoded()
        .expect("the session")
        .session_id;
    let mut jobs = Vec::new();
    for n in 0..JOBS {
        let job = server.create_job(job(&format!("job {n}"))).await;
        jobs.push(job.expect("created").job_id);
    }
    let watch = WatchSessionsRequest {
        project_id: PROJECT.into(),
        ..Default::default()
    };
    let watch = client.clone().watch_sessions(watch).await.expect("a watch");
    let mut watch = watch.into_inner();
    let working = (0..agents).map(|agent| {
        let mut numbers = Numbers(seed + agent as u64 * 7919);
        let (client, jobs, session_id) = (client.clone(), &jobs, &session_id);
        async move {
            let (mut made, mut tag) = (Vec::new(), 0);
            for _ in 0..CALLS_EACH {
                let call = numbers.call(jobs, tag);
                let answer = make(client.clone(), session_id, &call).await;
                if let Answer::Said(_, now) = &answer {
                    tag = *now;
                }
                made.push((call, answer));
            }
            made
        }
    });
    let made = futures_util::future::join_all(working).await.concat();
    let last = server.revision().await;
    let mut states = Vec::new();
    loop {
        let said = watch
            .message()
            .await
            .expect("it goes on")
            .expect("it goes on");
        let revision = said.revision;
        if let Some(WatchEvent::Put(session)) = said.decoded().expect("a session") {
            states.push(Model::of(&session));
        }
        if revision >= last {
            return (states, made);
        }
    }
}

/// Checks that every change was made by one call, and that every other call changed nothing when it was answered.
///
/// It is not always known which call made a change: while two jobs run, either of them may have begun the next round. There must be
/// a way to give each change a call of its own so that no call is left over that must have changed something. Such a way exists if
/// each of its two halves is possible alone (theorem of Mendelsohn and Dulmage).
fn check(states: &[Model], calls: &[(Call, Answer)]) {
    let mut causes = vec![Vec::new(); states.len() - 1];
    let mut effects = vec![Vec::new(); calls.len()];
    for (change, pair) in states.windows(2).enumerate() {
        for (n, (call, answer)) in calls.iter().enumerate() {
            let did = (pair[1].clone(), answer.clone());
            if answer.may_come_with(&pair[1]) && pair[0].after(call).contains(&did) {
                causes[change].push(n);
                effects[n].push(change);
            }
        }
    }
    if let Some(change) = without_partner(&causes) {
        let (before, after) = (&states[change], &states[change + 1]);
        let at_that_tag = calls
            .iter()
            .filter(|(_, answer)| answer.may_come_with(after))
            .collect::<Vec<_>>();
        panic!("no call explains {after:?} after {before:?}: {at_that_tag:?}");
    }
    let may_change_nothing = |(call, answer): &(Call, Answer)| {
        states.iter().any(|state| {
            let same = (state.clone(), answer.clone());
            answer.may_come_with(state) && state.after(call).contains(&same)
        })
    };
    let must_change = (0..calls.len())
        .filter(|&n| !may_change_nothing(&calls[n]))
        .collect::<Vec<_>>();
    let effects = must_change
        .iter()
        .map(|&n| effects[n].clone())
        .collect::<Vec<_>>();
    if let Some(lost) = without_partner(&effects) {
        let (call, answer) = &calls[must_change[lost]];
        panic!("{call:?} was answered {answer:?}, and is lost");
    }
}

/// One of those who want a partner but cannot get one, in whatever way the partners are given out.
fn without_partner(wanted: &[Vec<usize>]) -> Option<usize> {
    let mut given = BTreeMap::new();
    (0..wanted.len()).find(|&one| !finds_partner(one, wanted, &mut given, &mut BTreeSet::new()))
}

/// Gives `one` a partner that is free, or one whose holder finds another.
fn finds_partner(
    one: usize,
    wanted: &[Vec<usize>],
    given: &mut BTreeMap<usize, usize>,
    asked: &mut BTreeSet<usize>,
) -> bool {
    let free = wanted[one]
        .iter()
        .find(|&partner| !given.contains_key(partner))
        .copied();
    let found = free.or_else(|| {
        wanted[one].iter().copied().find(|partner| {
            asked.insert(*partner) && finds_partner(given[partner], wanted, given, asked)
        })
    });
    found.is_some_and(|partner| {
        given.insert(partner, one);
        true
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn sixteen_and_sixty_four_agents_come_to_what_one_after_another_would() {
    for (agents, hold_off, seed) in [(16, 0, 1), (16, 86_400, 2), (64, 0, 3), (64, 86_400, 4)] {
        let (states, calls) = soak(agents, hold_off, seed).await;
        assert_eq!(calls.len(), agents * CALLS_EACH);
        assert!(states.len() > agents, "{} changes", states.len());
        check(&states, &calls);
    }
}

/// The states that these calls lead to, one after another. Each call gets its first possible answer.
fn carried_out(calls: &[Call]) -> (Vec<Model>, Vec<(Call, Answer)>) {
    let mut states = vec![Model::default()];
    let mut made = Vec::new();
    for call in calls {
        let (next, answer) = states.last().expect("one").after(call).remove(0);
        states.push(next);
        made.push((call.clone(), answer));
    }
    (states, made)
}

#[test]
fn a_change_that_is_lost_is_found() {
    let (mut states, calls) = carried_out(&[
        Call::Add("a".into()),
        Call::Start("a".into(), 0),
        Call::End("a".into(), 1, "success"),
    ]);
    check(&states, &calls);
    let lost = std::panic::catch_unwind(|| check(&states, &calls[..2]));
    assert!(lost.is_err(), "a change that no call did");
    states.remove(2);
    let lost = std::panic::catch_unwind(|| check(&states, &calls));
    assert!(lost.is_err(), "a call that has done nothing");
}

/// Both jobs run when `a` begins the second round, so that `b` could have begun it. But then nobody would have come late to it.
#[test]
fn what_two_calls_may_have_done_is_left_to_the_one_that_the_other_change_leaves() {
    let (states, mut calls) = carried_out(&[
        Call::Add("a".into()),
        Call::Add("b".into()),
        Call::Start("a".into(), 0),
        Call::Start("b".into(), 0),
        Call::Start("a".into(), 1),
        Call::End("b".into(), 2, "fail"),
        Call::Remove("b".into()),
        Call::Add("b".into()),
        Call::Start("b".into(), 1),
    ]);
    check(&states, &calls);
    calls.reverse();
    check(&states, &calls);
}
